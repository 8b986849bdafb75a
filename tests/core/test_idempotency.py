"""The header `Idempotency-Key`, and what makes two requests the same."""

from __future__ import annotations

import hashlib

import pytest

from fastgw.core.idempotency import BadKey, fingerprint, key_hash, key_of


class Headers:
    """Request headers as a front has them."""

    def __init__(self, **lines: list[str]) -> None:
        self._lines = {name.replace("_", "-"): found for name, found in lines.items()}

    def get(self, key: str) -> str | None:
        return ", ".join(self._lines[key]) if key in self._lines else None

    def get_all(self, key: str) -> list[str]:
        return self._lines.get(key, [])


def key(*lines: str) -> str | None:
    return key_of(Headers(idempotency_key=list(lines)))


def test_most_requests_have_no_key():
    assert key_of(Headers()) is None


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (' "a b" ', "a b"), (r'"a\"b\\c"', r'a"b\c'), ('"a,b;c=1"', "a,b;c=1"), ("order:7/a+b=", "order:7/a+b="),
        ('" "', " "), ('"' + "k" * 255 + '"', "k" * 255), ("k" * 255, "k" * 255), ('"' + r"\\" * 255 + '"', "\\" * 255),
    ],
)  # fmt: skip
def test_a_key_in_quotes_or_without(value, found):
    assert key(value) == found


@pytest.mark.parametrize(
    "value",
    [
        "", " ", '""', '"', '"a', 'a"', '"a" b', '"a", "b"', "a, b", "a b", '"a";p=1', "a;p=1", r'"\a"', '"a\\"',
        '"\t"', '"\u00e9"', "\u00e9", '"\x7f"', '"\0"', "a\0", "a\n", ":YQ==:\n", "k" * 256, '"' + "k" * 256 + '"',
        "k" * 10_000, '"' + "\\" * 10_000, r"a\b",
    ],
)  # fmt: skip
def test_another_value_is_refused_and_the_message_does_not_repeat_it(value):
    with pytest.raises(BadKey, match=r"^expected an Idempotency-Key") as caught:
        key(value)
    assert len(value) < 10 or value not in str(caught.value)


def test_two_keys_are_refused():
    with pytest.raises(BadKey, match="expected one Idempotency-Key, got 2"):
        key('"a"', '"a"')


# --- what is the same -----------------------------------------------------------------------------------------------

NAMES = ("x-tenant",)


def print_of(method="POST", path="/a/b", query="c=d", body=b"{}", names=NAMES, headers=None) -> bytes:
    return fingerprint(method, path, query, body, names, headers or Headers(x_tenant=["t"]))


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"}, {"path": "/a/c"}, {"path": "/a%2Fb"}, {"query": "c=e"}, {"query": ""}, {"body": b"{ }"},
        {"body": b""}, {"headers": Headers(x_tenant=["u"])}, {"headers": Headers(x_tenant=[""])},
        {"headers": Headers()}, {"names": ()}, {"names": (*NAMES, "x-other")},
    ],
)  # fmt: skip
def test_another_request_has_another_fingerprint(changed):
    assert print_of(**changed) != print_of()


def test_the_same_request_has_the_same_fingerprint():
    assert print_of(headers=Headers(x_tenant=["t"], x_other=["1"])) == print_of()
    assert print_of(path="/a/%7eb") == print_of(path="/a/~b"), "two spellings of one path"
    assert len(print_of()) == 32


def test_parts_of_a_request_cannot_be_moved_into_others():
    assert print_of(path="/a", query="b") != print_of(path="/ab", query="")
    assert print_of(query="c", body=b"d") != print_of(query="cd", body=b"")


def test_a_key_belongs_to_its_route_and_subject():
    assert len(key_hash("r", "s", "k")) == 32
    hashes = {
        key_hash(*scope)
        for scope in (("r", "s", "k"), ("r", "", "k"), ("q", "s", "k"), ("r", "sk", ""), ("rs", "", "k"))
    }
    assert len(hashes) == 5


def test_hashes_never_change():
    """They stand in records that other versions read."""
    written = b"".join(len(part).to_bytes(8, "big") + part for part in (b"POST /orders", b"ada", b"8e03978e"))
    assert key_hash("POST /orders", "ada", "8e03978e") == hashlib.sha256(written).digest()
    written = b"".join(len(part).to_bytes(8, "big") + part for part in (b"GET", b"/a", b"", b"", b"x-a", b"+1"))
    assert print_of("GET", "/a", "", b"", ("x-a",), Headers(x_a=["1"])) == hashlib.sha256(written).digest()
