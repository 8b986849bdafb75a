"""Promise: whatever a client sends in `Last-Event-ID` or in its query, it is told to forget it, and a `DELETE` with it
is refused; only an id that was handed out is followed or stops a service."""

from __future__ import annotations

from urllib.parse import quote

from fastgw.admission import RESUME, Admission
from fastgw.core.resumed import last_event_id
from fastgw.messages import Head
from tests.core.test_routing import FakeHeaders
from tests.core.test_streams import RESUMING, FakeSink, Place
from tests.fuzz.drawing import Draw

EVENTS = "text/event-stream"
SEEDS = [b"\0\0x.1.2", b"\1\0x.1.2", b"\0\1", b"\1\1\1", b"\0\0\0", b"\1\0" + b"%00&last_event_id=" + b"x" * 100]


def target(data: bytes) -> None:
    draw = Draw(data)
    place = Place(RESUMING)
    place.sent(EVENTS)
    place.items(0, b"1")
    (handed_out,) = place.sink.ids
    in_query, is_ours = draw.number(1), draw.number(1)
    text = draw.rest().decode("latin-1")
    text = handed_out[: len(handed_out) - len(text)] if is_ours else text
    query = f"last_event_id={quote(text) if is_ours else text}" if in_query else ""
    head = Head("GET", "/o", query, FakeHeaders({} if in_query else {"last-event-id": [text]}), ["x"], 0, False)
    is_known = last_event_id(head) == handed_out
    admission = Admission(0, "GET", "/o", "", (), head, 0, 10**9)
    admission.kind, admission.media_type = RESUME, EVENTS
    sink, answers = FakeSink(), []
    place.streams.resume(admission, sink, 0)
    place.streams.stop(admission, lambda *told: answers.append(told[0]), 0)
    assert len(place.streams.resumed) == len(place.cancels) == is_known
    assert answers == [204 if is_known else 400]
    assert is_known or sink.whole[2].startswith(b"id:\nevent: resync\n")
    assert place.house.journal.broken == []
