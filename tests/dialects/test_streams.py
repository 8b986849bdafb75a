"""Records of streams: what they mean, and which of them count."""

from __future__ import annotations

import re
from collections.abc import Iterable

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastgw.dialects import streams
from fastgw.dialects.streams import INDEX_MAX, PLAIN, BadItem, Beat, Decoded, End, Gap, Items, StreamOrder
from fastgw.messages import Reply

A, B = b"a", b"b"  # attempts
SECOND = 1_000_000_000


def reply(value: bytes = b"", **headers: str | bytes) -> Reply:
    told = [(name, each.encode() if isinstance(each, str) else each) for name, each in headers.items()]
    return Reply(b"id", 0, 0, told, value)


def decode(value: bytes = b"", is_json: bool = True, **headers: str | bytes) -> Decoded:
    return streams.decode(reply(value, **headers), is_json)


def items(seq: int, *values: object, attempt: bytes = A) -> Items:
    return Items(attempt, seq, len(values), b"\n".join(map(orjson.dumps, values)))


def end(total: int, attempt: bytes = A, last: Items | None = None) -> End:
    return End(attempt, True, total, last, 200, b"", b"")


def failed_end(total: int, attempt: bytes = A) -> End:
    return End(attempt, False, total, None, 500, b"", b"problem")


# ---- decoding ------------------------------------------------------------------------------------------------------


def test_items_are_read_as_they_are_written() -> None:
    headers = [("content-type", b"application/x-ndjson"), *streams.items_headers(b"a", 7, 2)]
    assert streams.decode(Reply(b"id", 0, 0, headers, b'{"a":1}\n2'), True) == Items(A, 7, 2, b'{"a":1}\n2')


def test_a_record_of_bytes_is_one_item() -> None:
    assert decode(b"a\nb\xff", is_json=False, stream_attempt="a", stream_seq="0") == Items(A, 0, 1, b"a\nb\xff")
    with pytest.raises(BadItem, match="one item in a record of bytes"):
        decode(b"a\nb", is_json=False, stream_attempt="a", stream_seq="0", stream_count="2")


def test_a_beat_is_read_as_it_is_written() -> None:
    assert streams.decode(Reply(b"id", 0, 0, streams.beat_headers(A, 5000), b""), True) == Beat(A, 5000)


def test_an_end_is_read_as_it_is_written() -> None:
    assert streams.decode(Reply(b"id", 0, 0, streams.end_headers(A, True, 3), b""), True) == end(3)


def test_a_failed_end_has_a_status_and_a_body() -> None:
    headers = [("status", b"503"), ("content-type", b"application/problem+json"), *streams.end_headers(A, False, 3)]
    told = streams.decode(Reply(b"id", 0, 0, headers, b"{}"), True)
    assert told == End(A, False, 3, None, 503, b"application/problem+json", b"{}")
    assert decode(b"{}", stream_attempt="a", stream_end="error") == End(A, False, -1, None, 500, b"", b"{}")


def test_an_end_may_hold_the_last_items() -> None:
    headers = {"stream_attempt": "a", "stream_end": "ok", "stream_seq": "3", "stream_count": "2", "stream_total": "5"}
    assert decode(b"1\n2", **headers) == end(5, last=items(3, 1, 2))
    with pytest.raises(BadItem, match="that of the last items, 5, got 6"):
        decode(b"1\n2", **(headers | {"stream_total": "6"}))


@pytest.mark.parametrize(
    "headers",
    [{}, {"status": "500"}, {"stream_until": "1", "reply_kind": "stream", "cancel": "x"}, {"stream_seq": ""}],
    ids=["none", "others", "those of a request", "empty"],
)
def test_a_record_without_headers_of_streams_is_an_ordinary_reply(headers: dict[str, str]) -> None:
    assert decode(b"x", **headers) is PLAIN


def test_names_of_headers_may_be_in_any_case() -> None:
    assert decode(b"1", Stream_Attempt="a", STREAM_SEQ="0") == items(0, 1)


