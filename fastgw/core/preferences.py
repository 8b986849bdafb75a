"""The client's preferences: the request header `Prefer` (RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from fastgw.messages import Headers

_WAIT = re.compile(r"[ \t]*wait[ \t]*=[ \t]*\"?([0-9]{1,9})\"?[ \t]*(?:;.*)?", re.IGNORECASE | re.DOTALL).fullmatch
_RESPOND_ASYNC = re.compile(
    r"[ \t]*respond-async[ \t]*(?:=[ \t]*(?:\"\")?[ \t]*)?(?:;.*)?", re.IGNORECASE | re.DOTALL
).fullmatch
_QUOTED_OR_NOT = re.compile(r'[,"\\]').finditer


class Preferences(NamedTuple):
    """The preferences that the gateway knows."""

    wait_ns: int | None  # `wait=N`, in seconds on the wire (section 4.3); None: not given
    is_async: bool  # `respond-async` (section 4.1)


NONE = Preferences(None, False)


def of(headers: Headers) -> Preferences:
    """The preferences of a request. Of several with one name the first one counts (section 2)."""
    prefer = headers.get("prefer")
    if prefer is None:
        return NONE
    wait_ns: int | None = None
    is_async = False
    for preference in _members(prefer):
        wait = _WAIT(preference) if wait_ns is None else None
        if wait is not None:
            wait_ns = int(wait[1]) * 1_000_000_000
        elif _RESPOND_ASYNC(preference):
            is_async = True
    return Preferences(wait_ns, is_async)


def _members(value: str) -> Iterator[str]:
    """The members of a comma-separated list; a comma in a quoted string is no separator (RFC 9110, 5.6)."""
    if '"' not in value:
        yield from value.split(",")
        return
    start, is_quoted, escaped = 0, False, -1
    for found in _QUOTED_OR_NOT(value):
        at, mark = found.start(), found[0]
        if at == escaped:
            continue
        if mark == '"':
            is_quoted = not is_quoted
        elif mark == "\\":
            escaped = at + 1 if is_quoted else -1
        elif not is_quoted:
            yield value[start:at]
            start = at + 1
    yield value[start:]
