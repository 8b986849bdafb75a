"""Streamed answers, with the real table and exchange; Kafka, the store, the client and the clock are played."""

from __future__ import annotations

import orjson
import pytest

from fastgw import errors, ids
from fastgw.admission import RESUME, STREAM, Admission
from fastgw.core.exchange import REFUSED
from fastgw.core.plan import StreamRules
from fastgw.core.stream import COMMENT_NS, LOOK_NS, SLOW_NS, Stream
from fastgw.core.streams import Streams
from fastgw.dialects import streams
from fastgw.dialects.plain import RequestWire
from fastgw.followed import LIVE, REPLAY_CAP, SCAN_CAP, StreamTopic, size_of
from fastgw.http.stream_formats import EventStream
from fastgw.ids import IdMaker, ReplyTopic
from fastgw.messages import Head, HeaderList, Record
from fastgw.open_streams import OpenStream, OpenStreams
from fastgw.tokens import Secrets, StreamToken, seal_stream
from fastgw.worker.stream_routes import encoder_of
from tests.core.test_exchange import HEAD, MS, House
from tests.core.test_routing import FakeHeaders

S = 1000 * MS
TOPIC_ID = bytes(range(16))
EPOCH_MS = 1_800_000_000_000
BUFFER = 1000
SECRETS = Secrets([b"a secret that has at least 32 bytes"])
RULES = StreamRules(True, 1 * S, 3 * S, 20 * S, BUFFER, True, True)
A, B = b"a", b"b"  # attempts


class FakeStore:
    """The store of the node, as a worker's link shows it."""

    def __init__(self) -> None:
        self.streams: StreamTopic | None = StreamTopic(TOPIC_ID, 8, [1, 4])
        self.followers: dict[int, Stream] = {}
        self.asked: list[tuple[int, int]] = []  # position and credit of each follow
        self.credits: list[int] = []
        self.numbers = 0
        self.silent = False

    def follow(self, follower: Stream) -> int:
        self.numbers += 1
        self.followers[self.numbers] = follower
        self.asked.append((follower.position, follower.credit))
        return self.numbers

    def unfollow(self, number: int) -> None:
        self.followers.pop(number, None)

    def is_silent(self) -> bool:
        return self.silent

    def give_credit(self, number: int, credit: int) -> None:
        assert number in self.followers
        self.credits.append(credit)


class FakeSink:
    """A client: what it has got, and how it ended. `takes` False: it reads nothing."""

    def __init__(self) -> None:
        self.takes = True
        self.head: tuple[int, HeaderList, bytes] | None = None
        self.whole: tuple[int, HeaderList, bytes] | None = None
        self.data = b""
        self.ended = ""

    def answer(self, status: int, headers: HeaderList, body: bytes, _request_id: bytes) -> None:
        assert self.head is None
        assert not self.ended
        self.whole, self.ended = (status, headers, body), "answered"

    def begin(self, status: int, headers: HeaderList, request_id: bytes = b"", data: bytes = b"") -> bool:
        assert self.head is None
        assert not self.ended
        self.head = status, headers, request_id
        self.data = data
        return self.takes

    def write(self, data: bytes) -> bool:
        assert self.head is not None
        if self.ended:
            return True  # as after its client has left
        self.data += data
        return self.takes

    def end(self, data: bytes = b"") -> None:
        assert not self.ended
        self.write(data)
        self.ended = "complete"

    def abort(self) -> None:
        assert not self.ended
        self.ended = "aborted"

    @property
    def lines(self) -> list[bytes]:
        return self.data.lstrip().splitlines()

    @property
    def ids(self) -> list[str]:
        """Of all events so far."""
        return [line[4:].decode() for line in self.data.splitlines() if line.startswith(b"id: ")]

    @property
    def end_line(self) -> dict:
        return orjson.loads(self.lines[-1])["fastgw"]

    def expect(self, ending: errors.Ending) -> None:
        """The failure was told: as an ordinary answer, or within the stream."""
        if self.whole is not None:
            status, headers, body = self.whole
            assert (status, dict(headers)["fastgw-outcome"]) == (ending.status, ending.outcome.value)
            problem = orjson.loads(body)
        else:
            assert self.ended == "complete"
            assert self.end_line["outcome"] == ending.outcome.value
            problem = self.end_line["problem"]
        assert problem["type"] == f"urn:fastgw:problem:{ending.name}"