QUOTED = {  # as some clients write every header (Spring's, with `encodeStrings`)
    "items": (b"1\n2", {"stream_attempt": '"a"', "stream_seq": '"0"', "stream_count": '"2"'}, items(0, 1, 2)),
    "items, seq alone": (b"1", {"stream_attempt": "a", "stream_seq": '"0"'}, items(0, 1)),
    "items, count alone": (b"1\n2", {"stream_attempt": "a", "stream_seq": "0", "stream_count": '"2"'}, items(0, 1, 2)),
    "items, attempt alone": (b"1", {"stream_attempt": '"a"', "stream_seq": "0"}, items(0, 1)),
    "a beat": (b"", {"stream_attempt": '"a"', "stream_beat": '"5000"'}, Beat(A, 5000)),
    "an end": (b"", {"stream_attempt": '"a"', "stream_end": '"ok"', "stream_total": '"3"'}, end(3)),
    "an end without items": (
        b"",
        {"stream_attempt": "a", "stream_end": '"ok"', "stream_count": '"0"', "stream_total": "3"},
        end(3),
    ),
    "a failed end": (
        b"{}",
        {"stream_attempt": '"a"', "stream_end": '"error"', "status": '"503"', "content-type": '"application/json"'},
        End(A, False, -1, None, 503, b"application/json", b"{}"),
    ),
    "space around": (b"1", {"stream_attempt": " a", "stream_seq": ' "0" '}, items(0, 1)),
    "the same twice, once bare": (
        b"1",
        {"stream_attempt": '"a"', "Stream_Attempt": "a", "stream_seq": "0"},
        items(0, 1),
    ),
}


@pytest.mark.parametrize(("value", "headers", "means"), QUOTED.values(), ids=QUOTED)
def test_json_quotes_around_a_header_are_taken_off(value: bytes, headers: dict[str, str], means: Decoded) -> None:
    assert decode(value, **headers) == means


@pytest.mark.parametrize("empty", ['""', " ", '" "'])
def test_a_header_with_nothing_in_its_quotes_counts_as_absent(empty: str) -> None:
    assert decode(b"x", stream_seq=empty) is PLAIN


NUMBERS = [
    "",
    "-1",
    "+1",
    "1 1",
    "01",
    '"01"',
    '"1',
    '"-1"',
    "0x1",
    "1.0",
    "1e3",
    "1_0",
    "²",
    "\u0661",
    "9" * 40,
    str(INDEX_MAX + 1),
]


@pytest.mark.parametrize("number", NUMBERS[1:])
@pytest.mark.parametrize("name", ["stream_seq", "stream_count", "stream_beat", "stream_total"])
def test_a_number_that_is_not_one_is_refused(name: str, number: str) -> None:
    headers = {"stream_attempt": "a", "stream_seq": "0"}
    if name == "stream_total":
        headers = {"stream_attempt": "a", "stream_end": "ok"}
    elif name == "stream_beat":
        headers = {"stream_attempt": "a"}
    with pytest.raises(BadItem, match=f"expected '{name}'"):
        decode(b"1", **(headers | {name: number}))


