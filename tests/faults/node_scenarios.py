"""Scenarios with several nodes behind one load balancer: they come, go, die, freeze, and contradict each other."""

from __future__ import annotations

import json
import os
import signal
from itertools import cycle, islice

from tests.faults.clients import Habits
from tests.faults.echo_service import ASTRAY as ASTRAY_MANNER
from tests.faults.oracle import ANSWERED, CUT
from tests.faults.play import ANY, Scenario
from tests.faults.stage import House, Stage
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

GROUP = House(nodes=3, workers=1, cluster="group", reply_partitions=12)
DIVIDED = GROUP._replace(kafka="proxied", only_first_proxied=True)
STATIC = House(nodes=3, workers=1, cluster="static", reply_partitions=12)
# Requests live longer than a dead node's session, and a restart: a reply can be read by the next reader in time.
PATIENT = Habits(silent_after_s=60.0)
GROUP_ASTRAY = GROUP._replace(manners=(ASTRAY_MANNER,), timeout="30s")
STATIC_ASTRAY = STATIC._replace(manners=(ASTRAY_MANNER,), timeout="30s")
SETTLED_S = 30.0
CONNECTIONS = Habits().connections
HONEST = {"not_ready": ANY, "not_sent": ANY, "send_unknown": ANY, "expired_unknown": ANY, "expired": ANY}


def node_joins_and_leaves(stage: Stage) -> None:
    """A fourth node comes, takes its share of the partitions, and goes again."""
    furniture = stage.furniture
    for _ in range(stage.faults_wanted):
        guest = furniture.new_gateway(len(furniture.gateways))
        with guest:
            furniture.ports.append(guest.port)
            with stage.fault(lambda guest=guest: is_shared(stage, [*stage.gateways, guest])):
                pass
            stage.clients.sent(100)
            with stage.fault(lambda: is_shared(stage, stage.gateways)):
                furniture.ports.remove(guest.port)
                guest.signal(signal.SIGTERM)
                eventually(lambda guest=guest: guest.ended, SETTLED_S, "the guest has left")


def node_killed(stage: Stage) -> None:
    """SIGKILL for every process of a node at once; later it is started again."""
    for node in chosen(stage):
        rest = [other for other in stage.gateways if other is not node]
        node.exit_code = -signal.SIGKILL
        with stage.fault(lambda rest=rest: is_shared(stage, rest)):
            node.signal_all(signal.SIGKILL)
            node.stop()
        node.exit_code = 0
        with stage.fault(lambda: is_shared(stage, stage.gateways)):
            node.start()


def node_frozen(stage: Stage) -> None:
    """SIGSTOP for every process of a node, for longer than its session with the group."""
    for node in chosen(stage):
        with stage.fault(lambda: stage.all_ready() and is_shared(stage, stage.gateways)):
            node.signal_all(signal.SIGSTOP)
            rest = [other for other in stage.gateways if other is not node]
            eventually(lambda rest=rest: is_shared(stage, rest), SETTLED_S, "the others share its partitions")
            node.signal_all(signal.SIGCONT)


def agent_cut_off(stage: Stage) -> None:
    """A node's agent loses its session with the group, while its workers go on.

    When it is back it gets other partitions, all at once: until its workers read one of them they go on where they
    were, and refuse nobody.
    """
    for node in chosen(stage):
        agent = next(pid for pid, title in node.children().items() if title.endswith(" agent"))
        rest = [other for other in stage.gateways if other is not node]
        with stage.fault(lambda: is_shared(stage, stage.gateways)):
            os.kill(agent, signal.SIGSTOP)
            eventually(lambda rest=rest: is_shared(stage, rest), SETTLED_S, "the others share its partitions")
            os.kill(agent, signal.SIGCONT)


