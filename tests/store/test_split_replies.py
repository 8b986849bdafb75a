"""Replies on another partition than their home: which are sent there, and what becomes of those that Kafka refuses."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from fastgw import config, table
from fastgw._ctable import UNOWNED
from fastgw.ids import IdMaker, Partitioner, ReplyTopic
from fastgw.messages import Reply
from fastgw.store import split_replies, topic_reader
from fastgw.store.split_replies import SplitReplies
from fastgw.store.topic_reader import Arrived, Batch, TopicReader

HOME, ELSEWHERE, OF_OTHERS = 1, 0, 2
MAKER = IdMaker(1, 0, 0, ReplyTopic.LATER)
MAKER.set_ownership(4, [HOME], HOME)
CONFIG = config.loads(
    """
    [gateway]
    name = "shop"
    [limits]
    max_reply = "8MiB"
    [kafka]
    bootstrap = "127.0.0.1:1"
    [[route]]
    method = "POST"
    path = "/o"
    topic = "orders"
    """
)


class FakeKafka:
    """A producer, and what Kafka says to each record: an error for its value; None: it takes the record."""

    def __init__(self) -> None:
        self.says: dict[bytes, KafkaError | None] = {}
        self.raises: dict[bytes, BaseException] = {}
        self.sent: list[tuple[bytes, int]] = []
        self.settings: list[dict[str, Any]] = []
        self._under_way: list[tuple[bytes, Any]] = []

    def __call__(self, settings: dict[str, Any]) -> FakeKafka:
        self.settings.append(settings)
        return self

    def produce(self, _topic: str, value: bytes, _key: bytes, partition: int, headers: Any, on_delivery: Any) -> None:
        assert ("fastgw_hops", b"1") in headers
        if value in self.raises:
            raise self.raises[value]
        self.sent.append((value, partition))
        self._under_way.append((value, on_delivery))

    def flush(self, _timeout_s: float) -> int:
        left, self._under_way = self._under_way, []
        for value, on_delivery in left:
            on_delivery(self.says.get(value), None)
        return 0


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> FakeKafka:
    fake = FakeKafka()
    monkeypatch.setattr(split_replies, "Producer", fake)
    return fake


@pytest.fixture
def split(kafka: FakeKafka) -> SplitReplies:
    _, shared = table.create(1, 1, 16)
    shared.write_map(bytes([0, 0, UNOWNED, 0]))
    return SplitReplies(CONFIG, shared, "shop.later", ReplyTopic.LATER)


def reply(value: bytes, partition: int = ELSEWHERE, headers: Any = ()) -> Reply:
    return Reply(MAKER.make(0, Partitioner.HEADER), partition, 5, list(headers), value)


def test_only_replies_that_are_not_at_home_are_sent_there_once(kafka: FakeKafka, split: SplitReplies) -> None:
    hopped = reply(b"hopped", headers=[("fastgw_hops", b"1")])
    others = Reply(b"no id", ELSEWHERE, 5, [], b"foreign")
    batch = [reply(b"at home", HOME), reply(b"away"), hopped, reply(b"of another node", OF_OTHERS), others]
    assert split.send_home(batch) == []
    assert (kafka.sent, split.count, split.lost) == ([(b"away", HOME)], 1, 0)


def test_a_reply_may_be_as_large_as_the_topic_takes(kafka: FakeKafka, split: SplitReplies) -> None:
    split.send_home([reply(b"away")])
    assert kafka.settings[0]["message.max.bytes"] == (8 << 20) + (64 << 10)


@pytest.mark.parametrize("code", sorted(split_replies.REFUSED))
def test_what_kafka_will_never_take_is_passed_by(kafka: FakeKafka, split: SplitReplies, code: int) -> None:
    kafka.says[b"refused"] = KafkaError(code)
    kafka.raises[b"too large"] = KafkaException(KafkaError(code))
    assert split.send_home([reply(b"refused"), reply(b"too large"), reply(b"fine")]) == []
    assert (split.count, split.lost) == (1, 2)


def test_what_kafka_does_not_confirm_is_given_back(kafka: FakeKafka, split: SplitReplies) -> None:
    kafka.says[b"late"] = KafkaError(KafkaError._MSG_TIMED_OUT)
    kafka.raises[b"crowded"] = BufferError("Local: Queue full")
    batch = [reply(b"late"), reply(b"fine"), reply(b"crowded")]
    left = split.send_home(batch)
    assert [one.value for one in left] == [b"late", b"crowded"]
    kafka.says, kafka.raises = {}, {}
    assert split.send_home(left) == []
    assert (split.count, split.lost) == (3, 0)
    assert [value for value, _ in kafka.sent] == [b"late", b"fine", b"late", b"crowded"]


def test_a_producer_that_is_of_no_more_use_is_replaced(kafka: FakeKafka, split: SplitReplies) -> None:
    kafka.says[b"fatal"] = KafkaError(KafkaError._FATAL, "fenced", fatal=True)
    left = split.send_home([reply(b"fatal")])
    assert len(kafka.settings) == 1
    kafka.says = {}
    assert split.send_home(left) == []
    assert len(kafka.settings) == 2


# --- the reader ---


def made_reader(send_home: Any) -> TopicReader:
    return TopicReader(CONFIG, None, send_home, lambda function: function(), print)  # type: ignore[arg-type]


def test_a_batch_is_not_kept_before_its_replies_are_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_reader, "LOOK_AGAIN_S", 0)
    tries: list[list[bytes]] = []

    def send_home(replies: list[Reply]) -> list[Reply]:
        tries.append([one.value for one in replies])
        return replies[1:]

    control = reply(b"", headers=[("fastgw_kind", b"claim")])
    batch = Batch([Arrived(one, 0) for one in (reply(b"1"), reply(b"2"), control)], {}, {})
    assert made_reader(send_home)._has_sent_home(batch, threading.Event())
    assert tries == [[b"1", b"2"], [b"2"]]


def test_a_reader_that_ends_waits_for_nothing() -> None:
    reader, is_over = made_reader(lambda replies: replies), threading.Event()
    batch = Batch([Arrived(reply(b"1"), 0)], {}, {})
    is_over.set()
    assert not reader._has_sent_home(batch, is_over)
    is_over.clear()
    reader._stopping.set()
    assert not reader._has_sent_home(batch, is_over)
