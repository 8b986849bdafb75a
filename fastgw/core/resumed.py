"""Streams that are resumed: requests without a slot and without a record.

A client that comes back with an id (`Last-Event-ID`) gets what the log has behind it, on any worker of any node.
Nothing is sent to the service, so such a request has no slot, no correlation id of its own, and no deadline in the
table. This object has for a `Stream` the methods that the exchange has for one with a slot.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol
from urllib.parse import parse_qs

from fastgw import errors, problem
from fastgw.admission import Admission
from fastgw.core.exchange import OWN_ERROR, Exchange, Journal
from fastgw.errors import Ending
from fastgw.messages import Answer, Head, HeaderList, Reply

FIRST_RESUMED = 3 << 61  # above all tokens of slots, and of requests for status URLs
POSITION_PARAMETER = "last_event_id"


def last_event_id(head: Head) -> str:
    """The position of a client that comes back, from its header or its query; "": it has none.

    The query is for clients that cannot set a header, such as pages that make a new `EventSource`.
    """
    position = head.get("last-event-id") or ""
    if not position and POSITION_PARAMETER in head.query:
        position = parse_qs(head.query).get(POSITION_PARAMETER, [""])[-1]
    return position


class Waits(Protocol):
    """What a stream is asked and told."""

    def answer(self, status: int, headers: HeaderList, body: bytes, request_id: bytes, /) -> None: ...
    def on_deadline(self, now_ns: int) -> int: ...
    def on_drain(self) -> None: ...
    def on_end(self, ending: Ending | None) -> None: ...


class _Request(NamedTuple):
    stream: Waits
    admission: Admission
    name: str  # of its route
    raw: bytes


class Resumed:
    """The resumed streams of one worker.

    Attributes:
        is_draining: no more may begin.
    """

    def __init__(self, exchange: Exchange, journal: Journal) -> None:
        self._exchange = exchange
        self._journal = journal
        self._requests: dict[int, _Request] = {}
        self._due_ns: dict[int, int] = {}
        self._last_token = FIRST_RESUMED
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._requests)

    def __repr__(self) -> str:
        return f"<Resumed {len(self)} streams>"

    @property
    def epoch_offset_ns(self) -> int:
        """Wall clock minus monotonic clock."""
        return self._exchange.epoch_offset_ns

    def add(self, stream: Waits, admission: Admission, name: str, raw: bytes, due_ns: int) -> int:
        """Begin a request; returns its token."""
        self._last_token += 1
        self._requests[self._last_token] = _Request(stream, admission, name, raw)
        self._due_ns[self._last_token] = due_ns
        return self._last_token

    def expire(self, now_ns: int) -> None:
        """Let time pass."""
        for token in [token for token, due_ns in self._due_ns.items() if due_ns <= now_ns]:
            request = self._requests.get(token)
            due_ns = 0 if request is None else request.stream.on_deadline(now_ns)
            if due_ns > now_ns and token in self._requests:
                self._due_ns[token] = due_ns
            else:
                self.fail(token, errors.EXPIRED, OWN_ERROR)

    def drain(self) -> None:
        """The worker drains: the clients come back to another one."""
        self.is_draining = True
        for request in list(self._requests.values()):
            request.stream.on_drain()

    # As the exchange.

    def begin_stream(self, token: int, headers: HeaderList) -> HeaderList:
        admission = self._requests[token].admission
        return self._exchange.dressed(admission, headers)

    def extend(self, token: int, deadline_ns: int) -> None:
        if token in self._due_ns:
            self._due_ns[token] = deadline_ns

    def complete(self, token: int, status: int, bytes_out: int, now_ns: int) -> bool:  # noqa: ARG002
        return self._end(token, errors.ANSWERED, (status, [], b"", b""), _nobody)

    def fail(self, token: int, ending: Ending, detail: str) -> bool:
        request = self._requests.get(token)
        if request is None:
            return False
        if ending.alarming:
            self._journal.ended(ending.name, request.name, request.raw, detail)
        return self._end(token, ending, problem.answer(ending, detail, request.raw), request.stream.answer)

    def resolve_kept(self, token: int, reply: Reply, now_ns: int) -> bool:  # noqa: ARG002
        return self.fail(token, errors.BAD_ITEM, "expected records of a stream, got an ordinary reply")

    def cancel(self, token: int) -> None:
        """The client has left."""
        self._end(token, errors.CANCELLED, (errors.CANCELLED.status, [], b"", b""), _nobody)

    def _end(self, token: int, ending: Ending, response: tuple[int, HeaderList, bytes, bytes], answer: Answer) -> bool:
        request = self._requests.pop(token, None)
        if request is None:
            return False
        del self._due_ns[token]
        request.stream.on_end(ending)
        status, headers, body, _ = response
        admission = request.admission
        told = status, headers, body, request.raw
        self._exchange.answer_at_once(admission.route_number, admission.headers, answer, ending, told)
        return True


def _nobody(_status: int, _headers: HeaderList, _body: bytes, _request_id: bytes) -> None:
    """The client has its answer already, or has left."""
