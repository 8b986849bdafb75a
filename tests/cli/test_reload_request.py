"""`fastgw reload`: it finds the gateway that runs with a file, waits for the result, and says it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastgw import state_file
from fastgw.cli import reload_request
from fastgw.cli.reload_request import ReloadError
from fastgw.errors import ConfigError, StartError
from fastgw.state_file import State
from tests.actors.supervised import Service
from tests.waiting import eventually

pytestmark = pytest.mark.slow

Make = Callable[..., Service]
REFUSED = {"FAKE_TIMES": "start=3"}


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes services whose run directories are where `fastgw reload` looks in this process."""
    made: list[Service] = []
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))

    def make(environ: dict[str, str] | None = None, **settings: Any) -> Service:
        place = tmp_path / str(len(made))
        place.mkdir()
        one = Service(place, environ or {})
        one.environ["XDG_RUNTIME_DIR"] = str(tmp_path / "run")
        one.configure(**settings)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def state_of(one: Service) -> State:
    (run_dir,) = Path(one.environ["XDG_RUNTIME_DIR"]).glob("fastgw-*")
    state = state_file.read(run_dir)
    assert state is not None
    return state


def request(one: Service, timeout_s: float = 30.0, pid: int | None = None) -> reload_request.Done:
    return reload_request.reload(one.config, pid, timeout_s)


def test_it_waits_until_every_worker_has_the_new_configuration(service: Make) -> None:
    one = service().start()
    one.configure(topic="orders-2")
    done = request(one)
    assert one.process is not None
    assert done.pid == one.process.pid
    assert one.events("worker 1.1 started orders-2")
    state = state_of(one)
    assert state.is_current
    assert state.results == {"ok": 1}
    assert state.reload is not None
    assert (state.reload.number, state.reload.result, state.reload.error) == (1, "ok", "")
    assert request(one).pid == done.pid
    assert state_of(one).results == {"ok": 2}


def test_what_kafka_has_not_is_refused_with_the_reason(service: Make) -> None:
    one = service().start()
    one.plan("checker", "refuses")
    with pytest.raises(ConfigError, match="refused, the old configuration stays: no such topic"):
        request(one)
    state = state_of(one)
    assert not state.is_current
    assert state.results == {"refused": 1}
    assert state.reload is not None
    assert state.reload.ended_s == state.decided_s
    one.behave("checker")
    request(one)
    assert state_of(one).is_current


def test_a_file_with_mistakes_is_refused_with_all_of_them(service: Make) -> None:
    one = service().start()
    one.config.write_text(one.config.read_text() + 'timout = "5s"\nmax_in_flight = true\n')
    with pytest.raises(ConfigError) as caught:
        request(one)
    assert "2 mistakes" in str(caught.value)
    assert "route[0].max_in_flight" in str(caught.value)
    one.config.write_text("[gateway")
    with pytest.raises(ConfigError, match="write \\[name\\]"):
        request(one)


def test_workers_that_cannot_start_with_it_go_back_before_it_is_told(service: Make) -> None:
    one = service({"FAKE_TIMES": "start=3"}).start()
    one.plan("worker-1", "refuses")
    one.configure(topic="orders-2")
    with pytest.raises(ReloadError, match="undone, the old configuration stays: worker 1: no such topic"):
        request(one)
    assert one.events("worker 0.2 started orders "), "worker 0 had the new one for a while"
    assert state_of(one).results == {"undone": 1}


def test_where_none_runs_it_says_where_it_looked(service: Make) -> None:
    one = service()
    with pytest.raises(StartError, match="expected a gateway that runs with this file, found none"):
        request(one)


def test_one_that_was_killed_is_not_taken_for_a_running_one(service: Make) -> None:
    one = service().start()
    assert one.process is not None
    one.send(signal.SIGKILL)
    one.process.wait()
    state_of(one)  # its file is still there
    with pytest.raises(StartError, match="found none"):
        request(one)


def test_two_gateways_on_one_host_are_told_apart_by_their_files(service: Make) -> None:
    one, two = service().start(), service().start()
    request(two)
    assert not one.logged("reloaded")
    assert two.logged("reloaded")


def test_two_gateways_with_one_file_are_told_apart_by_their_pids(service: Make) -> None:
    one, two = service().start(), service()
    two.config = one.config
    two.start()
    assert one.process is not None
    assert two.process is not None
    with pytest.raises(StartError, match="choose one with --pid") as caught:
        request(one)
    assert str(one.process.pid) in str(caught.value)
    assert request(one, pid=two.process.pid).pid == two.process.pid
    assert not one.logged("reloaded")
    with pytest.raises(StartError, match="with pid 1 that runs with this file, found none"):
        request(one, pid=1)


def test_it_does_not_wait_for_ever(service: Make) -> None:
    one = service().start()
    one.plan("checker", "silent")
    with pytest.raises(ReloadError, match=r"no result within 0.3 s; the reload continues"):
        request(one, timeout_s=0.3)
    state = state_of(one)
    assert state.reload is not None
    assert state.reload.result == "running"
    assert state.is_current, "as long as nothing else is known"