def node_cut_off(stage: Stage) -> None:
    """The network between a node and Kafka is divided for longer than the node's session with the group."""
    node, *rest = stage.gateways
    for _ in range(stage.faults_wanted):
        with stage.fault(lambda: stage.all_ready() and is_shared(stage, stage.gateways)):
            stage.broker.silent = True
            try:
                eventually(lambda: is_shared(stage, rest), SETTLED_S, "the others share its partitions")
                eventually(lambda: not node.ready, SETTLED_S, "it knows that it is alone")
            finally:
                stage.broker.silent = False


def rolling_restart(stage: Stage) -> None:
    """One node after the other is stopped in order and started again."""
    for node in islice(cycle(stage.gateways), len(stage.gateways) * stage.faults_wanted):
        with stage.fault(lambda: stage.all_ready() and is_shared(stage, stage.gateways)):
            node.stop()
            node.start()


def same_index_twice(stage: Stage) -> None:
    """A fourth node believes that it is the first: it is reported by both, and nobody is harmed."""
    furniture = stage.furniture
    for _ in range(stage.faults_wanted):
        with furniture.new_gateway(0) as double:
            furniture.ports.append(double.port)
            with stage.fault():
                for node in (stage.gateways[0], double):
                    eventually(lambda node=node: node.replies("rival") > 0, SETTLED_S, "a rival is counted")
                    eventually(
                        lambda node=node: "claims partitions of this node" in node.log_text,
                        SETTLED_S,
                        "and reported",
                    )
            assert all(other.replies("rival") == 0 for other in stage.gateways[1:]), "who is no rival is not reported"
            stage.clients.sent(100)
            furniture.ports.remove(double.port)
            double.signal(signal.SIGTERM)
            eventually(lambda double=double: double.ended, SETTLED_S, "the double has left")
    assert {one.ending for one in stage.clients.told} <= {ANSWERED, CUT}


def chosen(stage: Stage) -> list[Gateway]:
    return [stage.chance.choice(stage.gateways) for _ in range(stage.faults_wanted)]


def partitions(node: Gateway) -> frozenset[int]:
    """The partitions that a node has by its own account."""
    told = [line for line in node.log_text.splitlines() if '"partitions of this node"' in line]
    return frozenset(json.loads(told[-1])["partitions"])


def is_shared(stage: Stage, nodes: list[Gateway]) -> bool:
    """Whether every partition belongs to exactly one of these nodes, and each has some."""
    shares = [partitions(node) for node in nodes]
    count = stage.furniture.house.reply_partitions
    return all(shares) and sum(map(len, shares)) == count == len(frozenset().union(*shares))


SCENARIOS = [
    Scenario("node joins and leaves", GROUP, node_joins_and_leaves, {CUT: CONNECTIONS}, long=50),
    Scenario("node killed", GROUP, node_killed, {CUT: CONNECTIONS}, long=50),
    # A reply that came while nobody read its partition is late, not lost: none of these may expire.
    Scenario("node killed, replies anywhere", GROUP_ASTRAY, node_killed, {CUT: CONNECTIONS}, long=50, habits=PATIENT),
    Scenario(
        "node joins and leaves, replies anywhere",
        GROUP_ASTRAY,
        node_joins_and_leaves,
        {CUT: CONNECTIONS},
        long=50,
        habits=PATIENT,
    ),
    Scenario(
        "rolling restart of three nodes, replies anywhere",
        STATIC_ASTRAY,
        rolling_restart,
        {CUT: CONNECTIONS},
        long=30,
        habits=PATIENT,
    ),
    Scenario("node frozen", GROUP, node_frozen, {CUT: CONNECTIONS, **HONEST}, long=30),
    Scenario("node cut off from its group", GROUP, agent_cut_off, long=30),
    Scenario("node cut off from Kafka", DIVIDED, node_cut_off, {CUT: CONNECTIONS, **HONEST}, long=30),
    Scenario("rolling restart of three nodes", STATIC, rolling_restart, {CUT: CONNECTIONS}, long=30, only_soak=True),
    Scenario("rolling restart of three nodes in a group", GROUP, rolling_restart, {CUT: CONNECTIONS}, long=30),
    Scenario("two nodes with the same index", STATIC, same_index_twice, {CUT: CONNECTIONS}, long=20),
]
