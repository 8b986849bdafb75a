"""Scenarios about the topic of kept replies itself: it is made anew, gets partitions, has transactions that stay open.

The clients are those of ticket_scenarios.py and key_scenarios.py.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import replace

from confluent_kafka.admin import NewPartitions

from tests.faults import key_scenarios
from tests.faults.broker_scenarios import ADMIN_S
from tests.faults.clients import Habits
from tests.faults.echo_service import ABORTS, COMMITS, HARD_CODED, OPEN_S, OPENS_EACH, TRANSACTS
from tests.faults.kafkas import admin_of
from tests.faults.key_clients import EACH_KEY, PATH, KeyClients
from tests.faults.key_scenarios import KEYS
from tests.faults.oracle import ANSWERED
from tests.faults.play import ANY, Scenario
from tests.faults.stage import LANES, Stage, wait
from tests.faults.ticket_clients import TicketClients
from tests.faults.ticket_oracle import GONE
from tests.faults.ticket_scenarios import DEFERS, HOUSE, NO_NODE, NO_STORE, TWO_NODES, killed_nodes, plain_too
from tests.faults.worker_scenarios import killed_workers
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

RUIN = TWO_NODES._replace(gateway_settings="# for one scenario alone")
TRANSACTIONS = HOUSE._replace(manners=(TRANSACTS,))
HARD_CODES = TWO_NODES._replace(manners=(HARD_CODED,))

KEY_RUIN = key_scenarios.HOUSE._replace(gateway_settings="# for one scenario alone")
KEY_TRANSACTIONS = key_scenarios.HOUSE._replace(manners=(TRANSACTS,))
KEY_HARD_CODES = key_scenarios.HOUSE._replace(manners=(HARD_CODED,))

READ = "kept replies read"  # in the log
GONE_FOR_S = (0.0, 3.0)  # how long there is no topic
OPEN = Habits(connections=8, defers=True, manners=(COMMITS, ABORTS), once=True, silent_after_s=20.0)
ENDED_S = 30.0
WAVES = 4  # of requests, before and after each fault


def recreated(stage: Stage) -> None:
    """The topic is deleted, and made anew at once or a little later: what was kept is gone, and nobody is told lies."""
    furniture = stage.furniture
    for number in range(stage.faults_wanted):
        stage.clients.sent(WAVES * stage.habits.connections)
        reads = [node.log_text.count(READ) for node in stage.gateways]
        with stage.fault(lambda reads=reads: has_read(stage, reads)):
            admin_of(furniture.kafka.bootstrap).delete_topics([furniture.later])[furniture.later].result(ADMIN_S)
            wait(GONE_FOR_S[number % len(GONE_FOR_S)])
            furniture.make_later()
    stage.clients.sent(WAVES * stage.habits.connections)


def recreated_lanes(stage: Stage) -> None:
    """The same. All keys are free again: one that was answered before is sent again, and has another answer."""
    recreated(stage)
    known_s = stage.faults[-1].recovered_s
    before = next(one for one in stage.clients.told if one.ending == ANSWERED and one.ended_s < stage.faults[0].began_s)
    after = next(one for one in stage.clients.told if one.ending == ANSWERED and one.began_s > known_s)
    for one, is_free in ((before, True), (after, False)):
        answer = eventually(lambda key=one.body: answer_to(stage.gateway, key), ENDED_S, "a success")
        assert (answer != one.answer) is is_free, f"{one}, and then {answer!r}"


def answer_to(node: Gateway, key: bytes) -> bytes:
    """The answer to a request with this key; empty: there is none."""
    headers = {"Idempotency-Key": key.decode()}
    request = urllib.request.Request(f"http://127.0.0.1:{node.port}{PATH}", key, headers)
    try:
        with urllib.request.urlopen(request, timeout=ENDED_S) as answer:
            return answer.read()
    except urllib.error.HTTPError:
        return b""


def open_lanes(stage: Stage) -> None:
    """A service replies in transactions that stay open, so the lanes stand still: claims and replies take that long."""
    clients = stage.clients
    assert isinstance(clients, KeyClients)
    for _ in range(stage.faults_wanted):
        with stage.fault():
            told = len(clients.heard)
            clients.sent(EACH_KEY * OPENS_EACH)
        statuses = {one.status for one in clients.heard[told:]}
        assert statuses >= {200, 503}, f"expected that some requests were refused meanwhile, got {statuses}"


def has_read(stage: Stage, before: list[int]) -> bool:
    """Whether every node has read the topic to its end once more."""
    return stage.all_ready() and all(
        node.log_text.count(READ) > count for node, count in zip(stage.gateways, before, strict=True)
    )


def more_partitions(stage: Stage) -> None:
    """The topic of kept replies, then the response topic, get twice as many partitions."""
    furniture, house = stage.furniture, stage.furniture.house
    later, replies = LANES, house.reply_partitions
    for _ in range(stage.faults_wanted):
        later, replies = 2 * later, 2 * replies
        stage.clients.sent(WAVES * DEFERS.connections)
        reads = [node.log_text.count(READ) for node in stage.gateways]
        with stage.fault(lambda reads=reads: has_read(stage, reads)):
            add_partitions(stage, furniture.later, later)
        stage.clients.sent(WAVES * DEFERS.connections)
        with stage.fault(lambda count=replies: partitions_read(stage) == count):
            add_partitions(stage, furniture.replies, replies)
    stage.clients.sent(WAVES * DEFERS.connections)


def add_partitions(stage: Stage, topic: str, count: int) -> None:
    admin = admin_of(stage.furniture.kafka.bootstrap)
    admin.create_partitions([NewPartitions(topic, count)])[topic].result(ADMIN_S)


def partitions_read(stage: Stage) -> int:
    """How many partitions of the response topic the nodes read together."""
    return int(sum(node.metric("fastgw_node_partitions") for node in stage.gateways))


def open_transactions(stage: Stage) -> None:
    """A service replies in a transaction that stays open, and commits or aborts it: nothing is told before that."""
    with stage.also(Habits(connections=4, rests=True)):
        for _ in range(stage.faults_wanted):
            stage.some_moment()
            with stage.fault(), stage.also(OPEN) as opened:
                opened.sent(OPEN.connections)
            assert isinstance(opened, TicketClients)
            check_patience(opened)


def killed_in_turn(stage: Stage) -> None:
    """SIGKILL for a worker, and for a node: neither may take a reply along that it has to send to its own topic."""
    for _ in range(stage.faults_wanted):
        stage.some_moment()
        killed_workers(replace(stage, faults_wanted=1))
        killed_nodes(replace(stage, faults_wanted=1))


def check_patience(clients: TicketClients) -> None:
    """Each got its answer after the end of its transaction, and was told before that it has to wait. (A cancellation
    that was written before the reply does not wait for it.)"""
    began_s = {one.body: one.began_s for one in clients.told}
    assert len(clients.tickets) == len(began_s)
    for ticket in clients.tickets:
        for seen in ticket.seen:
            is_early = seen.ending == ANSWERED and seen.ended_s - began_s[ticket.body] < OPEN_S
            assert not is_early, f"{ticket}: {seen}, and its transaction was open"
    told = {seen.ending for ticket in clients.tickets for seen in ticket.seen}
    assert "store_behind" in told, f"expected that the store says what it waits for, got {told}"


SCENARIOS = [
    Scenario(
        "deferred answers: topic deleted and recreated", RUIN, plain_too(recreated), {**NO_STORE, GONE: ANY},
        short=2, long=8, habits=DEFERS, alone=True, later_kept=False,
    ),
    Scenario(
        "deferred answers: topics get partitions", RUIN, plain_too(more_partitions), NO_STORE,
        long=3, habits=DEFERS, alone=True,
    ),
    Scenario(
        "deferred answers: transactions that stay open", TRANSACTIONS, open_transactions, NO_STORE,
        long=40, habits=DEFERS,
    ),
    Scenario(
        "deferred answers: a service that hard-codes the response topic", HARD_CODES, plain_too(killed_in_turn),
        NO_NODE, long=8, habits=DEFERS,
    ),
    Scenario(
        "keys: topic deleted and recreated", KEY_RUIN, recreated_lanes,
        short=2, long=8, habits=KEYS, alone=True, later_kept=False,
    ),
    Scenario("keys: transactions that stay open", KEY_TRANSACTIONS, open_lanes, long=40, habits=KEYS),
    Scenario(
        "keys: a service that hard-codes the response topic", KEY_HARD_CODES, key_scenarios.killed_in_turn,
        long=8, habits=KEYS,
    ),
]  # fmt: skip
