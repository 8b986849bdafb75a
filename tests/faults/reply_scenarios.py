"""Scenarios in which the response topic gets what no service should send: nobody's request is touched by it."""

from __future__ import annotations

import os
import secrets
import signal
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, Producer, TopicPartition

from fastgw import ids
from fastgw.ids import IdMaker, Partitioner
from tests.actors.raw_producer import produce_raw
from tests.faults.clients import Habits
from tests.faults.echo_service import CUT_ID, HUGE, LATE, POISON, TWICE
from tests.faults.oracle import ANSWERED
from tests.faults.play import ANY, Scenario
from tests.faults.stage import House, Stage
from tests.faults.worker_scenarios import is_replaced, some_worker
from tests.waiting import eventually

HOUSE = House(workers=2)
COUNTED_S = 30.0
RANDOM_KEYS = 100_000  # for each "fault" of the scenario
SEND_S = 60.0
NOT_UTF8 = [(b"\xff\xfe", b"1"), (b"status", b"200")]

ASKS_FOR_LATE = Habits(connections=12, manners=(LATE,), headers=("Prefer: wait=1",))
ASKS_FOR_POISON = Habits(connections=6, manners=(*POISON, HUGE))
ASKS_FOR_CUT_IDS = Habits(connections=12, manners=(CUT_ID,), headers=("Prefer: wait=1",))


def late(stage: Stage) -> None:
    """Replies that come after the deadline of their requests."""
    with counted(stage, late=lambda: ended(stage, "expired")), stage.fault() as fault:
        fault.count = ask_also(stage, ASKS_FOR_LATE)
    assert ended(stage, "expired") > 0
    untouched(stage)


def twice(stage: Stage) -> None:
    """Two replies, with different bodies, to every request."""
    before = stage.gateway.replies("duplicate")
    with stage.fault() as fault:
        fault.count = ask_also(stage, Habits(connections=6, manners=(TWICE,)))
    counted_at_least(stage, "duplicate", before + fault.count)
    untouched(stage)


def forged(stage: Stage) -> None:
    """Well-formed ids of living workers for requests that never were."""
    count = 1000 * stage.faults_wanted
    makers = [maker_of(stage, worker["slot"], worker["generation"]) for worker in stage.gateway.status()["workers"]]
    with counted(stage, forged=lambda: count), stage.fault() as fault:
        fault.count = count
        write(stage, (makers[number % len(makers)].make(number % 1000, Partitioner.HEADER) for number in range(count)))
    untouched(stage)


def poison(stage: Stage) -> None:
    """Statuses and headers that would end a process or inject a header, and ten megabytes, above the limit."""
    with stage.fault() as fault:
        fault.count = ask_also(stage, ASKS_FOR_POISON)
        with counted(stage, malformed=lambda: stage.furniture.house.reply_partitions):
            for partition in range(stage.furniture.house.reply_partitions):
                produce_raw(stage.furniture.kafka.bootstrap, stage.furniture.replies, partition, b"no id", NOT_UTF8)
    assert ended(stage, "bad_reply") > 0
    huge = [one.ending for one in stage.more_clients[0].told if one.body.startswith(HUGE)]
    assert set(huge) == {"bad_reply"}
    untouched(stage)


def truncated(stage: Stage) -> None:
    """Ids of which a service has lost the second half."""
    with counted(stage, malformed=lambda: ended(stage, "expired")), stage.fault() as fault:
        fault.count = ask_also(stage, ASKS_FOR_CUT_IDS)
    assert ended(stage, "expired") > 0
    untouched(stage)


def other_nodes(stage: Stage) -> None:
    """Ids of a node that shares the response topic: on their home partition, and on another one."""
    count = 500 * stage.faults_wanted
    partitions = stage.furniture.house.reply_partitions
    maker = IdMaker(int(stage.gateway.status()["node"], 16) ^ 1, 0, 0)
    maker.set_ownership(partitions, [3], 3)
    at_home = [maker.make(number % 1000, Partitioner.HEADER) for number in range(count)]
    astray = [maker.make(number % 1000, Partitioner.HEADER) for number in range(count)]
    # What came in elsewhere is sent on to its home, where it comes in again.
    with counted(stage, foreign=lambda: 2 * count, rerouted=lambda: count), stage.fault() as fault:
        fault.count = 2 * count
        write(stage, at_home, partition=3)
        write(stage, astray, partition=4)
    untouched(stage)


