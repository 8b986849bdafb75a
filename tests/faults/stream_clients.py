"""Clients of streamed answers: of lines, of arrays, of bytes, and of events.

Those of events come back as browsers do: whenever their connection has ended without an end, with the id of the last
event that they got, to any node. Some lose their connection on purpose, and some come back after the end, which has to
tell them to stop.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from tests.actors.load import Connection
from tests.faults.clients import REST_S, TRY_AGAIN_S, Clients, Habits, problem_of
from tests.faults.oracle import CUT, SILENT, Told
from tests.faults.stream_answers import Answer, Array, Events, Lines, Pieces, ending_in
from tests.faults.stream_oracle import COMPLETE, UNSETTLED, Streamed

GIVE_UP_S = 60.0  # a client that comes back: longer than every fault lasts
LEAVES = 0.3  # of the connections for events are lost by their client
COMES_BACK = 0.25  # of the clients of events come back after the end
LISTENS = 0.5  # of the clients of events that are told a failure come back once
STOP = "stop"  # 204 to a client that comes back
STREAM_FAILURES = {"stream_broken", "stream_idle"}
SLOW_BUFFER_BYTES = 8 << 10
ITEMS_MAX = 12  # of a stream, unless the habits say how many

Format = tuple[str, str, Callable[[], Answer]]
LINES: Format = ("/streams", "application/x-ndjson", Lines)
ARRAY: Format = ("/streams", "application/json", Array)
BYTES: Format = ("/bytes", "*/*", Pieces)
FORMATS = (LINES, ARRAY, BYTES)
NO_ERRORS = (ARRAY, BYTES)  # which break off
EVENTS = "/lasting", "text/event-stream"


class Opened(Connection):
    """A connection on which answers are read piece by piece. For slow clients, nothing reads ahead much."""

    def __init__(self, port: int, is_slow: bool = False) -> None:
        super().__init__(port)
        self._is_slow = is_slow

    async def open(self) -> None:
        if not self._is_slow:
            await super().open()
            return
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER_BYTES)
        one.setblocking(False)
        await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", self.port))
        self._streams = await asyncio.open_connection(sock=one, limit=SLOW_BUFFER_BYTES)

    async def ask(self, path: str, headers: Sequence[str]) -> tuple[int, dict[str, str]]:
        """Sends a GET; returns (status, headers) of the answer.

        Raises:
            ConnectionError, asyncio.IncompleteReadError: the connection was cut.
        """
        assert self._streams is not None
        reader, writer = self._streams
        writer.write("\r\n".join([f"GET {path} HTTP/1.1", "Host: test", *headers, "", ""]).encode())
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        told = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
        return int(lines[0].split()[1]), told

    async def whole(self, headers: Mapping[str, str]) -> bytes:
        """The body of an ordinary answer."""
        assert self._streams is not None
        return await self._streams[0].readexactly(int(headers.get("content-length", 0)))

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks of a streamed one, up to the last."""
        assert self._streams is not None
        reader = self._streams[0]
        while True:
            size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            data = (await reader.readexactly(size + 2))[:-2]
            if not size:
                return
            yield data


