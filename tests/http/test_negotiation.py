"""Which media type an Accept chooses."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.negotiation import RANGES_MAX, MediaRange, chosen, parsed, why_none
from fastgw.http.stream_formats import EVENT_STREAM, JSON, JSONL, NDJSON, OFFERS
from fastgw.messages import Head

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


class Lines:
    def __init__(self, *lines: str) -> None:
        self._lines = lines

    def get_all(self, key: str) -> list[str]:
        return list(self._lines) if key == "accept" else []


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        # Anything goes: the first offer.
        (None, NDJSON), ("", NDJSON), (" \t", NDJSON), (" , ,", NDJSON), ("*/*", NDJSON), (BROWSER, NDJSON),
        ("*/*;q=0.001", NDJSON), ("application/*", NDJSON),
        # Named.
        ("text/event-stream", EVENT_STREAM), ("TEXT/Event-Stream", EVENT_STREAM), ("text/*", EVENT_STREAM),
        ("application/json", JSON), ("application/jsonl", JSONL), ("application/x-ndjson", NDJSON),
        ("application/json, application/x-ndjson", NDJSON), ("\tapplication/json\t", JSON),
        # As clients send it: axios, and an EventSource that accepts other types for its errors.
        ("application/json, text/plain, */*", JSON), ("text/event-stream, */*", EVENT_STREAM),
        ("application/json, text/event-stream", EVENT_STREAM),  # MCP: both are named, the order of the offers decides
        # Weights.
        ("application/json;q=0.5, text/event-stream;q=0.9", EVENT_STREAM),
        ("application/json ; q=0.5 , */* ; q=0.4", JSON), ("application/json;Q=0.5,*/*;q=0.6", NDJSON),
        ("*/*, application/x-ndjson;q=0", EVENT_STREAM), ("*/*, application/*;q=0", EVENT_STREAM),
        ("application/*;q=0.5, application/json, text/*;q=0.9", JSON),
        ("application/json;q=1.000", JSON), ("application/json;q=1.", JSON),
        # The most specific range decides, also against a higher weight.
        ("application/*;q=0.9, application/x-ndjson;q=0.1", JSONL),
        ("application/json;q=0, application/json;q=0.2, text/*;q=0.1", JSON),
        # Parameters: all of our types are UTF-8; others narrow a range to something that is not offered.
        ("application/json;charset=utf-8", JSON), ('application/json; Charset="UTF-8";q=0.3', JSON),
        ("application/json;profile=x, text/*;q=0.1", EVENT_STREAM),
        ("application/json;charset=latin1, text/*", EVENT_STREAM),
        ('application/json;profile="a,b;q=1", text/event-stream', EVENT_STREAM),
        ("application/json;q=0.5;level=1", JSON), ("application/json;;q=0.5", JSON),
        # Malformed elements are left out; a malformed weight counts as 0.
        ("json, text/event-stream", EVENT_STREAM), ("*, text/*", EVENT_STREAM), ("*/json, text/*", EVENT_STREAM),
        ("application/json;q=2, text/*;q=0.1", EVENT_STREAM), ("application/json;q, text/*", EVENT_STREAM),
        ("application / json, text/*", EVENT_STREAM), ('text/*;a="\\", application/json', None),
    ],
)  # fmt: skip
def test_an_accept_chooses(accept, expected):
    assert chosen(accept, OFFERS) == expected


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "image/*",
        "*/*;q=0",
        "application/json;q=0",
        "application/json;version=2",
        "json",
        "q=1",
        "application/json;q=0.0001",
    ],
)
def test_what_cannot_be_satisfied_chooses_nothing_and_is_told_what_there_is(accept):
    assert chosen(accept, OFFERS) is None
    told = why_none(accept, OFFERS)
    assert all(offer in told for offer in OFFERS)
    assert accept in told


def test_a_long_accept_is_not_repeated_in_full():
    assert len(why_none("x" * 10_000, OFFERS)) < 500


def test_several_lines_are_one_list():
    head = Head("GET", "/", "", Lines("text/html, text/event-stream;q=0.2", "application/json;q=0.1"), (), None, False)
    assert chosen(head.get("accept"), OFFERS) == EVENT_STREAM


TOKENS = st.sampled_from(["text", "application", "event-stream", "json", "jsonl", "x-ndjson", "html", "*"])
WEIGHTS = st.integers(0, 1000).map(lambda thousandths: f"{thousandths / 1000:.3f}")
RANGES = st.tuples(TOKENS, TOKENS, WEIGHTS).filter(lambda media: media[0] != "*" or media[1] == "*")


@given(st.lists(RANGES, min_size=1, max_size=8))
def test_the_choice_is_that_of_the_rule_of_precedence(ranges):
    """RFC 9110, 12.5.1: the quality of a media type is that of the most specific range that matches it."""
    accept = ", ".join(f"{kind}/{subtype};q={weight}" for kind, subtype, weight in ranges)
    qualities: dict[str, tuple[float, str]] = {}
    for offer in OFFERS:
        kind, _, subtype = offer.partition("/")
        for candidate in ((kind, subtype), (kind, "*"), ("*", "*")):
            found = [float(weight) for *names, weight in ranges if tuple(names) == candidate]
            if found:
                qualities[offer] = max(found), "/".join(candidate)
                break
    best = chosen(accept, OFFERS)
    acceptable = {offer: quality for offer, (quality, _) in qualities.items() if quality > 0}
    if best is None:
        assert not acceptable
    else:
        assert acceptable[best] == max(acceptable.values())


@given(st.text(alphabet='ab*/;=q0.1," \\\t', max_size=60))
def test_any_text_gives_ranges_that_could_have_been_meant(text):
    for media in parsed(text):
        assert isinstance(media, MediaRange)
        assert 0 <= media.weight <= 1
        assert re.fullmatch(r"[^\s/,;]+", media.type)
        assert f"{media.type}/{media.subtype}" in text


@pytest.mark.parametrize(
    "hostile",
    [
        '"' + '\\"' * 8000,
        "a/b" + ";  " * 5000 + "!",
        "a/b;x=" + '"\\' * 8000,
        " " * 16_000 + "!",
        "*/*," * 4000,
        ";" * 16_000,
    ],
    ids=["escaped quotes", "blanks", "open string", "only blanks", "many ranges", "semicolons"],
)
def test_a_hostile_accept_costs_no_more_than_a_pass_over_it(hostile):
    began = time.process_time()
    chosen(hostile, OFFERS)
    assert time.process_time() - began < 0.1, "quadratic time would be many seconds"


def test_the_number_of_ranges_is_bounded():
    assert chosen("text/html," * RANGES_MAX + "application/json", OFFERS) is None
    assert chosen("text/html," * (RANGES_MAX - 1) + "application/json", OFFERS) == JSON