def dead_generation(stage: Stage) -> None:
    """Ids of a worker process that has died since."""
    count = 500 * stage.faults_wanted
    slot, pid = some_worker(stage)
    generation = next(w["generation"] for w in stage.gateway.status()["workers"] if w["pid"] == pid)
    maker = maker_of(stage, slot, generation)
    with stage.fault(lambda: is_replaced(stage, slot, pid)) as fault:
        os.kill(pid, signal.SIGKILL)
    fault.count = count
    caught_up(stage)  # the successor reads again what came around the death, and counts the orphans in it
    with counted(stage, orphan=lambda: count):
        write(stage, (maker.make(number % 1000, Partitioner.HEADER) for number in range(count)))


def random_keys(stage: Stage) -> None:
    """Keys that have never seen a gateway, by the hundred thousand."""
    count = RANDOM_KEYS * stage.faults_wanted
    kinds = (
        lambda: uuid.uuid4().bytes,
        lambda: str(uuid.uuid4()).encode(),
        lambda: secrets.token_bytes(36),
        lambda: b"",
    )
    with counted(stage, malformed=lambda: count), stage.fault() as fault:
        fault.count = count
        write(stage, (kinds[number % len(kinds)]() for number in range(count)))
    untouched(stage)


# What they have in common.


def maker_of(stage: Stage, slot: int, generation: int) -> IdMaker:
    """Makes ids as this worker process does, with nonces that it does not know."""
    maker = IdMaker(int(stage.gateway.status()["node"], 16), slot, generation)
    home = next(p for p, owner in enumerate(stage.gateway.status()["partitions"]["owners"]) if owner == slot)
    maker.set_ownership(stage.furniture.house.reply_partitions, [home], home)
    return maker


def ask_also(stage: Stage, habits: Habits) -> int:
    """More clients, until each has had an answer or two; how many requests they sent."""
    with stage.also(habits) as clients:
        clients.sent(max(habits.connections, len(habits.manners)) * stage.faults_wanted)
    return len(clients.told)


def ended(stage: Stage, ending: str) -> int:
    """How many requests of the further clients ended so."""
    return sum(one.ending == ending for group in stage.more_clients for one in group.told)


def untouched(stage: Stage) -> None:
    """Every request of the ordinary clients was answered so far."""
    assert {one.ending for one in stage.clients.told} == {ANSWERED}


def write(stage: Stage, keys: Iterable[bytes], partition: int | None = None) -> None:
    """Records with these keys on the response topic, on their home partition or on a random one by default."""
    producer = Producer({"bootstrap.servers": stage.furniture.kafka.bootstrap, "linger.ms": 5})
    topic, count = stage.furniture.replies, stage.furniture.house.reply_partitions
    for number, key in enumerate(keys):
        cid = ids.parse(key)
        there = partition if partition is not None else cid.home if cid is not None else number % count
        while True:
            try:
                producer.produce(topic, b"evil", key, there)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(SEND_S) == 0


def caught_up(stage: Stage) -> None:
    """Return when the workers have handled all that is on the response topic now."""
    consumer = Consumer({"bootstrap.servers": stage.furniture.kafka.bootstrap, "group.id": "ends"})
    try:
        ends = [
            consumer.get_watermark_offsets(TopicPartition(stage.furniture.replies, partition), timeout=SEND_S)[1]
            for partition in range(stage.furniture.house.reply_partitions)
        ]
    finally:
        consumer.close()

    def handled() -> bool:
        positions = stage.gateway.status()["partitions"]["handled_to"]
        return all((position or 0) >= end for position, end in zip(positions, ends, strict=True))

    eventually(handled, COUNTED_S, f"the replies up to {ends} are handled")


@contextmanager
def counted(stage: Stage, **expected) -> Iterator[None]:
    """What happens inside is counted under these names, each exactly so often."""
    before = {fate: stage.gateway.replies(fate) for fate in expected}
    yield

    def difference() -> dict[str, tuple[float, int]]:
        counts = {fate: (stage.gateway.replies(fate) - before[fate], want()) for fate, want in expected.items()}
        return {fate: pair for fate, pair in counts.items() if pair[0] != pair[1]}

    eventually(lambda: not difference(), COUNTED_S, f"counted as {sorted(expected)}: {difference()}")


def counted_at_least(stage: Stage, fate: str, wanted: float) -> None:
    eventually(lambda: stage.gateway.replies(fate) >= wanted, COUNTED_S, f"{wanted} {fate}")


SCENARIOS = [
    Scenario("late replies", HOUSE, late, {"expired": ANY}),
    Scenario("duplicate replies", HOUSE, twice),
    Scenario("forged replies", HOUSE, forged),
    Scenario("poisonous replies", HOUSE, poison, {"bad_reply": ANY}),
    Scenario("replies with cut ids", HOUSE, truncated, {"expired": ANY}),
    Scenario("replies for another node", HOUSE, other_nodes),
    Scenario("replies for a dead generation", HOUSE, dead_generation, {"cut": Habits().connections}),
    Scenario("random keys", HOUSE, random_keys, long=10),
]
