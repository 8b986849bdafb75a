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
KEYED = 3  # it has an idempotency key
STOP = 4  # it stops a stream
# From here on, the answer may come in pieces: the front calls `Door.open_stream` instead of `Door.open`.
STREAM = 5
RESUME = 6  # for a client that comes back to a stream

WITHOUT_SLOT = frozenset({TICKET, STOP, RESUME})

NEVER = -1  # in place of a time
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
        kind: PLAIN, KEPT, TICKET, KEYED, STOP, STREAM or RESUME; the router sets it (RESUME: the door), and the fields
            after it for the kinds that need them.
        defer_after_ns: KEPT, KEYED: how long to wait for the reply before the answer is deferred; NEVER: it is not.
        is_async: KEPT, KEYED: the client prefers a deferred answer (`Prefer: respond-async`).
        media_type: STREAM: that of the answer; "": the service's own. The door sets it.
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
        self.media_type = ""
        self.connection: Hashable | None = None


class Sink(Protocol):
    """The answer to one request whose route streams, as the core writes it through a front.

        ┌─> answer                          an ordinary answer: the stream did not begin
        ├─> begin ──> write ... ──> end     a complete stream
        └─> abort, instead of any of these  an incomplete one

    Each of `answer`, `end` and `abort` is the last call. After the client has disconnected (`Door.gone`) all calls have
    no effect. Call it on the event loop.
    """

    def answer(self, status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
        """Answer without a stream, as `messages.Answer` does. Only before `begin`."""

    def begin(self, status: int, headers: HeaderList, request_id: bytes = b"", data: bytes = b"") -> bool:
        """Send the head, and `data` behind it in the same packet. Call it once.

        Args:
            status: 200-599. 204, 205 and 304 have no body, and the answer to HEAD has none: what is written is dropped.
            headers: lower-case names, those of CORS included. The front adds the framing, `date`, and `connection`
                where it is needed. It does not compress.
            request_id: ASCII, sent as `x-request-id`; b"": no such header.

        Returns:
            As `write`.
        """

    def write(self, data: bytes) -> bool:
        """Send a piece of the body. The front keeps all of it, whatever it returns: the caller bounds what it writes.

        Returns:
            False: the client is behind. `Door.writable(token)` is called once it has taken everything.
        """

    def end(self, data: bytes = b"") -> None:
        """The answer is complete with `data`. The connection can carry the next request."""

    def abort(self) -> None:
        """The answer is incomplete, and the client can tell: the connection ends without the last chunk (RFC 9112,
        section 8). Data that waits for the client is lost."""


class Door(Protocol):
    """The core as the fronts see it. `bodies` limits the memory for incoming bodies; `answers` has the bytes of answers
    that the fronts still hold, and the core drops a reply that does not fit beside them. A front makes these calls, in
    this order, for each request:

    admit ──> Refusal: refuse
          └─> Admission ──> body complete: open ──> token ──> gone, if the client disconnects before the answer
                        │   the same, if it streams: open_stream ──> token ──> writable ... ──> gone, if the client
                        │                                                      disconnects before the end
                        └─> body incomplete: abandon

    A front that cannot parse a Head calls `refuse` without `admit`.

    A door admits no request that streams if `Head.cannot_stream`, because granian neither reports back-pressure nor
    can end an answer as incomplete, and none with `Head.is_http10`, because to HTTP/1.0 each end looks like a complete
    answer. So these fronts and clients never see `open_stream`.
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

    def open_stream(self, admission: Admission, body: bytes, sink: Sink) -> int:
        """A request that streams is complete; it is answered through `sink`. Returns a token, negative if `sink` has
        already ended."""

    def writable(self, token: int) -> None:
        """The client has taken everything that was written, after a call of the sink returned False."""

    def gone(self, token: int) -> None:
        """The client has disconnected. Has no effect after the answer."""

    def cut(self, why: Cut) -> None:
        """Count a connection that the front closed because of its client's behaviour."""
