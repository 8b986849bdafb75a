"""What is said to systemd and taken from it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fastgw.supervisor.systemd import Notifier, inherited_sockets, watchdog_s


@pytest.mark.parametrize("abstract", [False, True])
def test_a_message_is_one_datagram_to_the_socket_of_the_environment(tmp_path: Path, abstract: bool) -> None:
    address = f"@fastgw-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0"))
        Notifier({"NOTIFY_SOCKET": address}).tell("READY=1", "STATUS=it works")
        assert systemd.recv(1000) == b"READY=1\nSTATUS=it works"


def test_without_systemd_or_when_it_is_gone_telling_it_is_nothing(tmp_path: Path) -> None:
    Notifier({}).tell("READY=1")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_listens_when_it_says_so_and_means_us(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_s(environ) == seconds


def test_sockets_handed_to_another_process_are_not_ours() -> None:
    assert inherited_sockets({"LISTEN_FDS": "2", "LISTEN_PID": "1"}) == []
    assert inherited_sockets({"LISTEN_FDS": "2"}) == []
    assert inherited_sockets({"LISTEN_PID": str(os.getpid())}) == []
