"""Clients that send requests until they are stopped and write down what each request was told.

They behave as a load balancer in front of several nodes does: a connection that is refused is tried on the next node,
a kept-alive connection that the other side has closed is not used again, and nothing is ever sent twice.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.actors.load import Connection
from tests.faults.oracle import ANSWERED, AS_ASKED, CUT, REFUSED, SILENT, Told
from tests.waiting import eventually

PROBLEM_TYPE = "urn:fastgw:problem:"
TRY_AGAIN_S = 0.05  # after a failure: nobody asks a service that is away a thousand times a second
BUSY_S = 1.0  # how long clients that rest are at full work after a `stir`
REST_S = 0.05  # between their requests later on: with twelve of them, 240 requests a second


@dataclass(frozen=True)
class Habits:
    """How the clients behave.

    `rate` is requests a second of all of them together, 0: each sends when its last one has been answered;
    `fresh_each` opens a connection for each request; `silent_after_s` is when they call a connection silent.
    """

    connections: int = 12
    fresh_each: bool = False
    rate: float = 0.0
    body_bytes: int = 64
    silent_after_s: float = 15.0
    headers: tuple[str, ...] = ()
    once: bool = False  # each client sends one request and leaves
    rests: bool = False  # the clients take it easy when `stir` was long ago
    manners: tuple[bytes, ...] = ()  # words with which the bodies begin, in turn: what the service is asked for
    defers: bool = False  # the clients ask for deferred answers and follow their status URLs, see ticket_clients.py
    keys: bool = False  # they ask for the same keys, see key_clients.py
    streams: bool = False  # they ask for streams, see stream_clients.py
    items: int = 0  # of each stream; 0: some
    only_events: bool = False  # all of them ask for events
    bytes_per_s: int = 0  # what each of them reads, as long as they are at work; 0: what comes


class Clients:
    """A context manager: they are at work inside; `told` is their log, oldest answer first."""

    def __init__(self, ports: Sequence[int], path: str, habits: Habits) -> None:
        """`ports` is looked at for each new connection: it may change."""
        self.told: list[Told] = []
        self.run = secrets.token_hex(4)
        self._ports = ports
        self._path = path
        self._habits = habits
        self._numbers = iter(range(1 << 60))
        self._enough = threading.Event()
        self._failure: BaseException | None = None
        self._busy_until_s = 0.0
        self._thread = threading.Thread(target=self._work, name="clients", daemon=True)

    def __enter__(self) -> Clients:
        self._busy_until_s = time.monotonic() + BUSY_S
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[Told]:
        """Waits until every request that is under way has its end; returns the log."""
        self._enough.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.told

    def sent(self, more: int, timeout_s: float = 60.0) -> None:
        """Returns when so many more requests have ended."""
        wanted = len(self.told) + more
        eventually(lambda: self._failure or len(self.told) >= wanted, timeout_s, f"{wanted} requests have ended")

    def stir(self) -> None:
        """Returns when all of them are at full work, so that what happens next meets a request of each."""
        if self._habits.rests:
            was_resting = time.monotonic() > self._busy_until_s
            self._busy_until_s = time.monotonic() + BUSY_S
            if was_resting:
                threading.Event().wait(2 * REST_S)

    def answered_since(self, moment_s: float) -> bool:
        """Whether a request that began after that moment has its service's answer."""
        for one in reversed(self.told):
            if one.began_s < moment_s and one.ended_s < moment_s:
                return False
            if one.began_s >= moment_s and one.ending in AS_ASKED:
                return True
        return False

    def _work(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as failure:
            self._failure = failure

    async def _all(self) -> None:
        await asyncio.gather(*(self._one_client(index) for index in range(self._habits.connections)))

    async def _one_client(self, index: int) -> None:
        habits = self._habits
        pause_s = habits.connections / habits.rate if habits.rate else 0.0
        next_s = time.monotonic() + pause_s * index / habits.connections
        connection: Connection | None = None
        while not self._enough.is_set():
            if pause_s:
                await asyncio.sleep(max(0.0, next_s - time.monotonic()))
                next_s += pause_s
            body = self._body(next(self._numbers))
            began_s = time.monotonic()
            if connection is None or not connection.is_open:
                connection = await self._connect(index)
            if connection is None:
                one = Told(body, began_s, time.monotonic(), REFUSED)
            else:
                one = await self._ask(connection, body, began_s)
            self.told.append(one)
            if connection is not None and (habits.fresh_each or one.ending in (CUT, SILENT)):
                connection.close()
            if habits.once:
                break
            if one.ending not in AS_ASKED:
                await asyncio.sleep(TRY_AGAIN_S)
            elif habits.rests and one.ended_s > self._busy_until_s:
                await asyncio.sleep(REST_S)
        if connection is not None:
            connection.close()

    def _body(self, number: int) -> bytes:
        manners = self._habits.manners
        manner = manners[number % len(manners)] + b" " if manners else b""
        return (manner + f"{self.run} {number} ".encode()).ljust(self._habits.body_bytes, b".")

    async def _connect(self, index: int) -> Connection | None:
        ports = list(self._ports)
        for step in range(len(ports)):
            connection = self._connection(ports[(index + step) % len(ports)])
            try:
                await connection.open()
            except OSError:
                continue
            return connection
        return None

    def _connection(self, port: int) -> Connection:
        """Not open yet."""
        return Connection(port)

    async def _ask(self, connection: Connection, body: bytes, began_s: float) -> Told:
        try:
            async with asyncio.timeout(self._habits.silent_after_s):
                status, headers, answer = await connection.request("POST", self._path, body, self._headers())
        except (ConnectionError, asyncio.IncompleteReadError):
            return Told(body, began_s, time.monotonic(), CUT, port=connection.port)
        except TimeoutError:
            return Told(body, began_s, time.monotonic(), SILENT, port=connection.port)
        return await self._told(body, began_s, connection.port, status, headers, answer)

    def _headers(self) -> Sequence[str]:
        """The headers of the next request."""
        return self._habits.headers

    async def _told(
        self, body: bytes, began_s: float, port: int, status: int, headers: Mapping[str, str], answer: bytes
    ) -> Told:
        """What the log says of an answer."""
        ended_s = time.monotonic()
        outcome = headers.get("fastgw-outcome", "")
        problem = problem_of(headers, answer)
        if problem is None:
            ending = ANSWERED if outcome else f"http_{status}"
            return Told(body, began_s, ended_s, ending, outcome, status, b"", answer, port)
        request_id = problem.get("request_id", "").encode()
        return Told(body, began_s, ended_s, ending_of(problem), problem["outcome"], status, request_id, answer, port)


def problem_of(headers: Mapping[str, str], answer: bytes) -> dict[str, str] | None:
    """The gateway's problem document; None: the answer is none."""
    return json.loads(answer) if headers.get("content-type") == "application/problem+json" else None


def ending_of(problem: Mapping[str, str]) -> str:
    """The name of the gateway's ending that a problem document tells."""
    return problem["type"].removeprefix(PROBLEM_TYPE)
