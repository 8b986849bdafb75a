"""The interface between the fronts and the core: first a decision about the head, then the complete request.

A front parses HTTP and does not know Kafka; the core does not know sockets. All calls are made on the event loop.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple, Protocol

from fastgw.body_memory import AnswerMemory, BodyMemory
from fastgw.errors import Ending
from fastgw.messages import Answer, Cut, Head, HeaderList

Params = tuple[tuple[str, str], ...]
"""Path parameters: the name, and the value as received in the path (percent-encoded)."""

# Kinds of admissions: which part of the core takes the request.
PLAIN = 0
KEPT = 1  # its reply is kept, and may be deferred
TICKET = 2  # it asks about a kept reply
KEYED = 5  # it has an idempotency key

UNKNOWN = -1  # length of a body that is delimited by its framing (`Head.is_streamed`)


class Refusal(NamedTuple):
    """The request is not admitted: the gateway answers it itself and writes no record."""

    ending: Ending
    detail: str
    route_number: int | None = None  # None: no route was found
    headers: HeaderList | None = None  # additional response headers, such as `allow`
    head: Head | None = None  # for the access log; `messages.no_head` if the head could not be parsed
    is_options: bool = (
        False  # the gateway answers OPTIONS itself: 204 with `headers`; counted as OPTIONS, not as an ending
    )


class Admission:
    """The request is admitted. The front reads exactly `body_bytes` of body, never more than `max_body_bytes`.

    Attributes:
        path, params: as received (percent-encoded).
        body_bytes: 0 if there is no body; UNKNOWN if the framing delimits it.
        timeout_ns: starts when the request is complete; `Prefer: wait` is already applied.
        max_body_bytes: the route's limit.
        kind: PLAIN, KEPT, TICKET or KEYED; the router sets it, and the fields after it for the kinds that need them.
        defer_after_ns: KEPT: how long to wait for the reply before the answer is deferred.
        is_async: KEPT: the client prefers a deferred answer (`Prefer: respond-async`).
        connection: a front sets it if the connection can carry several requests at once: what identifies the
            connection in `Door.bodies` and `Door.answers`.
    """

    def __init__(
        self,
        route_number: int,
        method: str,
        path: str,
        query: str,
        params: Params,
        headers: Head,
        body_bytes: int,
        timeout_ns: int,
        max_body_bytes: int = 0,
    ) -> None:
        self.route_number = route_number
        self.method = method
        self.path = path
        self.query = query
        self.params = params
        self.headers = headers
        self.body_bytes = body_bytes
        self.timeout_ns = timeout_ns
        self.max_body_bytes = max_body_bytes
        self.kind = PLAIN
        self.defer_after_ns = 0
        self.is_async = False
        self.connection: Hashable | None = None


class Door(Protocol):
    """The core as the fronts see it. `bodies` limits the memory for incoming bodies; `answers` has the bytes of answers
    that the fronts still hold, and the core drops a reply that does not fit beside them. A front makes these calls, in
    this order, for each request:

    admit ──> Refusal: refuse
          └─> Admission ──> body complete: open ──> token ──> gone, if the client disconnects before the answer
                        └─> body incomplete: abandon

    A front that cannot parse a Head calls `refuse` without `admit`.
    """

    bodies: BodyMemory
    answers: AnswerMemory

    def admit(self, head: Head) -> Admission | Refusal:
        """Decide about a request. An Admission reserves a slot until `open` or `abandon` is called."""

    def refuse(self, refusal: Refusal, answer: Answer) -> None:
        """Answer a request that is not admitted."""

    def abandon(self, admission: Admission, ending: Ending, detail: str, answer: Answer | None) -> None:
        """The body will not arrive. `answer` is None if the client has disconnected."""

    def open(self, admission: Admission, body: bytes, answer: Answer) -> int:
        """The request is complete; `answer` is called once.

        Returns:
            A token for `gone`; negative: the request is already answered.
        """

    def gone(self, token: int) -> None:
        """The client has disconnected. Has no effect after the answer."""

    def cut(self, why: Cut) -> None:
        """Count a connection that the front closed because of its client's behaviour."""
