"""Which key a request's record gets: a path parameter, a header, or a value in the JSON body.

A route has a key only where its service needs order per entity. Without one librdkafka keeps a whole batch together on
one partition, which is what makes requests cheap.

A key is what the client wrote, never what a computer makes of it: 18446744073709551617 and ...618 are one number as a
float and two orders in a shop. So nothing is converted: a number is its literal, a string its text, a header its bytes.
An empty key is none: Kafka's clients send records with an empty key to any partition.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from fastgw import forwarding
from fastgw.admission import Params
from fastgw.errors import KeyMissing
from fastgw.messages import Head, Headers
from fastgw.request_path import decoded

KeyOf = Callable[[Headers, Params, bytes], bytes]

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])  # the values are passed over, and their syntax checked
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}").fullmatch  # RFC 6901, section 4

_KINDS = {ord("{"): "an object", ord("["): "an array", ord("t"): "true", ord("f"): "false", ord("n"): "null"}


def key_of(spec: str) -> KeyOf | None:
    """The function that finds a record's key, for a route's `key` setting; None for no key.

    The function raises `KeyMissing` where the request has no such value.
    """
    if not spec:
        return None
    where, _, name = spec.partition(".")
    if where == "path":
        return lambda _headers, params, _body: _found(decoded(dict(params).get(name, "")), spec)
    if where == "header" and forwarding.is_about_client(name):
        return lambda headers, _params, _body: _found(_known(name, headers), spec)
    if where == "header":
        # One character is one byte of the client's, see messages.Head.
        return lambda headers, _params, _body: _found((headers.get(name) or "").encode("latin-1", "replace"), spec)
    pointer = spec.partition("/")[2].split("/")
    tokens = [token.replace("~1", "/").replace("~0", "~") for token in pointer]
    return lambda _headers, _params, body: _found(_pointed_at(body, tokens, spec), spec)


def _found(key: bytes, spec: str) -> bytes:
    if not key:
        raise _missing(spec, "nothing there, or an empty text")
    return key


def _known(name: str, headers: Headers) -> bytes:
    """What a record says in place of a header that speaks of the client, and that a client could write itself."""
    assert isinstance(headers, Head), "they are asked for by name, and there is more to be asked"
    known = forwarding.told(name, headers, headers.client or forwarding.of_peer(headers.peer))
    return (known or "").encode("latin-1")


def _missing(spec: str, got: str) -> KeyMissing:
    return KeyMissing(f"the record key is taken from {spec}: expected a string or number there, got {got}")


def _pointed_at(body: bytes, tokens: list[str], spec: str) -> bytes:
    """The value under a JSON pointer (RFC 6901): the text of a string, a number as it is written; b"" if none is there.

    Of several members with one name the last one is meant, as it is for nearly all JSON parsers.

    Raises:
        KeyMissing: the body is not JSON, or there is something else.
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
    """The member or item of that name; None where there is none."""
    first = bytes(memoryview(at)[:1])
    if first == b"{":
        return _MEMBERS.decode(at).get(token)
    if first == b"[":
        items = _ITEMS.decode(at)
        return items[int(token)] if _INDEX(token) and int(token) < len(items) else None
    msgspec.json.decode(at, type=msgspec.Raw)  # is it JSON at all?
    return None
