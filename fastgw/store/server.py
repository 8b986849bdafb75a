"""The store's Unix socket: one connection for each worker process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import structlog

from fastgw.errors import StartError
from fastgw.kept_replies import KeyState, State, Topics, without_reply
from fastgw.mesh import store_frames, unix_sockets
from fastgw.mesh.framing import FrameError
from fastgw.mesh.store_frames import Credit, Follow, Hello, HoldingWatch, KeyWatch, Unfollow, Unwatch, Watch
from fastgw.store.follows import Follows

BACKLOG = 512
# Unsent bytes above which a worker is disconnected; it connects and asks again. Four of the largest frames.
BEHIND_BYTES = 64 << 20

_OF_WATCHES = (KeyWatch, Watch, HoldingWatch, Unwatch)

log = structlog.get_logger("fastgw.store")


class Answerer(Protocol):
    """The store, as its connections see it."""

    topics: Topics

    def knows_secret(self, secret_id: bytes) -> bool:
        """Whether it can verify what a worker with this secret signs."""

    def watch(self, connection: Connection, watch: Watch) -> None: ...
    def watch_key(self, connection: Connection, watch: KeyWatch) -> None: ...
    def watch_holding(self, connection: Connection, watch: HoldingWatch) -> None: ...
    def unwatch(self, connection: Connection, number: int) -> None: ...
    def gone(self, connection: Connection) -> None: ...


class Server:
    """Listens for workers."""

    def __init__(
        self,
        run_dir: Path,
        store: Answerer | None,
        loop: asyncio.AbstractEventLoop,
        follows: Follows | None = None,
        read_again: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            store: knows the kept replies; None: no route keeps any.
            follows: knows the streams; None: no route streams.
            read_again: has the store read its configuration again.
        """
        self._path = store_frames.socket_path(run_dir)
        self.store = store
        self.follows = follows
        self._loop = loop
        self._read_again = read_again
        self._server: asyncio.Server | None = None
        self.connections: set[Connection] = set()

    async def start(self) -> None:
        """Listen. Replaces the socket file of a store that has ended.

        Raises:
            StartError: the socket cannot be made.
        """
        try:
            listening = unix_sockets.listening(self._path)
        except OSError as error:
            raise StartError(f"store socket {self._path}: {error}") from error
        self._server = await self._loop.create_unix_server(
            lambda: Connection(self, self._loop), sock=listening, backlog=BACKLOG
        )

    def tell_topics(self) -> None:
        """Tell every worker what has changed about a topic."""
        frame = b"".join(self.topics())
        for connection in self.connections:
            connection.send(frame)

    def topics(self) -> list[bytes]:
        """The frames about all topics."""
        about_store = [] if self.store is None else [store_frames.encode(self.store.topics)]
        return about_store + ([] if self.follows is None else [store_frames.encode(self.follows.topic)])

    def knows_secret(self, secret_id: bytes) -> bool:
        """Whether the store can verify what a worker signs.

        The supervisor writes the store's configuration before it starts a worker that needs it. The store may see the
        worker before the signal to read it.
        """
        if self.store is None or not secret_id or self.store.knows_secret(secret_id):
            return True
        self._read_again()
        return self.store.knows_secret(secret_id)

    def close(self) -> None:
        """Disconnect all workers, and listen no more."""
        for connection in list(self.connections):
            connection.cut("the store ends")
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)


class Connection(asyncio.Protocol):
    """The connection of one worker. A malformed frame ends it."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._reader = store_frames.reader(of_worker=True)
        self._transport: Any = None
        self._unsent: list[bytes] = []
        self._is_known = False  # it has introduced itself

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        try:
            unix_sockets.check_peer(transport.get_extra_info("socket"))
        except OSError as error:
            self.cut(str(error))

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            frames = self._reader.feed(data)
            why = ""
        except FrameError as error:
            frames, why = error.before, str(error)
        for frame in frames:
            self._take(frame)
        if why:
            self.cut(why)

    def _take(self, frame: Any) -> None:
        if isinstance(frame, Hello):
            self._introduce(frame)
        elif not self._is_known:
            self.cut("expected HELLO as the first frame")
        elif isinstance(frame, _OF_WATCHES):
            self._take_watch(frame)
        else:
            self._take_follow(frame)

    def _introduce(self, hello: Hello) -> None:
        if hello.layout != store_frames.LAYOUT:
            self.cut(f"expected frames of layout {store_frames.LAYOUT}, got {hello.layout}")
            return
        if not self._server.knows_secret(hello.secret_id):
            # Every claim of this worker would be garbage here, and its key would be free on this node.
            self.cut("expected a worker with one of the gateway.secrets of the store, got one with another secret")
            return
        self._is_known = True
        self._server.connections.add(self)
        self.send(b"".join(self._server.topics()))

    def _take_watch(self, frame: KeyWatch | Watch | HoldingWatch | Unwatch) -> None:
        store = self._server.store
        if store is None:
            return  # the worker has another configuration, and will end soon
        if isinstance(frame, KeyWatch):
            store.watch_key(self, frame)
        elif isinstance(frame, Watch):
            store.watch(self, frame)
        elif isinstance(frame, HoldingWatch):
            store.watch_holding(self, frame)
        else:
            store.unwatch(self, frame.number)

    def _take_follow(self, frame: Follow | Credit | Unfollow) -> None:
        follows = self._server.follows
        if follows is None:
            return
        if isinstance(frame, Credit):
            follows.credit(self, frame)
        elif isinstance(frame, Follow):
            follows.follow(self, frame)
        else:
            follows.unfollow(self, frame)

    def tell(self, state: State | KeyState) -> None:
        """Send what is known about the request or the key of a watch; a reply that is too large for a frame is not."""
        try:
            frame = store_frames.encode(state)
        except FrameError:
            frame = store_frames.encode(without_reply(state))
        self.send(frame)

    def send(self, frame: bytes) -> None:
        """Send a frame; those of one turn of the loop leave together."""
        if self._transport is None:
            return
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(frame)

    def _flush(self) -> None:
        frames, self._unsent = self._unsent, []
        if self._transport is None:
            return
        self._transport.write(b"".join(frames))
        if self._transport.get_write_buffer_size() > BEHIND_BYTES:
            self.cut("the worker does not read")

    def cut(self, why: str) -> None:
        """End the connection."""
        if self._transport is not None:
            log.info("worker disconnected", why=why)
            self._transport.abort()
            self._transport = None

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)
        if self._server.store is not None:
            self._server.store.gone(self)
        if self._server.follows is not None:
            self._server.follows.gone(self)