class Place:
    """A worker's part for streams, at a time that only tests move."""

    def __init__(self, rules: StreamRules = RULES, slots: int = 16) -> None:
        self.house, self.store, self.now_ns = House(slots=slots), FakeStore(), 0
        self.exchange = self.house.exchange
        self.exchange.epoch_offset_ns = EPOCH_MS * MS
        self.plan = self.house.plan
        self.plan.stream_wire, self.plan.stream = RequestWire("shop.streams", "/o", ["POST"], []), rules
        self.cancels: list[Record] = []
        self.takes_cancels = True
        self.streams = Streams(
            self.exchange,
            self.store,
            IdMaker(1, 0, 0, ReplyTopic.STREAMS),
            turn=1,
            slots=slots,
            encoder=encoder_of,
            event_encoder=EventStream,
            send_untracked=self.take_cancel,
            journal=self.house.journal,
            clock_ns=lambda: self.now_ns,
            secrets=SECRETS,
            keep_ms=60_000,
            most_resumed=2,
        )
        self.sink = FakeSink()
        self.token = REFUSED
        self.offset = 100

    def take_cancel(self, record: Record) -> bool:
        if self.takes_cancels:
            self.cancels.append(record)
        return self.takes_cancels

    def open(self, media_type: str = "application/x-ndjson", timeout_ns: int = 5 * S, method: str = "POST") -> None:
        """A request; the store does not follow it yet."""
        admission = Admission(0, method, "/o", "", (), HEAD, 2, timeout_ns)
        admission.kind, admission.media_type = STREAM, media_type
        assert self.exchange.reserve(admission) is None
        self.sink = FakeSink()
        self.token = self.streams.open(admission, b"{}", self.sink, self.now_ns)

    def sent(self, media_type: str = "application/x-ndjson", timeout_ns: int = 5 * S) -> None:
        """A request whose record is in Kafka."""
        self.open(media_type, timeout_ns)
        self.stream.on_following(100)
        self.exchange.delivered(self.token, self.now_ns, 2)

    @property
    def stream(self) -> Stream:
        (one,) = self.store.followers.values()
        return one

    def comes(self, *records: tuple[list[tuple[str, bytes]], bytes]) -> None:
        """These records, in one frame."""
        told = []
        for headers, value in records:
            told.append((self.offset, headers, value))
            self.offset += 1
        self.stream.on_records(told)

    def items(self, seq: int, *values: bytes, attempt: bytes = A) -> None:
        self.comes((streams.items_headers(attempt, seq, len(values)), b"\n".join(values)))

    def end(self, total: int, attempt: bytes = A) -> None:
        self.comes((streams.end_headers(attempt, True, total), b""))

    def passes(self, ns: int) -> None:
        """Time passes, in the steps of a worker."""
        ends = self.now_ns + ns
        while self.now_ns < ends:
            self.now_ns = min(ends, self.now_ns + 50 * MS)
            self.exchange.expire(self.now_ns)
            self.streams.resumed.expire(self.now_ns)

    def comes_back(self, event_id: str) -> None:
        """A client with this `Last-Event-ID`."""
        head = Head("GET", "/o", "", FakeHeaders({"last-event-id": [event_id]}), ["shop.test"], 0, False)
        admission = Admission(0, "POST", "/o", "", (), head, 0, 5 * S)
        admission.kind, admission.media_type = RESUME, "text/event-stream"
        self.sink = FakeSink()
        self.token = self.streams.resume(admission, self.sink, self.now_ns)

    def stops(self, event_id: str) -> tuple[int, HeaderList, bytes]:
        """DELETE with this `Last-Event-ID`; returns the answer."""
        head = Head("DELETE", "/o", "", FakeHeaders({"last-event-id": [event_id]}), ["shop.test"], 0, False)
        admission = Admission(0, "DELETE", "/o", "", (), head, 0, 5 * S)
        answers: list[tuple[int, HeaderList, bytes]] = []
        token = self.streams.stop(admission, lambda *told: answers.append(told[:3]), self.now_ns)
        assert token == REFUSED
        (answer,) = answers
        return answer

    def counted(self, ending: errors.Ending) -> int:
        return self.house.table.endings(0)[ending.number]

    def is_over(self, ending: errors.Ending) -> None:
        """The request has ended in this way, and nothing is left of it."""
        assert self.counted(ending) == 1
        assert self.house.journal.broken == []
        assert len(self.streams) == self.exchange.in_flight == self.plan.in_flight == 0
        assert self.store.followers == {}


@pytest.fixture
def place() -> Place:
    return Place()


# ---- what is told about them


def test_an_open_stream_tells_where_it_is(place: Place) -> None:
    place.open()
    place.now_ns += 2 * S
    waiting = OpenStream("POST /o", place.stream.raw.decode(), "waits", False, 0, 4, LIVE, 0, 2 * S)
    assert place.streams.open_streams(10) == OpenStreams(1, [waiting])
    place.stream.on_following(100)
    place.sink.takes = False
    place.items(0, b"1", b"2")
    (told,) = place.streams.open_streams(10).oldest
    assert (told.phase, told.items, told.position, told.buffer_bytes) == ("behind", 2, 101, size_of(b"1\n2"))
    place.stream.on_writable()
    (told,) = place.streams.open_streams(10).oldest
    assert (told.phase, told.buffer_bytes) == ("flows", 0)


def test_of_many_open_streams_the_oldest_are_told(place: Place) -> None:
    first = ""
    for _ in range(3):
        place.open()
        first = first or next(iter(place.store.followers.values())).raw.decode()
    told = place.streams.open_streams(2)
    assert (told.total, len(told.oldest), told.oldest[0].correlation_id) == (3, 2, first)


# ---- before the head


def test_the_record_is_sent_when_the_store_follows_its_id_and_not_before(place: Place) -> None:
    place.open()
    assert place.house.send.records == []
    assert place.store.asked == [(LIVE, BUFFER)]
    place.stream.on_following(100)
    record, token = place.house.send.records[0]
    assert token == place.token
    headers = dict(record.headers)
    cid = ids.parse(headers["correlation_id"])
    assert cid is not None
    assert (cid.topic, cid.home) == (ReplyTopic.STREAMS, 4)
    assert headers["reply_to"] == b"shop.streams"
    assert headers["reply_partition"] == b"4"
    assert headers["reply_kind"] == b"stream"
    assert headers["deadline"] == b"%d" % (EPOCH_MS + 5000)
    assert headers["stream_until"] == b"%d" % (EPOCH_MS + 20_000)
    place.stream.on_following(100)
    assert len(place.house.send.records) == 1, "the store has restarted, and says so again"


