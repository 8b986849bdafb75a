"""Promise: any text is a ticket, a stream token or an event id of ours, or a BadToken whose words do not repeat it.
What is one was sealed by us: its only spelling, and it says what was sealed. Content under a valid MAC raises nothing
else."""

from __future__ import annotations

from collections.abc import Callable

from fastgw import tokens
from fastgw.tokens import BadToken, Purpose, Secrets, StreamToken, Ticket
from tests.fuzz.drawing import Draw

SECRETS = Secrets([b"s" * 32, b"t" * 32])
NOW = 1_000
_ID = b"0000000a-0007-8000-8000-000000300009"
_TICKET = Ticket(_ID, b"k" * 32, bytes(16), 3, "POST /orders", "ada", 0, 1_000, 2_000)
_STREAM = StreamToken(_ID, bytes(16), 5, 7, 3, "GET /orders", "", 2_000)
_TEXTS = {tokens.seal_ticket(SECRETS, _TICKET): _TICKET, tokens.seal_stream(SECRETS, _STREAM): _STREAM}
_TOKEN = tokens.seal_stream(SECRETS, _STREAM)

SEEDS = [b"\0" + text.encode() for text in _TEXTS]
SEEDS += [b"\0" + tokens.event_id(_TOKEN, 7, 0).encode(), b"\0" + tokens.event_id(_TOKEN, 9, 1 << 62).encode(), b"\0"]
SEEDS += [b"\1" + tokens.urlsafe_b64decode(text + "==")[: -tokens.MAC_BYTES] for text in _TEXTS]


def opened(open_one: Callable[[Secrets, str, int], object], text: str) -> object:
    try:
        return open_one(SECRETS, text, NOW)
    except BadToken as error:
        words = str(error)
    assert len(text) < 8 or text not in words
    assert words.isprintable()
    return None


def target(data: bytes) -> None:
    draw = Draw(data)
    if draw.number(1):  # content of a version that nobody has written
        content = draw.rest()
        for purpose, open_one in ((Purpose.TICKET, tokens.open_ticket), (Purpose.STREAM, tokens.open_stream)):
            opened(open_one, tokens._sealed(SECRETS, purpose, content))
        return
    text = draw.rest().decode("utf-8", "surrogateescape")
    ticket, stream = opened(tokens.open_ticket, text), opened(tokens.open_stream, text)
    assert (ticket or stream) == _TEXTS.get(text)
    place = opened(tokens.open_event_id, text)
    if place is not None:
        assert place.stream == _STREAM
        assert tokens.event_id(_TOKEN, place.offset, place.item) == text
