"""What the bytes of a streamed answer say: the items, and how it ended. One reader for each format.

The readers are written from docs/streams.md and share nothing with the encoders that they judge.
"""

from __future__ import annotations

import json
from typing import Any

from tests.faults.clients import ending_of
from tests.faults.stream_oracle import COMPLETE, FAILED, LOST

REFUSED = "refused"  # the type of the problem of a handler that has raised one
UNENDED = "unended"  # the answer was whole, and its last line or event is missing


def ending_in(problem: dict[str, Any]) -> str:
    """The ending that a problem document tells, one of the gateway or one of `fastgw.service`."""
    name = ending_of(problem)
    return FAILED if name == REFUSED else name


class Answer:
    """A streamed answer, read piece by piece.

    Attributes:
        items: so far.
        ending: what the answer itself says; "": nothing yet.
        outcome, detail: what the last problem document says, if there was one.
        total: how many items the end says there are; -1: it does not.
    """

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.ending = ""
        self.outcome = self.detail = ""
        self.total = -1
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(self.border)
        for piece in whole:
            self.take(piece)

    def finish(self) -> None:
        """The last chunk has come."""
        self.ending = self.ending or UNENDED

    border = b"\n"

    def take(self, piece: bytes) -> None:
        raise NotImplementedError

    def fail(self, problem: dict[str, Any]) -> None:
        self.ending, self.outcome = ending_in(problem), problem.get("outcome", "")
        self.detail = problem.get("detail", "")


class Lines(Answer):
    """`application/x-ndjson`, of a route with `end_line`."""

    def take(self, piece: bytes) -> None:
        line = piece.strip()
        if not line.startswith(b'{"fastgw":'):
            self.items += [line] if line else []
            return
        end = json.loads(line)["fastgw"]
        self.total = end["items"]
        if "problem" in end:
            self.fail(end["problem"])
        else:
            self.ending = COMPLETE


class Array(Answer):
    """`application/json`; cut off, it has what stands before the last comma."""

    border = b",\n"

    def take(self, piece: bytes) -> None:
        self.items.append(piece.removeprefix(b"["))

    def finish(self) -> None:
        if self._rest.endswith(b"]\n"):
            last = self._rest.removesuffix(b"]\n").removeprefix(b"[")
            self.items += [last] if last else []
            self.ending = COMPLETE
        super().finish()


class Pieces(Answer):
    """Bytes whose items end with a semicolon; the last chunk is all that says that they are complete."""

    border = b";"

    def take(self, piece: bytes) -> None:
        self.items.append(piece + b";")

    def finish(self) -> None:
        self.ending = COMPLETE


class Events(Answer):
    """`text/event-stream`, as `EventSource` reads it. A client that comes back goes on with the same items.

    Attributes:
        last_id: what the client comes back with.
        retry_ms: after how long; None: it was not told.
    """

    border = b"\n\n"

    def __init__(self, items: list[bytes], last_id: bytes = b"") -> None:
        super().__init__()
        self.items = items
        self.last_id = last_id
        self.retry_ms: int | None = None

    def take(self, piece: bytes) -> None:
        told: dict[bytes, bytes] = {}
        for line in piece.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            told[name] = told[name] + b"\n" + value if name in told and name == b"data" else value
        if b"id" in told:
            self.last_id = told[b"id"]
        if b"retry" in told:
            self.retry_ms = int(told[b"retry"])
        if b"data" in told:
            self._dispatch(told.get(b"event", b"message"), told[b"data"])

    def _dispatch(self, kind: bytes, data: bytes) -> None:
        if kind == b"message":
            self.items.append(data)
        elif kind == b"end":
            self.ending, self.total = COMPLETE, json.loads(data)["items"]
        elif kind == b"resync":
            self.ending = LOST
        else:
            self.fail(json.loads(data))

    def finish(self) -> None:
        """The answer may end without an end: the client comes back."""
