"""One connection of the express front without a socket: bytes in, bytes out, the door in between, a clock to turn."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from fastgw import config, problem
from fastgw.admission import Admission, Refusal, Sink
from fastgw.body_memory import AnswerMemory, BodyMemory
from fastgw.core.routing import Router
from fastgw.errors import Ending
from fastgw.http.connection import Connection
from fastgw.http.deadlines import Deadlines
from fastgw.http.heads import SMALL_HEAD_BYTES, AnswerHeads
from fastgw.messages import Answer, Cut, Head, HeaderList
from tests.actors.streaming import as_streaming

ROUTES = """
[gateway]
name = "shop"
[kafka]
bootstrap = "localhost:9092"
[limits]
max_header = "1KiB"
max_target = "100B"
[[route]]
method = ["GET", "HEAD", "POST"]
path = "/echo"
topic = "echo"
max_body = "64B"
[[route]]
method = ["GET", "HEAD", "POST"]
path = "/held"
topic = "held"
max_body = "1MiB"
[[route]]
method = "GET"
path = "/items/{id}"
topic = "echo"
[[route]]
method = ["GET", "HEAD", "POST", "QUERY"]
path = "/stream"
topic = "stream"
"""
CONFIG = config.loads(ROUTES, "test.toml")
REQUEST_ID = b"00000000-0000-8000-8000-000000000001"
INTAKE = Router(CONFIG.routes, CONFIG.limits, ())


_SILENT, _OTHER_END = socket.socketpair()  # the kernel has nothing for its other end


class FakeTransport:
    """What a connection does to its transport; `accepts_writes` False is a client that takes nothing."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.reads = True
        self.accepts_writes = True
        self.waiting_bytes = 0  # written, and not taken by the client
        self.ended = ""  # "eof", "closed" or "aborted"
        self.writes = 0
        self.parts = 1  # of the last write
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("192.0.2.7", 40_000), "socket": _SILENT}.get(name)

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes

    def write(self, data: bytes) -> None:
        assert not self.ended, f"written after {self.ended}"
        self.sent += data
        self.writes += 1
        if not self.accepts_writes:
            self.waiting_bytes += len(data)
            self.protocol.pause_writing()

    def writelines(self, parts: Sequence[bytes]) -> None:
        self.parts = len(parts)
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        self.ended = "eof"

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def is_closing(self) -> bool:
        return self.ended in ("closed", "aborted")

    def pause_reading(self) -> None:
        assert self.reads
        self.reads = False

    def resume_reading(self) -> None:
        assert not self.reads
        self.reads = True

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0


class RecordingDoor:
    """The real verdicts of the intake; /held waits for `answer_held`, /stream for what the test does with `sink`,
    everything else is echoed at once."""

    def __init__(self) -> None:
        self.bodies = BodyMemory(1 << 20, 1 << 20)
        self.answers = AnswerMemory()
        self.calls: list[tuple[Any, ...]] = []
        self.held: list[tuple[Answer, bytes]] = []
        self.sinks: list[tuple[Sink, bytes]] = []  # of streams that nobody has ended, oldest first

    @property
    def sink(self) -> Sink:
        """Of the one open stream."""
        ((sink, _),) = self.sinks
        return sink

    def admit(self, head: Head) -> Admission | Refusal:
        self.calls.append(("admit", head.method, head.path, head.query, tuple(head.hosts), head.content_length))
        verdict = INTAKE.admit(head)
        return as_streaming(verdict, head) if head.path == "/stream" else verdict

    def refuse(self, refusal: Refusal, answer: Answer) -> None:
        self.calls.append(("refuse", refusal.ending.name))
        answer(*problem.answer(refusal.ending, refusal.ending.title, REQUEST_ID, refusal.headers))

    def abandon(self, admission: Admission, ending: Ending, detail: str, answer: Answer | None) -> None:
        self.calls.append(("abandon", ending.name))
        if answer is not None:
            answer(*problem.answer(ending, ending.title, REQUEST_ID))

    def open(self, admission: Admission, body: bytes, answer: Answer) -> int:
        self.calls.append(("open", admission.path, body))
        if admission.path == "/held":
            self.held.append((answer, body))
            return len(self.calls)
        answer(200, [("x-told", "yes")], body, REQUEST_ID)
        return -1

    def open_stream(self, admission: Admission, body: bytes, sink: Sink) -> int:
        self.calls.append(("open", admission.path, body))
        self.sinks.append((sink, body))
        return len(self.calls)

    def writable(self, token: int) -> None:
        self.calls.append(("writable",))

    def cut(self, why: Cut) -> None:
        self.calls.append(("cut", why))

    def gone(self, token: int) -> None:
        self.calls.append(("gone",))