@pytest.mark.parametrize(
    ("topic", "ending"),
    [
        (None, errors.STORE_DOWN),
        (StreamTopic(TOPIC_ID, 8, []), errors.STORE_RESTORING),
        (StreamTopic(TOPIC_ID, 0, []), errors.STORE_RESTORING),
    ],
)
def test_without_the_store_nothing_is_sent(place: Place, topic: StreamTopic | None, ending: errors.Ending) -> None:
    place.store.streams = topic
    place.open()
    place.sink.expect(ending)
    assert place.token == REFUSED
    assert place.house.send.records == []
    assert place.exchange.in_flight == place.plan.in_flight == 0


def test_a_store_that_does_not_answer_costs_no_record(place: Place) -> None:
    place.open()
    place.passes(5 * S)
    place.sink.expect(errors.STORE_DOWN)
    place.is_over(errors.STORE_DOWN)
    assert place.house.send.records == []


def test_streams_use_a_quarter_of_the_slots(place: Place) -> None:
    for _ in range(4):
        place.open()
        assert not place.sink.ended
    place.open()
    place.sink.expect(errors.TABLE_FULL)
    assert len(place.streams) == place.exchange.in_flight == 4


def test_a_client_that_leaves_before_the_record_is_sent_costs_none(place: Place) -> None:
    place.open()
    place.exchange.cancel(place.token)
    place.is_over(errors.CANCELLED_EARLY)
    assert place.house.send.records == []
    assert not place.sink.ended


def test_without_a_first_item_the_request_expires_as_any_other() -> None:
    place = Place(RULES._replace(head_wait_ns=60 * S))
    place.sent()
    place.passes(5 * S)
    place.sink.expect(errors.EXPIRED)
    place.is_over(errors.EXPIRED)
    assert ("vary", "accept") in place.sink.whole[1]


def test_an_ordinary_reply_is_an_ordinary_answer(place: Place) -> None:
    place.sent()
    place.comes(([("status", b"404"), ("x-a", b"1")], b"[]"))
    status, headers, body = place.sink.whole
    assert (status, body, dict(headers)["x-a"]) == (404, b"[]", "1")
    place.is_over(errors.ANSWERED)


def test_an_error_of_the_service_before_its_first_item_is_an_ordinary_answer(place: Place) -> None:
    place.sent()
    told = [*streams.end_headers(A, False, 0), ("status", b"503"), ("content-type", b"application/problem+json")]
    place.comes((told, b'{"title":"no"}'))
    status, headers, body = place.sink.whole
    assert (status, body) == (503, b'{"title":"no"}')
    assert "stream_attempt" not in dict(headers)
    place.is_over(errors.ANSWERED)
    assert place.house.table.answered(0) == (0, 0, 0, 1)


def test_a_first_record_that_cannot_be_a_head_is_a_bad_reply(place: Place) -> None:
    place.sent()
    place.comes(([*streams.items_headers(A, 0, 1), ("status", b"099")], b"1"))
    place.sink.expect(errors.BAD_REPLY)
    place.is_over(errors.BAD_REPLY)


def test_a_record_that_breaks_the_rules_fails_the_request(place: Place) -> None:
    place.sent()
    place.items(0, b"{")
    place.sink.expect(errors.BAD_ITEM)
    place.is_over(errors.BAD_ITEM)


# ---- the stream


def test_items_reach_the_client_as_they_come_and_the_end_completes_the_answer(place: Place) -> None:
    place.sent()
    place.comes(([*streams.items_headers(A, 0, 2), ("status", b"201"), ("x-a", b"1")], b"1\n2"))
    assert place.sink.lines == [b"1", b"2"]
    status, headers, request_id = place.sink.head
    assert (status, request_id) == (201, place.stream.raw)
    assert headers[:2] == [("fastgw-outcome", "recorded"), ("x-a", "1")]
    assert [value for name, value in headers if name == "content-type"] == ["application/x-ndjson"]
    place.items(2, b"3")
    assert place.sink.lines == [b"1", b"2", b"3"]
    place.end(3)
    assert (place.sink.ended, place.sink.end_line) == ("complete", {"end": True, "items": 3, "outcome": "recorded"})
    place.is_over(errors.ANSWERED)
    assert place.streams.items == 3


def test_a_stream_without_items_is_complete(place: Place) -> None:
    place.sent("application/json")
    place.end(0)
    assert orjson.loads(place.sink.data) == []
    place.is_over(errors.ANSWERED)


def test_several_records_and_the_end_may_come_together(place: Place) -> None:
    place.sent("application/json")
    last = [*streams.items_headers(A, 2, 1), ("stream_end", b"ok"), ("stream_total", b"3")]
    place.comes((streams.items_headers(A, 0, 2), b"1\n2"), (last, b"3"))
    assert orjson.loads(place.sink.data) == [1, 2, 3]
    place.is_over(errors.ANSWERED)


def test_bytes_have_the_content_type_of_the_service() -> None:
    place = Place(RULES._replace(is_json=False))
    place.sent("")
    place.passes(2 * S)
    assert place.sink.head is None, "the head needs the first record"
    place.comes(([*streams.items_headers(A, 0, 1), ("content-type", b"image/png")], b"\n\n"))
    assert dict(place.sink.head[1])["content-type"] == "image/png"
    assert "vary" not in dict(place.sink.head[1])
    place.end(1)
    assert (place.sink.data, place.sink.ended) == (b"\n\n", "complete")


