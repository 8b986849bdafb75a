"""A worker's connection to the store, over a real Unix socket: a restart of the store is not noticed."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path

import pytest
import uvloop

from fastgw.followed import StreamTopic
from fastgw.kept_replies import KeyKnown, KeyState, Known, State, Topics
from fastgw.mesh import store_frames, unix_sockets
from fastgw.mesh.store_frames import Hello, KeyWatch, Watch
from fastgw.store.server import Connection, Server
from fastgw.worker import store_link
from fastgw.worker.store_link import SILENT_NS, StoreLink

TOPICS = Topics(bytes(16), 8, True)
ID = b"ccbfab00-0000-8000-9b83-433100034204"


class Store:
    """Answers watches with what a test says."""

    def __init__(self) -> None:
        self.topics = TOPICS
        self.secret_ids = {b"secret 1"}
        self.watched: list[tuple[Connection, Watch]] = []
        self.unwatched: list[int] = []
        self.left = 0

    def knows_secret(self, secret_id: bytes) -> bool:
        return secret_id in self.secret_ids

    def watch(self, connection: Connection, watch: Watch) -> None:
        self.watched.append((connection, watch))
        connection.tell(State(watch.number, Known.OPEN))

    def watch_key(self, connection: Connection, watch: KeyWatch) -> None:
        connection.tell(KeyState(watch.number, KeyKnown.FREE))

    def unwatch(self, _connection: Connection, number: int) -> None:
        self.unwatched.append(number)

    def gone(self, _connection: Connection) -> None:
        self.left += 1


async def until(condition, link: StoreLink | None = None) -> None:
    """Wait for a condition, while the worker ticks."""
    async with asyncio.timeout(10):
        while not condition():
            if link is not None:
                link.tick()
            await asyncio.sleep(0.005)


async def serve(run_dir: Path, store: Store, read_again=lambda: None) -> Server:
    server = Server(run_dir, store, asyncio.get_running_loop(), read_again=read_again)
    await server.start()
    return server


def test_a_watch_is_told_and_ends(tmp_path: Path) -> None:
    uvloop.run(watch_and_unwatch(tmp_path))


async def watch_and_unwatch(tmp_path: Path) -> None:
    store, link, told = Store(), StoreLink(tmp_path, asyncio.get_running_loop(), time.monotonic_ns), []
    server = await serve(tmp_path, store)
    await until(lambda: link.topics == TOPICS, link)
    number = link.watch(ID, 3, 1000, told.append)
    await until(lambda: told)
    assert told == [State(number, Known.OPEN)]
    assert store.watched[0][1] == Watch(number, ID, 3, 1000)
    store.watched[0][0].tell(State(number, Known.ANSWERED, 3, 9, [], b"done"))
    await until(lambda: len(told) == 2)
    link.unwatch(number)
    link.unwatch(number)
    await until(lambda: store.unwatched == [number])
    store.watched[0][0].tell(State(number, Known.CANCELLED))
    store.topics = Topics(bytes(16), 8, True, is_full=True)
    server.tell_topics()
    await until(lambda: link.topics == store.topics)
    assert len(told) == 2
    link.close()
    await until(lambda: store.left == 1)
    server.close()


def test_keys_and_requests_are_watched_side_by_side_and_again_with_the_next_store(tmp_path: Path) -> None:
    uvloop.run(watch_a_key(tmp_path))


async def watch_a_key(tmp_path: Path) -> None:
    store, link, told = Store(), StoreLink(tmp_path, asyncio.get_running_loop(), time.monotonic_ns), []
    server = await serve(tmp_path, store)
    await until(lambda: link.topics == TOPICS, link)
    key, request = link.watch_key(bytes(32), 3, "POST /o", told.append), link.watch(ID, 3, 1000, told.append)
    await until(lambda: len(told) == 2)
    assert told == [KeyState(key, KeyKnown.FREE), State(request, Known.OPEN)]
    link.unwatch(request)
    await until(lambda: store.unwatched == [request])
    server.close()
    await until(lambda: link.topics is None)
    server = await serve(tmp_path, Store())
    await until(lambda: len(told) == 3, link)
    assert told[2] == KeyState(key, KeyKnown.FREE)
    link.close()
    server.close()


def test_watches_are_registered_again_with_the_next_store(tmp_path: Path) -> None:
    uvloop.run(three_stores(tmp_path))


async def three_stores(tmp_path: Path) -> None:
    link, told = StoreLink(tmp_path, asyncio.get_running_loop(), time.monotonic_ns), []
    number = link.watch(ID, 3, 1000, told.append)
    assert link.topics is None
    for life in range(1, 4):
        store = Store()
        server = await serve(tmp_path, store)
        await until(lambda life=life: len(told) == life, link)
        assert [watch for _, watch in store.watched] == [Watch(number, ID, 3, 1000)]
        server.close()
        await until(lambda: link.topics is None)
    link.close()
    link.tick()


def test_a_worker_with_another_secret_is_let_in_when_the_store_has_read_it(tmp_path: Path) -> None:
    """Otherwise its claims would be garbage, and its keys free on this node."""
    uvloop.run(another_secret(tmp_path))


async def another_secret(tmp_path: Path) -> None:
    store, written, reads = Store(), {b"secret 1"}, []

    def read_again() -> None:
        reads.append(1)
        store.secret_ids = set(written)

    server = await serve(tmp_path, store, read_again)
    loop = asyncio.get_running_loop()
    known, unknown = (StoreLink(tmp_path, loop, time.monotonic_ns, secret) for secret in (b"secret 1", b"secret 2"))
    await until(lambda: known.topics == TOPICS, known)
    assert reads == []
    await until(lambda: len(reads) > 1, unknown)
    assert unknown.topics is None
    written.add(b"secret 2")
    await until(lambda: unknown.topics == TOPICS, unknown)
    assert known.topics == TOPICS
    for link in (known, unknown):
        link.close()
    server.close()


def test_strangers_are_cut_on_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uvloop.run(strangers(tmp_path, monkeypatch))


async def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    server = await serve(tmp_path, store)
    loop = asyncio.get_running_loop()
    for first in (store_frames.encode(Hello(99)), store_frames.encode(Watch(1, ID, 3, 0)), b"\xff" * 8):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as worker:
            worker.setblocking(False)
            await loop.sock_connect(worker, str(store_frames.socket_path(tmp_path)))
            await loop.sock_sendall(worker, first)
            async with asyncio.timeout(5):
                while await loop.sock_recv(worker, 4096):
                    pass
    assert store.watched == []
    monkeypatch.setattr(unix_sockets.os, "geteuid", lambda: os.getuid() + 1)
    link = StoreLink(tmp_path, loop, time.monotonic_ns)
    link.tick()
    assert link.topics is None
    assert store.left == 3
    server.close()


def test_a_store_is_silent_without_heartbeats_and_for_a_moment_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.new_event_loop()
    now_ns = beat_ns = 10 * SILENT_NS
    monkeypatch.setattr(store_link.time, "monotonic_ns", lambda: now_ns)
    link = StoreLink(tmp_path, loop, lambda: beat_ns)
    assert link.is_silent(), "there is no connection"
    link.streams = StreamTopic(bytes(16), 8, [1])
    now_ns = beat_ns = now_ns + SILENT_NS
    assert not link.is_silent()
    now_ns += SILENT_NS + 1
    assert link.is_silent(), "it is frozen"
    beat_ns = now_ns = now_ns + 1
    assert link.is_silent(), "it has to read what it has missed"
    now_ns = beat_ns = now_ns + SILENT_NS
    assert not link.is_silent()
    link.streams = StreamTopic(bytes(16), 8, [])
    assert link.is_silent(), "it cannot read the topic"
    link.close()
    loop.close()
