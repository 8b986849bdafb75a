"""What each format makes of the items of a stream, judged by parsers that know nothing of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw import errors, problem
from fastgw.http.stream_formats import (
    EVENT_STREAM,
    JSON,
    JSONL,
    NDJSON,
    BadItems,
    EventStream,
    JsonArray,
    JsonLines,
    RawBytes,
)
from tests.http.event_source import Dispatched, read

PROBLEM = problem.answer(errors.EXPIRED, "no item came within 30 s", b"00000000-0000-8000-8000-000000000001")[2]
OUTCOME = "recorded"

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
# Records of one or more items. JSON may have a CR between its tokens, which is no line end in a payload.
RECORDS = st.lists(st.lists(VALUES, min_size=1, max_size=4), max_size=5)
SPACED = {"separators": (",\r", " : ")}
STYLES = st.sampled_from([{}, SPACED])


def encoded(stream_format, records, style, id_prefix=b""):
    """The items of all records, in the format."""
    out, index = b"", 0
    for values in records:
        payload = "\n".join(json.dumps(value, ensure_ascii=False, **style) for value in values).encode()
        out += stream_format.items(payload, len(values), index, id_prefix)
        index += len(values)
    return out, [value for values in records for value in values]


@given(RECORDS, STYLES, st.booleans())
def test_events(records, style, has_ids):
    stream = EventStream(retry_ms=2000, event_id=b"t.0.start" if has_ids else None)
    body, values = encoded(stream, records, style, b"t.9." if has_ids else b"")
    parser = read(stream.first() + body + stream.comment() + stream.end(len(values), OUTCOME, b"t.end"))
    *items, end = parser.events
    assert [json.loads(event.data) for event in items] == values
    assert [event.last_event_id for event in items] == [f"t.9.{at}" if has_ids else "" for at in range(len(values))]
    assert {event.type for event in items} <= {"message"}
    assert (end.type, end.last_event_id) == ("end", "t.end")
    assert json.loads(end.data) == {"end": True, "items": len(values), "outcome": OUTCOME}
    assert (parser.reconnection_ms, parser.comments) == (2000, 1)


@given(RECORDS, STYLES, st.sampled_from([NDJSON, JSONL]), st.booleans(), st.booleans())
def test_lines(records, style, media_type, end_line, is_late):
    """A space before the first value, for which the head did not wait, is nothing to a parser of JSON."""
    stream = JsonLines(media_type, end_line)
    body, values = encoded(stream, records, style)
    body = (stream.first() if is_late else b"") + body + stream.end(len(values), OUTCOME)
    lines = [line for line in body.split(b"\n") if line.strip()]
    ends = [{"fastgw": {"end": True, "items": len(values), "outcome": OUTCOME}}] if end_line else []
    assert [json.loads(line) for line in lines] == values + ends
    assert body.endswith(b"\n") or not body.strip()


@given(RECORDS, STYLES)
def test_an_array(records, style):
    stream = JsonArray()
    body, values = encoded(stream, records, style)
    assert json.loads(stream.first() + body + stream.end(len(values), OUTCOME)) == values
    if values:
        with pytest.raises(ValueError, match="Expecting"):  # a client that stops early does not get an array
            json.loads(stream.first() + body)


def test_an_empty_stream():
    assert JsonArray().first() + JsonArray().end(0, OUTCOME) == b"[]\n"
    assert JsonLines().end(0, OUTCOME) == b""
    assert read(EventStream().first() + EventStream().end(0, OUTCOME)).events[0].type == "end"
    assert RawBytes("text/csv").first() + RawBytes("text/csv").end(0, OUTCOME) == b""


def test_bytes_pass_as_they_are():
    assert RawBytes("text/csv").items(b"a,b\n\r\n\0", 1, 7, b"t.") == b"a,b\n\r\n\0"


# Failures.


def test_a_failure_is_an_event():
    stream = EventStream()
    parser = read(stream.items(b"1\n2", 2, 0, b"t.") + stream.error(PROBLEM, OUTCOME, b"t.end"))
    assert parser.events[-1] == Dispatched("error", PROBLEM.decode(), "t.end")
    assert read(stream.error(PROBLEM, OUTCOME)).last_event_id == ""


def test_a_failure_is_a_line_even_if_success_is_not():
    stream = JsonLines()
    body = stream.items(b"1\n2", 2, 5) + stream.error(PROBLEM, OUTCOME)
    told = {"end": True, "items": 7, "outcome": OUTCOME, "problem": json.loads(PROBLEM)}
    assert [json.loads(line) for line in body.splitlines()] == [1, 2, {"fastgw": told}]


def test_a_failure_is_not_in_an_array_nor_among_bytes():
    assert JsonArray().error(PROBLEM, OUTCOME) is None
    assert RawBytes("text/csv").error(PROBLEM, OUTCOME) is None


def test_resync_makes_a_client_begin_anew():
    parser = read(EventStream().items(b"1", 1, 0, b"t.") + EventStream().resync(PROBLEM))
    assert parser.events[-1].type == "resync"
    assert parser.last_event_id == ""


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (b'{"status":\n 500}', {"status": 500}),
        (b"it\nbroke", "it\nbroke"),
        (b'"\xff"', "\N{REPLACEMENT CHARACTER}"),
        (b"", ""),
    ],
)
def test_whatever_a_service_says_about_its_failure_stays_in_one_line(document, told):
    line = JsonLines().error(document, OUTCOME)
    assert line is not None
    assert line.index(b"\n") == len(line) - 1
    assert json.loads(line)["fastgw"]["problem"] == told


@pytest.mark.parametrize("make", [EventStream, JsonLines, JsonArray])
@pytest.mark.parametrize(
    ("payload", "count"),
    [(b"1\n2", 1), (b"1\n2", 3), (b"1", 2), (b"", 1), (b"\n1", 2), (b"1\n", 2), (b"1\n\n2", 3)],
)
def test_a_record_whose_count_is_wrong_or_that_has_an_empty_item_is_refused_and_changes_nothing(make, payload, count):
    stream, other = make(), make()
    with pytest.raises(BadItems, match="expected"):
        stream.items(payload, count, 0)
    assert stream.items(b"3", 1, 0) == other.items(b"3", 1, 0)
    assert stream.error(PROBLEM, OUTCOME) == other.error(PROBLEM, OUTCOME)


# Heads.


@pytest.mark.parametrize(
    ("stream", "content_type"),
    [
        (EventStream(), EVENT_STREAM),
        (JsonLines(), NDJSON),
        (JsonLines(JSONL), JSONL),
        (JsonArray(), JSON),
        (RawBytes("text/csv"), "text/csv"),
    ],
)
def test_heads_ask_everybody_on_the_way_to_pass_on_what_they_have(stream, content_type):
    headers = dict(stream.head_headers())
    assert headers.pop("content-type") == content_type
    assert headers.pop("vary", None) == (None if content_type == "text/csv" else "accept")
    assert headers == {
        "incremental": "?1",
        "x-accel-buffering": "no",
        "cache-control": "no-cache, no-transform",
    }


def test_something_is_sent_with_the_head():
    assert EventStream().first() == b":\n\n"
    assert EventStream(2000, b"t.0").first() == b"retry: 2000\n\nid: t.0\n\n"
    assert JsonLines().first() == b" "
    assert EventStream().first(is_followed=True) == JsonLines().first(is_followed=True) == b""
    assert JsonArray().first() == JsonArray().first(is_followed=True) == b"["


def test_only_event_streams_have_comments():
    assert [make.comment() for make in (EventStream(), JsonLines(), JsonArray(), RawBytes("a/b"))] == [
        b":\n\n",
        b"",
        b"",
        b"",
    ]
    assert [make.has_events for make in (EventStream, JsonLines, JsonArray, RawBytes)] == [True, False, False, False]
