"""The contract between the fronts and the core: a verdict before the body is read, then the whole request.

A front parses HTTP and knows nothing of Kafka; the core knows nothing of sockets. All calls are made on the loop.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from fastgw.body_memory import BodyMemory
from fastgw.errors import Ending
from fastgw.messages import Answer, Cut, Head, HeaderList

Params = tuple[tuple[str, str], ...]
"""Path parameters: name, and the value as it came in the path (percent-encoded)."""

UNKNOWN = -1  # the length of a body that says itself where it ends (`Head.is_streamed`)


class Refusal(NamedTuple):
    """The request may not enter, or needs not: nothing of it is in Kafka."""

    ending: Ending
    detail: str
    route_number: int | None = None  # None: no route is known
    headers: HeaderList | None = None  # further headers of the answer, such as `allow`
    head: Head | None = None  # whose it is, where somebody wants to know when it is answered (`messages.no_head`)
    is_options: bool = False  # nothing is wrong: the gateway itself answers it, 204 with `headers`; it is no ending


class Admission:
    """The request may enter; its body may be read: exactly `body_bytes` of it, never more than `max_body_bytes`.

    Attributes:
        path, params: as they came (percent-encoded).
        body_bytes: 0: there is no body to read; UNKNOWN: it says itself where it ends.
        timeout_ns: from the moment the request is complete; `Prefer: wait` has been applied.
        max_body_bytes: the route's limit.
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


class Door(Protocol):
    """What a front is given. `bodies` bounds what it holds of bodies that are coming in; its calls follow one order
    for each request:

    admit ──> Refusal: refuse
          └─> Admission ──> the body came: open ──> token ──> gone, if the client leaves before the answer
                        └─> it did not: abandon

    A front that cannot even make a Head of what it got calls `refuse` without `admit`.
    """

    bodies: BodyMemory

    def admit(self, head: Head) -> Admission | Refusal:
        """May this request enter? An Admission holds a place until `open` or `abandon`."""

    def refuse(self, refusal: Refusal, answer: Answer) -> None:
        """Answer a request that may not enter."""

    def abandon(self, admission: Admission, ending: Ending, detail: str, answer: Answer | None) -> None:
        """The body did not come; `answer` is None when nobody is there to read one."""

    def open(self, admission: Admission, body: bytes, answer: Answer) -> int:
        """The request is complete; `answer` is called once. Returns its token, negative when it is answered already."""

    def gone(self, token: int) -> None:
        """The client has left; calling this after the answer does no harm."""

    def cut(self, why: Cut) -> None:
        """A connection was ended for the way in which its client used it; to be counted."""