def test_the_head_waits_for_a_while_and_then_goes_without_an_item(place: Place) -> None:
    place.sent()
    place.passes(900 * MS)
    assert place.sink.head is None
    place.passes(200 * MS)
    assert place.sink.head[0] == 200
    place.items(0, b"1")
    place.end(1)
    assert place.sink.lines[0] == b"1"
    place.is_over(errors.ANSWERED)


def test_the_head_says_recorded_only_when_kafka_has_confirmed_the_record(place: Place) -> None:
    place.open()
    place.stream.on_following(100)
    place.passes(3 * S)
    assert place.sink.head is None
    place.exchange.delivered(place.token, place.now_ns, 2)
    place.passes(50 * MS)
    assert (place.sink.head[0], dict(place.sink.head[1])["fastgw-outcome"]) == (200, "recorded")


def test_a_request_that_is_never_confirmed_is_not_said_to_be_recorded(place: Place) -> None:
    place.open()
    place.stream.on_following(100)
    place.passes(6 * S)
    place.sink.expect(errors.EXPIRED_UNKNOWN)
    assert place.sink.head is None


def test_an_ordinary_reply_after_the_head_is_no_stream(place: Place) -> None:
    place.sent()
    place.passes(2 * S)
    place.comes(([("status", b"200")], b"[]"))
    place.sink.expect(errors.BAD_ITEM)
    place.is_over(errors.BAD_ITEM)


def test_an_error_of_the_service_after_the_head_is_told_within_the_stream(place: Place) -> None:
    place.sent()
    place.items(0, b"1")
    place.comes(([*streams.end_headers(A, False, 1), ("status", b"503")], b'{"title":"no"}'))
    assert place.sink.end_line["problem"] == {"title": "no"}
    place.is_over(errors.ANSWERED)
    assert place.house.table.answered(0) == (0, 0, 0, 1), "counted by the status of the service"


def test_an_array_that_fails_breaks_off(place: Place) -> None:
    place.sent("application/json")
    place.items(0, b"1")
    place.items(1, b"{")
    assert (place.sink.data, place.sink.ended) == (b"[1", "aborted")
    place.is_over(errors.BAD_ITEM)


def test_what_came_before_a_bad_record_of_the_same_frame_is_delivered(place: Place) -> None:
    place.sent()
    place.comes((streams.items_headers(A, 0, 1), b"1"), (streams.items_headers(A, 1, 1), b"{"))
    assert place.sink.lines[0] == b"1"
    place.sink.expect(errors.BAD_ITEM)


def test_repeated_items_and_other_attempts_are_skipped(place: Place) -> None:
    place.sent("application/json")
    place.items(0, b"1", b"2")
    place.items(0, b"1", b"2")
    place.items(0, b"1", attempt=B)
    place.items(1, b"2", b"3")
    place.end(1, attempt=B)
    place.end(3)
    assert orjson.loads(place.sink.data) == [1, 2, 3]


def test_a_gap_is_looked_up_in_the_log_and_breaks_the_stream_if_it_is_there(place: Place) -> None:
    place.sent()
    place.items(0, b"1")
    place.items(2, b"3")
    assert place.store.numbers == 2
    assert place.store.asked[-1][0] == 101, "behind the last accepted record"
    place.offset = 101
    place.items(2, b"3")
    place.sink.expect(errors.STREAM_BROKEN)
    place.is_over(errors.STREAM_BROKEN)


def test_a_gap_that_the_log_does_not_have_is_closed(place: Place) -> None:
    place.sent("application/json")
    place.items(0, b"1")
    place.items(2, b"3")
    place.offset = 101
    place.items(1, b"2")
    place.items(2, b"3")
    place.end(3)
    assert orjson.loads(place.sink.data) == [1, 2, 3]


def test_a_failure_of_delivery_does_not_end_a_stream_whose_items_have_come(place: Place) -> None:
    place.open()
    place.stream.on_following(100)
    assert not place.streams.has_begun(place.token)
    place.items(0, b"1")
    assert place.streams.has_begun(place.token)


def test_a_bug_in_the_way_of_a_record_ends_its_stream_and_is_logged(place: Place) -> None:
    place.sent()
    place.sink.begin = None  # type: ignore[assignment]
    place.sink.end = lambda _data: None  # type: ignore[method-assign]
    place.items(0, b"1")
    assert place.house.journal.broken.pop()[0] == "record of a stream not handled"
    place.is_over(errors.BAD_ITEM)


def test_head_is_answered_with_the_head_and_its_work_is_cancelled(place: Place) -> None:
    place.plan.stream_wire = RequestWire("shop.streams", "/o", ["HEAD"], [])
    place.open(method="HEAD")
    place.stream.on_following(100)
    place.exchange.delivered(place.token, place.now_ns, 2)
    stream = place.stream
    stream.on_records([(100, streams.items_headers(A, 0, 1), b"1"), (101, streams.items_headers(A, 1, 1), b"2")])
    assert (place.sink.head[0], place.sink.ended) == (200, "complete")
    assert len(place.cancels) == 1
    place.is_over(errors.ANSWERED)


# ---- deadlines


def test_after_the_head_the_first_item_has_the_time_of_the_route(place: Place) -> None:
    place.sent()
    place.passes(4900 * MS)
    assert not place.sink.ended
    place.passes(200 * MS)
    place.sink.expect(errors.EXPIRED)
    place.is_over(errors.EXPIRED)


