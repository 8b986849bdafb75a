"""A load that costs little: the same request over and over on many connections, each sent when the one before it is
answered. For counting what happens to very many requests, not for looking at their answers."""

from __future__ import annotations

import asyncio
from collections import Counter

import uvloop

from tests.actors.raw_http import head


class _Client(asyncio.Protocol):
    """One connection: asks as long as the common budget lasts."""

    def __init__(self, request: bytes, budget: list[int], statuses: Counter[int], ended: asyncio.Future[None]) -> None:
        self._request = request
        self._budget = budget  # one number, shared by all
        self._statuses = statuses
        self._came = b""
        self.ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._ask()

    def _ask(self) -> None:
        if self._budget[0] > 0:
            self._budget[0] -= 1
            self._transport.write(self._request)
        else:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        came = self._came = self._came + data
        head_end = came.find(b"\r\n\r\n") + 4
        if head_end == 3:
            return
        at = came.find(b"content-length: ") + 16
        end = head_end + int(came[at : came.find(b"\r", at)])
        if len(came) >= end:
            assert len(came) == end, "one answer for one request"
            self._statuses[int(came[9:12])] += 1
            self._came = b""
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self._came:
            self.ended.set_exception(error or ConnectionError(f"cut after {self._came[:100]!r}"))
        else:
            self.ended.set_result(None)


def flood(port: int, path: str, requests: int, connections: int) -> Counter[int]:
    """Sends `requests` POSTs to `path` over `connections` connections; how often each status came."""

    async def all_of_them() -> Counter[int]:
        loop = asyncio.get_running_loop()
        request = head("POST", path, "Content-Length: 1") + b"x"
        budget, statuses, ends = [requests], Counter[int](), []
        for _ in range(connections):
            ends.append(loop.create_future())
            await loop.create_connection(
                lambda ended=ends[-1]: _Client(request, budget, statuses, ended), "127.0.0.1", port
            )
        await asyncio.gather(*ends)
        return statuses

    return uvloop.run(all_of_them())
