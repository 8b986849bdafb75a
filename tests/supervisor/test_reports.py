"""What the supervisor says of itself to systemd and in its state file."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from fastgw import state_file
from fastgw.state_file import OK, UNDONE, State
from fastgw.supervisor.reports import STATUS_LENGTH_MAX, Reports, in_one_line


class Place:
    """A run directory, and a socket where systemd would listen."""

    def __init__(self, run_dir: Path, notified: socket.socket) -> None:
        self.run_dir, self._notified = run_dir, notified
        self.reports = Reports("shop", run_dir / "shop.toml")
        self.reports.open(run_dir)

    def state(self) -> State:
        state = state_file.read(self.run_dir)
        assert state is not None
        return state

    def last_told(self) -> str:
        told = ""
        with suppress(BlockingIOError):
            while True:
                told = self._notified.recv(4096).decode()
        return told


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield Place(tmp_path, notified)


def test_the_stages_of_a_service_are_told_in_both_places(place: Place) -> None:
    assert place.state().stage == state_file.STARTING
    place.reports.starting("agent")
    assert place.last_told() == "STATUS=starting the agent"
    place.reports.serving(["127.0.0.1:80", "[::1]:80"], 2)
    assert place.last_told() == "READY=1\nSTATUS=serving 127.0.0.1:80 [::1]:80 with 2 workers"
    assert place.state().stage == state_file.SERVING
    place.reports.draining(12.5)
    assert place.last_told() == "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=12500000"
    assert place.state().stage == state_file.DRAINING


def test_what_became_of_a_reload_is_told_until_the_next_one(place: Place) -> None:
    place.reports.serving(["a:1"], 2)
    place.reports.reloading()
    assert place.last_told().startswith("RELOADING=1\nMONOTONIC_USEC=")
    reload = place.state().reload
    assert reload is not None
    assert (reload.number, reload.result) == (1, state_file.RUNNING)
    place.reports.reloaded(UNDONE, "worker 1: died\n  a = 5s\n      ^")
    place.reports.serving(["a:1"], 2)
    assert place.last_told().endswith("with 2 workers; last reload undone: worker 1: died; a = 5s")
    place.reports.reloading()
    place.reports.reloaded(OK, "")
    place.reports.serving(["a:1"], 2)
    assert place.last_told().endswith("with 2 workers")
    assert place.state().results == {UNDONE: 1, OK: 1}


def test_a_long_reason_is_cut(place: Place) -> None:
    place.reports.reloading()
    place.reports.reloaded(UNDONE, "x" * 5000)
    place.reports.serving(["a:1"], 2)
    assert len(place.last_told()) == len("READY=1\nSTATUS=") + STATUS_LENGTH_MAX


def test_a_state_file_that_cannot_be_written_is_logged_and_no_hindrance(tmp_path: Path) -> None:
    reports = Reports("shop", tmp_path / "shop.toml")
    with structlog.testing.capture_logs() as lines:
        reports.open(tmp_path / "nowhere")
    assert [line["event"] for line in lines] == ["state file not written"]


def test_a_message_of_several_lines_fits_into_one() -> None:
    assert in_one_line("a:1: column 5\n    b = 5s\n         ^\n") == "a:1: column 5; b = 5s"