@pytest.mark.parametrize(
    ("headers", "value", "says"),
    [
        ({"stream_attempt": None}, b"1", "'stream_attempt' with 1 to 64 bytes, got 0"),
        ({"stream_attempt": "x" * 65}, b"1", "got 65"),
        ({"stream_seq": None}, b"1", "one of 'stream_seq', 'stream_beat' and 'stream_end', got stream_attempt"),
        ({"stream_beat": "5"}, b"1", "got stream_attempt, stream_beat, stream_seq"),
        ({"stream_beat": "5", "stream_end": "ok"}, b"1", "got stream_attempt, stream_beat, stream_end, stream_seq"),
        ({"stream_seq": None, "stream_beat": "0"}, b"", "at least 1 ms"),
        ({"stream_count": "0"}, b"1", "'stream_count' of 1 to"),
        ({"stream_count": "2"}, b"1", "2 lines ('stream_count'), got 1"),
        ({}, b"1\n2", "1 lines ('stream_count'), got 2"),
        ({"stream_seq": str(INDEX_MAX)}, b"1", "got 1"),
        ({}, b"", "JSON in line 1 of 1, got b''"),
        ({"stream_count": "2"}, b"1\n{", "JSON in line 2 of 2, got b'{'"),
        ({"stream_count": "2"}, b"[1\n2]", "JSON in line 1 of 2"),
        ({}, b'"\xff"', "JSON in UTF-8, got b'\\xff\"'"),
        ({}, b'"\t"', "JSON in line 1"),
        ({}, b"1 2", "JSON in line 1"),
        ({}, b"NaN", "JSON in line 1"),
        ({"stream_seq": None, "stream_end": "OK", "stream_total": "0"}, b"", "'ok' or 'error', got b'OK'"),
        ({"stream_seq": None, "stream_end": "ok"}, b"", "expected 'stream_total'"),
        ({"stream_seq": None, "stream_end": "ok", "stream_total": "0"}, b"1", "no value at an end without items"),
        ({"stream_seq": None, "stream_end": "error", "status": "200"}, b"", "'status' of 400 to 599"),
        ({"stream_seq": None, "stream_end": "error", "status": "six"}, b"", "'status' of 400 to 599"),
    ],
)
def test_a_record_that_breaks_a_rule_is_refused(headers: dict[str, str | None], value: bytes, says: str) -> None:
    told = {"stream_attempt": "a", "stream_seq": "0"} | headers
    with pytest.raises(BadItem) as raised:
        decode(value, **{name: each for name, each in told.items() if each is not None})
    assert says in str(raised.value)


def test_a_header_that_contradicts_itself_is_refused() -> None:
    twice = [("stream_attempt", A), ("stream_seq", b"0"), ("Stream_Seq", b"1")]
    with pytest.raises(BadItem, match="one header 'stream_seq', got b'0' and b'1'"):
        streams.decode(Reply(b"id", 0, 0, twice, b"1"), True)


NAMES = [*sorted(streams.OF_REPLIES), "status", "content-type"]
JSON_LIKE = st.text('[]{}",:0123456789.eE+-truefalsn \\u', max_size=12).map(str.encode)
VALUES = st.one_of(st.sampled_from([b"0", b"1", b"2", b"ok", b"error", b"200", b"500"]), st.binary(max_size=20))


@given(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=8), st.binary() | st.just(b"1\n2"), st.booleans())
def test_whatever_a_record_holds_it_is_decoded_or_refused(
    headers: list[tuple[str, bytes]], value: bytes, is_json: bool
) -> None:
    try:
        decoded = streams.decode(Reply(b"id", 0, 0, headers, value), is_json)
    except BadItem:
        return
    if isinstance(decoded, Items) and is_json:
        assert len([orjson.loads(line) for line in decoded.payload.split(b"\n")]) == decoded.count


@given(st.binary(max_size=12) | st.text(max_size=12).map(str.encode) | JSON_LIKE)
def test_json_is_what_a_parser_takes(value: bytes) -> None:
    assume(not re.search(rb"[eE]\+?\d{3}", value))  # the parser refuses numbers above 1e308, which JSON allows
    assume(b"\n" not in value)  # it divides items: a text with one is not judged as a whole
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        with pytest.raises(BadItem):
            decode(value, stream_attempt="a", stream_seq="0")
    else:
        decode(value, stream_attempt="a", stream_seq="0")


def test_the_head_of_an_answer_is_made_without_headers_of_streams() -> None:
    headers = [("status", b"201"), ("Stream_Seq", b"0"), ("stream_attempt", A), ("etag", b'"1"')]
    assert streams.without_stream_headers(headers) == [("status", b"201"), ("etag", b'"1"')]


def test_a_cancel_record_is_no_request_and_no_tombstone() -> None:
    headers, value = streams.cancel_record(b"id")
    assert headers == [("cancel", b"id")]
    assert value


# ---- order ---------------------------------------------------------------------------------------------------------


