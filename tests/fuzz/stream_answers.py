"""Promise: whatever records a service writes, its client gets an answer that it can read: an ordinary one, or a stream
whose end is told or missing as its format says. Nothing is left of a stream that has ended, and no bug is logged."""

from __future__ import annotations

import orjson

from tests.core.test_streams import BUFFER, RULES, Place
from tests.fuzz.drawing import Draw
from tests.fuzz.streams import STREAMS, some_record

FORMATS = ["application/x-ndjson", "text/event-stream", "application/json"]
SEEDS = [bytes((number, 1, 2)) + records for number in range(3) for records in STREAMS] + [b"\1\1\7", b""]


def target(data: bytes) -> None:
    draw = Draw(data)
    media_type = draw.choice(FORMATS)
    place = Place(RULES._replace(resumes=bool(draw.number(1))))
    behind = draw.number(255)  # bits: while these records come, the client takes nothing
    place.sent(media_type)
    for number in range(12):
        if not draw.left or not place.store.followers:
            break
        place.sink.takes = not behind >> number & 1
        place.comes(some_record(draw))
        if place.sink.takes and place.store.followers:
            place.stream.on_writable()
            assert place.stream.credit <= BUFFER
    assert place.house.journal.broken == []
    if place.store.followers:
        assert not place.sink.ended
    else:
        assert len(place.streams) == place.exchange.in_flight == place.plan.in_flight == 0
        _read(place, media_type)


def _read(place: Place, media_type: str) -> None:
    """Read the answer as a client does."""
    sink = place.sink
    if sink.ended == "answered":
        assert sink.head is None
        assert sink.whole is not None
    elif media_type == "text/event-stream":
        assert sink.ended == "complete"
        assert sink.data.endswith(b"\n\n")
    elif media_type == "application/json":
        assert sink.ended in ("complete", "aborted")
        if sink.ended == "complete":
            assert isinstance(orjson.loads(sink.data), list)
    else:
        assert sink.ended == "complete"
        for line in sink.lines:
            orjson.loads(line)
