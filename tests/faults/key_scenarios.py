"""Scenarios of idempotency keys: each key is asked for on two nodes at once, whatever dies meanwhile.

The service gives each record an answer of its own, so two answers to one key would show; now and then it fails, which
frees the key. Clients ask until they have a success (key_clients.py).
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace

from fastgw.dialects.control import Claim
from tests.faults.clients import Habits
from tests.faults.key_topics import contested, ends_of
from tests.faults.play import Scenario
from tests.faults.stage import House, Stage
from tests.faults.ticket_scenarios import Play, killed_everything, killed_nodes
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

HOUSE = House(nodes=2, cluster="static", keys=True)
AHEAD = HOUSE._replace(clock_ahead_s=60)
# One silence is longer than a key may be held by a request that has died: 1 s, its delivery, and 5 s.
KEYS = Habits(connections=24, keys=True, silent_after_s=30.0)
FEW = replace(KEYS, connections=8)  # where more of them wait for each other's turns, fewer claims meet
TITLES = ("worker 0", " store", "worker 1")
LOOK_AFTER = 20  # requests of each client
SOON_MS, AT_ONCE = 20, 20  # of a hundred keys so many are claimed twice in so short a time, at least


def killed_in_turn(stage: Stage) -> None:
    """SIGKILL for a worker or the store of one node after the other, in the middle of the work."""
    for number in range(stage.faults_wanted):
        node, title = stage.gateways[number % 2], TITLES[number % len(TITLES)]
        stage.some_moment()
        with stage.fault():
            pid = eventually(lambda node=node, title=title: pid_of(node, title), 30, f"a {title}")
            os.kill(pid, signal.SIGKILL)
            eventually(lambda node=node, pid=pid: pid not in node.children(), 30, "it has ended")


def at_once(stage: Stage) -> None:
    """No fault but this: two nodes claim the same key before they can know of each other, again and again.

    A fault is a key that was claimed twice in the same millisecond, by the broker's clock.
    """
    furniture, keys, soon = stage.furniture, 0, 0
    with stage.fault() as fault:
        fault.count = 0
        while fault.count < stage.faults_wanted:
            starts = ends_of(furniture.kafka.bootstrap, furniture.later)
            stage.clients.sent(LOOK_AFTER * KEYS.connections)
            lanes = furniture.lanes(starts)
            claims = [one.content for lane in lanes.values() for one in lane if isinstance(one.content, Claim)]
            keys += len({claim.key_hash for claim in claims})
            soon += contested(lanes, SOON_MS)
            fault.count += contested(lanes, 0)
    stage.notes.append(
        f"of {keys} keys {soon} were claimed twice within {SOON_MS} ms, {fault.count} within the same one"
    )
    assert soon * 100 > AT_ONCE * keys


def pid_of(node: Gateway, title: str) -> int:
    """Of the node's process with this title; 0: there is none."""
    return next((pid for pid, named in node.children().items() if named.endswith(title)), 0)


def _row(name: str, house: House, play: Play, only_soak: bool = False, short: int = 1, long: int = 8) -> Scenario:
    return Scenario(f"keys: {name}", house, play, {}, short=short, long=long, habits=KEYS, only_soak=only_soak)


SCENARIOS = [
    replace(_row("two nodes claim at once", HOUSE, at_once, short=20, long=10_000), long_habits=FEW),
    _row("workers and stores killed", HOUSE, killed_in_turn, short=3),
    _row("one of two nodes killed", HOUSE, killed_nodes, only_soak=True),
    _row("all processes killed", HOUSE, killed_everything, only_soak=True),
    _row("a node whose clock is 60 s ahead", AHEAD, killed_in_turn, short=2),
]
