"""Streamed answers, with the real table and exchange; Kafka, the store, the client and the clock are played."""

from __future__ import annotations

import orjson
import pytest

from fastgw import errors, ids
from fastgw.admission import STREAM, Admission
from fastgw.core.exchange import REFUSED
from fastgw.core.plan import StreamRules
from fastgw.core.streams import COMMENT_NS, LOOK_NS, SLOW_NS, Stream, Streams
from fastgw.dialects import streams
from fastgw.dialects.plain import RequestWire
from fastgw.followed import LIVE, StreamTopic, size_of
from fastgw.ids import IdMaker, ReplyTopic
from fastgw.messages import HeaderList, Record
from fastgw.worker.stream_routes import encoder_of
from tests.core.test_exchange import HEAD, MS, House

S = 1000 * MS
EPOCH_MS = 1_800_000_000_000
BUFFER = 1000
RULES = StreamRules(True, 1 * S, 3 * S, 20 * S, BUFFER, True, True)
A, B = b"a", b"b"  # attempts


class FakeStore:
    """The store of the node, as a worker's link shows it."""

    def __init__(self) -> None:
        self.streams: StreamTopic | None = StreamTopic(8, [1, 4])
        self.followers: dict[int, Stream] = {}
        self.asked: list[tuple[int, int]] = []  # position and credit of each follow
        self.credits: list[int] = []
        self.numbers = 0

    def follow(self, follower: Stream) -> int:
        self.numbers += 1
        self.followers[self.numbers] = follower
        self.asked.append((follower.position, follower.credit))
        return self.numbers

    def unfollow(self, number: int) -> None:
        self.followers.pop(number, None)

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
        assert not self.ended
        self.data += data
        return self.takes

    def end(self, data: bytes = b"") -> None:
        self.write(data)
        self.ended = "complete"

    def abort(self) -> None:
        assert not self.ended
        self.ended = "aborted"

    @property
    def lines(self) -> list[bytes]:
        return self.data.lstrip().splitlines()

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
        self.streams = Streams(
            self.exchange,
            self.store,
            IdMaker(1, 0, 0, ReplyTopic.STREAMS),
            turn=1,
            slots=slots,
            encoder=encoder_of,
            send_untracked=self.take_cancel,
            journal=self.house.journal,
            clock_ns=lambda: self.now_ns,
        )
        self.sink = FakeSink()
        self.token = REFUSED
        self.offset = 100

    def take_cancel(self, record: Record) -> bool:
        self.cancels.append(record)
        return True

    def open(self, media_type: str = "application/x-ndjson", timeout_ns: int = 5 * S) -> None:
        """A request; the store does not follow it yet."""
        admission = Admission(0, "POST", "/o", "", (), HEAD, 2, timeout_ns)
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

    def counted(self, ending: errors.Ending) -> int:
        return self.house.table.endings(0)[ending.number]

    def is_over(self, ending: errors.Ending) -> None:
        """The request has ended in this way, and nothing is left of it."""
        assert self.counted(ending) == 1
        assert len(self.streams) == self.exchange.in_flight == self.plan.in_flight == 0
        assert self.store.followers == {}


@pytest.fixture
def place() -> Place:
    return Place()


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
        (StreamTopic(8, []), errors.STORE_RESTORING),
        (StreamTopic(0, []), errors.STORE_RESTORING),
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
    assert place.house.journal.broken[0][0] == "record of a stream not handled"
    place.is_over(errors.BAD_ITEM)


# ---- deadlines


def test_after_the_head_the_first_item_has_the_time_of_the_route(place: Place) -> None:
    place.sent()
    place.passes(4900 * MS)
    assert not place.sink.ended
    place.passes(200 * MS)
    place.sink.expect(errors.EXPIRED)
    place.is_over(errors.EXPIRED)


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
