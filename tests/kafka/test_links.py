"""Both Kafka links keep the same promises, on a real Kafka. Injected faults: test_link_faults.py."""

from __future__ import annotations

import gc
import itertools
import os
import secrets
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from structlog.testing import capture_logs

from fastgw import errors
from fastgw.errors import QueueFull, SendRefused
from fastgw.kafka.link import FROM_BEGINNING, FROM_END
from fastgw.kafka.properties import LIBRDKAFKA_PARTITIONERS
from fastgw.messages import SPREAD, TOGETHER, Record
from tests.actors.links import KINDS, LinkOnALoop
from tests.brokers.kafka_server import RealKafka
from tests.conftest import have_leaders
from tests.waiting import eventually

MANY = 5000
MESSAGES_AT_ONCE = 50_000
WARM_MESSAGES = 150_000
FLAT_MESSAGES = 250_000
FLAT_BYTES = 8 << 20  # a leak of 34 bytes a message would show
PRODUCER_ID_S = 0.5  # how long librdkafka waits before it asks again for the id without which a producer sends nothing


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def own_kafka():
    """A broker to be killed."""
    quick = {"broker.session.timeout.ms": "1000", "broker.heartbeat.interval.ms": "200"}
    with RealKafka(properties=quick) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        admin.create_topics([NewTopic("replies", 1, 1)])["replies"].result(10)
        yield broker


@pytest.fixture
def topic(make_topics):
    return make_topics({"replies": 4})["replies"]


@pytest.fixture
def house(kind, kafka_bootstrap, topic):
    with LinkOnALoop(kind, kafka_bootstrap, topic) as house:
        yield house


@pytest.fixture
def outside(kafka_bootstrap, topic):
    """A function that puts records on the topic, as a service does: with another client."""
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "linger.ms": 0})

    def put(count: int, partition: int = 0, **more) -> None:
        failed = []
        for number in range(count):
            record = {"value": b"%d" % number, "partition": partition} | more
            producer.produce(topic, on_delivery=lambda error, _: error and failed.append(error), **record)
        assert producer.flush(10) == 0
        assert failed == [], "a flush is over as well when records have failed"

    return put


# Sending.


def test_a_record_is_delivered_with_its_token_and_comes_back_as_it_was(house):
    house.read([0, 1, 2, 3])
    before_ns = time.monotonic_ns()
    headers = [("correlation_id", b"id"), ("status", b"201"), ("empty", b""), ("status", b"\xff\x00")]
    house.send_record(Record(house.topic, b"a body", b"a key", headers, 2), 2**51 + 7)
    house.until(lambda: house.told.got and house.told.recorded)
    assert house.told.got == [(b"id", 2, 0, [("status", b"201"), ("empty", b""), ("status", b"\xff\x00")], b"a body")]
    assert house.told.recorded.keys() == {2**51 + 7}
    assert before_ns < house.told.recorded[2**51 + 7] <= time.monotonic_ns()
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        hash(house.told.got[0])