def test_a_record_that_kafka_has_not_confirmed_may_or_may_not_be_there(place: Place) -> None:
    place.open()
    place.stream.on_following(100)
    place.passes(6 * S)
    place.sink.expect(errors.EXPIRED_UNKNOWN)
    place.is_over(errors.EXPIRED_UNKNOWN)


def test_each_item_has_the_idle_timeout(place: Place) -> None:
    place.sent()
    for number in range(4):
        place.items(number, b"1")
        place.passes(2900 * MS)
    assert not place.sink.ended
    place.passes(200 * MS)
    place.sink.expect(errors.STREAM_IDLE)
    place.is_over(errors.STREAM_IDLE)


def test_a_short_idle_timeout_is_exact() -> None:
    place = Place(RULES._replace(idle_timeout_ns=100 * MS))
    place.sent()
    place.items(0, b"1")
    place.passes(150 * MS)
    place.sink.expect(errors.STREAM_IDLE)


def test_the_whole_stream_has_a_longest_time(place: Place) -> None:
    place.sent()
    number = 0
    while not place.sink.ended:
        assert place.now_ns <= 20 * S
        place.items(number, b"1")
        number += 1
        place.passes(S)
    place.sink.expect(errors.STREAM_MAX)
    place.is_over(errors.STREAM_MAX)


def test_three_missing_beats_break_the_stream(place: Place) -> None:
    place.sent()
    place.items(0, b"1")
    place.comes((streams.beat_headers(A, 300), b""))
    place.passes(800 * MS)
    assert not place.sink.ended
    place.passes(LOOK_NS)
    place.sink.expect(errors.STREAM_BROKEN)
    place.is_over(errors.STREAM_BROKEN)


@pytest.mark.parametrize("has_head", [False, True])
def test_a_service_is_not_blamed_for_a_store_that_does_not_work(place: Place, has_head: bool) -> None:
    place.sent()
    if has_head:
        place.items(0, b"1")
    place.store.silent = True
    place.passes(6 * S)
    place.sink.expect(errors.STREAM_BROKEN)
    place.is_over(errors.STREAM_BROKEN)


def test_missing_beats_say_nothing_while_the_store_does_not_work(lasting: Place) -> None:
    lasting.comes((streams.beat_headers(A, 300), b""))
    lasting.store.silent = True
    lasting.passes(900 * MS + LOOK_NS)
    assert lasting.sink.data.endswith(b"retry: 1000\n\n"), "it can go on elsewhere, or later"
    lasting.is_over(errors.ANSWERED)


def test_a_worker_that_ends_does_not_blame_the_service_either(place: Place) -> None:
    place.sent()
    place.streams.give_up()
    assert not place.sink.ended
    place.store.silent = True
    place.streams.give_up()
    place.sink.expect(errors.STREAM_BROKEN)
    place.is_over(errors.STREAM_BROKEN)


def test_a_silent_stream_of_events_is_kept_alive_by_comments() -> None:
    place = Place(RULES._replace(idle_timeout_ns=100 * S, max_duration_ns=200 * S))
    place.sent("text/event-stream")
    place.items(0, b"1")
    before = place.sink.data
    place.passes(COMMENT_NS + LOOK_NS)
    assert place.sink.data == before + b":\n\n"


# ---- slow clients


def test_credit_goes_back_while_the_client_takes_everything(place: Place) -> None:
    place.sent()
    place.items(0, b"1" * 100)
    place.items(1, b"1" * 200)
    assert place.store.credits == [size_of(b"1" * 100), size_of(b"1" * 200)]
    assert place.stream.credit == BUFFER


def test_a_client_that_is_behind_gets_credit_when_it_has_caught_up(place: Place) -> None:
    place.sent()
    place.sink.takes = False
    place.items(0, b"1" * 600)
    place.items(1, b"1" * 600)
    assert place.store.credits == []
    assert place.stream.credit < 0
    place.passes(9 * S)
    place.sink.takes = True
    place.streams.writable(place.token)
    assert place.store.credits == [2 * size_of(b"1" * 600)]
    assert place.stream.credit == BUFFER
    place.passes(2 * S)
    assert not place.sink.ended, "the silence was not the fault of the service"
    place.end(2)
    place.is_over(errors.ANSWERED)


def test_a_client_that_stays_behind_by_the_whole_buffer_is_cut_off(place: Place) -> None:
    place.sent()
    place.sink.takes = False
    place.items(0, b"1" * BUFFER)
    place.passes(SLOW_NS + LOOK_NS)
    assert place.sink.ended == "aborted"
    place.is_over(errors.SLOW_READER)


def test_a_client_that_is_behind_by_less_is_not(place: Place) -> None:
    place.sent()
    place.sink.takes = False
    for number in range(8):
        place.items(number, b"1")
        place.passes(2 * S)
    assert not place.sink.ended


# ---- who leaves


def test_the_service_is_told_that_the_client_has_left(place: Place) -> None:
    place.sent()
    place.items(0, b"1")
    raw = place.stream.raw
    place.exchange.cancel(place.token)
    place.is_over(errors.CANCELLED)
    (record,) = place.cancels
    assert (record.topic, record.partition, record.headers) == ("orders", 2, [("cancel", raw)])
    assert record.value
    assert not place.sink.ended


