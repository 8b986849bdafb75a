"""Which key a request's record gets: a path parameter, a header, or a value in the JSON body.

A route has a key only where its service needs order per entity. Without one librdkafka keeps a whole batch together on
one partition, which is what makes requests cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from fastgw.admission import Params
from fastgw.errors import KeyMissing
from fastgw.messages import Headers

KeyOf = Callable[[Headers, Params, bytes], bytes]


def key_of(spec: str) -> KeyOf | None:
    """The function that finds a record's key, for a route's `key` setting; None for no key.

    The function raises `KeyMissing` where the request has no such value.
    """
    if not spec:
        return None
    where, _, name = spec.partition(".")
    if where == "path":
        return lambda _headers, params, _body: _found(dict(params).get(name), spec)
    if where == "header":
        return lambda headers, _params, _body: _found(headers.get(name), spec)
    pointer = spec.partition("/")[2].split("/")
    tokens = [token.replace("~1", "/").replace("~0", "~") for token in pointer]
    return lambda _headers, _params, body: _found(_pointed_at(body, tokens), spec)


def _found(value: Any, spec: str) -> bytes:
    if value is None or isinstance(value, bool | dict | list):
        raise KeyMissing(f"the record key is taken from {spec}: expected a string or number there, got nothing usable")
    return str(value).encode()


def _pointed_at(body: bytes, tokens: list[str]) -> Any:
    """The value under a JSON pointer (RFC 6901), or None."""
    try:
        at = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    for token in tokens:
        if isinstance(at, dict):
            at = at.get(token)
        elif isinstance(at, list) and token.isdecimal() and int(token) < len(at):
            at = at[int(token)]
        else:
            return None
    return at
