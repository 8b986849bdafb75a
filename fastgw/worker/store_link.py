"""The connection of one worker to the store of its node.

Watches and follows outlive a connection: when the store has ended and its successor listens, the link connects again
and registers them anew, a follow from the next record that its follower needs. So a waiting request does not notice a
restart of the store. Nothing is dropped silently: a store that is disconnected has no watches, and the first state
after a registration is complete.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from fastgw.back_off import BackOff
from fastgw.core.kept import OnKeyState, OnState
from fastgw.core.stream import Follower
from fastgw.followed import StreamTopic
from fastgw.kept_replies import KeyState, State, Topics
from fastgw.mesh import store_frames, unix_sockets
from fastgw.mesh.framing import FrameError
from fastgw.mesh.store_frames import (
    Credit,
    Follow,
    FollowEnd,
    Following,
    Hello,
    HoldingWatch,
    Items,
    KeyWatch,
    Unfollow,
    Unwatch,
    Watch,
)

FIRST_RETRY_S, LAST_RETRY_S = 0.05, 1.0
SILENT_NS = 2_000_000_000  # a store shows its figures and a heartbeat several times a second
BEHIND_BYTES = 8 << 20  # unsent bytes above which the connection is given up and made anew

_STATES = (KeyState, State)

log = structlog.get_logger("fastgw.worker")


class StoreLink:
    """Implements `core.kept.KeptReplies` and `core.stream.FollowedStreams`. Everything runs on the loop.

    Attributes:
        topics: what the store has said about the topic of kept replies; None: there is no connection.
        streams: the same about the topic of streams.
    """

    def __init__(
        self, run_dir: Path, loop: asyncio.AbstractEventLoop, beat_ns: Callable[[], int], secret_id: bytes = b""
    ) -> None:
        """
        Args:
            beat_ns: when the store had its last heartbeat, monotonic.
            secret_id: of the secret under which this worker signs; empty: there is none.
        """
        self.topics: Topics | None = None
        self.streams: StreamTopic | None = None
        self._path = store_frames.socket_path(run_dir)
        self._hello = Hello(store_frames.LAYOUT, secret_id)
        self._loop = loop
        self._beat_ns = beat_ns
        self._silent_ns = -SILENT_NS  # when the store was silent last
        self._connection: _Connection | None = None
        self._back_off = BackOff(FIRST_RETRY_S, LAST_RETRY_S, due_at=0.0)
        self._watches: dict[
            int, tuple[Watch | KeyWatch | HoldingWatch, Any]
        ] = {}  # each with its OnState or OnKeyState
        self._followers: dict[int, Follower] = {}
        self._number = 0
        self._unsent: list[bytes] = []
        self._is_closed = False
        self._connecting: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        state = "up" if self._is_up else "down"
        return f"<StoreLink {state}, {len(self._watches)} watches, {len(self._followers)} follows>"

    @property
    def _is_up(self) -> bool:
        return self.topics is not None or self.streams is not None

    @property
    def watches(self) -> int:
        """The number of watches."""
        return len(self._watches)

    def tick(self) -> None:
        """Connect, if there is no connection and the back-off is over."""
        self.is_silent()
        if self._connection is not None or self._is_closed or not self._back_off.due(self._loop.time()):
            return
        try:
            connected = unix_sockets.connected(self._path)
        except OSError:
            self._back_off.failed(self._loop.time())
            return
        connection = self._connection = _Connection(self)
        # A task needs a reference until it has ended.
        self._connecting = self._loop.create_task(self._loop.create_unix_connection(lambda: connection, sock=connected))

    def watch(self, correlation_id: bytes, partition: int, until_ms: int, on_state: OnState, route: str = "") -> int:
        """See `KeptReplies.watch`."""
        return self._register(Watch(self._next_number(), correlation_id, partition, until_ms, route), on_state)

    def watch_key(self, key_hash: bytes, lane: int, route: str, on_state: OnKeyState) -> int:
        """See `KeptReplies.watch_key`."""
        return self._register(KeyWatch(self._next_number(), key_hash, lane, route), on_state)

    def watch_holding(self, key_hash: bytes, lane: int, first_id: bytes, until_ms: int, on_state: OnState) -> int:
        """See `KeptReplies.watch_holding`."""
        return self._register(HoldingWatch(self._next_number(), key_hash, lane, first_id, until_ms), on_state)

    def _register(self, frame: Watch | KeyWatch | HoldingWatch, on_state: OnState | OnKeyState) -> int:
        self._watches[frame.number] = frame, on_state
        self._send(store_frames.encode(frame))
        return frame.number

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def unwatch(self, number: int) -> None:
        """See `KeptReplies.unwatch`."""
        if self._watches.pop(number, None) is not None:
            self._send(store_frames.encode(Unwatch(number)))

    def follow(self, follower: Follower) -> int:
        """See `FollowedStreams.follow`."""
        number = self._next_number()
        self._followers[number] = follower
        self._send(_follow(number, follower))
        return number

    def give_credit(self, number: int, credit: int) -> None:
        """See `FollowedStreams.give_credit`."""
        self._send(store_frames.encode(Credit(number, credit)))

    def is_silent(self) -> bool:
        """See `FollowedStreams.is_silent`. A store that is back needs a moment for what it has missed."""
        now_ns = time.monotonic_ns()
        if self.streams is None or not self.streams.homes or now_ns - self._beat_ns() > SILENT_NS:
            self._silent_ns = now_ns
        return now_ns - self._silent_ns < SILENT_NS

    def unfollow(self, number: int) -> None:
        """See `FollowedStreams.unfollow`."""
        if self._followers.pop(number, None) is not None:
            self._send(store_frames.encode(Unfollow(number)))

    def _send(self, frame: bytes) -> None:
        if self._connection is None or not self._connection.is_made:
            return  # `connected` sends all watches and follows
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(frame)

    def _flush(self) -> None:
        """Write the frames of one turn of the loop together."""
        frames, self._unsent = self._unsent, []
        if self._connection is not None and frames:
            self._connection.write(b"".join(frames))

    def connected(self) -> None:
        """The connection is made: introduce this worker, and register all watches and follows."""
        assert self._connection is not None
        self._unsent = []
        watches = [store_frames.encode(frame) for frame, _ in self._watches.values()]
        follows = [_follow(number, follower) for number, follower in self._followers.items()]
        self._connection.write(b"".join([store_frames.encode(self._hello), *watches, *follows]))

    def disconnected(self, why: str) -> None:
        """The connection has ended."""
        self._connection = None
        self._unsent = []
        now = self._loop.time()
        if self._is_up:  # it had worked: its back-off starts again
            self._back_off.succeeded(now)
            self.topics = self.streams = None
            if not self._is_closed:
                log.warning("store not connected", why=why)
        self._back_off.failed(now)

    def received(self, frame: Any) -> None:
        """A frame of the store."""
        if isinstance(frame, _STATES):  # by far the most
            watch = self._watches.get(frame.number)
            if watch is not None:
                watch[1](frame)
        elif isinstance(frame, Topics):
            self.topics = frame
        elif isinstance(frame, StreamTopic):
            self.streams = frame
        else:
            self._received_follow(frame)

    def _received_follow(self, frame: Items | Following | FollowEnd) -> None:
        follower = self._followers.get(frame.number)
        if follower is None:
            return  # it has ended meanwhile
        if isinstance(frame, Items):
            follower.on_records(frame.records)
        elif isinstance(frame, Following):
            follower.on_following(frame.start)
        else:
            del self._followers[frame.number]
            follower.on_follow_end(frame.why)

    def close(self) -> None:
        """Close the connection."""
        self._is_closed = True
        if self._connection is not None:
            self._connection.close()


def _follow(number: int, follower: Follower) -> bytes:
    return store_frames.encode(
        Follow(number, follower.raw, follower.home, follower.position, follower.credit, follower.is_replay)
    )


class _Connection(asyncio.Protocol):
    def __init__(self, link: StoreLink) -> None:
        self._link = link
        self._reader = store_frames.reader(of_worker=False)
        self._transport: Any = None
        self._why = "closed by the store"

    @property
    def is_made(self) -> bool:
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._link.connected()

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except FrameError as error:
            log.error("connection to the store broken", why=str(error))
            frames = error.before
            self._give_up(str(error))
        for frame in frames:
            self._link.received(frame)

    def write(self, data: bytes) -> None:
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > BEHIND_BYTES:
            self._give_up("the store does not read")

    def _give_up(self, why: str) -> None:
        self._why = why
        self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        self._link.disconnected(self._why)
