"""The native half by itself, where the links' tests do not reach: deliveries in the table, misuse, the end."""

from __future__ import annotations

import os
import time

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition

from fastgw._ctable import CANCELLED, CLAIMED
from fastgw.demo.broker import MockCluster
from fastgw.kafka import _klink
from fastgw.kafka._klink import (
    LAST_BATCH,
    NO_ROOM,
    ClientError,
    Consumer,
    Delivered,
    Producer,
    RecordMemory,
    Undelivered,
    record_bytes,
)
from fastgw.kafka.link import NEVER
from fastgw.kafka.native_link import open_library
from tests.actors import tables
from tests.waiting import eventually

TRANSPORT, DESTROY = -195, -197
SAME_AGE_NS = 100_000_000  # as in _klink.pyx


@pytest.fixture(scope="module")
def cluster():
    open_library()
    cluster = MockCluster()
    cluster.create_topic("replies", 4)
    yield cluster
    cluster.close()


@pytest.fixture
def slow_cluster(cluster):
    yield cluster
    cluster.set_round_trip(0)


@pytest.fixture
def event_fd():
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


@pytest.fixture
def slots():
    return tables.make().open_range(0)


@pytest.fixture
def open_producer(cluster, event_fd):
    opened = []

    def open_it(slots=None):
        opened.append(Producer([("bootstrap.servers", cluster.bootstrap), ("linger.ms", "0")], slots, event_fd))
        return opened[-1]

    yield open_it
    for producer in opened:
        producer.close()


@pytest.fixture
def producer(open_producer):
    return open_producer()


def send(producer, token, topic="replies", value=b"value", key=None, headers=(), partition=0, **more):
    return producer.send(topic, value, key, list(headers), partition, token, **more)


def delivered(producer, count):
    """The tokens of the next `count` records that are told as delivered, in order, and everything else that is told."""
    told = []

    def all_are_told():
        told.extend(producer.events())
        return sum(isinstance(event, Delivered) for event in told) >= count

    eventually(all_are_told)
    return [event.token for event in told if isinstance(event, Delivered)]


def test_a_delivery_marks_its_slot_as_recorded_and_nothing_is_told(open_producer, slots):
    producer, token, before_ns = open_producer(slots), tables.publish(slots, tag=1), time.monotonic_ns()
    assert send(producer, token) is None
    eventually(lambda: producer.events() or slots.times(token)[2])
    assert before_ns < slots.times(token)[2] < time.monotonic_ns()
    assert producer.waiting() == 0


def test_a_delivery_that_is_told_too_late_changes_nothing(open_producer):
    slots = tables.make(slots=1).open_range(0)
    producer, token = open_producer(slots), tables.publish(slots, tag=1)
    send(producer, token)
    tables.end(slots, token)
    successor = tables.publish(slots, tag=2)
    assert tables.slot_of(successor) == tables.slot_of(token)
    eventually(lambda: producer.events() == [] and producer.waiting() == 0)
    assert slots.finish(successor, CANCELLED) == CLAIMED


def test_tokens_that_name_no_slot_are_passed_over(open_producer, slots):
    producer = open_producer(slots)
    for token in (_klink.UNTRACKED, 2**52 - 1, 2**19):
        send(producer, token)
    eventually(lambda: producer.events() == [] and producer.waiting() == 0)


def test_without_slots_each_delivery_is_told(producer):
    for token in range(5000):
        assert send(producer, token) is None
    send(producer, _klink.UNTRACKED)
    assert delivered(producer, 5000) == list(range(5000))
    eventually(lambda: producer.events() == [] and producer.waiting() == 0)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"topic": None}, TypeError),
        ({"topic": b"replies"}, TypeError),
        ({"topic": "x" * 600}, ValueError),
        ({"topic": "\ud800"}, UnicodeEncodeError),
        ({"value": None}, TypeError),
        ({"value": "text"}, TypeError),
        ({"key": "text"}, TypeError),
        ({"headers": [("name", "text")]}, TypeError),
        ({"headers": [(b"name", b"value")]}, TypeError),
        ({"headers": [("\ud800", b"value")]}, UnicodeEncodeError),
        ({"headers": [("one",)]}, ValueError),
        ({"partition": 2**31}, OverflowError),
        ({"token": 2**52}, ValueError),
        ({"batch": 2048}, ValueError),
        ({"batch": -1}, ValueError),
    ],
)
def test_a_wrong_argument_is_an_error_and_nothing_is_sent(producer, wrong, error):
    with pytest.raises(error):
        send(producer, **{"token": 1} | wrong)
    assert producer.waiting() == 0
    assert send(producer, 2) is None
    assert delivered(producer, 1) == [2]


