"""aiohttp: HTTP/1.1, one session for each stream."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator

import aiohttp

from tests.clients.python_loops import Mode, Told, ended, job, request, streams, tell, watch_input

TIMEOUT_S = 60


async def parts(body: bytes) -> AsyncIterator[bytes]:
    """A body without its length."""
    yield body


async def loop(session: aiohttp.ClientSession, mode: Mode, index: int, pause_s: float) -> None:
    number = 0
    while not ended.is_set():
        method, body = request(mode, index, number)
        try:
            data = parts(body.encode()) if streams(number) else body.encode()
            async with session.request(method, mode.url, data=data) as answer:
                version = f"{answer.version.major}.{answer.version.minor}" if answer.version else ""
                outcome = answer.headers.get("fastgw-outcome", "")
                tell(mode, body, Told(answer.status, version, await answer.text(), outcome))
        except (aiohttp.ClientError, TimeoutError) as error:
            tell(mode, body, None, repr(error))
        number += 1
        await asyncio.sleep(pause_s)


async def stream(mode: Mode, authority: str, connections: int, pause_s: float) -> None:
    trusting = ssl.create_default_context(cafile=authority)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting), timeout=timeout) as session:
        await asyncio.gather(*(loop(session, mode, index, pause_s) for index in range(connections)))


async def main() -> None:
    work = job()
    await asyncio.gather(*(stream(mode, work.authority, work.connections, work.pause_s) for mode in work.modes))


if __name__ == "__main__":
    threading.Thread(target=watch_input, daemon=True).start()
    asyncio.run(main())
