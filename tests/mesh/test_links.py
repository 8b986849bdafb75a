"""Links between workers, on the loop the workers use (uvloop) and on asyncio's own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fastgw.errors import StartError
from fastgw.mesh import frames, unix_sockets
from fastgw.mesh.links import MeshLinks, socket_path
from fastgw.messages import Reply

Run = Callable[[Coroutine[Any, Any, None]], None]


def reply(number: int, size: int = 10) -> Reply:
    return Reply(b"%036d" % number, 3, number, [("status", b"200")], bytes(size))


class Inbox:
    """Stands where the exchange is: keeps what the links hand over and wakes who waits for it."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.batches = 0
        self._changed = asyncio.Event()

    def take(self, replies: list[Reply]) -> None:
        self.replies += replies
        self.batches += 1
        self._changed.set()

    async def holds(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.replies) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds; the loop's own I/O is what makes it hold."""
    async with asyncio.timeout(10):
        while not condition():
            turned = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.002, turned.set_result, None)
            await turned


async def start(run_dir: Path, worker: int, generation: int = 1, **more: Any) -> tuple[MeshLinks, Inbox]:
    inbox = Inbox()
    links = MeshLinks(run_dir, worker, generation, inbox.take, **more)
    await links.start()
    return links, inbox


def test_a_reply_reaches_the_process_it_is_for_and_no_other(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        a, inbox_a = await start(run_dir, 0)
        b, inbox_b = await start(run_dir, 1)
        c, inbox_c = await start(run_dir, 1, generation=2)
        assert a.forward(1, 1, reply(1))
        assert a.forward(1, 2, reply(2))
        assert b.forward(0, 1, reply(3))
        for inbox in (inbox_a, inbox_b, inbox_c):
            await inbox.holds(1)
        assert (inbox_a.replies, inbox_b.replies, inbox_c.replies) == ([reply(3)], [reply(1)], [reply(2)])
        for links in (a, b, c):
            links.close()
        assert list(run_dir.iterdir()) == []

    run(scenario())


def test_replies_of_one_tick_leave_together_and_keep_their_order(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        a, _ = await start(run_dir, 0)
        b, inbox = await start(run_dir, 1)
        for number in range(200):
            assert a.forward(1, 1, reply(number))
        await inbox.holds(200)
        assert [got.offset for got in inbox.replies] == list(range(200))
        assert inbox.batches < 20
        a.close()
        b.close()

    run(scenario())


def test_large_replies_pass_through_a_socket_that_is_often_full(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        a, _ = await start(run_dir, 0)
        b, inbox = await start(run_dir, 1)
        sent = [reply(number, size) for number, size in enumerate([700_000, 1, 2_000_000, 300_000, 0, 1_000_000])]
        for one in sent:
            assert a.forward(1, 1, one)
        await inbox.holds(len(sent))
        assert inbox.replies == sent
        assert "queued=0" in repr(a)
        a.close()
        b.close()

    run(scenario())


def test_a_sibling_that_does_not_read_fills_the_queue_and_then_replies_are_dropped(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        dropped: list[int] = []
        a, _ = await start(run_dir, 0, queue_bytes=1 << 20, on_dropped=dropped.append)
        deaf = socket.socket(socket.AF_UNIX)
        deaf.bind(str(socket_path(run_dir, 1, 1)))
        deaf.listen()
        accepted = 0
        while a.forward(1, 1, reply(accepted, 10_000)):
            accepted += 1
            assert accepted < 1000
        assert accepted * 10_000 > 900_000
        await until(lambda: a.forward(1, 1, reply(accepted, 10)))  # the kernel took some, nothing blocked
        deaf.close()
        await until(lambda: "down" in repr(a))
        assert len(dropped) == 1
        assert 50 < dropped[0] <= accepted + 1
        a.close()

    run(scenario())


def test_a_process_that_ends_knows_how_many_replies_it_could_not_write(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        a, _ = await start(run_dir, 0)
        b, inbox = await start(run_dir, 1)
        for number in range(3):
            assert a.forward(1, 1, reply(number))
        assert a.close() == 0, "the socket takes them"
        await inbox.holds(3)
        b.close()

        dropped: list[int] = []
        c, _ = await start(run_dir, 2, on_dropped=dropped.append)
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(str(socket_path(run_dir, 3, 1)))
            deaf.listen()
            for number in range(10):
                assert c.forward(3, 1, reply(number, 500_000))
            unsent = c.close()
        assert 5 < unsent <= 10
        assert dropped == [unsent]

    run(scenario())


def test_a_missing_sibling_is_a_drop_and_is_tried_again_after_the_back_off(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        a, _ = await start(run_dir, 0)
        assert not a.forward(1, 1, reply(1))
        b, inbox = await start(run_dir, 1)
        assert not a.forward(1, 1, reply(2)), "in back-off: nothing is tried"
        await until(lambda: a.forward(1, 1, reply(3)))
        await inbox.holds(1)
        assert inbox.replies == [reply(3)]
        a.close()
        b.close()

    run(scenario())


def test_a_sibling_that_comes_back_is_connected_again(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        a, _ = await start(run_dir, 0)
        b, inbox = await start(run_dir, 1)
        assert a.forward(1, 1, reply(1))
        await inbox.holds(1)
        b.close()
        await until(lambda: "down" in repr(a))
        b, inbox = await start(run_dir, 1)
        await until(lambda: a.forward(1, 1, reply(2)))
        await inbox.holds(1)
        assert inbox.replies == [reply(2)]
        a.close()
        b.close()

    run(scenario())


def test_broken_links_of_earlier_generations_are_forgotten(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        a, _ = await start(run_dir, 0)
        for generation in range(20):
            assert not a.forward(1, generation, reply(1))
        assert repr(a).count("down") == 1
        a.close()

    run(scenario())


def test_a_broken_frame_closes_its_own_connection_only(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        a, _ = await start(run_dir, 0)
        b, inbox = await start(run_dir, 1)
        assert a.forward(1, 1, reply(1))
        await inbox.holds(1)
        reader, writer = await asyncio.open_unix_connection(str(socket_path(run_dir, 1, 1)))
        writer.write(frames.encode(reply(2)) + b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        writer.close()
        assert a.forward(1, 1, reply(3))
        await inbox.holds(3)
        assert inbox.replies == [reply(1), reply(2), reply(3)], "the good frame before the broken one counts"
        a.close()
        b.close()

    run(scenario())


def test_a_peer_of_another_user_is_refused_on_both_sides(
    run: Run, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        a, _ = await start(run_dir, 0)
        b, inbox = await start(run_dir, 1)
        monkeypatch.setattr(unix_sockets.os, "geteuid", lambda: os.getuid() + 1)
        assert not a.forward(1, 1, reply(1)), "the one who connects looks, too"
        reader, writer = await asyncio.open_unix_connection(str(socket_path(run_dir, 1, 1)))
        writer.write(frames.encode(reply(1)))
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        writer.close()
        assert inbox.replies == []
        a.close()
        b.close()

    run(scenario())


def test_a_reply_that_fits_no_frame_is_a_drop(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        a, _ = await start(run_dir, 0)
        assert not a.forward(0, 1, reply(1)._replace(correlation_id=bytes(256)))
        a.close()

    run(scenario())


def test_closing_writes_what_was_queued_in_the_same_tick(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        a, _ = await start(run_dir, 0)
        b, inbox = await start(run_dir, 1)
        assert a.forward(1, 1, reply(1))
        a.close()
        await inbox.holds(1)
        b.close()

    run(scenario())


def test_a_socket_file_left_by_a_dead_process_is_replaced(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        left_over = socket.socket(socket.AF_UNIX)
        left_over.bind(str(socket_path(run_dir, 0, 1)))
        left_over.close()
        a, inbox = await start(run_dir, 0)
        assert a.forward(0, 1, reply(1))
        await inbox.holds(1)
        assert (socket_path(run_dir, 0, 1).stat().st_mode & 0o777) == 0o600
        a.close()

    run(scenario())


def test_a_run_directory_that_cannot_hold_the_socket_is_a_start_error(run: Run, run_dir: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(StartError, match=r"mesh socket .*/worker-0-1\.sock"):
            await start(run_dir / "missing", 0)
        with pytest.raises(StartError, match="AF_UNIX path too long"):
            await start(run_dir / ("d" * 120), 0)

    run(scenario())