def test_wakeups_are_there_once_and_can_be_cleared(event_fd):
    assert not _klink.clear(event_fd)
    os.eventfd_write(event_fd, 1)
    os.eventfd_write(event_fd, 1)
    assert _klink.clear(event_fd)
    assert not _klink.clear(event_fd)


def test_an_event_wakes_through_the_descriptor_until_the_client_is_muted(event_fd):
    nowhere = [("bootstrap.servers", "127.0.0.1:1"), ("reconnect.backoff.max.ms", "100")]
    producer = Producer(nowhere, None, event_fd)

    def woken_and_told():
        return _klink.clear(event_fd) and [event for event in producer.events() if isinstance(event, ClientError)]

    told = eventually(woken_and_told, message="told that there is no broker")
    assert told[0].code == TRANSPORT
    assert told[0].name == "_TRANSPORT"
    assert not told[0].fatal
    producer.mute()
    _klink.clear(event_fd)
    eventually(producer.events, message="events go on without waking")
    assert not _klink.clear(event_fd)
    producer.close()


def test_a_closed_producer_refuses_and_tells_nothing(producer):
    assert not producer.closed
    producer.close()
    producer.close()
    assert producer.closed
    assert send(producer, 1) == (DESTROY, "closed")
    assert producer.events() == []
    assert producer.waiting() == 0
    assert producer.fatal() is None
    producer.flush(10)
    producer.purge()
    producer.mute()


def test_a_closed_consumer_gives_nothing_more(cluster, event_fd):
    settings = [("bootstrap.servers", cluster.bootstrap), ("group.id", "none")]
    consumer = Consumer(settings, "replies", "correlation_id", event_fd, event_fd)
    assert consumer.assign({0: -2}) is None
    assert consumer.assign({0: -2})[1] == "replies [0] is already part of the current assignment"
    consumer.close()
    consumer.close()
    assert consumer.replies() == []
    assert consumer.events() == []
    for call, *arguments in (consumer.assign, {0: 0}), (consumer.unassign, [0]), (consumer.ask_offsets, [0], -1, 1, 1):
        with pytest.raises(ValueError, match="closed"):
            call(*arguments)


def test_clients_that_are_dropped_with_records_on_their_way_take_no_harm(cluster, event_fd):
    for _ in range(20):
        producer = Producer([("bootstrap.servers", cluster.bootstrap)], None, event_fd)
        for token in range(100):
            send(producer, token)
        del producer


def records_on(cluster, partition):
    settings = {"bootstrap.servers": cluster.bootstrap, "group.id": "counts"}
    consumer = confluent_kafka.Consumer(settings)
    try:
        return consumer.get_watermark_offsets(TopicPartition("replies", partition), 10)[1]
    finally:
        consumer.close()


def test_records_without_key_go_where_they_are_steered_and_the_partitions_become_known(producer, cluster):
    before = records_on(cluster, 2)
    assert producer.partitions("replies") == 0
    for token in range(40):
        assert send(producer, token, partition=-1, keyless_to=2, batch=7) is None
    assert sorted(delivered(producer, 40)) == list(range(40))
    assert producer.partitions("replies") == 4
    assert producer.acknowledged() == [7]
    assert producer.acknowledged() == []
    assert records_on(cluster, 2) == before + 40


def test_a_batch_is_acknowledged_when_the_fate_of_its_last_record_is_told(producer):
    send(producer, 1, batch=1)
    send(producer, 2, batch=LAST_BATCH)
    send(producer, 3, batch=1, partition=3)
    send(producer, 4)
    delivered(producer, 4)
    assert sorted(producer.acknowledged()) == [1, LAST_BATCH]


