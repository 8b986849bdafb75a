"""The header `Prefer` (RFC 7240), as clients really write it."""

from __future__ import annotations

import pytest

from fastgw.core import preferences
from fastgw.core.preferences import NONE, Preferences
from tests.core.test_routing import FakeHeaders

S = 1_000_000_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", NONE),
        ("respond-async", Preferences(None, True)),
        ("Respond-Async", Preferences(None, True)),
        (' respond-async ; foo="bar"', Preferences(None, True)),
        ('respond-async=""', Preferences(None, True)),
        ("respond-async, wait=10", Preferences(10 * S, True)),
        ("wait=10,respond-async", Preferences(10 * S, True)),
        ('wait="3"', Preferences(3 * S, False)),
        ("wait=0", Preferences(0, False)),
        ("wait=5, wait=7", Preferences(5 * S, False)),
        ('foo="a, respond-async", wait=2', Preferences(2 * S, False)),
        ("respond-asynchronously", NONE),
        ("respond-async=yes", NONE),
        ("wait=-1", NONE),
        ("wait=x", NONE),
        (",, ,respond-async,", Preferences(None, True)),
    ],
)
def test_preferences_are_read_as_the_rfc_says(value: str, expected: Preferences) -> None:
    assert preferences.of(FakeHeaders({"prefer": [value]} if value else {})) == expected