def test_the_cancel_record_waits_until_it_is_known_where_the_request_is(place: Place) -> None:
    place.open()
    place.stream.on_following(100)
    place.exchange.cancel(place.token)
    assert place.cancels == []
    place.exchange.delivered(place.token, place.now_ns, 3)
    assert [record.partition for record in place.cancels] == [3]
    place.is_over(errors.CANCELLED)


def test_a_route_without_cancel_tells_nobody() -> None:
    place = Place(RULES._replace(cancels=False))
    place.sent()
    place.exchange.cancel(place.token)
    assert place.cancels == []
    place.is_over(errors.CANCELLED)


def test_what_the_log_has_lost_is_told(place: Place) -> None:
    place.sent()
    place.items(0, b"1")
    place.stream.on_follow_end("overtaken")
    place.sink.expect(errors.OVERTAKEN)
    place.is_over(errors.OVERTAKEN)


def test_a_drain_lets_streams_go_on_to_its_end(place: Place) -> None:
    place.sent()
    place.items(0, b"1")
    place.exchange.drain()
    place.items(1, b"2")
    assert not place.sink.ended
    place.exchange.end_all("the gateway is shutting down")
    place.sink.expect(errors.STREAM_BROKEN)
    place.is_over(errors.STREAM_BROKEN)


def test_a_drain_refuses_what_was_not_sent(place: Place) -> None:
    place.open()
    place.exchange.drain()
    place.sink.expect(errors.DRAINING)
    place.is_over(errors.DRAINING)


# ---- clients that come back


RESUMING = RULES._replace(resumes=True)
EVENTS = "text/event-stream"


@pytest.fixture
def lasting() -> Place:
    """A route whose streams can be resumed; a stream has sent two items, and its client has left."""
    place = Place(RESUMING)
    place.sent(EVENTS)
    place.items(0, b"1", b"2")
    return place


def test_each_event_has_an_id_and_a_client_that_leaves_cancels_nothing(lasting: Place) -> None:
    first, second = lasting.sink.ids
    assert (first.rpartition(".")[2], second.rpartition(".")[2]) == ("0", "1")
    assert first.rpartition(".")[0] == second.rpartition(".")[0]
    lasting.exchange.cancel(lasting.token)
    lasting.is_over(errors.CANCELLED)
    assert lasting.cancels == []


def test_lines_have_no_positions(lasting: Place) -> None:
    lasting.exchange.cancel(lasting.token)
    lasting.sent("application/x-ndjson")
    lasting.offset = 100
    lasting.items(0, b"1")
    lasting.exchange.cancel(lasting.token)
    assert len(lasting.cancels) == 1, "such a client cannot come back"


def test_a_client_that_comes_back_gets_the_rest_and_nothing_is_sent_for_it(lasting: Place) -> None:
    before = len(lasting.house.send.records)
    came_with = lasting.sink.ids[0]
    lasting.exchange.cancel(lasting.token)
    lasting.comes_back(came_with)
    assert lasting.store.asked[-1] == (100, BUFFER), "from the record with the last item on"
    assert lasting.exchange.in_flight == 0
    lasting.offset = 100
    lasting.items(0, b"1", b"2")
    assert lasting.sink.data == f"id: {came_with[:-1]}1\ndata: 2\n\n".encode()
    lasting.items(2, b"3")
    lasting.end(3)
    assert lasting.sink.ended == "complete"
    assert [one.rpartition(".")[2] for one in lasting.sink.ids] == ["1", "2", "3"]
    assert len(lasting.house.send.records) == before
    assert lasting.counted(errors.ANSWERED) == 1
    assert len(lasting.streams.resumed) == 0
    assert lasting.store.followers == {}


@pytest.mark.parametrize("fails", [False, True])
def test_who_has_seen_the_end_is_told_to_stop(lasting: Place, fails: bool) -> None:
    end = [*streams.end_headers(A, not fails, 2), *([("status", b"500")] if fails else [])]
    lasting.comes((end, b""))
    last, offset = lasting.sink.ids[-1], lasting.offset - 1
    lasting.comes_back(last)
    lasting.offset = offset
    lasting.comes((end, b""))
    status, _, body = lasting.sink.whole
    assert (status, body) == (204, b"")
    assert len(lasting.streams.resumed) == 0


def test_who_has_seen_the_last_item_but_not_the_end_gets_the_end(lasting: Place) -> None:
    last_item = lasting.sink.ids[-1]
    lasting.exchange.cancel(lasting.token)
    lasting.comes_back(last_item)
    lasting.offset = 100
    lasting.items(0, b"1", b"2")
    assert lasting.sink.head is None
    lasting.end(2)
    assert b"event: end" in lasting.sink.data
    assert lasting.sink.ended == "complete"


def test_who_has_seen_the_end_and_has_got_a_head_meanwhile_asks_once_more(lasting: Place) -> None:
    """The store has started again, and delivers the end later than the head may wait."""
    lasting.end(2)
    lasting.comes_back(lasting.sink.ids[-1])
    lasting.passes(2 * S)
    assert lasting.sink.head is not None
    lasting.offset = 101
    lasting.end(2)
    assert lasting.sink.data.endswith(b"retry: 1000\n\n")
    assert lasting.sink.ended == "complete"
    assert len(lasting.streams.resumed) == 0


