"""The fronts under test, and what each can do. A new front joins by one line in `FRONTS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from fastgw.admission import Door
from fastgw.config import Limits, Listen
from fastgw.http.express import ExpressFront
from fastgw.http.front import Front
from fastgw.http.granian import GranianFront

HTTP2, TLS, UNIX, CHUNKED = "HTTP/2", "TLS", "Unix sockets", "chunked bodies"
HALF_CLOSE = "answers a client that has ended its sending"  # without it, such a client counts as gone
TELLS_BOTH = "sees a length beside chunks"  # without it, the length is hidden and the connection ends
REFUSES = "answers a connection beyond the limit"  # without it, such a connection waits
STREAMS = "streams answers"  # without it, a route that streams is refused


class FrontKind(NamedTuple):
    """One row: how to make the front, and which of the abilities above it has."""

    name: str
    make: Callable[[int, Listen, Limits, Door], Front]
    abilities: frozenset[str]


FRONTS = (
    FrontKind("granian", GranianFront, frozenset({HTTP2, TLS, UNIX, CHUNKED})),
    FrontKind("express", ExpressFront, frozenset({UNIX, CHUNKED, REFUSES, TELLS_BOTH, STREAMS})),
)


def fronts(*needed: str) -> pytest.MarkDecorator:
    """Runs a test once for each front that has all of the `needed` abilities, as its argument `kind`."""
    able = [kind for kind in FRONTS if kind.abilities.issuperset(needed)]
    assert able, f"no front has {needed}: a test for it cannot fail"
    return pytest.mark.parametrize("kind", able, ids=[kind.name for kind in able])
