"""The contract of a front: what the worker may ask of it, and what it may ask of the door.

A front serves one listening socket. It reads HTTP, knows nothing of Kafka, and is called on the loop alone. There are
two: `express` and `granian`. tests/fronts runs the same tests with each of them; kinds.py there says what only one can.

What the worker calls

    start    accept connections
    drain    accept no more, end what is idle, end each other connection with its answer
    closed   returns when the last connection has ended

What the front calls, for each request in this order (`admission.Door` has the signatures)

    admit ──> Refusal ────> refuse     answers it
          └─> Admission ──> open       the request is complete; its answer follows, once
                        ├─> abandon    its body did not come, is too large, or breaks a rule; answers it, if anybody
                        │              is there to hear it
                        └─> gone       after `open`: the client has left before its answer

    refuse alone    what came is no request: no Head can be made of it
    cut             a connection was ended for how its client used it (`messages.Cut`)

After an Admission exactly one of `open` and `abandon` follows, or its place is lost. `door.bodies` bounds what a front
holds of bodies: it takes room for each part before it keeps it, and gives it back after `open` or `abandon`. Every
answer but an interim one is the door's, so that it is counted and has a request id.
"""

from __future__ import annotations

from typing import Protocol


class Front(Protocol):
    """One listening socket. It is served on the loop that the front was made on."""

    @property
    def open_connections(self) -> int:
        """Connections of clients, as far as the front can tell."""

    async def start(self) -> None:
        """Begins to accept connections."""

    def drain(self, lame_duck_s: float = 0.0) -> None:
        """Stops accepting; requests that are in go on, and their answers end their connections. Safe to call twice.

        Args:
            lame_duck_s: for how long an idle connection is kept for one last request. A client that sends one at the
                moment in which its connection is closed cannot know what became of it.
        """

    async def closed(self) -> None:
        """Returns when every connection has ended after `drain`."""