def test_who_comes_back_between_the_last_item_and_a_failure_gets_the_failure(lasting: Place) -> None:
    """Within the stream, as everybody after the first item: `EventSource` gives up on any status but 200."""
    came_with = lasting.sink.ids[-1]
    lasting.exchange.cancel(lasting.token)
    lasting.comes_back(came_with)
    lasting.offset = 100
    lasting.items(0, b"1", b"2")
    headers = [*streams.end_headers(A, False, 2), ("status", b"409"), ("content-type", b"application/problem+json")]
    lasting.comes((headers, b'{"title":"out of tea"}'))
    assert lasting.sink.head is not None
    assert lasting.sink.head[0] == 200
    assert b'event: error\ndata: {"title":"out of tea"}\n\n' in lasting.sink.data
    assert lasting.sink.ids[-1].endswith(".101.2")
    assert lasting.sink.ended == "complete"


def test_items_in_the_record_of_the_end_have_their_own_positions(lasting: Place) -> None:
    end = [*streams.items_headers(A, 2, 2), ("stream_end", b"ok"), ("stream_total", b"4")]
    lasting.comes((end, b"3\n4"))
    third, fourth, last = lasting.sink.ids[-3:]
    for came_with, gets in ((third, [b"data: 4", b"event: end"]), (fourth, [b"event: end"]), (last, None)):
        lasting.comes_back(came_with)
        lasting.offset = 101
        lasting.comes((end, b"3\n4"))
        if gets is None:
            assert lasting.sink.whole[0] == 204
        else:
            wanted = [line for line in lasting.sink.data.splitlines() if line in (b"data: 4", b"event: end")]
            assert wanted == gets


@pytest.mark.parametrize(
    "spoil", [lambda one: one[:-6] + "AA.0.0", lambda _: "x" * 10_000, lambda _: "\x00", str.upper]
)
def test_an_id_that_is_none_makes_the_client_forget_it(lasting: Place, spoil) -> None:
    lasting.comes_back(spoil(lasting.sink.ids[0]))
    status, headers, body = lasting.sink.whole
    assert (status, dict(headers)["content-type"]) == (200, EVENTS)
    assert body.startswith(b"id:\nevent: resync\n")
    assert lasting.counted(errors.MALFORMED) == 1
    assert lasting.token == REFUSED


def test_an_id_of_another_time_topic_or_route_makes_the_client_forget_it(lasting: Place) -> None:
    came_with = lasting.sink.ids[0]
    lasting.exchange.cancel(lasting.token)
    lasting.store.streams = StreamTopic(bytes(16), 8, [1])
    lasting.comes_back(came_with)
    assert b"event: resync" in lasting.sink.whole[2]
    lasting.store.streams = StreamTopic(TOPIC_ID, 8, [1])
    lasting.now_ns += 20 * S + 61 * S
    lasting.comes_back(came_with)
    assert b"event: resync" in lasting.sink.whole[2]
    assert lasting.counted(errors.OVERTAKEN) == 2


@pytest.mark.parametrize(
    ("secrets", "route"), [(SECRETS, "POST /other"), (Secrets([b"a secret of another gateway, 32 bytes"]), "POST /o")]
)
def test_an_id_of_another_route_or_gateway_is_forgotten_and_stops_nothing(
    lasting: Place, secrets: Secrets, route: str
) -> None:
    expires_ms = EPOCH_MS + 60_000
    token = seal_stream(secrets, StreamToken(lasting.stream.raw, TOPIC_ID, 4, 100, 2, route, "", expires_ms))
    lasting.comes_back(f"{token}.100.0")
    assert b"event: resync" in lasting.sink.whole[2]
    assert lasting.stops(f"{token}.100.0")[0] == 400
    assert lasting.counted(errors.MALFORMED) == 2
    assert lasting.cancels == []


def test_who_cannot_be_served_now_comes_back_later(lasting: Place) -> None:
    came_with = lasting.sink.ids[0]
    lasting.store.streams = None
    lasting.comes_back(came_with)
    assert (lasting.sink.whole[0], lasting.sink.whole[2]) == (200, b"retry: 1000\n\n")
    lasting.store.streams = StreamTopic(TOPIC_ID, 8, [])
    for _ in range(3):
        lasting.comes_back(came_with)
    assert lasting.sink.whole[2] == b"retry: 1000\n\n"
    assert lasting.counted(errors.WATCH_CAP) == 1
    assert len(lasting.streams.resumed) == 2


def test_what_the_log_has_lost_cannot_be_resumed(lasting: Place) -> None:
    came_with = lasting.sink.ids[0]
    lasting.exchange.cancel(lasting.token)
    lasting.comes_back(came_with)
    lasting.stream.on_follow_end("overtaken")
    assert lasting.sink.whole[2].startswith(b"id:\nevent: resync\n")
    lasting.comes_back(came_with)
    lasting.offset = 100
    lasting.items(0, b"1", b"2")
    lasting.stream.on_follow_end("overtaken")
    assert b"id:\nevent: resync\n" in lasting.sink.data
    assert lasting.sink.ended == "complete"


def test_who_comes_back_while_the_store_serves_too_many_waits(lasting: Place) -> None:
    lasting.comes_back(lasting.sink.ids[0])
    resumed = lasting.token
    assert lasting.store.followers[lasting.store.numbers].is_replay
    lasting.store.followers[lasting.store.numbers].on_follow_end(REPLAY_CAP)
    assert (lasting.sink.whole[0], lasting.sink.whole[2]) == (200, b"retry: 1000\n\n")
    assert lasting.counted(errors.REPLAY_CAP) == 1
    assert not lasting.streams.has_begun(resumed)
    assert len(lasting.streams.resumed) == 0