class FakeFront:
    """What the connections of one front share, with a clock of the test's."""

    def __init__(self) -> None:
        self.door = RecordingDoor()
        self.limits = CONFIG.limits
        self.answer_heads = AnswerHeads()
        self.answer_heads.set_time(0)
        self.draining = False
        self.now = 0.0
        self.clock: Callable[[], float] = lambda: self.now
        self.soon: list[Callable[[], None]] = []
        self.call_soon = self.soon.append
        self.line_bytes_max = 3 * self.limits.max_target_bytes + 64
        self.small_head_bytes = min(self.line_bytes_max, self.limits.max_header_bytes, SMALL_HEAD_BYTES)
        self.paused: set[Connection] = set()
        self.heads_due = Deadlines(10.0, Connection.head_is_late)
        self.bodies_due = Deadlines(10.0, Connection.body_is_late)
        self.writes_due = Deadlines(20.0, Connection.reader_is_late)
        self.lingers_due = Deadlines(2.0, Connection.cut)
        self.is_full = self.crowded = False
        self.ended = 0
        self.to_close: list[Connection] = []  # soon, in a drain

    def take_in(self, connection: Connection) -> bool:
        return not self.is_full

    def is_crowded(self) -> bool:
        return self.crowded

    def let_go(self, connection: Connection) -> None:
        self.ended += 1

    def close_soon(self, connection: Connection) -> None:
        self.to_close.append(connection)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for deadlines in (self.heads_due, self.bodies_due, self.writes_due, self.lingers_due):
            deadlines.expire(self.now)


class Wire:
    """A client's end of the connection."""

    def __init__(self, front: FakeFront | None = None) -> None:
        self.front = front or FakeFront()
        self.door = self.front.door
        self.transport = FakeTransport()
        self.connection = self.transport.protocol = Connection(self.front)
        self.connection.connection_made(self.transport)

    @property
    def sent(self) -> bytes:
        """Everything the server has written."""
        return bytes(self.transport.sent)

    def send(self, *parts: bytes) -> Wire:
        """The client's bytes, each part in a segment of its own, for as long as the server reads."""
        for part in parts:
            if part and not self.transport.is_closing():
                self.connection.data_received(part)
                self.run_soon()
        return self

    def answer_held(self, status: int = 200, headers: HeaderList | None = None, body: bytes | None = None) -> None:
        """The service answers the request that waits; None sends its body back."""
        answer, asked = self.door.held.pop(0)
        answer(status, headers or [], asked if body is None else body, REQUEST_ID)
        self.run_soon()

    def answer_all_held(self) -> None:
        """The service answers all requests that wait; streams have their request's body as their only piece."""
        while self.door.held or self.door.sinks:
            if self.door.held:
                self.answer_held()
            else:
                sink, asked = self.door.sinks.pop(0)
                sink.begin(200, [], REQUEST_ID)
                sink.end(asked)
                self.run_soon()

    def take_some(self, size_bytes: int) -> None:
        """The client has taken a part of what was written."""
        assert size_bytes < self.transport.waiting_bytes
        self.transport.waiting_bytes -= size_bytes

    def take(self) -> None:
        """The client has taken all that was written."""
        self.transport.accepts_writes = True
        self.transport.waiting_bytes = 0
        self.connection.resume_writing()
        self.run_soon()

    def end_if_idle(self, for_s: float = 0.0) -> bool:
        """The front ends a connection that has been idle for so long; whether it did."""
        is_idle = self.connection.is_idle_since(self.front.now - for_s)
        if is_idle:
            self.connection.leave()
        return is_idle

    def leave(self) -> None:
        """The client's end is closed."""
        self.connection.connection_lost(None)

    def run_soon(self) -> None:
        """The loop's next turns."""
        while self.front.soon:
            self.front.soon.pop(0)()
