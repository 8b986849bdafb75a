"""The store's socket: whatever one connection sends, it ends alone, and the others go on."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from fastgw.kept_replies import KeyKnown, KeyState, Known, State, Topics
from fastgw.mesh import store_frames, unix_sockets
from fastgw.mesh.framing import MAX_FRAME_BYTES
from fastgw.mesh.store_frames import LAYOUT, Hello, HoldingWatch, KeyWatch, Unwatch, Watch
from fastgw.store.server import Connection, Server

TOPICS = Topics(bytes(16), 8, True)
HELLO = store_frames.encode(Hello(LAYOUT))
WATCH = Watch(1, b"id", 3, 1000)


class Store:
    """Keeps what the connections ask for."""

    topics = TOPICS

    def __init__(self) -> None:
        self.asked: list[tuple[Connection, Any]] = []
        self.left: list[Connection] = []

    def watch(self, connection: Connection, watch: Any) -> None:
        self.asked.append((connection, watch))

    watch_key = watch_holding = watch

    def unwatch(self, connection: Connection, number: int) -> None:
        self.asked.append((connection, number))

    def gone(self, connection: Connection) -> None:
        self.left.append(connection)


class Place:
    """A server, and clients that write bytes."""

    def __init__(self, run_dir: Path) -> None:
        self.store, self._loop = Store(), asyncio.get_running_loop()
        self._path = store_frames.socket_path(run_dir)
        self.server = Server(run_dir, self.store, self._loop)

    async def connect(self, data: bytes = HELLO) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(self._path), limit=2 * MAX_FRAME_BYTES)
        writer.write(data)
        return reader, writer

    async def is_served(self) -> None:
        """A worker that behaves is served."""
        reader, writer = await self.connect(HELLO + store_frames.encode(WATCH))
        assert await told(reader) == TOPICS
        before = len(self.store.asked)
        writer.write(store_frames.encode(WATCH))
        async with asyncio.timeout(10):
            while len(self.store.asked) == before:
                await asyncio.sleep(0.005)
        connection = self.store.asked[-1][0]
        connection.tell(State(1, Known.OPEN))
        assert await told(reader) == State(1, Known.OPEN)
        writer.close()


async def told(reader: asyncio.StreamReader) -> Any:
    """The next frame of the store."""
    async with asyncio.timeout(10):
        length = await reader.readexactly(4)
        (frame,) = store_frames.reader(of_worker=False).feed(
            length + await reader.readexactly(int.from_bytes(length, "big"))
        )
    return frame


async def ended(reader: asyncio.StreamReader) -> None:
    """The store has ended the connection."""
    async with asyncio.timeout(10):
        with suppress(ConnectionError):  # it does so at once
            await reader.read()


def play(run_dir: Path, scene: Callable[[Place], Coroutine[Any, Any, None]]) -> list[Any]:
    """Play a scene; afterwards a good worker must still be served. Gives why connections were cut."""

    async def run() -> None:
        place = Place(run_dir)
        await place.server.start()
        try:
            await scene(place)
            await place.is_served()
        finally:
            place.server.close()

    with structlog.testing.capture_logs() as lines:
        uvloop.run(run())
    return [line["why"] for line in lines if line["event"] == "worker disconnected" and line["why"] != "the store ends"]


BAD = {
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", "frame length"),
    "of no length": (HELLO + bytes(4), "frame length: expected 1 to 16777216 bytes, got 0"),
    "too long": (HELLO + b"\xff" * 5, "frame length: expected 1 to 16777216 bytes, got 4294967295"),
    "before hello": (store_frames.encode(WATCH), "expected HELLO as the first frame"),
    "other layout": (store_frames.encode(Hello(LAYOUT + 1)), f"expected frames of layout {LAYOUT}, got {LAYOUT + 1}"),
    "malformed": (HELLO + b"\0\0\0\x02\x12\xc1", "watch: "),
    "other fields": (HELLO + b"\0\0\0\x06\x28\x91\xa4text"[:10], "holdingwatch: "),
}


@pytest.mark.parametrize("name", BAD)
def test_a_connection_with_bad_frames_is_ended_alone_and_the_log_says_why(tmp_path: Path, name: str) -> None:
    data, why = BAD[name]

    async def scene(place: Place) -> None:
        reader, _ = await place.connect(data)
        await ended(reader)

    (found,) = play(tmp_path, scene)
    assert found.startswith(why), found


def test_a_frame_that_is_cut_off_by_the_end_of_its_connection_asks_for_nothing(tmp_path: Path) -> None:
    async def scene(place: Place) -> None:
        frame = store_frames.encode(WATCH)
        reader, writer = await place.connect(HELLO + frame + frame[:-1])
        assert await told(reader) == TOPICS
        writer.close()
        async with asyncio.timeout(10):
            while not place.store.left:
                await asyncio.sleep(0.005)
        assert [watch for _, watch in place.store.asked] == [WATCH]
        assert place.server.connections == set()

    assert play(tmp_path, scene) == []


def test_every_kind_of_watch_reaches_the_store_and_unknown_kinds_are_skipped(tmp_path: Path) -> None:
    frames = [WATCH, KeyWatch(2, bytes(32), 3, "POST /o"), HoldingWatch(3, bytes(32), 3, b"id", 1000), Unwatch(1)]

    async def scene(place: Place) -> None:
        unknown = b"\0\0\0\x02\xc8x"
        reader, _ = await place.connect(HELLO + unknown + b"".join(map(store_frames.encode, frames)))
        assert await told(reader) == TOPICS
        async with asyncio.timeout(10):
            while len(place.store.asked) < len(frames):
                await asyncio.sleep(0.005)
        assert [asked for _, asked in place.store.asked] == [*frames[:3], 1]

    assert play(tmp_path, scene) == []


def test_a_process_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.geteuid()

    async def scene(place: Place) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(unix_sockets.os, "geteuid", lambda: uid + 1)
            reader, _ = await place.connect()
            await ended(reader)
        assert place.store.asked == []

    assert play(tmp_path, scene) == [f"peer: expected uid {uid + 1}, got {uid}"]


def test_nobody_else_may_connect_to_the_file_of_the_socket(tmp_path: Path) -> None:
    listening = unix_sockets.listening(store_frames.socket_path(tmp_path))
    assert store_frames.socket_path(tmp_path).stat().st_mode & 0o777 == 0o600
    assert listening.family == socket.AF_UNIX
    listening.close()


@pytest.mark.parametrize("headers", [[], [("x", b"y" * MAX_FRAME_BYTES)]])
def test_of_a_reply_that_no_frame_can_carry_the_size_is_told(tmp_path: Path, headers: list[tuple[str, bytes]]) -> None:
    value = b"" if headers else bytes(MAX_FRAME_BYTES)
    size = MAX_FRAME_BYTES + len(headers)

    async def scene(place: Place) -> None:
        reader, _ = await place.connect(HELLO + store_frames.encode(WATCH))
        assert await told(reader) == TOPICS
        async with asyncio.timeout(10):
            while not place.store.asked:
                await asyncio.sleep(0.005)
        connection = place.store.asked[0][0]
        connection.tell(State(1, Known.ANSWERED, 3, 9, headers, value))
        connection.tell(KeyState(2, KeyKnown.ANSWERED, (b"id",), partition=3, offset=9, headers=headers, value=value))
        assert await told(reader) == State(1, Known.ANSWERED, 3, 9, left_bytes=size)
        assert await told(reader) == KeyState(2, KeyKnown.ANSWERED, (b"id",), partition=3, offset=9, left_bytes=size)

    assert play(tmp_path, scene) == []
