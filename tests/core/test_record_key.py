"""Where a record's key comes from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.core.record_key import key_of
from fastgw.errors import KeyMissing
from fastgw.forwarding import Forwarding
from fastgw.messages import Head, Peer

PARAMS = (("id", "7"), ("shop", "blue"), ("odd", "a%2Fb+%ff"))


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ("path.id", b"7"),
        ("path.shop", b"blue"),
        ("path.odd", b"a/b+\xff"),
        ("header.x-tenant", b"t1"),
        ("header.x-obs", b"\xfc"),
        ("body./customer", b"c9"),
        ("body./deep/list/1/n", b"42"),
        ("body./a~1b", b"slash"),
        ("body./t~0", b"tilde"),
        ("body./name", "Юля".encode()),
    ],
)
def test_a_key_is_found(spec, key):
    body = '{"customer":"c9","deep":{"list":[0,{"n":42}]},"a/b":"slash","t~":"tilde","name":"Юля"}'.encode()
    assert key_of(spec)({"x-tenant": "t1", "x-obs": "\xfc"}, PARAMS, body) == key


@pytest.mark.parametrize("spec", ["header.x-real-ip", "header.x-forwarded-for", "header.x_real_ip"])
def test_a_client_cannot_choose_the_key_of_another(spec):
    lies = {"x-real-ip": "6.6.6.6", "x_real_ip": "6.6.6.6", "x-forwarded-for": "6.6.6.6"}
    lines = SimpleNamespace(get_all=lambda name: [lies[name]] if name in lies else [])
    head = Head("GET", "/", "", lines, ("shop.test",), None, False, Peer("192.0.2.7", 1, "http"))
    assert key_of(spec)(head, (), b"") == b"192.0.2.7"
    head.client = Forwarding(("192.0.2.7",), "x-forwarded").client_of(head)
    assert key_of(spec)(head, (), b"") == {"header.x-forwarded-for": b"6.6.6.6, 192.0.2.7"}.get(spec, b"6.6.6.6")


def head(**lines: list[str]) -> Head:
    named = {name.replace("_", "-"): values for name, values in lines.items()}
    return Head("GET", "/", "", SimpleNamespace(get_all=lambda name: named.get(name, [])), (), None, False)


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (["a", "b"], b"a, b"),
        (["", "a"], b"a"),
        (["a", ""], b"a"),
        (["", "a", "", "b", ""], b"a, b"),
        (["a", "a"], b"a, a"),
        (["\xfc", "b"], b"\xfc, b"),
    ],
)
def test_all_lines_of_a_header_are_its_key_and_an_empty_one_hides_nothing(lines, key):
    assert key_of("header.x-tenant")(head(x_tenant=lines), (), b"") == key


@pytest.mark.parametrize("lines", [[], [""], ["", ""]])
def test_empty_lines_are_no_key(lines):
    with pytest.raises(KeyMissing):
        key_of("header.x-tenant")(head(x_tenant=lines), (), b"")


@pytest.mark.parametrize("connection", [["x-tenant"], ["keep-alive, X-Tenant"], ["keep-alive", "x-tenant"]])
def test_a_header_that_connection_names_is_no_key(connection):
    """It is for the next hop alone (RFC 9110, 7.6.1), and not on the record either."""
    with pytest.raises(KeyMissing, match="expected a string or number"):
        key_of("header.x-tenant")(head(x_tenant=["t1"], connection=connection), (), b"")
    assert key_of("header.x-tenant")(head(x_tenant=["t1"], connection=["keep-alive, x-tenan"]), (), b"") == b"t1"


def test_no_setting_means_no_key():
    assert key_of("") is None


@pytest.mark.parametrize(
    ("spec", "body"),
    [
        ("header.x-other", b"{}"),
        ("body./missing", b"{}"),
        ("body./a", b'{"a":null}'),
        ("body./a", b'{"a":{"b":1}}'),
        ("body./a", b'{"a":true}'),
        ("body./a/0", b'{"a":[]}'),
        ("body./a", b"not json"),
        ("body./a", b""),
    ],
)
def test_a_key_that_is_not_there_is_said_to_be_missing(spec, body):
    with pytest.raises(KeyMissing, match="expected a string or number"):
        key_of(spec)({}, PARAMS, body)


@pytest.mark.parametrize(
    "written",
    ["18446744073709551617", "18446744073709551618", "1", "1.0", "-0", "0", "1e3", "1E+3", "1000", "0.10", "1" * 5000],
)
@pytest.mark.parametrize("body", ['{"id":%s}', ' {"a":[1],\n"id" :\t%s , "b":{}}\r\n'])
def test_a_number_is_a_key_exactly_as_it_is_written(written, body):
    assert key_of("body./id")({}, (), (body % written).encode()) == written.encode()


@pytest.mark.parametrize(
    ("written", "key"),
    [
        (r'"\u0041\/\"\\"', b'A/"\\'),
        (r'"\ud83d\ude00"', "\N{GRINNING FACE}".encode()),
        ('"\N{GRINNING FACE}"', "\N{GRINNING FACE}".encode()),
        (r'"\u0000"', b"\0"),
        ('" "', b" "),
        ('"1"', b"1"),
    ],
)
def test_a_string_is_the_text_that_it_stands_for(written, key):
    assert key_of("body./id")({}, (), f'{{"id":{written}}}'.encode()) == key


@pytest.mark.parametrize(
    ("spec", "body", "got"),
    [
        ("body./id", b'{"id":""}', "empty"),
        ("body./id", b'{"id":true}', "true"),
        ("body./id", b'{"id":false}', "false"),
        ("body./id", b'{"id":null}', "null"),
        ("body./id", b'{"id":{}}', "an object"),
        ("body./id", b'{"id":[1]}', "an array"),
        ("body./id", b'{"id":NaN}', "not JSON"),
        ("body./id", b'{"id":Infinity}', "not JSON"),
        ("body./id", b'{"id":01}', "not JSON"),
        ("body./id", b'{"id":1.}', "not JSON"),
        ("body./id", b'{"id":"\xff"}', "not JSON"),
        ("body./id", rb'{"id":"\ud800"}', "not JSON"),
        ("body./id", b'{"id":1} and more', "not JSON"),
        ("body./id", b'{"id":1', "not JSON"),
        ("body./id", b'{"id":1,"b":oops}', "not JSON"),
        ("body./id", b'{"b":' + b"[" * 100_000, "not JSON"),
        ("body./id", '{"id":1}'.encode("utf-16"), "not JSON"),
        ("body./id", b"oops", "not JSON"),
        ("body./id", b"17", "no value"),
        ("body./0", b'"text"', "no value"),
        ("body./01", b"[1,2]", "no value"),
        ("body./-", b"[1,2]", "no value"),
        ("body./2", b"[1,2]", "no value"),
        ("body./\u0661", b"[1,2]", "no value"),
    ],
)
def test_what_is_no_key_is_told(spec, body, got):
    with pytest.raises(KeyMissing, match=got):
        key_of(spec)({}, (), body)


@pytest.mark.parametrize(("params", "headers"), [((("id", ""),), {"x-id": ""}), ((), {})])
def test_an_empty_text_is_no_key_in_path_and_header_either(params, headers):
    for spec in ("path.id", "header.x-id"):
        with pytest.raises(KeyMissing, match="empty"):
            key_of(spec)(headers, params, b"")


def test_a_headers_key_is_the_bytes_that_came():
    assert key_of("header.x-id")({"x-id": "caf\xe9, \xff"}, (), b"") == b"caf\xe9, \xff"


def test_of_members_with_one_name_the_last_one_is_meant():
    assert key_of("body./a/id")({}, (), b'{"a":{"id":1},"a":{"id":2,"id":"3"}}') == b"3"


@given(st.binary(max_size=200))
def test_no_body_can_do_more_than_miss_its_key(body):
    try:
        assert isinstance(key_of("body./a/0")({}, (), body), bytes)
    except KeyMissing:
        return
