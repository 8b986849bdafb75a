"""Requests as records, and replies as HTTP answers."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote, unquote_plus, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw import header_names
from fastgw.dialects import BadReply
from fastgw.dialects.plain import (
    HOPS,
    REMEMBERED_MAX,
    REMEMBERED_TOGETHER_MAX,
    REPRESENTATION,
    Memory,
    ReplyWire,
    RequestWire,
    decode_reply,
    has_hopped,
    status_of,
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
    head = Head("GET", path, query, FakeHeaders(http), ["shop.test"], None, False)
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
        "http_client_address": b"unix:",
        "http_scheme": b"http",
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


def test_what_says_how_a_body_is_to_be_read_travels_with_it():
    sent = {
        "content-type": "text/plain", "content-encoding": "gzip", "content-language": "de", "content-location": "/a",
        "content-disposition": "inline", "content-range": "bytes 0-1/2", "content-digest": "sha-256=:x:",
        "repr-digest": "sha-256=:y:",
    }  # fmt: skip
    headers = request_headers(**sent, **{"content-length": "2", "content-other": "x"})
    assert {name: value.decode() for name, value in headers.items() if name.startswith(("content-", "repr-"))} == sent


@pytest.mark.parametrize("connection", ["x-tenant", "close, X-TENANT", "keep-alive,\tx-tenant ,traceparent"])
def test_a_header_that_connection_names_is_not_forwarded(connection):
    headers = request_headers(**{"x-tenant": "blue", "content-type": "a/b", "connection": connection})
    assert "http_header_x-tenant" not in headers
    assert headers["content-type"] == b"a/b"


@pytest.mark.parametrize("connection", ["close", "keep-alive", "Upgrade, HTTP2-Settings", "", "x-ten"])
def test_what_connection_does_not_name_is_forwarded(connection):
    assert "http_header_x-tenant" in request_headers(**{"x-tenant": "blue", "connection": connection})


def test_authorization_is_copied_where_the_route_lists_it():
    assert request_headers(copied=("authorization",), authorization="Bearer x")["http_header_authorization"] == (
        b"Bearer x"
    )


@pytest.mark.parametrize(
    ("sent", "on_record"),
    [
        ("a+b", b"a%2Bb"),
        ("a%2Bb", b"a%2Bb"),
        ("a%2fb", b"a%2Fb"),
        ("%41%7e%2d", b"A~-"),
        ("%20%25%2525", b"%20%25%2525"),
        ("%D0%ba", b"%D0%BA"),
        ("%ff%0d%0A", b"%FF%0D%0A"),
        ("!$&'()*,;=:@", b"!$&'()*,;=:@"),
        ('"<>[]^`{|}' + "\\", b"%22%3C%3E%5B%5D%5E%60%7B%7C%7D%5C"),
    ],
)
def test_a_path_is_percent_encoded_so_that_every_decoder_agrees(sent, on_record):
    headers = request_headers(path="/orders/" + sent, params=(("id", sent),))
    assert headers["http_param_id"] == on_record
    assert headers["http_path"] == b"/orders/" + on_record
    assert unquote_to_bytes(on_record) == unquote_to_bytes(sent)
    assert unquote_plus(on_record.decode(), "latin-1") == unquote(sent, "latin-1"), "as Java's URLDecoder does it"


def test_a_path_of_our_own_is_encoded_like_any_other():
    wire = RequestWire("shop.replies", "/a+b", ["GET"], ())
    head = Head("GET", "/a+b", "", FakeHeaders(), ["shop.test"], None, False)
    assert dict(wire.headers(ID, 6, 0, "GET", "/a+b", "", (), head))["http_path"] == b"/a%2Bb"


PATH_TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126))


@given(PATH_TEXT, PATH_TEXT)
def test_every_header_of_a_request_is_printable_ascii(value, query):
    for text in request_headers(path="/orders/" + value, query=query, params=(("id", value),)).values():
        assert text.isascii()
        assert text.decode().isprintable()


def test_a_header_value_is_on_the_record_byte_by_byte():
    assert request_headers(**{"x-tenant": "bl\xfc\xe9"})["http_header_x-tenant"] == b"bl\xfc\xe9"


OTHER = b"ffffffff-0000-8000-8000-000000000000"


@pytest.mark.parametrize(
    ("key", "headers", "found"),
    [
        (ID, [], ID),
        (ID.decode(), [], ID),
        (ID, [("correlation_id", OTHER)], ID),  # the key was chosen for this reply, headers are copied along
        (ID, [("correlation_id", b"the service's own")], ID),
        (b"customer 7", [("correlation_id", ID)], ID),
        (b"550e8400-e29b-41d4-a716-446655440000", [("correlation_id", ID)], ID),
        (None, [("Correlation_ID", ID)], ID),
        (None, [("correlation_id", b"the service's own"), ("correlation_id", ID)], ID),
        (None, [("correlation_id", None), ("correlation_id", b""), ("correlation_id", ID)], ID),
        (None, [("correlation_id", b'"' + ID + b'"')], ID),
        (OTHER.upper(), [], OTHER),
        (None, [("correlation_id", b"none"), ("correlation_id", b"of ours")], b"none"),
        (b"none", [], b"none"),
        (None, [], b""),
        (None, None, b""),
    ],
)
def test_the_correlation_id_is_the_key_if_that_is_one_and_else_the_first_header_that_is(key, headers, found):
    assert decode_reply(FakeMessage(key=key, headers=headers)).correlation_id == found


def test_headers_for_the_correlation_id_are_not_among_the_others():
    headers = [("status", b"201"), ("Correlation_Id", ID), ("correlation_id", b"a second one"), ("note", None)]
    decoded = decode_reply(FakeMessage(headers=headers))
    assert (decoded.correlation_id, decoded.headers) == (ID, [("status", b"201"), ("note", b"")])


def test_a_route_may_show_the_correlation_id():
    wire = ReplyWire(["correlation_id"], LARGEST)
    for correlation_id in (ID, ID[::-1]):
        _, headers, _ = wire.answer(reply()._replace(correlation_id=correlation_id))
        assert dict(headers)["correlation_id"] == correlation_id.decode()


def test_an_absent_value_is_an_empty_body():
    assert decode_reply(FakeMessage(value=None)).value == b""


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


@pytest.mark.parametrize("status", [b"204", b"205", b"304"])
def test_an_answer_that_ends_with_its_headers_has_no_content_and_says_nothing_about_it(status):
    about = [(name, b"x") for name in sorted(REPRESENTATION)]
    _, headers, body = ReplyWire((), LARGEST).answer(reply([("status", status), *about], b"content"))
    assert body == b""
    assert {name for name, _ in headers} == {
        "fastgw-outcome", "content-location", "etag", "last-modified", "repr-digest",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "told"), [([], []), ([("content-type", b"text/css")], [("content-type", "text/css")])]
)
def test_an_answer_without_content_gets_no_content_type_that_its_service_did_not_send(given, told):
    wire = ReplyWire((), LARGEST)
    for _ in range(2):  # the second time from memory
        assert wire.answer(reply(given, b"")) == (200, [("fastgw-outcome", "recorded"), *told], b"")
        with_content = dict(wire.answer(reply(given, b"{}"))[1])
        assert with_content["content-type"] == dict(told or [("content-type", "application/json")])["content-type"]


@pytest.mark.parametrize(
    "status",
    [b"99", b"100", b"101", b"199", b"600", b"1000", b"2OO", b"20 0", b"200 OK", b"\xb2\xb2\xb2", b'"', b'"2"01"'],
)
def test_a_status_that_no_front_could_send_is_a_bad_reply(status):
    with pytest.raises(BadReply, match="200 to 599"):
        ReplyWire((), LARGEST).answer(reply([("status", status)]))


@pytest.mark.parametrize("name", ["stream_seq", "Stream_Beat", "stream_end"])
def test_a_part_of_a_stream_is_no_whole_answer(name):
    headers = [("status", b"200"), (name, b"0")]
    with pytest.raises(BadReply, match="a part of a stream"):
        ReplyWire((), LARGEST).answer(reply(headers))
    with pytest.raises(BadReply, match="a part of a stream"):
        status_of(headers)
    for empty in (b"", b'""'):  # in JSON quotes, too: `dialects.streams` counts both as absent
        assert ReplyWire((), LARGEST).answer(reply([(name, empty)]))[0] == status_of([(name, empty)]) == 200


def test_a_reply_above_the_limit_is_a_bad_one():
    wire = ReplyWire((), 10)
    assert wire.answer(reply(value=b"x" * 10))[2] == b"x" * 10
    with pytest.raises(BadReply, match="at most 10 bytes, got 11"):
        wire.answer(reply(value=b"x" * 11))


def test_reply_headers_above_the_limit_are_a_bad_reply():
    wire = ReplyWire({"x-a", "x-b"}, LARGEST, 50)
    assert len(wire.answer(reply([("x-a", b"1" * 36), ("x-b", b""), ("other", b"1" * 10_000)], b""))[1]) == 2
    assert wire.answer(reply([("x-a", b"1" * 43)], b""))[0] == 200
    for headers in ([("x-a", b"1" * 44)], [("x-a", b"1"), ("x-b", b"1" * 36)], [("etag", b"1" * 44)]):
        with pytest.raises(BadReply, match=r"at most 50 bytes \(limits.max_reply_headers\), got 5"):
            wire.answer(reply(headers, b""))


@pytest.mark.parametrize("value", ["ключ".encode(), b"\xff\x80", "café".encode("latin-1")])
def test_obs_text_passes_byte_for_byte(value):
    told = dict(ReplyWire({"x-note"}, LARGEST).answer(reply([("x-note", value), ("content-type", value)]))[1])
    assert told["x-note"].encode("latin-1") == told["content-type"].encode("latin-1") == value


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: x=1", b"a\nb", b"\x00", b"\x7f"])
@pytest.mark.parametrize("name", ["content-type", "x-note", "etag"])
def test_a_value_that_could_inject_a_header_is_a_bad_reply(name, value):
    with pytest.raises(BadReply, match=name):
        ReplyWire({"x-note"}, LARGEST).answer(reply([(name, value)]))


def test_what_json_quotes_hide_is_looked_at_as_well():
    for value in (b'"a\\r\\nset-cookie: x=1"', b'"a\\u0000"'):
        with pytest.raises(BadReply, match="content-type"):
            ReplyWire((), LARGEST).answer(reply([("content-type", value)]))
        assert dict(ReplyWire({"x-note"}, LARGEST).answer(reply([("x-note", value)]))[1])["x-note"] == value.decode()


@pytest.mark.parametrize("name", sorted(header_names.OF_THE_GATEWAY))
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


def test_what_all_routes_remember_together_is_bounded_as_well_and_none_is_left_without():
    memory = Memory()
    wires = [ReplyWire(["x-note"], LARGEST, memory=memory) for _ in range(40)]
    for number in range(REMEMBERED_MAX):
        for wire in wires:
            for value in (b"{}", b""):
                status, headers, _ = wire.answer(reply([("x-note", b"%d" % number)], value))
                assert (status, dict(headers)["x-note"]) == (200, str(number))
    assert memory.kinds == sum(wire.remembered for wire in wires) <= REMEMBERED_TOGETHER_MAX + len(wires)
    assert memory.kinds > REMEMBERED_TOGETHER_MAX / 2
    assert all(wire.remembered for wire in wires)


@given(st.lists(st.tuples(st.text(max_size=12), st.binary(max_size=30)), max_size=6))
def test_whatever_a_reply_carries_the_answer_is_sendable_or_refused(headers):
    try:
        status, http_headers, _ = ReplyWire((name.lower() for name, _ in headers), LARGEST).answer(reply(headers))
    except BadReply:
        return
    assert 200 <= status <= 599
    for name, value in http_headers:
        assert name.isascii()
        assert not set("\r\n\0") & set(name + value)
        value.encode("latin-1")
