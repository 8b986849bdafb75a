"""The question for the streams of a worker, and its answer, over real sockets."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import uvloop

from fastgw.mesh import status, unix_sockets
from fastgw.mesh.framing import LENGTH, FrameError
from fastgw.mesh.links import MeshLinks, socket_path
from fastgw.messages import Reply
from fastgw.open_streams import OpenStream, OpenStreams

STREAMS = OpenStreams(300, [OpenStream("orders", "x" * 36, "flows", False, n, 3, n, 100, 10**9) for n in range(200)])


def test_a_worker_tells_its_streams_and_goes_on_to_take_replies(tmp_path: Path) -> None:
    async def scenario() -> None:
        taken: list[Reply] = []
        worker = MeshLinks(tmp_path, 0, 1, taken.extend, on_status=lambda: STREAMS)
        await worker.start()
        paths = [socket_path(tmp_path, 0, 1)] * 2
        assert await asyncio.to_thread(status.ask, paths, 10.0) == [STREAMS, STREAMS]
        assert taken == []
        worker.close()

    uvloop.run(scenario())


def test_who_is_silent_or_gone_has_no_answer_and_costs_the_limit_at_most(tmp_path: Path) -> None:
    silent = unix_sockets.listening(tmp_path / "silent")
    silent.listen()
    began_s = time.monotonic()
    assert status.ask([tmp_path / "silent", tmp_path / "gone"], 0.2) == [None, None]
    assert 0.2 <= time.monotonic() - began_s < 2
    began_s = time.monotonic()
    assert status.ask([tmp_path / "gone"], 60) == [None]
    assert time.monotonic() - began_s < 10
    silent.close()


@pytest.mark.parametrize("answer", [b"", LENGTH.pack(0), LENGTH.pack(2) + bytes((status.STREAMS, 0xC1))])
def test_an_answer_that_is_none_counts_as_none(tmp_path: Path, answer: bytes) -> None:
    async def scenario() -> None:
        async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readexactly(len(status.QUESTION)) == status.QUESTION
            writer.write(answer)
            writer.close()

        async with await asyncio.start_unix_server(tell, tmp_path / "odd"):
            assert await asyncio.to_thread(status.ask, [tmp_path / "odd"], 10.0) == [None]

    asyncio.run(scenario())


def test_an_answer_in_pieces_is_put_together() -> None:
    reader = status.reader()
    frame = status.encode(STREAMS)
    assert [reader.feed(frame[at : at + 1]) for at in range(len(frame) - 1)] == [[]] * (len(frame) - 1)
    assert reader.feed(frame[-1:]) == [STREAMS]
    with pytest.raises(FrameError, match="streams:"):
        status.reader().feed(LENGTH.pack(2) + bytes((status.STREAMS, 0xC0)))
