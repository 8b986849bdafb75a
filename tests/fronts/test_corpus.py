"""gunicorn's corpus of raw requests against every front: each has its statuses checked in, and none is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fronts import corpus
from tests.fronts.door import ANYTHING
from tests.fronts.houses import House
from tests.fronts.kinds import FRONTS, fronts

pytestmark = [pytest.mark.needs("gunicorn-corpus")]

TABLE = Path(__file__).parent / "corpus_statuses.txt"
HOST = b"Host: corpus.test\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: last.test\r\nConnection: close\r\n\r\n"
SERVED = "200"
AT_ONCE = 32  # connections
NAMES = [kind.name for kind in FRONTS]


class Row(NamedTuple):
    """What is expected of one request: the statuses of all answers on its connection, for each front, and why."""

    statuses: dict[str, str]
    why: str


def table() -> dict[str, Row]:
    rows = {}
    for line in TABLE.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        name, *rest = line.split(None, len(NAMES) + 1)
        rows[name] = Row(dict(zip(NAMES, rest, strict=False)), rest[len(NAMES)] if len(rest) > len(NAMES) else "")
    return rows


def cases() -> Iterator[tuple[str, bytes]]:
    """Every file as it is; and where it names no Host, which alone is reason enough to refuse it, with one."""
    for name, raw in corpus.requests():
        yield name, raw
        line, end, rest = raw.partition(b"\r\n")
        if end and b"\nhost:" not in raw.lower():
            yield f"{name}+host", line + end + HOST + rest


@fronts()
def test_every_request_has_the_statuses_of_the_table_and_what_is_refused_reaches_nobody(kind, serve):
    expected = {name: row.statuses[kind.name] for name, row in table().items()}
    house = serve(more_routes=ANYTHING, header_timeout="300ms", body_timeout="300ms")
    refused = [(name, raw) for name, raw in cases() if SERVED not in expected[name]]
    served = [(name, raw) for name, raw in cases() if SERVED in expected[name]]
    wrong = wrong_answers(house, refused, expected)
    assert house.door.opened == [], "what is refused reaches nobody"
    wrong += wrong_answers(house, served, expected)
    assert not wrong, "\n" + "\n".join(wrong)


def wrong_answers(house: House, requests: list[tuple[str, bytes]], expected: dict[str, str]) -> list[str]:
    """What was not as expected. Many connections at once: a request that is never complete waits for its timeout."""
    wrong = []
    for first in range(0, len(requests), AT_ONCE):
        batch = requests[first : first + AT_ONCE]
        clients = [house.client() for _ in batch]
        for client, (_, raw) in zip(clients, batch, strict=True):
            client.versions = ("HTTP/1.1", "HTTP/1.0")
            client.send_while_open(raw + LAST)
        for client, (name, raw) in zip(clients, batch, strict=True):
            got = ",".join(str(answer.status) for answer in client.answers_until_end()) or "closed"
            client.sock.close()
            if got != expected[name]:
                wrong.append(f"{name}: expected {expected[name]}, got {got} for {raw[:200]!r}")
    return wrong


def test_every_file_of_the_corpus_has_a_row_and_every_row_a_file():
    assert set(table()) == {name for name, _raw in cases()}


def test_what_gunicorn_calls_invalid_is_served_for_a_reason_only():
    unexplained = [
        name
        for name, row in table().items()
        if name.startswith("invalid/") and SERVED in ",".join(row.statuses.values()) and not row.why
    ]
    assert unexplained == []


def test_the_notation_of_the_files_is_understood():
    assert corpus.decode(b"GET /\\x41\\0\\t HTTP/1.1\\r\n\\n\n\\r\\n\n") == b"GET /A\0\t HTTP/1.1\r\n\r\n"
