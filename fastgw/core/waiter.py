"""The contract of a waiter: it decides for a request that one reply on the response topic does not answer."""

from __future__ import annotations

from typing import Protocol

from fastgw.errors import Ending


class Waiter(Protocol):
    """Waits for the answer to one request of any kind except SINGLE.

    The exchange owns the slot, the deadline and the answer, as for every request. A waiter is asked where such a
    request may differ from a plain one. All calls are made on the loop.
    """

    def on_recorded(self, partition: int) -> None:
        """Kafka has confirmed the record; it is in this partition of its topic."""

    def on_deadline(self, now_ns: int) -> int:
        """The deadline has passed. Returns the new deadline (monotonic ns); 0: the request ends, unless it has ended
        already, by a call of this waiter.
        """

    def on_gone(self) -> bool:
        """The client has left. False: the request goes on without it."""

    def on_drain(self) -> None:
        """The worker drains: end the request, if it can end well now."""

    def on_end(self, ending: Ending | None) -> None:
        """The request has ended: let go of everything. Called exactly once, before the answer.

        Args:
            ending: None: a reply ends it.
        """
