"""Where a record's key comes from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import KeyMissing
from fastgw.record_key import key_of

PARAMS = (("id", "7"), ("shop", "blue"))


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ("path.id", b"7"),
        ("path.shop", b"blue"),
        ("header.x-tenant", b"t1"),
        ("body./customer", b"c9"),
        ("body./deep/list/1/n", b"42"),
        ("body./a~1b", b"slash"),
        ("body./t~0", b"tilde"),
        ("body./name", "Юля".encode()),
    ],
)
def test_a_key_is_found(spec, key):
    body = '{"customer":"c9","deep":{"list":[0,{"n":42}]},"a/b":"slash","t~":"tilde","name":"Юля"}'.encode()
    assert key_of(spec)({"x-tenant": "t1"}, PARAMS, body) == key


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


@given(st.binary(max_size=200))
def test_no_body_can_do_more_than_miss_its_key(body):
    try:
        assert isinstance(key_of("body./a/0")({}, (), body), bytes)
    except KeyMissing:
        return
