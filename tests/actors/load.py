"""A closed-loop HTTP/1.1 client: many connections, each request with a body of its own, each answer checked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What became of a load."""

    statuses: Counter[int] = field(default_factory=Counter)
    strangers: list[str] = field(default_factory=list)  # answers that belong to another request
    cut: int = 0  # connections that ended without an answer to the request on them

    @property
    def failed(self) -> int:
        """Requests that were not answered 200."""
        return self.cut + sum(count for status, count in self.statuses.items() if status != 200)


class Connection:
    """One kept-alive connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent on it: it is connected, and the other side has not closed it."""
        return self._streams is not None and not self._streams[0].at_eof()

    async def open(self) -> None:
        """Connects.

        Raises:
            OSError: nobody listens.
        """
        self._streams = await asyncio.open_connection("127.0.0.1", self.port)

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Sequence[str] = ()
    ) -> tuple[int, dict[str, str], bytes]:
        """Sends a request and returns (status, headers, body).

        Raises:
            ConnectionError, asyncio.IncompleteReadError: the connection was cut.
        """
        if self._streams is None:
            await self.open()
        assert self._streams is not None
        reader, writer = self._streams
        lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        answered = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        length = int(answered.get("content-length", 0))
        answer = int(head[0].split()[1]), answered, await reader.readexactly(length)
        if answered.get("connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def drive(
    ports: Sequence[int],
    paths: Sequence[str],
    requests: int,
    connections: int = 64,
    fresh_each: bool = False,
    enough: asyncio.Event | None = None,
    pause_s: float = 0.0,
) -> Outcome:
    """Sends `requests` POSTs over `connections` connections, spread over ports and paths; echo services answer.

    `enough` ends the load early; `fresh_each` opens a connection for each request; `pause_s` is between an answer and
    the next request of a connection.
    """
    outcome = Outcome()
    numbers = iter(range(requests))

    async def one(index: int) -> None:
        connection = Connection(ports[index % len(ports)])
        for number in numbers:
            if enough is not None and enough.is_set():
                break
            body = b"request %d of connection %d" % (number, index)
            try:
                status, _, got = await connection.request("POST", paths[number % len(paths)], body)
            except (ConnectionError, asyncio.IncompleteReadError):
                outcome.cut += 1
                connection.close()
                continue
            outcome.statuses[status] += 1
            if status == 200 and got != body:
                outcome.strangers.append(f"{body!r} was answered {got!r}")
            if fresh_each:
                connection.close()
            if pause_s:
                await asyncio.sleep(pause_s)
        connection.close()

    await asyncio.gather(*(one(index) for index in range(connections)))
    return outcome
