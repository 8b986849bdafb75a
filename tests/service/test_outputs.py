"""The records of a stream, and items collected into one reply. Kafka is a list here, and time is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException

from fastgw.dialects import streams
from fastgw.dialects.streams import Beat, End, Items, Plain, StreamOrder
from fastgw.messages import Reply as ReplyOfLog
from fastgw.service import Reply, Request, outputs
from fastgw.service.messages import ReplyRecord
from fastgw.service.outputs import CANCELLED, MOVED, Collected, Output, Stream
from fastgw.service.progress import OffsetProgress
from fastgw.service.replies import Work

MS = 1_000_000
SECOND = 1_000_000_000


class Written(NamedTuple):
    value: bytes
    partition: int
    headers: list[tuple[str, bytes]]
    on_delivery: Callable[..., None] | None


class FakeOwner:
    """Takes records as a producer does; tells their delivery when it is asked to."""

    def __init__(self) -> None:
        self.written: list[Written] = []
        self.to_look_at: list[Output] = []
        self.done: list[bool | None] = []
        self.is_full = False
        self.refuses: KafkaError | None = None
        self._delivered = 0

    def produce(
        self, topic: str, value: bytes, key: bytes | None, partition: int, headers: Any, on_delivery: Any
    ) -> None:
        assert (topic, key) == ("replies", b"id")
        if self.is_full:
            raise BufferError
        if self.refuses is not None:
            raise KafkaException(self.refuses)
        self.written.append(Written(value, partition, headers, on_delivery))

    def look_again(self, output: Output) -> None:
        self.to_look_at.append(output)

    def on_done(self, output: Output, is_delivered: bool | None) -> None:
        self.done.append(is_delivered)

    def deliver(self, error: KafkaError | None = None) -> None:
        """Kafka acknowledges, or refuses, the next record."""
        told = self.written[self._delivered].on_delivery
        self._delivered += 1
        if told is not None:
            told(error, None)

    def deliver_all(self) -> None:
        while self._delivered < len(self.written):
            self.deliver()

    def look(self) -> None:
        looked, self.to_look_at = self.to_look_at, []
        for output in looked:
            output.look(now[0])

    def decoded(self, is_json: bool = True) -> list[streams.Decoded]:
        return [streams.decode(ReplyOfLog(b"id", 0, 0, each.headers, each.value), is_json) for each in self.written]

    def items(self) -> list[Any]:
        """What a reader of the stream sees; its end must have been accepted."""
        order, seen = StreamOrder(), []
        for offset, record in enumerate(self.decoded()):
            new = order.accept(record, offset, 0)
            if isinstance(new, Items):
                seen += map(orjson.loads, new.payload.split(b"\n"))
        assert order.is_ended
        return seen


now = [0]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now[0] = SECOND
    monkeypatch.setattr(outputs.time, "monotonic_ns", lambda: now[0])


@pytest.fixture
def owner() -> FakeOwner:
    return FakeOwner()


def work(reply_to: str = "replies") -> Work:
    progress = OffsetProgress()
    progress.start(7)
    return Work(Request(b"", {}), progress, 7, reply_to, 3, b"id")


def is_settled(output: Output) -> bool:
    return output.work.progress.committable() == 8


def stream(owner: FakeOwner, until_epoch_ms: int = 0) -> Stream:
    return Stream(work(), owner, until_epoch_ms, now[0])


def failure(kind: str = "service_failed") -> ReplyRecord:
    return outputs.Stop(500, kind, "Title", "detail").problem(work())


UNKNOWN = KafkaError(KafkaError._UNKNOWN_PARTITION)
LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
LATE = KafkaError(KafkaError._MSG_TIMED_OUT)


# ---- writing -------------------------------------------------------------------------------------------------------


def test_an_item_after_a_pause_goes_out_at_once(owner: FakeOwner) -> None:
    output = stream(owner)
    output.add({"a": 1})
    (record,) = owner.written
    assert (record.value, record.partition) == (b'{"a":1}', 3)
    told = dict(record.headers)
    assert told.pop("stream_attempt")
    assert told == {
        "correlation_id": b"id", "content-type": b"application/x-ndjson", "stream_seq": b"0", "stream_count": b"1",
    }  # fmt: skip


def test_a_request_is_settled_when_its_first_item_is_delivered(owner: FakeOwner) -> None:
    output = stream(owner)
    output.add(1)
    assert not is_settled(output)
    owner.deliver()
    assert is_settled(output)
    assert owner.done == []


def test_items_in_quick_succession_share_a_record(owner: FakeOwner) -> None:
    output = stream(owner)
    output.add(0)
    owner.deliver()
    for number in range(1, 10):
        assert output.add(number), "the handler may go on"
    assert len(owner.written) == 1
    owner.look()
    assert len(owner.written) == 1, "5 ms have not passed"
    now[0] += 5 * MS
    owner.look()
    assert [record.value for record in owner.written] == [b"0", b"1\n2\n3\n4\n5\n6\n7\n8\n9"]
    output.complete()
    owner.deliver_all()
    assert owner.items() == list(range(10))
    assert owner.done == [True]


def test_a_full_record_goes_out_before_its_time(owner: FakeOwner) -> None:
    output = stream(owner)
    output.add(0)
    owner.deliver()
    item = "x" * 1000
    count = 0
    while output.add(item):
        count += 1
    assert len(owner.written) == 2
    assert outputs.RECORD_BYTES - 1100 < len(owner.written[1].value) <= outputs.RECORD_BYTES


def test_a_large_item_has_a_record_of_its_own(owner: FakeOwner) -> None:
    output = stream(owner)
    for item in (0, 1, "x" * outputs.RECORD_BYTES, 2):
        output.add(item)
        owner.deliver_all()
    now[0] += 5 * MS
    owner.look()
    assert [record.count for record in owner.decoded()] == [1, 1, 1, 1]


def test_the_second_record_waits_until_the_first_is_delivered(owner: FakeOwner) -> None:
    output = stream(owner)
    for number in range(4):
        output.add(number)
        now[0] += 10 * MS
        owner.look()
    output.complete()
    assert len(owner.written) == 1
    owner.deliver()
    assert [record.value for record in owner.written] == [b"0", b"1\n2\n3", b""]
    assert dict(owner.written[2].headers)["stream_total"] == b"4"
    assert not owner.done
    owner.deliver_all()
    assert owner.done == [True]


def test_bytes_are_one_item_a_record(owner: FakeOwner) -> None:
    output = stream(owner)
    for part in (b"a\n", b"b", b"", b"c\n"):
        output.add(part)
    output.complete()
    owner.deliver()
    assert [record.value for record in owner.written] == [b"a\n", b"bc\n", b""]
    first, second, last = owner.decoded(is_json=False)
    assert (first.seq, second.seq, last.total) == (0, 1, 2)
    assert dict(owner.written[0].headers)["content-type"] == b"application/octet-stream"


def test_the_head_is_in_the_first_record_only(owner: FakeOwner) -> None:
    output = stream(owner)
    output.add(Reply(b"a", status=206, headers={"content-type": "text/csv"}))
    owner.deliver()
    now[0] += 5 * MS
    output.add(b"b")
    heads = [streams.without_stream_headers(record.headers) for record in owner.written]
    identity = ("correlation_id", b"id")
    assert heads == [[identity, ("status", b"206"), ("content-type", b"text/csv")], [identity]]


def test_a_stream_without_items_is_its_end(owner: FakeOwner) -> None:
    output = stream(owner)
    output.complete()
    (end,) = owner.decoded()
    assert isinstance(end, End)
    assert (end.is_ok, end.total) == (True, 0)
    owner.deliver()
    assert is_settled(output)
    assert owner.done == [True]


# ---- back-pressure -------------------------------------------------------------------------------------------------


def test_a_handler_is_not_far_ahead_of_kafka(owner: FakeOwner) -> None:
    output = stream(owner)
    added = 0
    while output.has_room():
        output.add("x" * 10_000)
        added += 10_003
    assert outputs.WINDOW_BYTES <= added <= outputs.WINDOW_BYTES + 10_003
    owner.deliver()
    output.add("x" * 10_000)
    assert not output.has_room(), "what waited is under way now"
    owner.deliver_all()
    assert output.has_room()


def test_a_full_queue_is_waited_for(owner: FakeOwner) -> None:
    output = stream(owner)
    owner.is_full = True
    output.add(0)
    output.add(1)
    output.complete()
    owner.look()
    assert owner.written == []
    owner.is_full = False
    owner.look()
    owner.deliver_all()
    assert owner.items() == [0, 1]
    assert owner.done == [True]


# ---- ends ----------------------------------------------------------------------------------------------------------


def test_a_failure_before_the_first_item_is_an_ordinary_reply(owner: FakeOwner) -> None:
    output = stream(owner)
    assert output.fail(failure())
    (record,) = owner.written
    assert owner.decoded() == [Plain()]
    assert dict(record.headers)["status"] == b"500"
    owner.deliver()
    assert is_settled(output)


def test_a_failure_after_items_is_the_end_of_the_stream(owner: FakeOwner) -> None:
    output = stream(owner)
    output.add(0)
    output.add(1)
    output.fail(failure())
    owner.deliver()
    end = owner.decoded()[-1]
    assert isinstance(end, End)
    assert (end.is_ok, end.total, end.status, end.content_type) == (False, 2, 500, b"application/problem+json")
    assert orjson.loads(end.body)["type"] == "urn:fastgw:problem:service_failed"
    assert owner.items() == [0, 1], "what the handler gave before it failed is sent"


def test_only_the_first_end_counts(owner: FakeOwner) -> None:
    output = stream(owner)
    output.add(0)
    interrupted: list[bool] = []
    output.interrupt = lambda: interrupted.append(True)
    output.stop(CANCELLED)
    output.stop(MOVED)
    output.complete()
    assert not output.fail(failure())
    assert not output.add(1)
    assert output.is_stopped
    owner.deliver_all()
    assert [type(record) for record in owner.decoded()] == [Items, End]
    assert owner.decoded()[1].status == 499
    assert interrupted == [True], "a second time would disturb the handler's clean-up"


def test_a_stopped_stream_drops_what_was_not_written(owner: FakeOwner) -> None:
    output = stream(owner)
    for number in range(5):
        output.add(number)
    output.stop(CANCELLED)
    owner.deliver_all()
    assert owner.items() == [0]
    assert owner.decoded()[-1].total == 1


def test_a_stream_without_items_is_left_to_another_process(owner: FakeOwner) -> None:
    output = stream(owner)
    output.leave(MOVED)
    assert output.is_stopped
    assert owner.written == []
    assert owner.done == [None]
    assert not is_settled(output)
    output.add(1)
    output.complete()
    assert owner.written == []


def test_a_stream_with_items_that_is_left_ends_with_an_error(owner: FakeOwner) -> None:
    output = stream(owner)
    output.add(0)
    output.leave(MOVED)
    assert len(owner.written) == 1
    owner.deliver_all()
    end = owner.decoded()[-1]
    assert (end.is_ok, end.total, end.status) == (False, 1, 503)
    assert is_settled(output)


# ---- time ----------------------------------------------------------------------------------------------------------


def test_beats_come_every_five_seconds_until_the_end(owner: FakeOwner) -> None:
    output = stream(owner)
    for _ in range(12):
        now[0] += SECOND
        output.look_at_clock(now[0], 1)
    beat = owner.decoded()[0]
    assert isinstance(beat, Beat)
    assert beat.interval_ms == 5000
    assert len(owner.written) == 2
    assert not is_settled(output), "a beat is no item"
    output.complete()
    now[0] += 10 * SECOND
    output.look_at_clock(now[0], 1)
    assert len(owner.written) == 3
    assert {record.attempt for record in owner.decoded()} == {beat.attempt}


def test_a_beat_that_cannot_be_written_is_left_out(owner: FakeOwner) -> None:
    output = stream(owner)
    owner.is_full = True
    output.look_at_clock(now[0] + 5 * SECOND, 1)
    owner.is_full, owner.refuses = False, UNKNOWN
    output.look_at_clock(now[0] + 10 * SECOND, 1)
    owner.refuses = None
    output.add(0)
    assert owner.written[0].partition == 3


def test_a_stream_ends_at_its_time(owner: FakeOwner) -> None:
    output = stream(owner, until_epoch_ms=5000)
    output.add(0)
    output.look_at_clock(now[0], 4999)
    assert not output.is_stopped
    output.look_at_clock(now[0], 5000)
    assert output.is_stopped
    owner.deliver_all()
    assert owner.decoded()[-1].status == 504


# ---- what Kafka refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [True, False], ids=["raised", "reported"])
def test_without_the_partition_the_key_decides_for_the_whole_stream(owner: FakeOwner, at_once: bool) -> None:
    output = stream(owner)
    if at_once:
        owner.produce = refuse_partition(owner.produce)  # type: ignore[method-assign]
        output.add(0)
    else:
        output.add(0)
        owner.deliver(UNKNOWN)
        owner.written.pop(0)
        owner._delivered = 0
    output.add(1)
    output.complete()
    owner.deliver_all()
    assert {record.partition for record in owner.written} == {-1}
    assert owner.items() == [0, 1]
    assert owner.done == [True]


def refuse_partition(produce: Callable[..., None]) -> Callable[..., None]:
    def refusing(topic: str, value: bytes, key: bytes, partition: int, *rest: Any) -> None:
        if partition >= 0:
            raise KafkaException(UNKNOWN)
        produce(topic, value, key, partition, *rest)

    return refusing


@pytest.mark.parametrize("at_once", [True, False], ids=["raised", "reported"])
@pytest.mark.parametrize(("error", "status"), [(LARGE, 500), (LATE, 503)], ids=["too large", "too late"])
def test_a_first_item_that_kafka_refuses_becomes_an_ordinary_reply(
    owner: FakeOwner, error: KafkaError, status: int, at_once: bool
) -> None:
    output = stream(owner)
    if at_once:
        owner.is_full = True
        output.add(0)
        owner.is_full, owner.refuses = False, error
        take = owner.produce

        def refuse_once(*arguments: Any) -> None:
            owner.refuses = None
            owner.produce = take  # type: ignore[method-assign]
            raise KafkaException(error)

        owner.produce = refuse_once  # type: ignore[method-assign]
        owner.look()
    else:
        output.add(0)
        owner.deliver(error)
        owner.written.pop(0)
        owner._delivered = 0
    assert output.is_stopped
    assert owner.decoded() == [Plain()]
    assert dict(owner.written[0].headers)["status"] == b"%d" % status
    owner.deliver()
    assert is_settled(output)
    assert owner.done == [True]


def test_a_later_item_that_kafka_refuses_ends_the_stream(owner: FakeOwner) -> None:
    output = stream(owner)
    interrupted: list[bool] = []
    output.interrupt = lambda: interrupted.append(True)
    output.add(0)
    owner.deliver()
    now[0] += 5 * MS
    output.add(1)
    owner.deliver(LARGE)
    assert output.is_stopped
    assert interrupted
    end = owner.decoded()[-1]
    assert (end.is_ok, end.total, end.status) == (False, 1, 500)
    assert orjson.loads(end.body)["type"].endswith(":item_too_large")
    owner.deliver()
    assert owner.done == [True]


def test_an_end_that_kafka_refuses_is_given_up(owner: FakeOwner) -> None:
    output = stream(owner)
    output.complete()
    owner.deliver(LATE)
    assert owner.done == [False]
    assert is_settled(output)


def test_a_topic_that_does_not_exist_is_given_up(owner: FakeOwner) -> None:
    output = stream(owner)
    owner.refuses = UNKNOWN
    output.add(0)
    assert output.is_stopped
    assert owner.done == [False]
    assert is_settled(output)


# ---- collected -----------------------------------------------------------------------------------------------------


class Sent:
    """Takes replies as `Replies` does."""

    def __init__(self) -> None:
        self.replies: list[ReplyRecord] = []
        self.is_full = False

    def try_produce(self, _work: Work, reply: ReplyRecord) -> bool:
        if not self.is_full:
            self.replies.append(reply)
        return not self.is_full


def collected(owner: FakeOwner, sent: Sent, max_bytes: int = 1000, until_epoch_ms: int = 0) -> Collected:
    answers = lambda work, reply: [(work, reply)]  # noqa: E731
    return Collected(work(), owner, until_epoch_ms, max_bytes, answers, sent.try_produce)


@pytest.mark.parametrize(
    ("yielded", "value", "content_type"),
    [
        ([{"a": 1}, "b"], b'[{"a":1},"b"]', b"application/json"),
        ([], b"[]", b"application/json"),
        ([b"a", b"b"], b"ab", b"application/octet-stream"),
        ([Reply(b"a", headers={"content-type": "text/csv"}), b"b"], b"ab", b"text/csv"),
    ],
)
def test_items_are_collected_into_one_reply(
    owner: FakeOwner, yielded: list[Any], value: bytes, content_type: bytes
) -> None:
    sent = Sent()
    output = collected(owner, sent)
    for each in yielded:
        output.add(each)
    assert sent.replies == []
    output.complete()
    (reply,) = sent.replies
    assert reply.value == value
    assert reply.headers == [("correlation_id", b"id"), ("content-type", content_type)]
    assert owner.done == [None], "counted as a reply"


def test_a_collected_reply_has_a_limit(owner: FakeOwner) -> None:
    sent = Sent()
    output = collected(owner, sent, max_bytes=100)
    while output.add("x" * 10):
        pass
    assert output.is_stopped
    (reply,) = sent.replies
    assert reply.status == 500
    assert b"reply_too_large" in reply.value
    assert b"100 bytes" in reply.value


def test_a_failure_replaces_what_was_collected(owner: FakeOwner) -> None:
    sent = Sent()
    output = collected(owner, sent)
    output.add(1)
    output.fail(failure())
    output.complete()
    (reply,) = sent.replies
    assert reply.status == 500


def test_a_collected_reply_waits_for_a_full_queue(owner: FakeOwner) -> None:
    sent = Sent()
    sent.is_full = True
    output = collected(owner, sent)
    output.complete()
    owner.look()
    assert (sent.replies, owner.done) == ([], [])
    sent.is_full = False
    owner.look()
    assert len(sent.replies) == 1
    assert owner.done == [None]


def test_a_handler_is_stopped_when_nobody_waits_for_the_reply(owner: FakeOwner) -> None:
    sent = Sent()
    output = collected(owner, sent, until_epoch_ms=5000)
    output.look_at_clock(0, 5000)
    assert output.is_stopped
    assert sent.replies[0].status == 504


def test_a_request_that_wants_no_reply_collects_nothing(owner: FakeOwner) -> None:
    sent = Sent()
    output = Collected(work(""), owner, 0, 10, lambda work, reply: [(work, reply)], sent.try_produce)
    for _ in range(99):
        output.add("x" * 10)
    assert not output.is_stopped
    output.complete()
    assert sent.replies[0].value == b"[]"


def test_what_cannot_be_sent_is_the_handlers_mistake(owner: FakeOwner) -> None:
    for output in (stream(owner), collected(owner, Sent())):
        with pytest.raises(TypeError):
            output.add(object())


def test_records_of_the_sdk_are_never_refused(owner: FakeOwner) -> None:
    """The decoder of the gateway reads each record of a stream."""
    output = stream(owner)
    for number in range(300):
        output.add({"number": number, "text": "ä\n" * 200})
        now[0] += number % 7 * MS
        owner.deliver_all()
        owner.look()
    output.complete()
    owner.deliver_all()
    assert [item["number"] for item in owner.items()] == list(range(300))
