"""Clients that ask for deferred answers and follow their status URLs, on any node, until they have a final answer.

A request of theirs ends when its status URL has told how it ends: the log says of a deferred request what its client
has in the end. Nothing that happens to a node after its 202 is a failure of the request; the client asks again.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence

from tests.actors.load import Connection
from tests.faults.clients import TRY_AGAIN_S, Clients, Habits, ending_of, problem_of
from tests.faults.oracle import ANSWERED, CUT, REFUSED, SILENT, Told
from tests.faults.ticket_oracle import FINAL, GONE, IS_CANCELLED, WORKING, Followed, Seen

UNSETTLED = "unsettled"  # how the log calls a deferred request without a final answer
GIVE_UP_S = 60.0  # after a 202: longer than every fault lasts
WAIT_S = 2  # of Prefer: wait
IN_TIME = 0.25  # of the requests wait for the answer before they accept a status URL
CANCELS = 0.1  # of the deferred requests are cancelled
AGAIN_MAX = 5000  # status URLs that are asked once more at the end


class TicketClients(Clients):
    """`tickets` are the status URLs that they were given, with all that these told."""

    def __init__(self, ports: Sequence[int], path: str, habits: Habits) -> None:
        super().__init__(ports, path, habits)
        self.tickets: list[Followed] = []
        self._chance = random.Random()

    def ask_again(self) -> None:
        """Asks the status URLs once more, on any node; all of them, or some of very many."""
        chosen = self.tickets
        if len(chosen) > AGAIN_MAX:
            chosen = self._chance.sample(chosen, AGAIN_MAX)
        asyncio.run(self._all_again(list(chosen)))

    async def _all_again(self, left: list[Followed]) -> None:
        async def one_client() -> None:
            while left:
                await self._look(left.pop(), "GET", WAIT_S)

        await asyncio.gather(*(one_client() for _ in range(self._habits.connections)))

    def _headers(self) -> Sequence[str]:
        in_time = self._chance.random() < IN_TIME
        return (*self._habits.headers, f"Prefer: respond-async{', wait=1' if in_time else ''}")

    async def _told(
        self, body: bytes, began_s: float, port: int, status: int, headers: Mapping[str, str], answer: bytes
    ) -> Told:
        if status != 202:
            return await super()._told(body, began_s, port, status, headers, answer)
        ticket = Followed(body, json.loads(answer)["id"].encode(), headers["location"])
        self.tickets.append(ticket)
        last = await self._follow(ticket)
        ending, value = last.told if last.ending in (*FINAL, GONE) else (UNSETTLED, b"")
        outcome = headers["fastgw-outcome"]
        return Told(body, began_s, last.ended_s, ending, outcome, 202, ticket.correlation_id, value, port)

    async def _follow(self, ticket: Followed) -> Seen:
        """The first final answer of a status URL; the last one of any kind when there is none in time."""
        give_up_s = time.monotonic() + GIVE_UP_S
        method = "DELETE" if self._chance.random() < CANCELS else "GET"
        while True:
            wait_s = self._chance.choice((0, WAIT_S)) if method == "GET" else 0
            seen = await self._look(ticket, method, wait_s)
            if seen.ending in (*FINAL, GONE) or time.monotonic() > give_up_s:
                return seen
            if seen.ending != WORKING or not wait_s:
                await asyncio.sleep(TRY_AGAIN_S)

    async def _look(self, ticket: Followed, method: str, wait_s: int) -> Seen:
        """Asks the status URL once, on any node, and writes down what it told."""
        connection = Connection(self._chance.choice(list(self._ports)))
        began_s, ending, answer = time.monotonic(), REFUSED, b""
        headers = [f"Prefer: wait={wait_s}"] if wait_s else []
        try:
            await connection.open()
            ending = CUT
            async with asyncio.timeout(self._habits.silent_after_s):
                ending, answer = _said(*await connection.request(method, ticket.location, b"", headers))
        except TimeoutError:
            ending = SILENT
        except (OSError, asyncio.IncompleteReadError):
            pass  # refused or cut, as noted
        finally:
            connection.close()
        ticket.seen.append(Seen(began_s, time.monotonic(), ending, answer, connection.port))
        return ticket.seen[-1]


def _said(status: int, headers: Mapping[str, str], answer: bytes) -> tuple[str, bytes]:
    """(ending, the service's answer) of an answer of a status URL."""
    problem = problem_of(headers, answer)
    if problem is not None:
        return ending_of(problem), b""
    if status == 202:
        return (IS_CANCELLED if json.loads(answer)["status"] == "cancelled" else WORKING), b""
    return ANSWERED, answer