@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGKILL, "the gateway ended during the reload"), (signal.SIGTERM, "is shutting down")]
)
def test_a_gateway_that_ends_meanwhile_is_not_waited_for(service: Make, number: signal.Signals, told: str) -> None:
    one = service(drain="20s").start()
    one.plan("checker", "silent")
    one.plan("worker-0", "waits")  # its drain lasts

    def end() -> None:
        eventually(lambda: one.events("checker started"))
        one.send(number)

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    with pytest.raises(ReloadError, match=told):
        request(one)
    ending.join()
    one.behave("worker-0")


def test_a_gateway_that_still_starts_reloads_once_it_serves(service: Make) -> None:
    one = service()
    one.plan("worker-1", "shy")
    one.launch()
    eventually(lambda: one.events("worker 1.0 started"))
    assert state_of(one).stage == "starting"
    with pytest.raises(ReloadError, match="no result"):
        request(one, timeout_s=0.2)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """The run directory of a supervisor that lives: it is this process."""
    run_dir = tmp_path / "fastgw-x"
    run_dir.mkdir()
    state_file.write(run_dir, state_file.of_this_process("shop", tmp_path / "shop.toml", 0.0))
    fd = state_file.hold(run_dir)
    yield run_dir
    with suppress(OSError):
        os.close(fd)


def test_a_supervisor_is_known_by_what_it_holds(tmp_path: Path, held: Path) -> None:
    config = tmp_path / "shop.toml"
    assert list(state_file.find([tmp_path / "none", tmp_path, tmp_path], config)) == [held]
    assert state_file.find([tmp_path], tmp_path / "other.toml") == {}
    link = tmp_path / "link.toml"
    link.symlink_to(config)
    assert list(state_file.find([tmp_path], link)) == [held], "the same file by another name"


def test_a_link_that_was_moved_since_the_start_is_followed(tmp_path: Path, held: Path) -> None:
    """As Kubernetes does with a ConfigMap, and many a deployment with its current release: then comes the reload."""
    named, old, new = tmp_path / "shop.toml", tmp_path / "old.toml", tmp_path / "new.toml"
    named.symlink_to(old)
    state_file.write(held, state_file.of_this_process("shop", named, 0.0))
    named.unlink()
    named.symlink_to(new)
    assert list(state_file.find([tmp_path], named)) == [held]
    assert state_file.find([tmp_path], old) == {}


def test_what_nobody_holds_was_left_by_one_that_was_killed(tmp_path: Path, held: Path) -> None:
    dead = tmp_path / "fastgw-dead"
    dead.mkdir()
    state_file.write(dead, state_file.of_this_process("shop", tmp_path / "shop.toml", 0.0))
    assert list(state_file.find([tmp_path], tmp_path / "shop.toml")) == [held]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_the_file_of_somebody_else_is_not_believed(tmp_path: Path, held: Path) -> None:
    os.chown(held / state_file.FILE_NAME, 12345, -1)
    assert state_file.find([tmp_path], tmp_path / "shop.toml") == {}


@pytest.mark.parametrize(("user", "believed"), [(1000, True), (1001, False), (0, False)])
def test_a_process_that_proc_hides_is_believed_if_it_is_ours(
    tmp_path: Path, held: Path, monkeypatch: pytest.MonkeyPatch, user: int, believed: bool
) -> None:
    """In the unit's sandbox /proc shows ExecReload nothing of the supervisor."""
    if os.getuid() != 0:
        pytest.skip("only root can give a file away")
    state = msgspec.structs.replace(state_file.of_this_process("shop", tmp_path / "shop.toml", 0.0), pid=2**22 + 1)
    state_file.write(held, state)
    os.chown(held / state_file.FILE_NAME, user or 0, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 1000 if user else 0)
    assert bool(state_file.find([tmp_path], tmp_path / "shop.toml")) is believed


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_file_that_is_none_is_passed_by(tmp_path: Path, text: str) -> None:
    run_dir = tmp_path / "fastgw-x"
    run_dir.mkdir()
    (run_dir / state_file.FILE_NAME).write_text(text)
    assert state_file.find([tmp_path, tmp_path / "none"], tmp_path / "shop.toml") == {}


def test_a_pipe_in_its_place_stops_nobody(tmp_path: Path) -> None:
    run_dir = tmp_path / "fastgw-x"
    run_dir.mkdir()
    os.mkfifo(run_dir / state_file.FILE_NAME)
    assert state_file.find([tmp_path], tmp_path / "shop.toml") == {}


# --- the command ---


def command(one: Service, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fastgw", "reload", *options, str(one.config)],
        env=one.environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_command_exits_with_what_came_of_it(service: Make) -> None:
    one = service().start()
    done = command(one)
    out, err = done.communicate(timeout=60)
    assert (done.returncode, err) == (0, "")
    assert "reloaded by the gateway with pid" in out
    one.plan("checker", "refuses")
    refused = command(one)
    out, err = refused.communicate(timeout=60)
    assert (refused.returncode, out) == (2, "")
    assert err == "fastgw: reload refused, the old configuration stays: no such topic\n"


def test_ctrl_c_ends_the_waiting_and_not_the_reload(service: Make) -> None:
    one = service().start()
    one.plan("checker", "silent")
    waiting = command(one)
    eventually(lambda: one.events("checker started"), 30)
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(30) == 130
    assert not one.logged("reload refused, the old configuration stays")
    one.behave("checker")
    assert not one.ended()
