"""httpx: HTTP/1.1 and HTTP/2, the latter without TLS by prior knowledge; one asynchronous client for each stream.

Its connections share a client, as in an application: over HTTP/2 all requests of a stream are on one connection.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator

import httpx

from tests.clients.python_loops import Mode, Told, ended, job, request, streams, tell, watch_input

TIMEOUT_S = 60


async def parts(body: bytes) -> AsyncIterator[bytes]:
    """A body without its length."""
    yield body


async def loop(client: httpx.AsyncClient, mode: Mode, index: int, pause_s: float) -> None:
    number = 0
    while not ended.is_set():
        method, body = request(mode, index, number)
        try:
            content = parts(body.encode()) if streams(number) else body.encode()
            answer = await client.request(method, mode.url, content=content)
            outcome = answer.headers.get("fastgw-outcome", "")
            version = answer.http_version.removeprefix("HTTP/")
            tell(mode, body, Told(answer.status_code, version, answer.text, outcome))
        except httpx.HTTPError as error:
            tell(mode, body, None, repr(error))
        number += 1
        await asyncio.sleep(pause_s)


async def main() -> None:
    work = job()
    trusting = ssl.create_default_context(cafile=work.authority)
    clients = [
        httpx.AsyncClient(
            http1=mode.version == "1",
            http2=mode.version == "2",
            verify=trusting,
            timeout=TIMEOUT_S,
            trust_env=False,
        )
        for mode in work.modes
    ]
    await asyncio.gather(
        *(
            loop(client, mode, index, work.pause_s)
            for client, mode in zip(clients, work.modes, strict=True)
            for index in range(work.connections)
        )
    )


if __name__ == "__main__":
    threading.Thread(target=watch_input, daemon=True).start()
    asyncio.run(main())
