"""The access log: one JSON line for each request, written by a thread of its own, so that the loop never waits for it.

    loop ──line──> gathered (bounded) ──tick: handed over──> writer thread ──write──> stdout, stderr or a file

The loop only encodes and appends. When the disk or the reader of the pipe is too slow, lines that do not fit are
dropped and counted. Workers share one file or pipe. Their lines never mix, because these writes are atomic: a write to
a file with O_APPEND, and a write of up to PIPE_BUF bytes to a pipe or to a socket of journald.
"""

from __future__ import annotations

import os
import queue
import random
import re
import select
import stat
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import structlog

from fastgw import errors
from fastgw.errors import Ending, Outcome

if TYPE_CHECKING:
    from fastgw.config import Log

log = structlog.get_logger("fastgw.access")

GATHERED_BYTES_MAX = 4 << 20
# With these limits a line is not longer than PIPE_BUF, even if each character takes two bytes (none takes more).
TARGET_CHARACTERS_MAX = 512
METHOD_CHARACTERS_MAX = 32
REOPEN_PERIOD_S = 1.0
REPORT_PERIOD_S = 10.0
CLOSE_TIMEOUT_S = 1.0

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?").fullmatch
_POSITION = re.compile(r"((?:^|&)last_event_id=)[^&]*")
_chance = random.random
_REPLIED = frozenset({errors.ANSWERED.number, errors.BAD_REPLY.number})
_OUTCOMES = {outcome: outcome.value for outcome in Outcome}  # faster than `.value` of an enumeration


class Line(msgspec.Struct, omit_defaults=True, frozen=True, gc=False):
    """One request. Fields that are unknown or do not apply are left out; times are in milliseconds."""

    time: str  # when it ended; RFC 3339, UTC
    request_id: str
    status: int  # 499: the client left, and nothing was sent
    ending: str
    outcome: str
    worker: int
    route: str = ""
    method: str = ""
    path: str = ""
    query: str = ""
    client: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    queue_ms: float | None = None  # from sending the record to Kafka's acknowledgement
    ack_to_reply_ms: float | None = None
    total_ms: float | None = None  # from the time at which the request was complete
    client_request_id: str = ""
    trace_id: str = ""


class Note:
    """The parts of a request's head that its line needs."""

    def __init__(
        self,
        route: str,
        method: str,
        path: str,
        query: str,
        client: str,
        bytes_in: int,
        client_request_id: str,
        traceparent: str,
    ) -> None:
        self.route = route
        self.method = method
        self.path = path
        self.query = query
        self.client = client
        self.bytes_in = bytes_in
        self.client_request_id = client_request_id
        self.traceparent = traceparent


class AccessLog:
    """The access log of one worker."""

    def __init__(self, settings: Log, worker: int, on_dropped: Callable[[int], None]) -> None:
        """
        Args:
            settings: their `access` is not "off".
            worker: the worker's number.
            on_dropped: called on the loop with the number of lines that were dropped.
        """
        self._logs_all = settings.access == "all"
        self._sample = settings.sample
        self._has_path = settings.access_target != "none"
        self._has_query = settings.access_target == "full"
        self._worker = worker
        self._on_dropped = on_dropped
        self._encode = msgspec.json.Encoder().encode
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._dropped = 0
        self._unreported = 0  # dropped lines that the gateway's log does not mention yet
        self._report_from = 0.0
        self._epoch_ms = -1  # the time that `_time` shows
        self._time = ""
        self._writer = LineWriter(settings.access_file)

    def __repr__(self) -> str:
        return f"<AccessLog {len(self._gathered)} lines gathered, {self._writer!r}>"

    def write(
        self,
        note: Note,
        ending: Ending,
        status: int,
        request_id: bytes,
        bytes_out: int,
        times: tuple[int, int, int, int] | None,
    ) -> None:
        """Add the line of a request that has just ended.

        Args:
            bytes_out: size of the answer's body before compression.
            times: when the request was claimed, sent and recorded (monotonic, ns; 0: never), and its deadline.
        """
        if status < 400 and not (self._logs_all and (self._sample >= 1.0 or _chance() < self._sample)):
            return
        if self._gathered_bytes > GATHERED_BYTES_MAX:
            self._dropped += 1
            return
        queue_ms = ack_to_reply_ms = total_ms = None
        if times is not None:
            now_ns = time.monotonic_ns()
            claimed_ns, sent_ns, recorded_ns, _ = times
            total_ms = (now_ns - claimed_ns) // 1000 / 1000
            if recorded_ns:
                queue_ms = max(0, recorded_ns - sent_ns) // 1000 / 1000
                if ending.number in _REPLIED:
                    ack_to_reply_ms = (now_ns - recorded_ns) // 1000 / 1000
        line = self._encode(
            Line(
                self._now(),
                request_id.decode("ascii"),
                status,
                ending.name,
                _OUTCOMES[ending.outcome],
                self._worker,
                note.route,
                note.method[:METHOD_CHARACTERS_MAX],
                note.path[:TARGET_CHARACTERS_MAX] if self._has_path else "",
                _shown(note.query) if self._has_query else "",
                note.client,
                note.bytes_in,
                0 if note.method == "HEAD" else bytes_out,
                queue_ms,
                ack_to_reply_ms,
                total_ms,
                note.client_request_id,
                _trace_id(note.traceparent),
            )
        )
        self._gathered.append(line)
        self._gathered_bytes += len(line) + 1

    def _now(self) -> str:
        epoch_ms = time.time_ns() // 1_000_000
        if epoch_ms != self._epoch_ms:  # requests end in batches, so many lines share one time
            self._epoch_ms = epoch_ms
            second, ms = divmod(epoch_ms, 1000)
            self._time = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)) + f".{ms:03d}Z"
        return self._time

    def flush(self) -> None:
        """Hand the gathered lines to the writer if it is idle. Call it many times a second."""
        dropped = self._dropped + self._writer.take_lost()
        if dropped:
            self._dropped = 0
            self._on_dropped(dropped)
            self._unreported += dropped
        if self._unreported and time.monotonic() >= self._report_from:
            self._report_from = time.monotonic() + REPORT_PERIOD_S
            why = self._writer.trouble or "lines come faster than they can be written"
            log.warning("access log lines dropped", count=self._unreported, why=why)
            self._unreported = 0
        if self._gathered and self._writer.is_idle:
            self._gathered.append(b"")
            self._writer.write(b"\n".join(self._gathered))
            self._gathered = []
            self._gathered_bytes = 0

    def close(self) -> None:
        """Write the remaining lines, for one second at most."""
        until = time.monotonic() + CLOSE_TIMEOUT_S
        self._writer.wait(until)
        self.flush()
        self._writer.wait(until)
        self.flush()