class StreamClients(Clients):
    """`streams` are the streams that they got."""

    def __init__(self, ports: Sequence[int], habits: Habits) -> None:
        super().__init__(ports, "", habits)
        self.streams: list[Streamed] = []
        self._chance = random.Random()
        self._failed: set[bytes] = set()  # streams that were told one

    def _connection(self, port: int) -> Connection:
        return Opened(port, is_slow=self._habits.bytes_per_s > 0)

    def _body(self, number: int) -> bytes:
        """The query, which names the request."""
        habits = self._habits
        items = habits.items or self._chance.randrange(ITEMS_MAX)
        words = [f"run={self.run}", f"number={number}", f"items={items}"]
        if habits.manners:  # every format gets every manner that can be seen in it
            manner = habits.manners[number // (len(FORMATS) + 1) % len(habits.manners)].decode()
            if not (manner.startswith("fail") and self._format_of(number) in NO_ERRORS):
                words.append(manner)
        return "&".join(words).encode()

    def _format_of(self, number: int) -> Format | None:
        """None: events."""
        if self._habits.only_events:
            return None
        return [*FORMATS, None][number % (len(FORMATS) + 1)]

    async def _ask(self, connection: Connection, body: bytes, began_s: float) -> Told:
        assert isinstance(connection, Opened)
        stream = Streamed(body, began_ms=_now_ms())
        self.streams.append(stream)
        number = int(body.split(b"number=")[1].split(b"&")[0])
        how = self._format_of(number)
        told = await (self._hear_all(connection, stream) if how is None else self._read(connection, stream, how))
        stream.ended_ms = _now_ms()
        status, outcome = told
        return Told(
            body, began_s, time.monotonic(), stream.ending, outcome, status, stream.correlation_id, port=connection.port
        )

    async def _read(self, connection: Opened, stream: Streamed, how: Format) -> tuple[int, str]:
        """One answer that is no stream of events; gives (status, outcome)."""
        path, accept, make = how
        answer = make()
        answer.items = stream.items
        stream.is_bytes = make is Pieces
        status, outcome = 0, ""
        try:
            async with asyncio.timeout(self._habits.silent_after_s):
                status, headers = await connection.ask(f"{path}?{stream.asked.decode()}", [f"Accept: {accept}"])
                outcome = await self._take_head(connection, stream, headers)
                if not stream.ending:
                    await self._take_chunks(connection, answer)
                    stream.ending, stream.total, outcome = answer.ending, answer.total, answer.outcome or outcome
                    stream.detail = answer.detail
        except (ConnectionError, asyncio.IncompleteReadError):
            stream.ending = answer.ending or CUT
        except TimeoutError:
            stream.ending = SILENT
        return status, outcome

    async def _take_head(self, connection: Opened, stream: Streamed, headers: Mapping[str, str]) -> str:
        """Notes what the head says, and of an ordinary answer everything; gives the outcome."""
        outcome = headers.get("fastgw-outcome", "")
        stream.correlation_id = headers.get("x-request-id", "").encode()
        if headers.get("transfer-encoding") == "chunked":
            stream.is_claimed = outcome == "recorded"
            return outcome
        body = await connection.whole(headers)
        problem = problem_of(headers, body)
        stream.ending = ending_in(problem) if problem is not None else f"ordinary {body[:40]!r}"
        stream.detail = problem.get("detail", "") if problem is not None else ""
        return outcome

    async def _take_chunks(self, connection: Opened, answer: Answer, leaves_after: int = 1 << 30) -> bool:
        """Reads to the last chunk; False: left after so many items."""
        before = len(answer.items)
        async for data in connection.chunks():
            answer.feed(data)
            await self._rest(len(data))
            if len(answer.items) - before >= leaves_after and not answer.ending:
                return False
        answer.finish()
        return True

    async def _rest(self, size: int) -> None:
        """Slow clients read on when so much would have come."""
        if rate := self._habits.bytes_per_s:
            until_s = time.monotonic() + size / rate
            while time.monotonic() < until_s and not self._enough.is_set():
                await asyncio.sleep(REST_S)

    # Events.

    async def _hear_all(self, connection: Opened, stream: Streamed) -> tuple[int, str]:
        """Events to their end, over as many connections as it takes."""
        give_up_s = time.monotonic() + GIVE_UP_S
        events = Events(stream.items)
        status, outcome = await self._hear(connection, stream, events)
        while not stream.ending or self._ignores(stream, events):
            stream.ending = ""
            if time.monotonic() > give_up_s:
                stream.ending = UNSETTLED
                break
            await asyncio.sleep(TRY_AGAIN_S if events.retry_ms is None else events.retry_ms / 1000)
            events = Events(stream.items, events.last_id)
            await self._come_back(stream, events)
            outcome = events.outcome or outcome
        if stream.ending == COMPLETE and self._chance.random() < COMES_BACK:
            stream.was_stopped = await self._is_told_to_stop(stream, events.last_id, give_up_s)
        return status, outcome

    def _ignores(self, stream: Streamed, events: Events) -> bool:
        """Whether the client comes back although it was told a failure of the gateway, as pages do that only listen."""
        is_anew = not events.last_id  # it would not come back, but begin anew
        if is_anew or stream.ending not in STREAM_FAILURES or stream.correlation_id in self._failed:
            return False
        self._failed.add(stream.correlation_id)
        return self._chance.random() < LISTENS

    async def _come_back(self, stream: Streamed, events: Events) -> None:
        port = self._chance.choice(list(self._ports))
        connection = Opened(port)
        try:
            await connection.open()
        except OSError:
            return
        stream.connections += 1
        try:
            await self._hear(connection, stream, events)
        finally:
            connection.close()

    async def _hear(self, connection: Opened, stream: Streamed, events: Events) -> tuple[int, str]:
        """One connection; gives (status, outcome). The stream has an ending if the client need not come back."""
        path, accept = EVENTS
        is_first = not events.last_id
        headers = [f"Accept: {accept}"] + ([] if is_first else [f"Last-Event-ID: {events.last_id.decode()}"])
        leaves = self._chance.randrange(1, ITEMS_MAX) if self._chance.random() < LEAVES else 1 << 30
        status, outcome = 0, ""
        try:
            async with asyncio.timeout(self._habits.silent_after_s):
                status, told = await connection.ask(f"{path}?{stream.asked.decode()}", headers)
                if told.get("transfer-encoding") == "chunked":
                    outcome = await self._take_head(connection, stream, told) if is_first else ""
                    if not await self._take_chunks(connection, events, leaves):
                        connection.close()
                elif is_first:
                    outcome = await self._take_head(connection, stream, told)
                else:
                    await self._take_answer(connection, stream, events, status, told)
        except (ConnectionError, asyncio.IncompleteReadError):
            connection.close()
            if not events.last_id:  # it cannot come back, and would begin anew
                stream.ending = events.ending or CUT
        except TimeoutError:
            stream.ending = SILENT
        stream.ending = stream.ending or events.ending
        stream.total, stream.detail = events.total, events.detail or stream.detail
        return status, events.outcome or outcome

    async def _take_answer(
        self, connection: Opened, stream: Streamed, events: Events, status: int, headers: Mapping[str, str]
    ) -> None:
        """An ordinary answer to a client that comes back. One with events, such as `retry`, has a length."""
        body = await connection.whole(headers)
        if status == 200:
            events.feed(body)
        else:
            stream.ending = STOP if status == 204 else f"back: {status}"

    async def _is_told_to_stop(self, stream: Streamed, last_id: bytes, give_up_s: float) -> bool:
        """Whether a client that comes back after the end gets 204, at once or after some `retry`."""
        while time.monotonic() < give_up_s:
            after, events = Streamed(stream.asked, items=stream.items), Events(stream.items, last_id)
            await self._come_back(after, events)
            stream.connections += after.connections - 1
            if after.ending:
                stream.after_end = after.ending
                return after.ending == STOP
            await asyncio.sleep(TRY_AGAIN_S if events.retry_ms is None else events.retry_ms / 1000)
        stream.after_end = UNSETTLED
        return False


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
