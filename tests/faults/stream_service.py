"""The service of the scenarios about streams: it writes as many items as the query asks for, or fails if it is told to.

Run as `python -m tests.faults.stream_service BOOTSTRAP TOPIC`; prints "ready" when it has joined its group. The query
is `run=..&number=..&items=..`, and if wanted `pause` (ms before each item), `size` (bytes of an item) and `fail` (the
item before which it fails). Each item names its request, its number, and the run of the handler.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from fastgw.service import Problem, Request, Service
from tests.actors.running import running

LIFE_S = 7200  # one that its test has forgotten ends by itself
JOIN_S = 30.0
AT_ONCE = 3000  # handlers
REFUSED = 409
BYTES_END = b";"  # of an item of bytes


async def texts(asked: dict[str, str]) -> AsyncIterator[str]:
    """The items of one run."""
    attempt = secrets.token_hex(3)
    pause_s = int(asked.get("pause", "0")) / 1000
    fails_at = int(asked.get("fail", "-1"))
    for number in range(int(asked["items"])):
        if pause_s:
            await asyncio.sleep(pause_s)
        if number == fails_at:
            raise Problem(REFUSED, "as asked")
        yield f"{asked['run']} {asked['number']} {attempt} {number} ".ljust(int(asked.get("size", "0")), ".")


def serve(bootstrap: str, topic: str) -> None:
    service = Service(topic, bootstrap=bootstrap, concurrency=AT_ONCE, client={"fetch.wait.max.ms": 5})

    @service.handle("GET /bytes")
    async def _bytes(request: Request) -> AsyncIterator[bytes]:
        async for text in texts(request.query):
            yield text.encode() + BYTES_END

    @service.handle
    async def _values(request: Request) -> AsyncIterator[str]:
        async for text in texts(request.query):
            yield text

    def tell() -> None:
        if service.wait_until_joined(JOIN_S):
            print("ready", flush=True)

    threading.Thread(target=tell, daemon=True).start()
    service.run()


@contextmanager
def stream_service(bootstrap: str, topic: str) -> Iterator[subprocess.Popen]:
    """The service in a process of its own, ready; killed on the way out."""
    command = [sys.executable, "-m", "tests.faults.stream_service", bootstrap, topic]
    with running(command, "the service of streams did not start") as process:
        yield process


if __name__ == "__main__":
    signal.alarm(LIFE_S)
    serve(*sys.argv[1:])
