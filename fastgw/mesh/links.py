"""Unix socket links between the workers of one node. Each worker listens, and connects to a sibling when it first
has a reply for it.

A link carries frames (`frames`) in one direction. The admin port connects to the same socket, with a question instead
of replies (`status`). Nothing here waits: bytes that the socket does not take stay in a bounded queue. If the queue is
full or the link is broken, the reply is dropped and counted, and its request expires with the correct outcome. Frames
of one loop tick leave in one write. Connecting over a Unix socket succeeds or fails at once, so a link is either up or
down. A link that is down connects again with the first reply after its back-off.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import cast

import structlog

from fastgw.back_off import BackOff
from fastgw.errors import StartError
from fastgw.mesh import frames, status, unix_sockets
from fastgw.mesh.framing import FrameError
from fastgw.messages import Reply
from fastgw.open_streams import OpenStreams

QUEUE_BYTES = 8 << 20
WRITE_BYTES = 256 << 10  # more than the kernel takes at once (wmem_default 208 KiB), so joining more is useless
SIBLINGS_BACKLOG = 512  # more than two processes in each of 255 slots: the backlog is never full
FIRST_RETRY_S, LAST_RETRY_S = 0.05, 2.0

log = structlog.get_logger("mesh")


def socket_path(run_dir: Path, worker: int, generation: int) -> Path:
    """The path of the socket on which process `generation` of worker slot `worker` listens."""
    return run_dir / f"worker-{worker}-{generation}.sock"


class MeshLinks:
    """All links of one worker process: its listening socket and one outgoing link per sibling it has talked to.

    Args:
        run_dir: directory of mode 0700 shared by the workers of this node.
        worker, generation: this process; its socket has these numbers in its name.
        on_reply: called on the loop with the replies that arrived together, in order.
        queue_bytes: limit for the bytes that wait for one sibling.
        loop: the running loop; everything here runs on its thread.
        on_dropped: called with the number of replies that `forward` had accepted and that were lost with their link.
        on_status: called for the streams of this process, when the admin port asks.
    """

    def __init__(
        self,
        run_dir: Path,
        worker: int,
        generation: int,
        on_reply: Callable[[list[Reply]], None],
        queue_bytes: int = QUEUE_BYTES,
        loop: asyncio.AbstractEventLoop | None = None,
        on_dropped: Callable[[int], None] = lambda _count: None,
        on_status: Callable[[], OpenStreams] = lambda: OpenStreams(0, []),
    ) -> None:
        self._run_dir = run_dir
        self._path = socket_path(run_dir, worker, generation)
        self._on_reply = on_reply
        self._on_dropped = on_dropped
        self._on_status = on_status
        self._queue_bytes = queue_bytes
        self._loop = loop or asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._incoming: set[_Incoming] = set()
        self._links: dict[tuple[int, int], _Link] = {}

    def __repr__(self) -> str:
        return f"<MeshLinks {self._path.name} incoming={len(self._incoming)} links={list(self._links.values())}>"

    async def start(self) -> None:
        """Listen for siblings. Replaces a socket file of the same name that a dead process has left.

        Raises:
            StartError: the socket cannot be created (path too long, directory missing or not writable).
        """
        try:
            listening = unix_sockets.listening(self._path)
        except OSError as error:
            raise StartError(f"mesh socket {self._path}: {error}") from error
        self._server = await self._loop.create_unix_server(
            lambda: _Incoming(self._incoming, self._on_reply, self._on_status), sock=listening, backlog=SIBLINGS_BACKLOG
        )

    def forward(self, worker: int, generation: int, reply: Reply) -> bool:
        """Queue `reply` for process `generation` of worker slot `worker`; it is written in this loop tick.

        Returns:
            False: it was dropped, because the link is down, its queue is full, or the reply does not fit in a frame.
        """
        link = self._links.get((worker, generation)) or self._add_link(worker, generation)
        try:
            frame = frames.encode(reply)
        except FrameError as error:
            log.warning("reply does not fit in a frame", error=str(error))
            return False
        return link.put(frame)

    def _add_link(self, worker: int, generation: int) -> _Link:
        # Earlier generations of a slot do not come back before the numbers wrap: remove their broken links.
        for key in [key for key, link in self._links.items() if key[0] == worker and not link.up]:
            del self._links[key]
        path = socket_path(self._run_dir, worker, generation)
        link = self._links[worker, generation] = _Link(path, self._queue_bytes, self._loop, self._on_dropped)
        return link

    def close(self) -> int:
        """Write as much as the sockets take, then close everything and remove this worker's socket file.

        Returns:
            How many replies were not written.
        """
        unsent = sum([link.close() for link in self._links.values()])
        self._links.clear()
        for incoming in list(self._incoming):
            incoming.close()
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        return unsent


class _Link:
    """The link to one sibling process: up (connected), or down (until its back-off is over)."""

    def __init__(
        self, path: Path, queue_bytes: int, loop: asyncio.AbstractEventLoop, on_dropped: Callable[[int], None]
    ) -> None:
        self._path = path
        self._queue_bytes = queue_bytes
        self._loop = loop
        self._on_dropped = on_dropped
        self._socket: socket.socket | None = None
        self._queue: deque[bytes] = deque()  # frames not completely written; `_begun` is about the first
        self._begun = 0  # bytes of the first frame that were written
        self._queued_bytes = 0
        self._flushing = False  # a flush is scheduled for this tick, or the loop waits until the socket is writable
        self._back_off = BackOff(FIRST_RETRY_S, LAST_RETRY_S, due_at=0.0)  # of the loop's time
        self._has_written = False  # since the last break

    def __repr__(self) -> str:
        return f"<{self._path.stem} {'up' if self.up else 'down'} queued={self._queued_bytes}>"

    @property
    def up(self) -> bool:
        return self._socket is not None

    def put(self, frame: bytes) -> bool:
        if self._socket is None and not self._connect():
            return False
        if self._queued_bytes + len(frame) > self._queue_bytes:
            return False
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return True

    def _connect(self) -> bool:
        if not self._back_off.due(self._loop.time()):
            return False
        try:
            connected = self._socket = unix_sockets.connected(self._path)
        except OSError as error:
            self._is_down(str(error))
            return False
        # The sibling sends nothing on this socket: readable means that it has closed it.
        self._loop.add_reader(connected.fileno(), self._break, "closed by the sibling")
        return True

    def _is_down(self, why: str) -> None:
        now = self._loop.time()
        if self._has_written:  # the link had worked: its back-off starts again
            self._back_off.succeeded(now)
            self._has_written = False
        self._back_off.failed(now)
        log.info("link down", to=self._path.stem, why=why, retry_s=self._back_off.pause_s)

    def _flush(self) -> None:
        """Write until the queue is empty or the socket is full. The loop calls again when the socket is writable."""
        if self._socket is None:
            return
        try:
            while self._queue:
                self._wrote(self._socket.send(self._next_write()))
        except BlockingIOError:
            self._loop.add_writer(self._socket.fileno(), self._flush)
        except OSError as error:
            self._break(str(error))
        else:
            self._loop.remove_writer(self._socket.fileno())
            self._flushing = False

    def _next_write(self) -> bytes | memoryview:
        first = memoryview(self._queue[0])[self._begun :]
        if len(self._queue) == 1 or len(first) >= WRITE_BYTES:
            return first
        parts, size = [first], len(first)
        for frame in islice(self._queue, 1, None):
            if size + len(frame) > WRITE_BYTES:
                break
            parts.append(memoryview(frame))
            size += len(frame)
        return b"".join(parts)

    def _wrote(self, written: int) -> None:
        self._queued_bytes -= written
        self._has_written = True
        self._begun += written
        while self._queue and self._begun >= len(self._queue[0]):
            self._begun -= len(self._queue.popleft())

    def _break(self, why: str) -> None:
        self._disconnect()
        self._is_down(why)

    def _disconnect(self) -> None:
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._socket = None
        if self._queue:
            self._on_dropped(len(self._queue))
        self._queue.clear()
        self._begun = self._queued_bytes = 0
        self._flushing = False

    def close(self) -> int:
        self._flush()
        unsent = len(self._queue)
        self._disconnect()
        return unsent


class _Incoming(asyncio.Protocol):
    """A sibling's link to this process. A malformed frame closes it; the sibling reconnects after its back-off."""

    def __init__(
        self,
        others: set[_Incoming],
        on_reply: Callable[[list[Reply]], None],
        on_status: Callable[[], OpenStreams],
    ) -> None:
        self._others = others
        self._on_reply = on_reply
        self._on_status = on_status
        self._reader = frames.reader()
        self._has_told_skipped = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from it
        try:
            unix_sockets.check_peer(stream.get_extra_info("socket"))
        except OSError as error:
            log.warning("link refused", why=str(error))
            stream.abort()
            return
        self._transport = stream
        self._others.add(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return  # the connection was refused: ignore its bytes
        try:
            replies = self._reader.feed(data)
        except FrameError as error:
            log.error("link broken", why=str(error))
            replies = error.before
            self.close()
        if self._reader.skipped and not self._has_told_skipped:
            self._has_told_skipped = True  # log once: a sibling of another version keeps sending them
            log.warning("frames of an unknown kind are skipped", count=self._reader.skipped)
        if replies and replies[0] is frames.ASKED:
            if self._transport is not None:
                self._transport.write(status.encode(self._on_status()))
        elif replies:
            self._on_reply(replies)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._others.discard(self)
        self._transport = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
