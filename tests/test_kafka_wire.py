"""Requests as records, and replies as HTTP answers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw import kafka_wire
from fastgw.kafka_wire import (
    HOPS,
    REMEMBERED_MAX,
    BadReply,
    ReplyWire,
    RequestWire,
    decode_reply,
    has_hopped,
    unwrapped,
)
from fastgw.messages import Head, Reply

ID = b"00000000-0000-8000-8000-000000000000"


class FakeHeaders(dict[str, str]):
    """Request headers as a front has them."""

    def get_all(self, key: str) -> Sequence[str]:
        return [self[key]] if key in self else []


class FakeMessage:
    """A record as a Kafka client hands it over."""

    def __init__(self, key=ID, value=b"body", headers=None):
        self._fields = key, value, headers

    def key(self):
        return self._fields[0]

    def value(self):
        return self._fields[1]

    def headers(self):
        return self._fields[2]

    def partition(self):
        return 6

    def offset(self):
        return 42


def request_headers(path="/orders/7", query="", params=(("id", "7"),), copied=("x-tenant",), **http):
    wire = RequestWire("shop.replies", "/orders/{id}", ["GET"], copied)
    head = Head("GET", path, query, FakeHeaders(http), ["shop.test"], None, False, True)
    return dict(wire.headers(ID, 6, 1_700_000_000_123, "GET", path, query, params, head))


LARGEST = 20_000  # bytes of a reply


def reply(headers=(), value=b"{}"):
    return Reply(ID, 6, 42, list(headers), value)


def test_a_request_record_carries_the_headers_of_the_plain_dialect():
    assert request_headers(query="a=b&c") == {
        "correlation_id": ID,
        "reply_to": b"shop.replies",
        "reply_partition": b"6",
        "deadline": b"1700000000123",
        "http_method": b"GET",
        "http_path": b"/orders/7",
        "http_query": b"a=b&c",
        "http_route": b"/orders/{id}",
        "http_param_id": b"7",
    }


def test_only_listed_http_headers_are_copied_and_trace_headers_always():
    headers = request_headers(
        **{"x-tenant": "blue", "authorization": "secret", "cookie": "secret", "traceparent": "00-1-2-01",
           "content-type": "application/json"}
    )  # fmt: skip
    assert headers["http_header_x-tenant"] == b"blue"
    assert headers["traceparent"] == b"00-1-2-01"
    assert headers["content-type"] == b"application/json"
    assert not [name for name in headers if "authorization" in name or "cookie" in name]


def test_authorization_is_copied_where_the_route_lists_it():
    assert request_headers(copied=("authorization",), authorization="Bearer x")["http_header_authorization"] == (
        b"Bearer x"
    )


def test_what_is_not_plain_ascii_in_a_path_is_percent_encoded():
    headers = request_headers(path="/orders/ключ 1%", params=(("id", "ключ 1%"),))
    assert headers["http_param_id"] == b"%D0%BA%D0%BB%D1%8E%D1%87%201%25"
    assert headers["http_path"] == b"/orders/%D0%BA%D0%BB%D1%8E%D1%87%201%25"


@given(st.text(), st.text())
def test_every_header_value_is_printable_ascii(value, query):
    for text in request_headers(path="/orders/" + value, query=query, params=(("id", value),)).values():
        assert text.isascii()
        assert b"\r" not in text.replace(query.encode("ascii", "replace"), b"") or "\r" in query


def test_the_correlation_id_comes_from_the_header_first_then_from_the_key():
    assert decode_reply(FakeMessage(key=b"other", headers=[("correlation_id", ID)])).correlation_id == ID
    assert decode_reply(FakeMessage(key=ID, headers=[])).correlation_id == ID
    assert decode_reply(FakeMessage(key=ID.decode())).correlation_id == ID
    assert decode_reply(FakeMessage(key=None)).correlation_id == b""


def test_the_header_that_carried_the_correlation_id_is_not_among_the_others():
    headers = [("status", b"201"), ("correlation_id", ID), ("correlation_id", b"a second one"), ("note", None)]
    decoded = decode_reply(FakeMessage(headers=headers))
    assert (decoded.correlation_id, decoded.headers) == (ID, [("status", b"201"), ("note", b"")])


def test_a_route_may_show_the_correlation_id():
    wire = ReplyWire(["correlation_id"], LARGEST)
    for correlation_id in (ID, ID[::-1]):
        _, headers, _ = wire.answer(reply()._replace(correlation_id=correlation_id))
        assert dict(headers)["correlation_id"] == correlation_id.decode()


def test_an_absent_value_is_an_empty_body():
    assert decode_reply(FakeMessage(value=None)).value == b""


@pytest.mark.parametrize("wrapped", [b'"' + ID + b'"', b"\x00\x00\x00\x00\x07" + ID, ID])
def test_what_serdes_put_around_a_key_is_taken_off(wrapped):
    assert unwrapped(wrapped) == ID


@pytest.mark.parametrize(("headers", "hopped"), [([], False), ([("status", b"200")], False), ([(HOPS, b"1")], True)])
def test_a_reply_that_was_sent_on_says_so(headers, hopped):
    assert has_hopped(decode_reply(FakeMessage(headers=headers))) is hopped


def test_a_reply_without_headers_is_200_json():
    assert ReplyWire((), LARGEST).answer(reply()) == (
        200,
        [("fastgw-outcome", "recorded"), ("content-type", "application/json")],
        b"{}",
    )


def test_status_content_type_and_listed_headers_come_from_the_reply():
    headers = [("status", b"201"), ("Content-Type", b"text/plain"), ("Location", b"/orders/7"), ("x-secret", b"1")]
    status, http_headers, _ = ReplyWire({"location"}, LARGEST).answer(reply(headers))
    assert status == 201
    assert http_headers == [("fastgw-outcome", "recorded"), ("location", "/orders/7"), ("content-type", "text/plain")]


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_a_status_without_body_sends_none(status):
    assert ReplyWire((), LARGEST).answer(reply([("status", status)]))[2] == b""


@pytest.mark.parametrize(
    "status", [b"", b"99", b"100", b"101", b"199", b"600", b"1000", b"2OO", b" 200", b"\xb2\xb2\xb2"]
)
def test_a_status_that_no_front_could_send_is_a_bad_reply(status):
    with pytest.raises(BadReply, match="200 to 599"):
        ReplyWire((), LARGEST).answer(reply([("status", status)]))


def test_a_reply_above_the_limit_is_a_bad_one():
    wire = ReplyWire((), 10)
    assert wire.answer(reply(value=b"x" * 10))[2] == b"x" * 10
    with pytest.raises(BadReply, match="at most 10 bytes, got 11"):
        wire.answer(reply(value=b"x" * 11))


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: x=1", b"a\nb", b"\x00", b"\xff"])
@pytest.mark.parametrize("name", ["content-type", "x-note"])
def test_a_value_that_could_inject_a_header_is_a_bad_reply(name, value):
    with pytest.raises(BadReply, match=name):
        ReplyWire({"x-note"}, LARGEST).answer(reply([(name, value)]))


@pytest.mark.parametrize("name", sorted(kafka_wire.HOP_BY_HOP))
def test_hop_by_hop_headers_are_dropped_even_when_listed(name):
    assert name not in dict(ReplyWire({name}, LARGEST).answer(reply([(name, b"1")]))[1])


def test_what_is_remembered_of_replies_is_bounded_and_changes_no_answer():
    wire = ReplyWire(["x-note"], LARGEST)
    for turn in range(2):
        for number in range(2 * REMEMBERED_MAX):
            status, headers, body = wire.answer(reply([("x-note", b"%d" % number), ("status", b"202")], b"%d" % turn))
            assert (status, dict(headers)["x-note"], body) == (202, str(number), b"%d" % turn)
            assert 0 < wire.remembered <= REMEMBERED_MAX
    before = wire.remembered
    for size in (10_000, 10_001):
        wire.answer(reply([("x-note", b"x" * size)]))
        assert wire.remembered == before


@given(st.lists(st.tuples(st.text(max_size=12), st.binary(max_size=30)), max_size=6))
def test_whatever_a_reply_carries_the_answer_is_sendable_or_refused(headers):
    try:
        status, http_headers, _ = ReplyWire((name.lower() for name, _ in headers), LARGEST).answer(reply(headers))
    except BadReply:
        return
    assert 200 <= status <= 599
    for name, value in http_headers:
        assert name.isascii()
        assert value.isascii()
        assert not set("\r\n\0") & set(name + value)
