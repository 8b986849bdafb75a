"""A parser of server-sent events, written from the text of WHATWG HTML, 9.2.6, step by step. It shares nothing with the
encoder that it judges."""

from __future__ import annotations

from typing import NamedTuple


class Dispatched(NamedTuple):
    """One event, as a page gets it."""

    type: str
    data: str
    last_event_id: str


class EventSourceParser:
    """Reads a whole stream, or one piece after the other."""

    def __init__(self) -> None:
        self.events: list[Dispatched] = []
        self.last_event_id = ""  # what is sent as Last-Event-ID
        self.reconnection_ms: int | None = None
        self.comments = 0
        self._pending = ""
        self._is_at_start = True
        self._after_cr = False
        self._data = ""
        self._type = ""
        self._id_buffer = ""

    def feed(self, data: bytes) -> None:
        text = data.decode()  # the streams here are valid UTF-8, and no piece ends inside of a character
        if self._is_at_start and text:
            text = text.removeprefix("\ufeff")
            self._is_at_start = False
        for character in text:
            if character == "\n" and self._after_cr:
                self._after_cr = False
                continue  # the second half of CRLF
            self._after_cr = character == "\r"
            if character in "\r\n":
                line, self._pending = self._pending, ""
                self._process_line(line)
            else:
                self._pending += character

    def _process_line(self, line: str) -> None:
        if line == "":
            self._dispatch()
        elif line.startswith(":"):
            self.comments += 1
        elif ":" in line:
            field, _, value = line.partition(":")
            self._process_field(field, value[1:] if value.startswith(" ") else value)
        else:
            self._process_field(line, "")

    def _process_field(self, field: str, value: str) -> None:
        if field == "event":
            self._type = value
        elif field == "data":
            self._data += value + "\n"
        elif field == "id":
            if "\0" not in value:
                self._id_buffer = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.reconnection_ms = int(value)

    def _dispatch(self) -> None:
        self.last_event_id = self._id_buffer
        if self._data == "":
            self._type = ""
            return
        data = self._data.removesuffix("\n")
        self.events.append(Dispatched(self._type or "message", data, self.last_event_id))
        self._data = self._type = ""


def read(stream: bytes) -> EventSourceParser:
    """What a page has got when the stream has ended; an event without an empty line behind it is discarded."""
    parser = EventSourceParser()
    parser.feed(stream)
    return parser
