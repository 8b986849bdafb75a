"""Clients that ask for the same keys at the same moment, on any node, until each of them has the service's answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from fastgw.core import idempotency
from tests.actors.load import Connection
from tests.faults.clients import TRY_AGAIN_S, Clients, Habits, ending_of, problem_of
from tests.faults.key_oracle import Heard
from tests.faults.oracle import ANSWERED, CUT, REFUSED, SILENT, Told

ROUTE, PATH = "keyed", "/keyed"
EACH_KEY = 2  # clients that ask for it
MEET_S = 1.0  # how long one waits for the other
UNANSWERED = "unanswered"  # no success, however often it was asked
GIVE_UP_S = 60.0  # longer than every fault lasts, and than a key can be held
OTHER = "other"  # a status that is neither a success, nor one of the gateway's endings


class KeyClients(Clients):
    """`heard` is every answer that they got."""

    def __init__(self, ports: Sequence[int], habits: Habits) -> None:
        super().__init__(ports, PATH, habits)
        self.heard: list[Heard] = []
        self._first: dict[bytes, tuple[asyncio.Event, int]] = {}  # by key: who waits for the other one, and its node

    def _body(self, number: int) -> bytes:
        """The key. Numbers are given out one after the other, so each key is asked for on several connections."""
        return f"{self.run}-{number // EACH_KEY}".encode()

    async def _ask(self, connection: Connection, body: bytes, began_s: float) -> Told:
        """Asks until the service has answered with success; one request of the log."""
        key_hash = idempotency.key_hash(ROUTE, "", body.decode())
        give_up_s = began_s + GIVE_UP_S
        await self._meet(connection, body)
        while True:
            ending, answer = await self._try(connection, body, key_hash)
            if ending in (ANSWERED, SILENT):
                return Told(body, began_s, time.monotonic(), ending, answer=answer, port=connection.port)
            if time.monotonic() > give_up_s:
                return Told(body, began_s, time.monotonic(), f"{UNANSWERED}: {ending}", port=connection.port)
            await asyncio.sleep(TRY_AGAIN_S)

    async def _meet(self, connection: Connection, key: bytes) -> None:
        """Waits for the other client that asks for this key. Where there are two nodes, each of them asks another."""
        first = self._first.pop(key, None)
        if first is None:
            event = asyncio.Event()
            self._first[key] = event, connection.port
            with suppress(TimeoutError):  # at the end of the scenario nobody else may come
                async with asyncio.timeout(MEET_S):
                    await event.wait()
            return
        event, port = first
        others = [other for other in self._ports if other != port]
        if others and connection.port == port:
            connection.close()
            connection.port = others[0]
            with suppress(OSError):  # `_try` opens it again
                await connection.open()
        event.set()

    async def _try(self, connection: Connection, body: bytes, key_hash: bytes) -> tuple[str, bytes]:
        """One HTTP request; gives (ending, body)."""
        ending, began_ms = REFUSED, 1000 * time.time()
        try:
            if not connection.is_open:
                await connection.open()
            ending = CUT
            async with asyncio.timeout(self._habits.silent_after_s):
                headers = [f"Idempotency-Key: {body.decode()}"]
                status, told, answer = await connection.request("POST", self._path, body, headers)
        except TimeoutError:
            return SILENT, b""
        except (OSError, asyncio.IncompleteReadError):
            connection.close()
            return ending, b""
        return self._heard(key_hash, began_ms, status, told, answer), answer

    def _heard(self, key_hash: bytes, began_ms: float, status: int, headers: Mapping[str, str], answer: bytes) -> str:
        problem = problem_of(headers, answer)
        named = problem.get("request_id", "").encode() if problem is not None else b""
        outcome = problem["outcome"] if problem is not None else ""
        times = began_ms, 1000 * time.time()
        self.heard.append(Heard(key_hash, status, problem is None, answer, named, outcome, *times))
        if problem is not None:
            return ending_of(problem)
        return ANSWERED if status == 200 else OTHER
