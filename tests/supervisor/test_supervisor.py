"""The supervisor as a process with fake children: what it does when they start, die, hang, drain and are replaced."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.actors.supervised import Service, Start
from tests.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Start]:
    made: list[Service] = []

    def make(environ: dict[str, str] | None = None, **settings: Any) -> Service:
        one = Service(tmp_path, environ or {})
        one.configure(**settings)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


# --- start ---


def test_the_agent_starts_first_then_the_workers_then_the_service_is_ready(service: Start) -> None:
    one = service().start()
    order = [line.rsplit(" ", 1)[0] for line in one.events()]
    assert order[0] == "agent started orders"
    assert sorted(order[1:]) == ["worker 0.0 started orders", "worker 1.0 started orders"]
    assert any(message.startswith("READY=1\nSTATUS=serving 127.0.0.1:") for message in one.tellings())
    assert one.ask() in ("worker 0.0", "worker 1.0")
    titles = Path(f"/proc/{one.process.pid}/cmdline").read_bytes() if one.process else b""
    assert titles.startswith(b"fastgw: shop supervisor")


def test_every_worker_gets_connections_on_the_one_port(service: Start) -> None:
    one = service().start()
    assert {one.ask() for _ in range(64)} == {"worker 0.0", "worker 1.0"}


def test_a_unix_socket_is_served_and_its_file_goes_at_the_end(service: Start, tmp_path: Path) -> None:
    one = service(listen=f'["unix:{tmp_path}/front.sock"]').start()
    assert one.ask().startswith("worker")
    one.send(signal.SIGTERM)
    assert one.exit_code() == 0
    assert not (tmp_path / "front.sock").exists()


def test_an_agent_that_refuses_ends_the_start_with_its_own_words(service: Start) -> None:
    one = service()
    one.plan("agent", "refuses")
    one.launch()
    assert one.exit_code() == 2
    assert "fastgw: no such topic\n" in one.log_text()
    assert not one.living()


def test_an_agent_that_dies_without_a_word_ends_the_start(service: Start) -> None:
    one = service()
    one.plan("agent", "dies")
    one.launch()
    assert one.exit_code() == 2
    assert "the agent ended before it was ready (exit code 3)" in one.log_text()


def test_a_worker_that_refuses_ends_the_start_and_leaves_nothing_behind(service: Start) -> None:
    one = service()
    one.plan("worker-1", "refuses")
    one.launch()
    assert one.exit_code() == 2
    assert "fastgw: worker 1.0: no such topic\n" in one.log_text()
    assert not one.living()
    assert list(one.run_base.iterdir()) == []


def test_a_worker_that_is_never_ready_ends_the_start_at_the_timeout(service: Start) -> None:
    one = service({"FAKE_TIMES": "start=1.5"})
    one.plan("worker-0", "silent")
    one.launch()
    assert one.exit_code() == 2
    assert "not ready within 1.5 s: worker 0." in one.log_text()
    assert not one.living()


def test_a_worker_that_dies_during_the_first_start_is_tried_again(service: Start) -> None:
    one = service()
    one.plan("worker-0", "dies")
    one.launch()
    eventually(lambda: one.events("worker 0.1"))
    one.behave("worker-0")
    eventually(lambda: one.logged("ready"))
    assert one.events("worker 1.") == [f"worker 1.0 started orders {one.pid('worker 1.0')}"]


def test_a_port_in_use_is_one_line_and_exit_code_2_although_ports_are_shared_between_workers(service: Start) -> None:
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        one = service(listen=f'["{address}"]')
        one.launch()
        assert one.exit_code() == 2
    told = one.log_text()
    assert told.startswith(f"fastgw: address {address} in use by process {os.getpid()} (")
    assert told.endswith("; end that process, or change gateway.listen\n")
    assert told.count("\n") == 1
    assert not one.events()


def test_a_wrong_configuration_is_one_line_and_exit_code_2(service: Start) -> None:
    one = service(workers='"many"')
    one.launch()
    assert one.exit_code() == 2
    assert one.log_text().count("\n") == 1
    assert "gateway.workers" in one.log_text()


def test_children_have_their_own_run_directory_and_it_is_private(service: Start) -> None:
    one = service().start()
    (run_dir,) = one.run_base.iterdir()
    assert run_dir.stat().st_mode & 0o777 == 0o700
    one.send(signal.SIGTERM)
    assert one.exit_code() == 0
    assert list(one.run_base.iterdir()) == []


# --- children that die ---


def test_a_killed_worker_is_replaced_by_the_next_generation_and_its_slots_are_reclaimed(service: Start) -> None:
    one = service().start()
    os.kill(one.pid("worker 1.0"), signal.SIGKILL)
    eventually(lambda: one.logged("child ready", child="worker 1.1"))
    assert one.logged("slots reclaimed", child="worker 1.0", reclaimed=1, repaired=0)
    assert one.logged("child ended", child="worker 1.0", how="signal 9 (Killed)")
    assert not one.events("worker 0.1"), "its sibling does not notice"


def test_the_successor_of_a_killed_worker_has_been_waiting_for_its_role(service: Start) -> None:
    one = service().start()
    for generation in range(1, 4):
        eventually(lambda want=generation: len(one.standbys()) == want)
        os.kill(one.pid(f"worker 1.{generation - 1}"), signal.SIGKILL)
        eventually(lambda want=generation: one.logged("child ready", child=f"worker 1.{want}"))
        assert one.pid(f"worker 1.{generation}") == one.standbys()[generation - 1]
    assert one.ask().startswith("worker"), "it was given the listening sockets"


def test_a_standby_that_dies_is_replaced_and_one_that_cannot_help_is_no_hindrance(service: Start) -> None:
    one = service().start()
    eventually(one.standbys)
    os.kill(one.standbys()[0], signal.SIGKILL)
    eventually(lambda: len(one.standbys()) == 2)
    assert one.logged("child ended", child="standby")
    for pid in (one.standbys()[1], one.pid("worker 0.0")):
        os.kill(pid, signal.SIGKILL)
    # The next worker may be that standby, when the worker's death is seen first: then it is the one after it.
    eventually(lambda: [line for line in one.logged("child ready") if line["child"].startswith("worker 0.")][1:])


def test_a_worker_that_keeps_dying_does_not_stop_the_service(service: Start) -> None:
    one = service().start()
    one.plan("worker-0", "dies")
    os.kill(one.pid("worker 0.0"), signal.SIGKILL)
    eventually(lambda: one.events("worker 0.5"))
    assert not one.ended()
    one.behave("worker-0")
    eventually(lambda: [line for line in one.logged("child ready") if line["child"].startswith("worker 0.")][1:])
    assert len(one.events("worker 1.")) == 1


def test_a_hung_worker_is_killed_and_replaced(service: Start) -> None:
    one = service().start()
    one.plan("worker-0", "hangs")
    eventually(lambda: one.logged("child hung: killed", child="worker 0.0"))
    one.behave("worker-0")
    eventually(lambda: one.events("worker 0.") and one.ask() and one.logged("child ready")[-1]["child"] != "worker 0.0")
    assert not one.logged("child hung: killed", child="worker 1.0")


def test_a_worker_that_hangs_while_it_starts_need_not_be_waited_for(service: Start) -> None:
    one = service().start()
    one.plan("worker-0", "stuck")
    os.kill(one.pid("worker 0.0"), signal.SIGKILL)
    eventually(lambda: one.logged("child hung: killed", child="worker 0.1"))
    one.behave("worker-0")
    eventually(lambda: one.logged("child ready", child="worker 0.2"))


def test_a_worker_that_has_not_been_heard_yet_and_is_ready_in_the_table_keeps_its_connections(service: Start) -> None:
    """Who read in /readyz that all is well has come, and may wait in its queue: resetting it would be a lie."""
    one = service({"FAKE_TIMES": "queue_more=0.2 hung=10"}).start()
    one.plan("worker-1", "shy")
    os.kill(one.pid("worker 1.0"), signal.SIGKILL)
    eventually(lambda: one.events("worker 1.1 in the table"))
    until = time.monotonic() + 0.6  # several looks after its time has come
    eventually(lambda: time.monotonic() > until)
    eventually(lambda: one.ask() == "worker 1.1")


def test_a_stopped_worker_is_hung_too_its_queue_of_connections_survives(service: Start) -> None:
    one = service(workers=1).start()
    os.kill(one.pid("worker 0.0"), signal.SIGSTOP)
    assert one.ask() == "worker 0.1", "the connection waited in the socket that the supervisor holds"


def test_when_the_whole_machine_stood_still_no_worker_is_blamed(service: Start) -> None:
    one = service().start()
    assert one.process is not None
    everybody = [one.process.pid, *one.living()]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    still_until = time.monotonic() + 1.2  # twice the time after which a worker counts as hung
    eventually(lambda: time.monotonic() > still_until)
    for pid in everybody:
        os.kill(pid, signal.SIGCONT)
    one.plan("worker-1", "hangs")
    eventually(lambda: one.logged("child hung: killed", child="worker 1.0"))
    assert not one.logged("child hung: killed", child="worker 0.0")


def test_a_hung_agent_is_killed_and_replaced(service: Start) -> None:
    one = service().start()
    one.plan("agent", "hangs")
    eventually(lambda: one.logged("child hung: killed", child="agent"))
    one.behave("agent")
    eventually(lambda: len(one.events("agent started")) == 2 and one.logged("child ready")[-1]["child"] == "agent")
    assert len(one.events("worker ")) == len(one.events("worker 0.0 ")) + len(one.events("worker 1.0 "))


def test_a_dead_agent_is_replaced_and_the_workers_do_not_notice(service: Start) -> None:
    one = service().start()
    os.kill(one.pid("agent"), signal.SIGKILL)
    eventually(lambda: len(one.logged("child ready", child="agent")) == 2)
    assert len(one.events("worker")) == 2
    one.plan("agent", "refuses")
    os.kill(one.pid("agent"), signal.SIGKILL)
    eventually(lambda: len(one.logged("child cannot start", child="agent", why="no such topic")) > 1)
    assert not one.ended()


def test_when_the_supervisor_is_killed_no_child_stays(service: Start) -> None:
    one = service().start()
    eventually(one.standbys)
    assert len(one.living()) == 4
    one.send(signal.SIGKILL)
    one.exit_code()
    eventually(lambda: not one.living())
    assert len([line for line in one.events() if line.endswith("orphaned")]) == 3


# --- reload ---


def test_a_reload_replaces_every_worker_one_after_the_other_and_tells_the_agent(service: Start) -> None:
    one = service({"FAKE_TIMES": "hung=10"}).start()
    one.configure(topic="orders-2")
    one.send(signal.SIGHUP)
    eventually(lambda: one.logged("reloaded"))
    eventually(lambda: len([line for line in one.events("worker") if line.endswith("drained")]) == 2)
    eventually(lambda: one.events("agent read orders-2"))
    lines = [line.rsplit(" ", 1)[0] if "started" in line else line for line in one.events("worker")][2:]
    assert lines.index("worker 0.1 started orders-2") < lines.index("worker 0.0 stopping")
    assert lines.index("worker 0.1 started orders-2") < lines.index("worker 1.1 started orders-2")
    assert lines.index("worker 1.1 started orders-2") < lines.index("worker 1.0 stopping")
    assert len(one.events("agent started")) == 1

    def told_after_the_reload() -> bool:  # the line in the log comes first
        told = one.tellings()
        began = next(index for index, message in enumerate(told) if message.startswith("RELOADING=1\nMONOTONIC_USEC="))
        return any(message.startswith("READY=1") for message in told[began:])

    eventually(told_after_the_reload)
    assert not one.logged("slots reclaimed")


def test_no_connection_is_refused_during_reloads(service: Start) -> None:
    one = service().start()
    for round_number in range(1, 4):
        one.send(signal.SIGHUP)
        while len(one.logged("reloaded")) < round_number:
            assert one.ask().startswith("worker")
    assert not one.logged("child ended", level="error")


def test_a_broken_new_configuration_is_logged_and_the_old_one_stays(service: Start) -> None:
    one = service().start()
    one.config.write_text("[gateway")
    one.send(signal.SIGHUP)
    eventually(lambda: one.logged("reload refused, the old configuration stays"))
    assert len(one.events("worker")) == 2
    eventually(lambda: one.last_telling().startswith("READY=1"), message="systemd does not wait for the reload")


def test_settings_that_need_a_restart_are_refused_by_name(service: Start) -> None:
    one = service().start()
    one.configure(workers=3)
    one.send(signal.SIGHUP)
    (refusal,) = eventually(lambda: one.logged("reload refused, the old configuration stays"))
    assert "gateway.workers: expected no change while the gateway runs" in refusal["error"]


def test_a_reload_is_refused_when_the_checker_says_so_and_systemd_hears_why(service: Start) -> None:
    one = service().start()
    one.plan("checker", "refuses")
    one.configure(topic="orders-2")
    one.send(signal.SIGHUP)
    (refusal,) = eventually(lambda: one.logged("reload refused, the old configuration stays"))
    assert refusal["error"] == "no such topic"
    assert one.events("checker started orders-2"), "it checks the new configuration"
    assert len(one.events("worker")) == 2
    eventually(lambda: one.last_telling().endswith("with 2 workers; last reload refused: no such topic"))
    one.behave("checker")
    one.send(signal.SIGHUP)
    eventually(lambda: one.logged("reloaded"))
    assert one.events("worker 1.1 started orders-2")
    eventually(lambda: one.last_telling().endswith("with 2 workers"))


@pytest.mark.parametrize(
    ("how", "why"), [("dies", "the checker ended without a result (exit code 3)"), ("silent", "not ready within 3 s")]
)
def test_a_reload_is_refused_when_the_checker_has_no_result_and_nobody_waits_for_it(
    service: Start, how: str, why: str
) -> None:
    one = service({"FAKE_TIMES": "start=3 hung=10"}).start()
    one.plan("checker", how)
    one.send(signal.SIGHUP)
    eventually(lambda: one.events("checker started"))
    os.kill(one.pid("worker 1.0"), signal.SIGKILL)
    eventually(lambda: one.events("worker 1.1 started"))
    (refusal,) = eventually(lambda: one.logged("reload refused, the old configuration stays"))
    assert refusal["error"] == why
    one.behave("checker")
    one.send(signal.SIGHUP)
    eventually(lambda: one.logged("reloaded"))


def test_a_signal_to_reload_during_a_check_is_done_after_it(service: Start) -> None:
    one = service({"FAKE_TIMES": "start=3 hung=10"}).start()
    one.plan("checker", "silent")
    one.send(signal.SIGHUP)
    eventually(lambda: one.events("checker started"))
    one.send(signal.SIGHUP)
    one.behave("checker")
    eventually(lambda: one.logged("reloaded"))
    assert len(one.events("checker started")) == 2


def test_the_end_does_not_wait_for_a_checker(service: Start) -> None:
    one = service().start()
    one.plan("checker", "silent")
    one.send(signal.SIGHUP)
    eventually(lambda: one.events("checker started"))
    one.send(signal.SIGTERM)
    assert one.exit_code() == 0
    eventually(lambda: not one.living())


@pytest.mark.parametrize("how", ["dies", "refuses", "silent"])
def test_when_a_new_generation_is_not_ready_the_reload_goes_back(service: Start, how: str) -> None:
    one = service({"FAKE_TIMES": "start=3 hung=10"}).start()
    one.plan("worker-1", how)
    one.configure(topic="orders-2")
    one.send(signal.SIGHUP)
    eventually(lambda: one.logged("reload stopped, the old configuration stays", worker=1, undone=[0]))
    eventually(lambda: one.events("worker 0.2 started orders "))
    eventually(lambda: one.logged("child ended", child="worker 0.1"))
    assert not one.events("worker 1.0 stopping"), "the old generation of the worker that failed goes on"
    one.behave("worker-1")
    one.send(signal.SIGHUP)
    eventually(lambda: one.logged("reloaded"))
    assert one.events("worker 0.3 started orders-2")
    eventually(lambda: one.events("agent read orders-2"))


def test_a_signal_to_reload_during_a_reload_is_done_after_it(service: Start) -> None:
    one = service({"FAKE_TIMES": "hung=10"}).start()  # on a busy machine nobody is replaced for being slow
    one.configure(topic="orders-2")
    one.send(signal.SIGHUP)
    eventually(lambda: one.logged("reloading"))
    one.configure(topic="orders-3")
    one.send(signal.SIGHUP)
    eventually(lambda: len(one.logged("reloaded")) == 2)
    assert one.events("worker 1.2 started orders-3")


def test_a_third_generation_waits_for_the_table_range_of_one_that_still_drains(service: Start) -> None:
    one = service(workers=1, drain="20s").start()
    one.plan("worker-0", "waits")
    one.send(signal.SIGHUP)
    eventually(lambda: one.logged("reloaded"))
    one.send(signal.SIGHUP)
    eventually(lambda: len(one.logged("reloading")) == 2)
    assert one.ask() in ("worker 0.0", "worker 0.1")
    assert not one.events("worker 0.2"), "both ranges of the worker are taken"
    one.behave("worker-0")
    eventually(lambda: len(one.logged("reloaded")) == 2)
    assert one.events("worker 0.2 started")


def test_a_worker_that_dies_during_a_reload_before_its_turn_comes_back_with_the_old_configuration(
    service: Start,
) -> None:
    one = service({"FAKE_TIMES": "start=60 hung=60"}).start()
    one.plan("worker-0", "silent")  # the roll stands at worker 0
    one.configure(topic="orders-2")
    one.send(signal.SIGHUP)
    eventually(lambda: one.events("worker 0.1 started orders-2"))
    os.kill(one.pid("worker 1.0"), signal.SIGKILL)
    eventually(lambda: one.events("worker 1.1 started orders "))
    assert not one.logged("reload stopped, the old configuration stays"), "the roll still stands there"
    os.kill(one.pid("worker 0.1"), signal.SIGKILL)
    eventually(lambda: one.logged("reload stopped, the old configuration stays", worker=0, undone=[]))


# --- the store ---


OLD, NEW = "old secret of these tests, long enough", "new secret of these tests, long enough"


def with_store(*secrets: str, streams: bool = False, **changes: Any) -> dict[str, Any]:
    """Settings with a route that needs the store."""
    told = ", ".join(f'"{secret}"' for secret in secrets)
    stream = '\n[[route]]\npath = "/s"\nmethod = "GET"\ntopic = "streamed"\nreply = "stream"\n' if streams else ""
    return {"settings": f"secrets = [{told}]", "more": f'later = true{stream}\n[store]\ndir = "store"', **changes}


def test_a_dead_store_is_replaced_and_the_workers_do_not_notice(service: Start) -> None:
    one = service(**with_store(OLD)).start()
    eventually(lambda: one.events("store started orders old "))
    os.kill(one.pid("store"), signal.SIGKILL)
    eventually(lambda: len(one.logged("child ready", child="store")) == 2)
    assert len(one.events("worker")) == 2


def test_the_store_knows_what_old_and_new_workers_need_as_long_as_they_live(service: Start) -> None:
    one = service(**with_store(OLD, streams=True, workers=1, drain="20s")).start()
    eventually(lambda: one.logged("child ready", child="store"))
    one.plan("worker-0", "waits")
    one.configure(**with_store(NEW, workers=1, drain="20s", topic="orders-2"))
    one.send(signal.SIGHUP)
    eventually(lambda: one.logged("reloaded"))
    read = eventually(lambda: len(one.events("store read")) == 2 and one.events("store read"))
    assert read == ["store read orders,orders-2,streamed old,new", "store read orders-2,orders,streamed new,old"]
    one.behave("worker-0")
    eventually(lambda: one.events("store read")[-1] == "store read orders-2 new")
    assert len(one.events("store started")) == 1


def test_the_store_ends_after_the_last_worker_that_needs_it(service: Start) -> None:
    one = service(**with_store(OLD, workers=1, drain="20s")).start()
    eventually(lambda: one.logged("child ready", child="store"))
    one.plan("worker-0", "waits")
    one.configure(workers=1, drain="20s", more='[store]\ndir = "store"')
    one.send(signal.SIGHUP)
    eventually(lambda: one.logged("reloaded"))
    eventually(lambda: one.events("worker 0.0 stopping"))
    assert not one.events("store stopping")
    one.behave("worker-0")
    eventually(lambda: one.events("store drained"))
    assert len(one.events("store started")) == 1


def test_a_reload_that_goes_back_takes_back_what_it_has_told_the_store(service: Start) -> None:
    one = service({"FAKE_TIMES": "hung=10"}, **with_store(OLD)).start()
    eventually(lambda: one.logged("child ready", child="store"))
    one.plan("worker-1", "refuses")
    one.configure(**with_store(NEW, topic="orders-2"))
    one.send(signal.SIGHUP)
    eventually(lambda: one.logged("child ended", child="worker 0.1"))
    eventually(lambda: one.events("store read")[-1] == "store read orders old")
    assert one.events("store read")[0] == "store read orders,orders-2 old,new"


def test_nobody_waits_for_a_store_that_cannot_be_killed(service: Start) -> None:
    """Not even SIGKILL ends a process that waits for a frozen disk."""
    one = service(
        {"FAKE_UNKILLABLE": "store", "FAKE_TIMES": "agent_stop=0.5 drain_more=0.5"}, **with_store(OLD)
    ).start()
    eventually(lambda: one.logged("child ready", child="store"))
    one.plan("store", "hangs")
    eventually(lambda: one.logged("child hung: killed", child="store"))
    one.configure(**with_store(OLD, NEW))
    one.send(signal.SIGHUP)
    eventually(lambda: one.logged("reloaded"))
    assert one.ask().startswith("worker")
    assert len(one.events("store started")) == 1, "its successor would use the same files"
    one.plan("store", "stubborn")
    one.send(signal.SIGTERM)
    assert one.exit_code() == 0
    assert one.events("agent drained")
    assert one.logged("child cannot be killed: ended without it", child="store")


def test_the_end_waits_for_the_store_and_then_for_the_agent(service: Start) -> None:
    one = service(**with_store(OLD)).start()
    eventually(lambda: one.logged("child ready", child="store"))
    one.send(signal.SIGTERM)
    assert one.exit_code() == 0
    ends = [line for line in one.events() if line.endswith(("drained", "stopping"))]
    assert ends[-4:] == ["store stopping", "store drained", "agent stopping", "agent drained"]
    assert all(line.startswith("worker") for line in ends[:-4])


def test_a_store_that_is_never_ready_holds_up_nothing(service: Start) -> None:
    one = service({"WATCHDOG_USEC": "200000"}, **with_store(OLD))
    one.plan("store", "silent")
    one.start()
    eventually(lambda: any(message.startswith("READY=1") for message in one.tellings()))
    _fed_again(one)
    assert one.events("store started")
    assert not one.logged("child ready", child="store")
    one.send(signal.SIGTERM)
    assert one.exit_code() == 0


def test_the_watchdog_is_fed_while_the_heart_of_the_store_has_stopped(service: Start) -> None:
    one = service({"WATCHDOG_USEC": "200000", "FAKE_TIMES": "agent_hung=60"}, **with_store(OLD)).start()
    eventually(lambda: one.logged("child ready", child="store"))
    os.kill(one.pid("store"), signal.SIGSTOP)
    _fed_again(one)
    os.kill(one.pid("store"), signal.SIGKILL)
    eventually(lambda: len(one.events("store started")) == 2)


# --- the end ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_drains_the_workers_then_the_agent_and_exits_with_0(service: Start, number: signal.Signals) -> None:
    one = service().start()
    one.send(number)
    assert one.exit_code() == 0
    ends = [line for line in one.events() if "started" not in line]
    assert ends[-2:] == ["agent stopping", "agent drained"]
    assert sorted(ends[:-2]) == [f"worker {worker}.0 {what}" for worker in (0, 1) for what in ("drained", "stopping")]
    assert any(message.startswith("STOPPING=1") for message in one.tellings())


def test_who_says_sigterm_again_and_again_changes_nothing(service: Start) -> None:
    one = service().start()
    eventually(lambda: one.send(signal.SIGTERM) or one.ended())
    assert one.exit_code() == 0


def test_a_worker_that_does_not_end_is_killed_after_the_drain_timeout(service: Start) -> None:
    one = service(drain="200ms").start()
    one.plan("worker-0", "stubborn")
    one.send(signal.SIGTERM)
    assert one.exit_code() == 0
    assert one.logged("child timed out: killed", child="worker 0.0")
    assert one.logged("slots reclaimed", child="worker 0.0", reclaimed=1)


def test_a_second_interrupt_kills_at_once(service: Start) -> None:
    one = service(drain="1h").start()
    one.plan("worker-0", "stubborn")
    one.send(signal.SIGINT)
    eventually(lambda: one.logged("draining"))
    one.send(signal.SIGINT)
    assert one.exit_code() == 130
    assert not one.living()


def test_new_connections_are_refused_once_the_drain_has_begun(service: Start) -> None:
    one = service(drain="20s").start()
    one.plan("worker-0", "waits")
    one.plan("worker-1", "waits")
    one.send(signal.SIGTERM)
    eventually(lambda: len([line for line in one.events() if line.endswith("stopping")]) == 2)
    one.behave("worker-0")
    one.behave("worker-1")
    assert one.exit_code() == 0
    with pytest.raises(ConnectionRefusedError):
        one.ask()


def test_the_end_during_the_start_ends_it(service: Start) -> None:
    one = service()
    one.plan("worker-0", "silent")
    one.launch()
    eventually(lambda: one.events("worker 0.0"))
    one.send(signal.SIGTERM)
    assert one.exit_code() == 0
    assert not one.living()


# --- systemd ---


def test_the_watchdog_is_fed_while_workers_live_and_children_know_nothing_of_it(service: Start) -> None:
    one = service({"WATCHDOG_USEC": "200000"}).start()
    eventually(lambda: one.tellings().count("WATCHDOG=1") > 3)
    environ = Path(f"/proc/{one.pid('worker 0.0')}/environ").read_text()
    assert "NOTIFY_SOCKET" not in environ
    assert "WATCHDOG_USEC" not in environ


def test_the_watchdog_starves_while_nobody_serves_and_not_for_one_bad_worker(service: Start) -> None:
    one = service({"WATCHDOG_USEC": "200000"}).start()
    one.plan("worker-0", "dies")
    os.kill(one.pid("worker 0.0"), signal.SIGKILL)
    eventually(lambda: len(one.logged("child ended")) > 3, message="worker 0 dies again and again")
    _fed_again(one)
    one.plan("worker-1", "dies")
    os.kill(one.pid("worker 1.0"), signal.SIGKILL)
    eventually(lambda: one.events("worker 1.1"), message="nobody serves any more")
    fed, deaths = one.tellings().count("WATCHDOG=1"), len(one.logged("child ended"))
    eventually(lambda: len(one.logged("child ended")) > deaths + 8, message="several times as long as a meal is due")
    assert one.tellings().count("WATCHDOG=1") == fed
    one.behave("worker-1")
    _fed_again(one)


def test_the_watchdog_starves_while_a_heart_has_stopped(service: Start) -> None:
    """A hung worker is given time when the supervisor itself had stopped; systemd is told nothing meanwhile."""
    one = service({"WATCHDOG_USEC": "200000", "FAKE_TIMES": "hung=1"}).start()
    _fed_again(one)
    assert one.process is not None
    hung = one.pid("worker 0.0")
    for pid in (hung, one.process.pid):
        os.kill(pid, signal.SIGSTOP)
    still_until = time.monotonic() + 1.2  # longer than a heart may stop
    eventually(lambda: time.monotonic() > still_until)
    before = one.tellings().count("WATCHDOG=1")
    os.kill(one.process.pid, signal.SIGCONT)
    eventually(lambda: one.tellings().count("WATCHDOG=1") > before)
    assert one.logged("child hung: killed", child="worker 0.0"), "fed before the hung worker was gone"


def _fed_again(one: Service) -> None:
    before = one.tellings().count("WATCHDOG=1")
    eventually(lambda: one.tellings().count("WATCHDOG=1") > before + 2, message="the watchdog is fed")


def test_sockets_of_systemd_are_used_instead_of_binding(service: Start, tmp_path: Path) -> None:
    one = service()
    with socket.socket() as activated:
        activated.bind(("127.0.0.1", 0))
        activated.listen()
        address = f"127.0.0.1:{activated.getsockname()[1]}"
        one.configure(listen=f'["{address}"]')
        launcher = (
            "import os, sys\n"
            "os.dup2(int(sys.argv[1]), 3)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2])\n"
            "command = [sys.executable, '-m', 'tests.actors.fake_children', 'supervisor', sys.argv[3]]\n"
            "os.execv(sys.executable, command)\n"
        )
        with (tmp_path / "log").open("ab") as log:
            one.process = subprocess.Popen(
                [sys.executable, "-c", launcher, str(activated.fileno()), "1", str(one.config)],
                env=one.environ,
                pass_fds=[activated.fileno()],
                stderr=log,
            )
        eventually(lambda: one.logged("ready") or one.ended())
    assert one.logged("ready")[0]["addresses"] == [address]
    assert one.ask().startswith("worker")