class Reader:
    """Reads a log with one `StreamOrder`, and goes back at a gap as a follow does."""

    def __init__(self, order: StreamOrder | None = None) -> None:
        self.order = order or StreamOrder()
        self.seen: list[int] = []
        self.ending: End | None = None
        self.gaps = 0

    def take(self, record: Decoded, offset: int = 0, now_ns: int = 0) -> object:
        new = self.order.accept(record, offset, now_ns)
        if isinstance(new, Gap):
            self.gaps += 1
        if isinstance(new, End):
            assert self.ending is None, "a stream ends once"
            self.ending = new
        held = new.items if isinstance(new, End) else new
        if isinstance(held, Items):
            assert self.ending is None or new is self.ending
            self.seen += map(orjson.loads, held.payload.split(b"\n"))
        return new

    def take_all(self, records: Iterable[Decoded]) -> Reader:
        for offset, record in enumerate(records):
            self.take(record, offset)
        return self


def test_items_in_order_are_a_stream() -> None:
    reader = Reader().take_all([items(0, 0, 1), items(2, 2), end(3)])
    assert reader.seen == [0, 1, 2]
    assert reader.ending == end(3)
    assert reader.order.accepted_offset == 2


def test_items_that_were_seen_are_skipped_also_in_part() -> None:
    order = StreamOrder()
    assert order.accept(items(0, 0, 1, 2), 5, 0) == items(0, 0, 1, 2)
    assert order.accept(items(1, 1, 2), 6, 0) is None
    assert order.accepted_offset == 5
    assert order.accept(items(1, 1, 2, 3, 4), 7, 0) == items(3, 3, 4)
    assert (order.next_seq, order.accepted_offset) == (5, 7)


def test_a_gap_changes_nothing() -> None:
    order = StreamOrder()
    order.accept(items(0, 0), 5, 0)
    assert order.accept(items(2, 2), 6, 0) == Gap(1, 2)
    assert (order.next_seq, order.accepted_offset) == (1, 5)
    assert order.accept(items(1, 1), 6, 0) == items(1, 1)


def test_items_that_are_missing_at_the_end_are_a_gap() -> None:
    order = StreamOrder()
    order.accept(items(0, 0), 5, 0)
    assert order.accept(end(3), 7, 0) == Gap(1, 3)
    assert order.accept(failed_end(2), 7, 0) == Gap(1, 2)
    assert not order.is_ended
    assert order.accept(items(1, 1, 2), 6, 0) == items(1, 1, 2)
    assert order.accept(end(3), 7, 0) == end(3)
    assert order.is_ended


def test_an_end_with_fewer_items_than_there_were_is_a_lie() -> None:
    order = StreamOrder()
    order.accept(items(0, 0, 1), 0, 0)
    with pytest.raises(BadItem, match="at least the 2 items before it, got 1"):
        order.accept(end(1), 1, 0)
    assert order.accept(failed_end(1), 1, 0) == failed_end(1), "an error ends the stream in any case"


def test_an_end_may_bring_the_last_items() -> None:
    reader = Reader().take_all([items(0, 0, 1), end(3, last=items(1, 1, 2))])
    assert reader.seen == [0, 1, 2]
    assert reader.ending == end(3, last=items(2, 2))


def test_nothing_counts_after_the_end() -> None:
    reader = Reader().take_all([items(0, 0), end(1), end(1), items(1, 1), failed_end(1), PLAIN])
    assert (reader.seen, reader.ending) == ([0], end(1))


def test_other_attempts_are_ignored() -> None:
    reader = Reader().take_all([items(0, 0), items(0, 9, attempt=B), end(1, B), items(1, 1), PLAIN, end(2)])
    assert (reader.seen, reader.ending) == ([0, 1], end(2))


def test_a_stream_without_items_belongs_to_the_attempt_that_ends_it() -> None:
    assert Reader().take_all([end(0, B), items(0, 0)]).ending == end(0, B)


def test_an_ordinary_reply_before_the_first_item_is_the_answer() -> None:
    order = StreamOrder()
    assert order.accept(Beat(A, 5), 0, 0) is None
    assert order.accept(PLAIN, 1, 0) is PLAIN
    assert order.is_ended
    assert order.accept(items(0, 0), 2, 0) is None


def test_a_resumed_stream_begins_within_its_record() -> None:
    order = StreamOrder(next_seq=2)
    assert order.accept(items(0, 0, 1, 2), 5, 0) == items(2, 2)
    assert order.accept(items(3, 3, attempt=B), 6, 0) is None
    assert order.accept(PLAIN, 7, 0) is None