def test_every_record_is_delivered_once_and_replies_come_in_order(house):
    house.read([0, 1, 2, 3])
    for number in range(MANY):
        house.send(number, number % 4)
    house.until(lambda: len(house.told.got) == len(house.told.recorded) == MANY, 30, "all are back")
    assert house.told.recorded.keys() == set(range(MANY))
    assert house.told.failed == {}
    for partition in range(4):
        assert house.told.offsets(partition) == list(range(MANY // 4))
        numbers = [reply.value for reply in house.told.got if reply.partition == partition]
        assert numbers == [b"value %d" % number for number in range(partition, MANY, 4)]
    assert len(house.told.batches) < MANY / 4, "replies come in batches"


def test_a_record_waits_until_its_fate_is_told(house):
    house.read([0])
    house.until(lambda: house.link.waiting() == 0, message="nothing waits")
    for number in range(50):
        house.send(number)
    assert house.link.waiting() == 50
    house.until(lambda: len(house.told.recorded) == 50)
    assert house.link.waiting() == 0


def test_a_posted_record_is_sent_and_nobody_is_told(house):
    house.read([0])
    assert house.link.send_untracked(Record(house.topic, b"", b"key", [], 0))
    house.until(lambda: house.told.got)
    house.send(1)
    assert house.fate(1) == "recorded"
    assert house.told.recorded.keys() == {1}
    assert house.told.failed == {}


def test_posted_records_come_in_the_order_in_which_they_were_sent(house):
    house.read([0])
    for number in range(300):
        assert house.link.send_untracked(Record(house.topic, b"%d" % number, b"key", [], 0))
        if number % 20 == 0:
            house.until(lambda: True)  # a turn of the loop: batches leave, others wait
    house.until(lambda: len(house.told.got) == 300)
    assert [int(reply.value) for reply in house.told.got] == list(range(300))


def test_nobody_is_told_of_posted_records_that_are_given_up(kind, own_kafka):
    with LinkOnALoop(kind, own_kafka.bootstrap, "replies", (5000,)) as house:
        house.send(0)
        assert house.fate(0) == "recorded"
        own_kafka.freeze()
        try:
            assert house.link.send_untracked(Record("replies", b"first", None, [], 0))
            begun_s = time.monotonic()
            house.until(lambda: time.monotonic() > begun_s + 0.01, message="its batch takes no more")
            assert house.link.send_untracked(Record("replies", b"second", None, [], 0))
            assert house.link.waiting() == 2
            house.until(lambda: house.link.waiting() == 0, 30, "both are given up")
        finally:
            own_kafka.thaw()
        assert house.told.failed == {}


def test_records_without_partition_and_key_stay_together(house):
    house.read([0, 1, 2, 3])
    house.send(99)  # from now on the topic is known
    house.until(lambda: house.told.got)
    house.told.got.clear()
    for number in range(20):
        house.send_record(Record(house.topic, b"", None, [], TOGETHER), number)
    house.until(lambda: len(house.told.got) == 20)
    assert len({reply.partition for reply in house.told.got}) <= 2


@pytest.mark.parametrize("concurrency_hint", [0, 1, 100])
def test_records_that_are_to_be_spread_go_to_all_partitions(house, concurrency_hint):
    house.read([0, 1, 2, 3])
    for number in range(80):
        house.send_record(Record(house.topic, b"", None, [], SPREAD), number, concurrency_hint=concurrency_hint)
    house.until(lambda: len(house.told.got) == 80 and len(house.told.recorded) == 80)
    assert {reply.partition for reply in house.told.got} == {0, 1, 2, 3}, "but for one time in 10^9"


@pytest.mark.parametrize("partition", [TOGETHER, SPREAD])
def test_records_with_a_key_keep_their_partition_and_their_order(house, partition):
    house.read([0, 1, 2, 3])
    for number in range(300):
        house.send_record(
            Record(house.topic, b"%d" % number, b"key", [], partition), number, concurrency_hint=number % 2
        )
        if number % 20 == 0:
            house.until(lambda so_far=number: len(house.told.recorded) >= so_far - 10)
    house.until(lambda: len(house.told.got) == 300)
    assert len({reply.partition for reply in house.told.got}) == 1
    assert [int(reply.value) for reply in house.told.got] == list(range(300))


# Key -> its partition of 12 with murmur2, crc32, fnv1a. The first as Kafka's own Java class gives it.
PARTITIONS_OF_KEYS = {
    b"k": (8, 1, 10),
    b"21": (0, 4, 0),
    b"a-little-bit-long-string": (8, 6, 4),
    b"a-little-bit-longer-string": (11, 2, 9),
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": (5, 1, 10),
    b"abc": (3, 6, 11),
    b"1234": (0, 7, 3),
    b"550e8400-e29b-41d4-a716-446655440000": (11, 1, 4),
    bytes.fromhex("0080ff7f01"): (7, 0, 2),
    "ключ".encode(): (8, 6, 11),
}


@pytest.mark.parametrize("partition", [TOGETHER, SPREAD])
@pytest.mark.parametrize(("place", "partitioner"), list(enumerate(["murmur2", "crc32", "fnv1a"])))
def test_a_key_goes_to_the_partition_that_other_clients_choose(
    kind, kafka_bootstrap, make_topics, place, partitioner, partition
):
    topic = make_topics({"replies": 12})["replies"]
    wanted = {} if partitioner == "crc32" else {topic: LIBRDKAFKA_PARTITIONERS[partitioner]}
    with LinkOnALoop(kind, kafka_bootstrap, topic, (5000, 30_000), partitioners=wanted) as house:
        house.link.preload_topic(1, topic)
        house.read(range(12))
        for number, key in enumerate(PARTITIONS_OF_KEYS):
            house.send_record(
                Record(topic, key, key, [], partition), number, delivery_class=1, concurrency_hint=number % 3
            )
        house.until(lambda: len(house.told.got) == len(house.told.recorded) == len(PARTITIONS_OF_KEYS))
        went = {reply.value: reply.partition for reply in house.told.got}
        assert went == {key: partitions[place] for key, partitions in PARTITIONS_OF_KEYS.items()}


def test_a_topic_that_does_not_exist_is_told(house):
    house.read([0])
    house.send_record(Record("no-such-topic-here", b"x", None, [], TOGETHER), 1)
    assert house.fate(1) == "topic_unknown"
    with pytest.raises(SendRefused) as refused:  # by now it is known
        house.send_record(Record("no-such-topic-here", b"x", None, [], TOGETHER), 2)
    assert refused.value.ending is errors.TOPIC_UNKNOWN


def test_a_partition_that_does_not_exist_is_refused(house):
    house.send(1)
    assert house.fate(1) == "recorded"
    with pytest.raises(SendRefused) as refused:
        house.send(2, partition=99)
    assert refused.value.ending is errors.TOPIC_UNKNOWN


def test_a_record_beyond_the_clients_limit_is_refused(house):
    with pytest.raises(SendRefused) as refused:
        house.send(1, value=bytes(2_000_000))
    assert refused.value.ending is errors.RECORD_TOO_LARGE


def test_a_record_that_the_broker_finds_invalid_is_told_with_the_text_of_its_code(kind, kafka_bootstrap, make_topics):
    """librdkafka frees the broker's own words before anybody can read them: the native link told of freed memory."""
    compacted = make_topics({"compacted": 1}, {"cleanup.policy": "compact"})["compacted"]
    with LinkOnALoop(kind, kafka_bootstrap, compacted) as house:
        for token, value in enumerate([b"one", b"two", b"three"]):  # of one batch, so that they refuse each other
            house.send_record(Record(compacted, value, None, [], 0), token)
        for token in range(3):
            house.fate(token)
    details = {detail for _, detail in house.told.failed.values()}
    assert len(house.told.failed) == 3
    assert details == {"Broker: Broker failed to validate record"}
    assert {ending for ending, _ in house.told.failed.values()} == {errors.REFUSED_SEND}


def test_a_full_queue_refuses_and_has_room_again_later(kind, kafka_bootstrap, topic):
    with LinkOnALoop(kind, kafka_bootstrap, topic, queue_messages=10, linger_ms=300) as house:
        house.send(0)
        assert house.fate(0) == "recorded"
        for number in range(1, 11):
            house.send(number)
        with pytest.raises(QueueFull):
            house.send(11)
        assert not house.link.send_untracked(Record(house.topic, b"", None, [], 0))
        assert house.fate(10) == "recorded"
        house.send(11)
        assert house.fate(11) == "recorded"
        assert house.told.recorded.keys() == set(range(12))


def fill(house: LinkOnALoop, record: Record) -> int:
    """Sends this record in both delivery classes and in every way until the queue is full; returns how often."""
    for sent in itertools.count():
        try:
            house.send_record(record, 100 + sent, delivery_class=sent % 2, concurrency_hint=sent % 3)
        except QueueFull:
            return sent
        if sent % 7 == 0:
            house.until(lambda: True)  # a turn of the loop: batches leave
    raise AssertionError("it is never full")


@pytest.mark.parametrize("partition", [TOGETHER, SPREAD, 0])
def test_one_limit_bounds_the_bytes_of_all_records_that_wait(kind, own_kafka, partition):
    """Of all delivery classes, of all kinds of producers, and of records that wait for one. Kafka answers nothing."""
    most, size = 4 << 20, 100 << 10
    with LinkOnALoop(kind, own_kafka.bootstrap, "replies", (3000, 20_000), waiting_bytes=most) as house:
        for number in range(2):
            house.send(number, delivery_class=number)
        assert (house.fate(0), house.fate(1)) == ("recorded", "recorded")
        own_kafka.freeze()
        try:
            sent = fill(house, Record("replies", bytes(size), None, [("h", b"v" * 1000)], partition))
            assert sent == most // (size + 1001)
            assert house.link.waiting_bytes() == sent * (size + 1001)
            assert not house.link.send_untracked(Record("replies", bytes(size), None, [], 0))
            # Those of the first class are given up; the second class has their room.
            house.until(lambda: house.link.waiting_bytes() < most // 2 + size, 20, "half of them are given up")
            house.send_record(Record("replies", bytes(size), None, [], partition), 10_000, delivery_class=1)
        finally:
            own_kafka.thaw()
        house.until(lambda: house.link.waiting_bytes() == 0, 30, "nothing is left of them")


def test_each_delivery_class_has_its_own_producer(kind, kafka_bootstrap, topic):
    with LinkOnALoop(kind, kafka_bootstrap, topic, timeouts_ms=(2000, 20_000)) as house:
        house.send(1, delivery_class=0)
        house.send(2, delivery_class=1)
        assert (house.fate(1), house.fate(2)) == ("recorded", "recorded")


def test_a_record_that_comes_alone_is_sent_by_another_producer_with_the_same_promises(kind, kafka_bootstrap, topic):
    with LinkOnALoop(kind, kafka_bootstrap, topic, linger_ms=500) as house:
        house.link.preload_topic(0, topic)
        for token, concurrency_hint in enumerate([0, 1, 0]):
            house.send_record(Record(topic, b"", None, [], TOGETHER), token, concurrency_hint=concurrency_hint)
        assert [house.fate(token) for token in range(3)] == ["recorded"] * 3


def test_the_first_request_does_not_wait_until_its_producer_may_send(kind, kafka_bootstrap, topic, make_topics):
    requests = make_topics({"requests": 4})["requests"]
    took_s = []
    for _ in range(3):
        with LinkOnALoop(kind, kafka_bootstrap, topic) as house:
            house.link.preload_topic(0, requests)
            house.read([0])
            house.send(0)
            assert house.fate(0) == "recorded", "the canary's producer"
            before = time.monotonic()
            house.send_record(Record(requests, b"", None, [], SPREAD), 1, concurrency_hint=0)
            assert house.fate(1) == "recorded", "another producer"
            took_s.append(time.monotonic() - before)
    assert sorted(took_s)[1] < PRODUCER_ID_S / 2


# Reading.


def test_reading_from_the_end_gives_nothing_old_and_loses_nothing_new(house, outside):
    outside(100, 0)
    outside(7, 1)
    assert house.read([0, 1]) == {0: 100, 1: 7}
    outside(50, 0)
    outside(3, 1)
    house.until(lambda: len(house.told.got) == 53)
    assert house.told.offsets(0) == list(range(100, 150))
    assert house.told.offsets(1) == list(range(7, 10))


def test_reading_from_the_end_of_a_partition_that_is_being_written_starts_at_the_offset_told(house):
    numbers = itertools.count()

    def write_some():
        for _ in range(20):
            house.send(next(numbers))

    write_some()
    house.link.assign({0: FROM_END})
    house.until(lambda: write_some() or house.told.positions, message="positioned while it is being written")
    write_some()
    last = next(numbers) - 1
    house.until(lambda: house.told.offsets(0)[-1:] == [last])
    assert house.told.offsets(0) == list(range(house.told.positions[0], last + 1))


def test_reading_from_the_beginning_gives_everything(house, outside):
    outside(100, 2)
    assert house.read([2], FROM_BEGINNING) == {2: 0}
    house.until(lambda: len(house.told.got) == 100)
    assert house.told.offsets(2) == list(range(100))


def test_reading_starts_at_an_offset_that_is_in_the_log(house, outside):
    outside(10, 0)
    outside(10, 1)
    house.link.assign({0: 7, 1: FROM_END, 2: 0})
    house.until(lambda: house.told.positions.keys() == {0, 1, 2})
    assert [house.link.reached(partition) for partition in (1, 2)] == [10, 0]
    assert house.told.positions == {0: 7, 1: 10, 2: 0}
    assert house.told.ends == {0: 10, 1: 10, 2: 0}
    outside(1, 1)
    outside(1, 2)
    house.until(lambda: len(house.told.got) == 5)
    assert [house.told.offsets(partition) for partition in (0, 1, 2)] == [[7, 8, 9], [10], [0]]
    assert [house.link.reached(partition) for partition in (0, 1, 2)] == [10, 11, 1]


def test_an_offset_behind_the_log_is_one_of_a_topic_that_was_created_again_and_everything_is_read(house, outside):
    outside(5, 0)
    assert house.read([0], 6) == {0: 0}
    assert house.told.ends == {0: 5}
    house.until(lambda: len(house.told.got) == 5)
    assert house.told.offsets(0) == list(range(5))


def test_an_offset_whose_record_was_deleted_is_followed_by_the_first_one_that_is_left(
    house, topic, outside, kafka_admin
):
    outside(10, 0)
    left = kafka_admin.delete_records([TopicPartition(topic, 0, 6)])
    assert [future.result(10).low_watermark for future in left.values()] == [6]
    assert house.read([0], 3) == {0: 6}
    house.until(lambda: len(house.told.got) == 4)
    assert house.told.offsets(0) == [6, 7, 8, 9]


def test_a_partition_is_read_again_from_an_earlier_offset(house, outside):
    house.read([0, 1])
    outside(10, 0)
    house.until(lambda: len(house.told.got) == 10)
    house.link.stop_reading([0])
    assert house.link.reached(0) == 10
    assert house.read([0], 4) == {0: 4}
    outside(1, 0)
    outside(1, 1)
    house.until(lambda: len(house.told.got) == 18)
    assert house.told.offsets(0) == [*range(10), *range(4, 11)]
    assert house.told.offsets(1) == [0]


def test_a_partition_that_is_read_no_longer_is_silent_and_the_others_go_on(house, outside):
    house.read([0, 1])
    outside(5, 0)
    house.until(lambda: len(house.told.got) == 5)
    house.link.stop_reading([0, 3])  # 3 is not read, which is nobody's mistake
    house.read([2])  # one thing after the other: by now that is done
    outside(5, 0)
    outside(5, 1)
    house.until(lambda: len(house.told.offsets(1)) == 5)
    assert house.told.offsets(0) == list(range(5))
    assert house.read([0]) == {0: 10}
    outside(1, 0)
    house.until(lambda: house.told.offsets(0)[-1:] == [10])
    assert house.told.offsets(0) == [*range(5), 10]


def test_asking_again_for_a_partition_that_is_read_costs_and_repeats_nothing(house, outside):
    house.read([0])
    outside(10, 0)
    house.until(lambda: len(house.told.got) == 10)
    assert house.read([0, 1]) == {0: 10, 1: 0}
    outside(10, 0)
    outside(1, 1)
    house.until(lambda: len(house.told.got) == 21)
    assert house.told.offsets(0) == list(range(20))


def test_a_topic_that_appears_later_is_read_then(kind, kafka_bootstrap, kafka_admin):
    late = f"late-{secrets.token_hex(4)}"
    with LinkOnALoop(kind, kafka_bootstrap, late) as house, capture_logs() as lines:
        house.link.assign({0: FROM_END})
        house.until(lambda: any("cannot position" in line["event"] for line in lines))
        assert house.told.positions == {}
        kafka_admin.create_topics([NewTopic(late, 1, 1)])[late].result(10)
        try:
            house.until(lambda: house.told.positions == {0: 0}, 15)
        finally:
            kafka_admin.delete_topics([late])[late].result(10)


def test_a_reading_that_is_stopped_before_it_began_does_not_begin(kind, kafka_bootstrap, kafka_admin):
    late = f"late-{secrets.token_hex(4)}"
    with LinkOnALoop(kind, kafka_bootstrap, late) as house, capture_logs() as lines:
        house.link.assign({0: FROM_END, 1: FROM_END})
        house.until(lambda: any("cannot position" in line["event"] for line in lines))
        house.link.stop_reading([0])
        kafka_admin.create_topics([NewTopic(late, 2, 1)])[late].result(10)
        try:
            house.until(lambda: house.told.positions, 15)
            assert house.told.positions == {1: 0}
        finally:
            kafka_admin.delete_topics([late])[late].result(10)


def test_new_partitions_of_a_topic_are_read_from_their_beginning(house, topic, kafka_admin, outside):
    house.read([0, 1, 2, 3])
    kafka_admin.create_partitions([NewPartitions(topic, 6)])[topic].result(10)
    eventually(lambda: have_leaders(kafka_admin, {topic: 6}), message="the brokers know the new partitions")
    outside(5, 5)  # services may see it before we do
    assert house.read([4, 5], FROM_BEGINNING) == {4: 0, 5: 0}
    house.until(lambda: house.told.offsets(5) == list(range(5)))


@pytest.mark.parametrize(
    ("record", "correlation_id", "headers"),
    [
        ({"key": b"id"}, b"id", []),
        ({"key": b"other", "headers": [("correlation_id", b"id")]}, b"id", []),
        ({"key": b"id", "headers": [("correlation_id", None)]}, b"id", []),
        ({"key": None}, b"", []),
        ({"key": b"\xff\xfe", "headers": [("a", None), ("b", b"1")]}, b"\xff\xfe", [("a", b""), ("b", b"1")]),
        ({"headers": [("x", b"1"), ("correlation_id", b"id"), ("x", b"2")]}, b"id", [("x", b"1"), ("x", b"2")]),
    ],
)
def test_a_reply_is_decoded_the_same_by_both(house, outside, record, correlation_id, headers):
    house.read([0])
    outside(1, **record)
    house.until(lambda: house.told.got)
    assert house.told.got == [(correlation_id, 0, 0, headers, b"0")]
    assert type(house.told.got[0]).__name__ == "Reply"


def test_a_reply_without_value_has_an_empty_body(house, outside):
    house.read([0])
    outside(1, value=None, key=b"id")
    house.until(lambda: house.told.got)
    assert house.told.got == [(b"id", 0, 0, [], b"")]


# Life.


@pytest.mark.real_kafka
def test_a_broker_that_is_killed_and_comes_back_is_found_again(kind, own_kafka):
    with LinkOnALoop(kind, own_kafka.bootstrap, "replies", timeouts_ms=[1000]) as house:
        house.read([0])
        house.send(0)
        assert house.fate(0) == "recorded"
        own_kafka.kill()
        house.send(1)
        assert house.fate(1) == {"native": "not_sent", "public": "send_unknown"}[kind]
        own_kafka.start_node(1)
        tokens = itertools.count(2)
        unknown = []

        def is_taken():
            token = next(tokens)
            house.send(token)
            fate = house.fate(token)
            if fate == "send_unknown":
                unknown.append(token)
            return token if fate == "recorded" else None

        taken = eventually(is_taken, 60, "a record is taken again")
        house.until(lambda: house.told.got and house.told.got[-1].value == b"value %d" % taken)
        first, *maybe, last = [reply.value for reply in house.told.got]
        assert (first, last) == (b"value 0", b"value %d" % taken)
        # A broker that has just come back may write a record later than anybody waits.
        assert set(maybe) <= {b"value %d" % token for token in unknown}
        assert len(set(maybe)) == len(maybe)


def test_close_sends_what_is_left(kind, kafka_bootstrap, topic):
    with LinkOnALoop(kind, kafka_bootstrap, topic, linger_ms=500) as house:
        house.send(0)
        assert house.fate(0) == "recorded"
        for number in range(1, 100):
            house.send(number)
        assert house.close(5.0) == 0
        assert house.told.recorded.keys() == set(range(100))
    with LinkOnALoop(kind, kafka_bootstrap, topic) as reader:
        reader.read([0], FROM_BEGINNING)
        reader.until(lambda: len(reader.told.got) == 100)


@pytest.mark.alone
def test_close_leaves_no_descriptor_and_no_thread(kind, kafka_bootstrap, topic):
    def open_now():
        return os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")

    with LinkOnALoop(kind, kafka_bootstrap, topic) as first:  # what the process opens once
        first.read([0])
    before = open_now()
    with LinkOnALoop(kind, kafka_bootstrap, topic) as house:
        house.read([0])
        house.send(1)
        assert house.fate(1) == "recorded"
    del house
    gc.collect()  # confluent-kafka ends a producer when it is collected
    eventually(lambda: len(open_now()[1]) <= len(before[1]), message="librdkafka's threads have ended")
    eventually(lambda: len(open_now()[0]) <= len(before[0]), timeout_s=30, message="its descriptors are closed")


def test_statistics_are_logged_when_an_operator_asks_for_them(kind, kafka_bootstrap, topic):
    settings = {"statistics.interval.ms": "50"}
    with capture_logs() as lines, LinkOnALoop(kind, kafka_bootstrap, topic, client=settings) as house:
        house.read([0])
        house.send(1)

        def told_of(what):
            """The lines of a client that has done this, and was answered by its broker since the line before."""
            return [
                line for line in lines
                if line["event"] == "kafka statistics" and line[what] and line["brokers"]
                and line["brokers"][0]["round_trip_p99_ms"] > 0
            ]  # fmt: skip

        house.until(lambda: told_of("sent"), message="statistics of a client that has sent")
        house.until(lambda: told_of("received"), message="statistics of one that has received")
    assert told_of("received")[0]["brokers"][0]["state"] == "UP"


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.leaks
@pytest.mark.timeout(240)
def test_memory_stays_flat_over_many_messages(house):
    house.read([0, 1, 2, 3])

    def drive(count: int) -> None:
        for start in range(0, count, 1000):
            for number in range(start, start + 1000):  # in batches, and where a request's partition is told beforehand
                headers = [("correlation_id", b"id %d" % number)]
                partition = TOGETHER if number % 2 else number % 4
                house.send_record(Record(house.topic, b"value", None, headers, partition), number)
            house.until(lambda want=start + 1000: len(house.told.recorded) == want, 60)
        house.until(lambda: len(house.told.got) == count, 60)
        house.told.got.clear()
        house.told.recorded.clear()
        house.told.batches.clear()

    # A heap finds its size in the first hundred thousand; what leaks goes on.
    for _ in range(WARM_MESSAGES // MESSAGES_AT_ONCE):
        drive(MESSAGES_AT_ONCE)
    warm = rss_bytes()
    for _ in range(FLAT_MESSAGES // MESSAGES_AT_ONCE):
        drive(MESSAGES_AT_ONCE)
    assert rss_bytes() - warm < FLAT_BYTES