class LineWriter:
    """Writes batches of lines on a thread; one at a time."""

    def __init__(self, target: str) -> None:
        """`target`: "stdout", "stderr" or the name of a file."""
        self._target = target
        self._fd = {"stdout": 1, "stderr": 2}.get(target, -1)
        self._is_file = self._fd < 0
        self._looked_at = 0.0
        self._batches: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._lost = 0  # lines; set by the thread while it writes, taken by the loop while the thread is idle
        self.trouble = ""  # the error of the last write; empty: it worked
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<LineWriter {self._target}{'' if self.is_idle else ', writing'}{self.trouble and ': ' + self.trouble}>"

    @property
    def is_idle(self) -> bool:
        """Nothing is being written."""
        return self._idle.is_set()

    def write(self, lines: bytes) -> None:
        """Let the thread write these lines. Call it only while the thread is idle."""
        self._idle.clear()
        self._batches.put(lines)

    def take_lost(self) -> int:
        """The number of lines that could not be written since the last call."""
        if not self.is_idle:
            return 0
        lost, self._lost = self._lost, 0
        return lost

    def wait(self, until: float) -> None:
        """Wait until the thread is idle, or until the time `until` of the monotonic clock."""
        self._idle.wait(max(0.0, until - time.monotonic()))

    # The thread.

    def _run(self) -> None:
        while True:
            lines = self._batches.get()
            written = 0
            try:
                if self._is_file:
                    self._open()
                for piece in pieces(lines, _is_regular(self._fd)):
                    _write_all(self._fd, piece)
                    written += len(piece)
                self.trouble = ""
            except OSError as error:  # no space, no reader, no directory
                self._lost = lines.count(b"\n", written)
                self.trouble = f"{self._target}: {error.strerror}"
            self._idle.set()

    def _open(self) -> None:
        """Open the file; reopen it when it was renamed or replaced (logrotate)."""
        now = time.monotonic()
        if self._fd >= 0:
            if now - self._looked_at < REOPEN_PERIOD_S:
                return
            self._looked_at = now
            try:
                if os.path.samestat(os.fstat(self._fd), os.stat(self._target)):
                    return
            except FileNotFoundError:
                pass
            os.close(self._fd)
            self._fd = -1
        self._fd = os.open(self._target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._looked_at = now


def _shown(query: str) -> str:
    """The query for the log. A position in a stream grants access to it, so it is not written."""
    if "last_event_id" in query:
        query = _POSITION.sub(r"\1...", query)
    return query[:TARGET_CHARACTERS_MAX]


def _trace_id(traceparent: str) -> str:
    """The trace id of a `traceparent` (W3C Trace Context, section 3.2.2); empty: none."""
    match = _TRACEPARENT(traceparent) if traceparent else None
    return match[1] if match else ""


def pieces(lines: bytes, is_regular: bool) -> list[memoryview]:
    """Cut a batch into writes: one for a file; for pipes and sockets whole lines, up to PIPE_BUF bytes together."""
    view = memoryview(lines)
    if is_regular:
        return [view]
    found, start = [], 0
    while start < len(lines):
        end = len(lines)
        if end - start > select.PIPE_BUF:
            end = lines.rfind(b"\n", start, start + select.PIPE_BUF) + 1
            if end <= start:  # a single line longer than PIPE_BUF
                end = lines.find(b"\n", start) + 1
        found.append(view[start:end])
        start = end
    return found


def _is_regular(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _write_all(fd: int, piece: memoryview) -> None:
    """Write all of `piece`. Another process may have set the descriptor non-blocking, so wait if it is full."""
    while piece:
        try:
            piece = piece[os.write(fd, piece) :]
        except BlockingIOError:
            select.select([], [fd], [])
