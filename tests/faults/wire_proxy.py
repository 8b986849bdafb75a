"""A TCP proxy between the gateway and a broker: delays or keeps what passes, loses answers, changes what they say."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

from tests.faults.produce_answers import Conversation, ProduceAnswers

PIECE_BYTES = 65_536
LOOK_AGAIN_S = 0.01


class WireProxy:
    """Listens on a port of this machine and forwards to another; on a thread of its own. A context manager.

    Attributes:
        port: where it listens.
        round_trip_s: added to the way of every answer; may be changed at any time.
        answers_lost: while true, what the server answers is thrown away.
        silent: while true, nothing passes either way; afterwards it does, late, as after a partition of the network.
        refuses: while true, new connections are ended at once.
    """

    def __init__(self, to_port: int, produce_answers: ProduceAnswers | None = None) -> None:
        """`produce_answers`: what a Kafka broker at that port is to say."""
        self.produce_answers = produce_answers
        self.round_trip_s = 0.0
        self.answers_lost = False
        self.silent = False
        self.refuses = False
        self.port = 0
        self._to_port = to_port
        self._loop = asyncio.new_event_loop()
        self._pairs: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire-proxy", daemon=True)

    def __enter__(self) -> WireProxy:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Ends every connection there is."""
        self._call(self._cut())

    def _call(self, coroutine: object) -> None:
        future: Future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)  # type: ignore[arg-type]
        future.result(30)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut(self) -> None:
        for writer in list(self._pairs):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        conversation = Conversation(self.produce_answers) if self.produce_answers is not None else None
        both = {writer, server_writer}
        self._pairs |= both
        forward = asyncio.ensure_future(self._pass_on(reader, server_writer, conversation))
        back = asyncio.ensure_future(self._pass_back(server_reader, writer, conversation))
        await asyncio.wait({forward, back}, return_when=asyncio.FIRST_COMPLETED)
        for task in (forward, back):
            task.cancel()
        for one in both:
            one.transport.abort()
        self._pairs -= both

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, conversation: Conversation | None
    ) -> None:
        try:
            while data := await reader.read(PIECE_BYTES):
                await self._not_silent()
                if conversation is not None:
                    conversation.ask(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return

    async def _pass_back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, conversation: Conversation | None
    ) -> None:
        # A delay holds back, it does not slow down: pieces travel side by side.
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivering = asyncio.ensure_future(self._deliver(under_way, writer))
        try:
            while data := await reader.read(PIECE_BYTES):
                if conversation is not None:
                    data = conversation.answer(data)
                if not self.answers_lost:
                    under_way.put_nowait((self._loop.time() + self.round_trip_s, data))
        except ConnectionError:
            return
        finally:
            delivering.cancel()

    async def _deliver(self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            at_s, data = await under_way.get()
            await asyncio.sleep(max(0.0, at_s - self._loop.time()))
            await self._not_silent()
            writer.write(data)

    async def _not_silent(self) -> None:
        while self.silent:
            await asyncio.sleep(LOOK_AGAIN_S)