def test_the_age_of_unbatched_records_is_that_of_the_oldest_whose_fate_is_not_told(producer, slow_cluster):
    assert producer.unbatched_since_ns() == NEVER
    before_ns = time.monotonic_ns()
    send(producer, 0)
    send(producer, _klink.UNTRACKED)
    send(producer, 1, batch=1)
    assert before_ns <= producer.unbatched_since_ns() <= time.monotonic_ns()
    assert delivered(producer, 2) == [0, 1]
    eventually(lambda: producer.events() == [] and producer.unbatched_since_ns() == NEVER)
    slow_cluster.set_round_trip(60_000)
    send(producer, 2)
    stuck_ns = producer.unbatched_since_ns()
    assert stuck_ns > before_ns
    eventually(lambda: time.monotonic_ns() > stuck_ns + 2 * SAME_AGE_NS)
    send(producer, 3)
    assert producer.unbatched_since_ns() == stuck_ns
    producer.purge()
    told = []
    eventually(lambda: told.extend(producer.events()) or len(told) == 2)
    assert sorted(event.token for event in told if isinstance(event, Undelivered)) == [2, 3]
    assert producer.unbatched_since_ns() == NEVER


def test_unbatched_records_that_never_run_out_do_not_seem_to_grow_old(producer, slow_cluster):
    slow_cluster.set_round_trip(30)
    began_ns = time.monotonic_ns()
    oldest_ns, token = 0, 0
    while time.monotonic_ns() < began_ns + 10 * SAME_AGE_NS:
        send(producer, token)
        token += 1
        producer.events()
        oldest_ns = max(oldest_ns, time.monotonic_ns() - producer.unbatched_since_ns())
        time.sleep(0.002)  # the pace at which they come
    assert producer.waiting() > 0
    assert oldest_ns < 5 * SAME_AGE_NS


def test_with_a_partitioner_that_knows_one_place_for_all_without_key_there_is_one_partition(cluster, event_fd):
    settings = [("bootstrap.servers", cluster.bootstrap), ("partitioner", "murmur2"), ("linger.ms", "0")]
    producer = Producer(settings, None, event_fd)
    producer.preload_topic("replies")
    assert producer.partitions("replies") == 1
    send(producer, 1, partition=-1, keyless_to=0, batch=1)
    assert delivered(producer, 1) == [1]
    assert producer.acknowledged() == [1]
    producer.close()


def test_a_record_is_counted_from_send_until_its_report_with_key_and_headers(cluster, event_fd, slow_cluster):
    memory = RecordMemory(10_000)
    settings = [("bootstrap.servers", cluster.bootstrap), ("linger.ms", "0")]
    one, other = (Producer(settings, None, event_fd, None, memory) for _ in range(2))
    headers = [("name", b"value"), ("n", b"")]
    size_bytes = len(b"value") + len(b"key") + len("name") + len(b"value") + len("n")
    assert record_bytes(b"value", b"key", headers) == size_bytes
    for producer in (one, other):
        send(producer, 1, key=b"key", headers=headers)
    assert memory.held_bytes == 2 * size_bytes
    delivered(one, 1)
    assert memory.held_bytes == size_bytes
    delivered(other, 1)
    assert memory.held_bytes == 0
    slow_cluster.set_round_trip(200)
    assert send(one, 2, value=bytes(6000)) is None
    assert send(other, 3, value=bytes(4001)) == NO_ROOM, "one limit for both"
    assert send(other, 3, value=b"", headers=[("n", bytes(4000))]) == NO_ROOM
    assert send(other, 3, value=bytes(4000), batch=7) is None
    assert memory.held_bytes == 10_000
    delivered(one, 1)
    delivered(other, 1)
    assert memory.held_bytes == 0
    for producer in (one, other):
        producer.close()


def test_headers_count_until_all_of_their_batch_is_reported_and_nothing_stays_of_failed_records(
    cluster, event_fd, slow_cluster
):
    memory = RecordMemory()
    producer = Producer([("bootstrap.servers", cluster.bootstrap), ("linger.ms", "100")], None, event_fd, None, memory)
    delivered_already = [send(producer, token, headers=[("n", bytes(100))], batch=5) for token in range(3)]
    assert delivered_already == [None] * 3
    assert memory.held_bytes == 3 * (len(b"value") + 101)
    delivered(producer, 3)
    assert memory.held_bytes == 0
    slow_cluster.set_round_trip(60_000)
    for token in range(3):
        send(producer, token, headers=[("n", bytes(100))])
    producer.purge()
    told = []
    eventually(lambda: told.extend(producer.events()) or len(told) == 3)
    assert memory.held_bytes == 0
    producer.close()
