"""The interface of a front: what the worker calls, and what a front calls on the door.

A front serves one listening socket. It reads HTTP, does not know Kafka, and is called only on the event loop. There are
two fronts: `express` and `granian`. tests/fronts runs the same tests with both; kinds.py there lists the differences.

What the worker calls

    start    accept connections
    drain    stop accepting, close idle connections, close each other connection after its answer; the core decides
             when a stream ends, and its connection stays open until then
    closed   returns when the last connection has ended

What the front calls, for each request in this order (`admission.Door` has the signatures)

    admit ──> Refusal ────> refuse     answers it
          └─> Admission ──> open       the request is complete; its answer follows, once
                        ├─> open_stream, instead of `open` for a request that streams: its answer comes in pieces
                        │              (`admission.Sink`); then `writable`, each time its client has caught up
                        ├─> abandon    its body is incomplete, too large or malformed; answers it, if the client is
                        │              still connected
                        └─> gone       after `open`: the client disconnected before its answer

    refuse alone    the input is not a request: no Head can be made from it
    cut             the front closed a connection because of its client's behaviour (`messages.Cut`)

After an Admission exactly one of `open`, `open_stream` and `abandon` must follow, or its slot is lost. `door.bodies`
limits the memory for bodies: a front reserves memory before it keeps a part, and releases it after that call. Every
answer, except interim ones, comes from the door, so that it is counted and has a request id.
"""

from __future__ import annotations

from typing import Protocol


class Front(Protocol):
    """One listening socket, served on the event loop on which the front was created."""

    @property
    def open_connections(self) -> int:
        """Number of open client connections, as far as the front knows."""

    async def start(self) -> None:
        """Begins to accept connections."""

    def drain(self, lame_duck_s: float = 0.0) -> None:
        """Stops accepting. Open requests continue, and their answers close their connections. Safe to call twice.

        Args:
            lame_duck_s: how long idle connections stay open for one last request. If a client sends a request while its
                connection is being closed, it cannot know the outcome.
        """

    async def closed(self) -> None:
        """Returns when every connection has ended after `drain`."""
