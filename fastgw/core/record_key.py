"""Which key a request's record gets: a path parameter, a header, or a value in the JSON body.

Set a key only where the service needs its records in order per entity. Records without a key are cheaper: a whole batch
goes to one partition.

A key is the text that the client wrote; nothing is converted. A number is its literal, a string its text, a header its
bytes. (As floats, the order numbers 18446744073709551617 and 18446744073709551618 would be the same number.) An empty
key counts as no key: Kafka clients send records with an empty key to any partition. So does a header that `Connection`
names: it is not on the record either.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from fastgw import forwarding, header_names
from fastgw.admission import Params
from fastgw.errors import KeyMissing
from fastgw.messages import Head, Headers
from fastgw.request_path import decoded

KeyOf = Callable[[Headers, Params, bytes], bytes]

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])  # checks the syntax of the values, does not decode them
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}").fullmatch  # RFC 6901, section 4

_KINDS = {ord("{"): "an object", ord("["): "an array", ord("t"): "true", ord("f"): "false", ord("n"): "null"}


def key_of(spec: str) -> KeyOf | None:
    """The function that computes a record's key, for a route's `key` setting; None: the route has no key.

    The function raises `KeyMissing` when the request has no such value.
    """
    if not spec:
        return None
    where, _, name = spec.partition(".")
    if where == "path":
        return lambda _headers, params, _body: _found(decoded(dict(params).get(name, "")), spec)
    if where == "header" and forwarding.is_about_client(name):
        return lambda headers, _params, _body: _found(_known(name, headers), spec)
    if where == "header":
        return lambda headers, _params, _body: _found(_forwarded(name, headers), spec)
    pointer = spec.partition("/")[2].split("/")
    tokens = [token.replace("~1", "/").replace("~0", "~") for token in pointer]
    return lambda _headers, _params, body: _found(_pointed_at(body, tokens, spec), spec)


def _found(key: bytes, spec: str) -> bytes:
    if not key:
        raise _missing(spec, "no value, or an empty one")
    return key


def _forwarded(name: str, headers: Headers) -> bytes:
    """A header that the client sent, if it is meant for more than the next hop."""
    value = headers.get(name)
    if not value or name in header_names.named_by(headers.get("connection")):
        return b""
    return value.encode("latin-1", "replace")  # one character is one byte as the client sent it, see messages.Head


def _known(name: str, headers: Headers) -> bytes:
    """The gateway's own value for a header that describes the client: the client could have forged the header."""
    assert isinstance(headers, Head), "the client's address is needed, not only headers"
    known = forwarding.told(name, headers, headers.client or forwarding.of_peer(headers.peer))
    return (known or "").encode("latin-1")


def _missing(spec: str, got: str) -> KeyMissing:
    return KeyMissing(f"the record key is taken from {spec}: expected a string or number there, got {got}")


def _pointed_at(body: bytes, tokens: list[str], spec: str) -> bytes:
    """The value at a JSON pointer (RFC 6901): the text of a string, or the literal of a number; b"" if there is none.

    Of several members with the same name the last one counts, as in nearly all JSON parsers.

    Raises:
        KeyMissing: the body is not JSON, or the value is neither a string nor a number.
    """
    at: bytes | msgspec.Raw = body.strip(b" \t\r\n")
    try:
        for token in tokens:
            inner = _inside(at, token)
            if inner is None:
                return b""
            at = inner
        value = bytes(at)
        if value.startswith(b'"'):
            return _TEXT.decode(value).encode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _missing(spec, "a body that is not JSON in UTF-8") from None
    kind = _KINDS.get(value[0])
    if kind is not None:
        raise _missing(spec, kind)
    return value


def _inside(at: bytes | msgspec.Raw, token: str) -> msgspec.Raw | None:
    """The member or item that `token` names; None if there is none."""
    first = bytes(memoryview(at)[:1])
    if first == b"{":
        return _MEMBERS.decode(at).get(token)
    if first == b"[":
        items = _ITEMS.decode(at)
        return items[int(token)] if _INDEX(token) and int(token) < len(items) else None
    msgspec.json.decode(at, type=msgspec.Raw)  # raises DecodeError if it is not JSON
    return None