def test_three_missed_beats_are_the_end_of_an_attempt() -> None:
    order = StreamOrder()
    assert not order.is_lost(100 * SECOND), "without a beat none is missed"
    order.accept(items(0, 0), 0, 0)
    order.accept(Beat(A, 5000), 1, 10 * SECOND)
    order.accept(Beat(B, 60_000), 2, 11 * SECOND)
    assert order.lost_at_ns == 25 * SECOND
    assert not order.is_lost(25 * SECOND - 1)
    assert order.is_lost(25 * SECOND)
    order.accept(items(1, 1), 3, 20 * SECOND)
    assert order.lost_at_ns == 35 * SECOND, "an item says as much as a beat"
    order.accept(items(0, 9, attempt=B), 4, 30 * SECOND)
    assert order.is_lost(35 * SECOND)
    order.accept(end(2), 5, 36 * SECOND)
    assert not order.is_lost(100 * SECOND)


def test_an_attempt_that_only_beat_may_be_replaced() -> None:
    """A service that dies before its first item leaves its request to another process."""
    reader = Reader()
    reader.take(Beat(A, 5000), 0, 0)
    assert reader.order.is_lost(15 * SECOND)
    reader.take(items(0, 0, attempt=B), 1, 16 * SECOND)
    assert not reader.order.is_lost(100 * SECOND), "nobody promised beats of this attempt"
    reader.take(Beat(A, 5000), 2, 16 * SECOND)
    assert not reader.order.is_lost(100 * SECOND)
    reader.take(end(1, B), 3, 17 * SECOND)
    assert reader.seen == [0]


# ---- order: whatever happens to the records ------------------------------------------------------------------------


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[int, list[Decoded]]:
    """A stream of items 0 to n - 1 in records of any size that may overlap those before."""
    total = draw(st.integers(0, 12))
    records: list[Decoded] = []
    done = 0
    while done < total:
        first = draw(st.integers(max(0, done - 3), done))
        last = draw(st.integers(done + 1, total))
        records.append(items(first, *range(first, last)))
        done = last
    return total, [*records, end(total)]


STRANGERS = st.sampled_from([items(0, 90, 91, attempt=B), items(7, 97, attempt=B), end(0, B), Beat(A, 5000), PLAIN])


@given(cut_streams(), st.data())
def test_what_is_seen_is_always_the_beginning_of_the_stream(
    stream: tuple[int, list[Decoded]], data: st.DataObject
) -> None:
    """Records in any order, any number of times."""
    total, records = stream
    heard = data.draw(st.lists(st.sampled_from(records), max_size=30))
    reader = Reader().take_all(heard)
    assert reader.seen == list(range(len(reader.seen)))
    if reader.ending is not None:
        assert len(reader.seen) == total


@given(cut_streams(), st.data())
def test_repeated_and_strange_records_change_nothing(stream: tuple[int, list[Decoded]], data: st.DataObject) -> None:
    total, records = stream
    heard: list[Decoded] = []
    for number, record in enumerate(records):
        heard.append(record)
        heard += data.draw(st.lists(st.sampled_from(records[: number + 1]), max_size=3))
        heard += data.draw(st.lists(STRANGERS, max_size=2))
    reader = Reader().take_all(heard)
    assert reader.seen == list(range(total))
    assert reader.ending == end(total)
    assert reader.gaps == 0


@given(cut_streams(), st.data())
def test_whoever_goes_back_at_a_gap_misses_nothing(stream: tuple[int, list[Decoded]], data: st.DataObject) -> None:
    """Live records get lost; the log has them all."""
    total, log = stream
    lost = data.draw(st.sets(st.integers(0, len(log) - 2))) if len(log) > 1 else set()
    reader, offset = Reader(), 0
    while offset < len(log):
        new = None if offset in lost else reader.take(log[offset], offset)
        offset += 1
        if isinstance(new, Gap):
            lost = set()  # from here on the log is read
            offset = max(reader.order.accepted_offset, 0)
    assert reader.seen == list(range(total))
    assert reader.ending == end(total)