def test_a_replay_that_was_accepted_is_none_after_a_restart_of_the_store(lasting: Place) -> None:
    lasting.comes_back(lasting.sink.ids[0])
    follower = lasting.store.followers[lasting.store.numbers]
    follower.on_following(100)
    assert not follower.is_replay


@pytest.mark.parametrize("has_got_on", [True, False])
def test_who_needs_too_much_of_the_log_gets_on_or_begins_anew(lasting: Place, has_got_on: bool) -> None:
    came_with = lasting.sink.ids[0]
    lasting.exchange.cancel(lasting.token)
    lasting.comes_back(came_with)
    if has_got_on:
        lasting.offset = 100
        lasting.items(0, b"1", b"2")
    lasting.stream.on_follow_end(SCAN_CAP)
    if has_got_on:
        assert lasting.sink.data.endswith(b"retry: 1000\n\n")
        assert lasting.counted(errors.REPLAY_CAP) == 1
    else:
        assert lasting.sink.whole[2].startswith(b"id:\nevent: resync\n")
        assert b"max_scan_bytes" in lasting.sink.whole[2]
        assert lasting.counted(errors.OVERTAKEN) == 1


def test_who_comes_back_to_a_worker_that_drains_goes_to_another_one(lasting: Place) -> None:
    lasting.streams.resumed.drain()
    lasting.comes_back(lasting.sink.ids[0])
    assert lasting.sink.whole[2] == b"retry: 1000\n\n"
    assert lasting.counted(errors.DRAINING) == 1


# ---- clients that stop a stream


def test_a_stream_is_stopped_with_the_id_of_any_of_its_events(lasting: Place) -> None:
    for event_id in lasting.sink.ids:
        assert lasting.stops(event_id)[:2] == (204, [("fastgw-outcome", "recorded")])
    assert [(one.topic, one.partition, one.headers) for one in lasting.cancels] == [
        ("orders", 2, [("cancel", lasting.stream.raw)])
    ] * len(lasting.sink.ids)
    assert lasting.counted(errors.ANSWERED) == 2
    assert lasting.exchange.in_flight == 1, "the stream ends when its service has stopped"


@pytest.mark.parametrize(
    "spoil", [lambda one: one[:-6] + "AA.0.0", lambda _: "x" * 10_000, lambda _: "\x00", str.upper, lambda _: ""]
)
def test_an_id_that_is_none_stops_nothing(lasting: Place, spoil) -> None:
    status, _, body = lasting.stops(spoil(lasting.sink.ids[0]))
    assert (status, orjson.loads(body)["type"]) == (400, "urn:fastgw:problem:malformed")
    assert lasting.cancels == []


def test_a_stream_whose_time_is_over_is_not_stopped(lasting: Place) -> None:
    lasting.now_ns += 20 * S + 61 * S
    assert lasting.stops(lasting.sink.ids[0])[0] == 410
    assert lasting.cancels == []


def test_a_stop_that_cannot_be_sent_is_told(lasting: Place) -> None:
    lasting.takes_cancels = False
    status, _, body = lasting.stops(lasting.sink.ids[0])
    assert (status, orjson.loads(body)["type"]) == (503, "urn:fastgw:problem:queue_full")


def test_ids_made_before_the_delivery_report_cannot_stop_and_later_ones_can(place: Place) -> None:
    place = Place(RESUMING)
    place.open(EVENTS)
    place.stream.on_following(100)
    place.items(0, b"1")
    place.exchange.delivered(place.token, place.now_ns, 2)
    place.items(1, b"2")
    early, late = place.sink.ids
    status, _, body = place.stops(early)
    assert (status, orjson.loads(body)["type"]) == (503, "urn:fastgw:problem:not_sent")
    assert place.cancels == []
    assert place.stops(late)[0] == 204


def test_a_drain_sends_clients_away_that_can_come_back(lasting: Place) -> None:
    lasting.exchange.drain()
    assert lasting.sink.data.endswith(b"retry: 1000\n\n")
    assert lasting.sink.ended == "complete"
    lasting.is_over(errors.ANSWERED)
    lasting.comes_back(lasting.sink.ids[0])
    lasting.offset = 100
    lasting.items(0, b"1", b"2")
    lasting.streams.resumed.drain()
    assert lasting.sink.data.endswith(b"retry: 1000\n\n")
    assert len(lasting.streams.resumed) == 0


def test_a_resumed_stream_ends_as_others_do(lasting: Place) -> None:
    came_with = lasting.sink.ids[0]
    lasting.exchange.cancel(lasting.token)
    lasting.comes_back(came_with)
    lasting.passes(2 * S)
    assert lasting.sink.head[0] == 200, "the head does not wait for ever"
    lasting.passes(2 * S)
    assert b"stream_idle" in lasting.sink.data
    assert lasting.counted(errors.STREAM_IDLE) == 1
    lasting.comes_back(came_with)
    lasting.streams.resumed.cancel(lasting.token)
    lasting.streams.resumed.cancel(lasting.token)
    assert lasting.counted(errors.CANCELLED) == 2
    assert (len(lasting.streams.resumed), lasting.store.followers) == (0, {})


def test_a_slow_client_that_could_come_back_is_not_cut_off() -> None:
    place = Place(RESUMING._replace(max_duration_ns=60 * S))
    place.sent(EVENTS)
    place.sink.takes = False
    place.items(0, b"1" * BUFFER)
    place.passes(2 * SLOW_NS)
    assert not place.sink.ended
