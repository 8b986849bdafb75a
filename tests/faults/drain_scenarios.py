"""Scenarios in which the gateway is told to read its configuration again, or to end."""

from __future__ import annotations

import resource
import signal
import time

from tests.faults.clients import Habits
from tests.faults.echo_service import SILENT, SLOW
from tests.faults.oracle import ANSWERED, CUT, REFUSED
from tests.faults.play import ANY, Scenario
from tests.faults.stage import House, Stage
from tests.waiting import eventually

RELOADED = House(workers=2, gateway_settings="# reloads")
RELOADED_GRANIAN = House(workers=2, front="granian")
DRAINED = House(workers=2, timeout="30s", drain_timeout="3s")
RELOAD_S = 60.0
PARKED = 1000
PARKED_S = 30.0
NOT_READY_S = 0.1
MORE_S = 3.0  # beyond the drain timeout: what the supervisor gives a worker, and the agent's end
CONNECTIONS = Habits().connections


def reloads(stage: Stage) -> None:
    """SIGHUP after SIGHUP: kept-alive connections, and new ones for each request."""
    with stage.also(Habits(connections=6, fresh_each=True)):
        for _ in range(stage.faults_wanted):
            done = stage.gateway.log_text.count('"reloaded"')
            with stage.fault(lambda done=done: stage.gateway.log_text.count('"reloaded"') > done):
                stage.gateway.signal(signal.SIGHUP)


def end_with_parked_requests(stage: Stage) -> None:
    """SIGTERM while a thousand requests wait: half of them are answered in time, the others are told the truth."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit_s = float(stage.furniture.house.drain_timeout.removesuffix("s")) + MORE_S
    parked = stage.also(Habits(connections=PARKED, manners=(SILENT, SLOW), silent_after_s=60.0, once=True))
    with parked:
        eventually(lambda: stage.gateway.metric("fastgw_in_flight") >= PARKED, PARKED_S, "they wait")
        with stage.fault(lambda: stage.gateway.ended, serves_on=False) as fault:
            stage.gateway.signal(signal.SIGTERM)
            eventually(lambda: not stage.gateway.ready, 5, "not ready")
            not_ready_s = time.monotonic() - fault.began_s
    stage.progress(f"not ready after {not_ready_s:.3f} s, ended after {fault.recovered_s - fault.began_s:.2f} s")
    assert not_ready_s < NOT_READY_S
    assert fault.recovered_s - fault.began_s < limit_s
    endings = [one.ending for one in parked.told]
    assert endings.count(ANSWERED) == endings.count("expired") == PARKED / 2


SCENARIOS = [
    Scenario("reloads, connections kept and new", RELOADED, reloads, short=5, long=50),
    Scenario("the same behind granian", RELOADED_GRANIAN, reloads, short=3, long=50, only_soak=True),
    Scenario(
        "end with 1,000 parked",
        DRAINED,
        end_with_parked_requests,
        {"expired": PARKED // 2, REFUSED: ANY, CUT: CONNECTIONS},
        long=1,
        ends_service=True,
    ),
]
