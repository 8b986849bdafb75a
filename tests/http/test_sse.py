"""Server-sent events, judged by a parser that was written from the standard."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http import sse
from tests.http.event_source import Dispatched, read

TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=30) | st.text(alphabet="a:\r\n \ufeff", max_size=12)
ONE_LINE = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=12)


def with_lf(text: str) -> str:
    """What is left of the line ends of a text in an event stream."""
    return re.sub("\r\n|\r", "\n", text)


@given(TEXTS, ONE_LINE | st.just(""), ONE_LINE | st.none() | st.just(""))
def test_an_event_comes_out_as_it_was_put_in(data, name, event_id):
    event = sse.event(data.encode(), name.encode(), None if event_id is None else event_id.encode())
    parser = read(sse.event(b"before", event_id=b"0") + event)
    position = "0" if event_id is None else event_id
    expected = [Dispatched(name or "message", with_lf(data), position)] if data else []
    assert parser.events == [Dispatched("message", "before", "0"), *expected]
    assert parser.last_event_id == position


@given(st.lists(ONE_LINE, max_size=6), st.integers(0, 10**12), st.sampled_from([b"", b"token.17."]))
def test_each_item_is_one_message_with_its_id(items, first_index, prefix):
    parser = read(sse.messages([item.encode() for item in items], first_index, prefix))
    ids = [f"{prefix.decode()}{first_index + at}" if prefix else "" for at in range(len(items))]
    assert parser.events == [Dispatched("message", item, id_) for item, id_ in zip(items, ids, strict=True)]


@pytest.mark.parametrize("data", [b"a\nb", b"a\rb", b"a\r\nb"])
def test_each_kind_of_line_end_begins_a_data_line(data):
    assert sse.event(data) == b"data: a\ndata: b\n\n"


def test_the_bytes_of_an_event():
    assert sse.event(b'{"a": 1}', b"error", b"t.1") == b'id: t.1\nevent: error\ndata: {"a": 1}\n\n'
    assert sse.event(b"", event_id=b"t.1") == b"id: t.1\n\n", "moves the position and dispatches nothing"
    assert sse.event(b"x", b"resync", b"") == b"id:\nevent: resync\ndata: x\n\n"


def test_an_empty_id_makes_the_client_forget_its_position():
    assert read(sse.event(b"a", event_id=b"7") + sse.event(b"b", b"resync", b"")).last_event_id == ""


def test_retry_and_comments_are_no_events():
    parser = read(sse.retry(5000) + sse.COMMENT)
    assert (parser.events, parser.reconnection_ms, parser.comments) == ([], 5000, 1)
