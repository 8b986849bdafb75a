"""The things that travel between the edges and the core: request heads, answers, records, replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

HeaderList = list[tuple[str, str]]
Answer = Callable[[int, HeaderList, bytes, bytes], None]
"""How a front is told the answer: status 200-599, headers (lower-case names), body, request id. Call it exactly once.

The front writes the header `x-request-id` with the id, which is ASCII; b"" means that none is known, and no header.
"""


class Headers(Protocol):
    """Request headers as they are asked for; names are lower case, values are latin-1: one character is one byte."""

    def get(self, key: str, /) -> str | None: ...
    def get_all(self, key: str, /) -> Sequence[str]: ...


class HeaderLines(Protocol):
    """Request headers as a front has them: the values of all lines of one name, in their order."""

    def get_all(self, key: str, /) -> Sequence[str]: ...


class Peer(NamedTuple):
    """Who is at the other end of a connection."""

    address: str  # "" on Unix sockets
    port: int  # 0 on Unix sockets
    scheme: str  # "http" or "https"


UNKNOWN_PEER = Peer("", 0, "http")


class Client(NamedTuple):
    """Who sent a request, as far as it can be known; see `forwarding`."""

    address: str  # canonical; "" on Unix sockets
    scheme: str  # "http" or "https"
    peer_address: str  # of who is connected: the client itself, or the last proxy
    believed: str  # the family of headers in which that peer is believed to speak of others; "": it is not
    record_headers: tuple[tuple[str, bytes], tuple[str, bytes]]


class Head:
    """A request without its body, as a front has it: what is known when the decision about it is made.

    It is its own headers (`get`, `get_all`: names are lower case).

    Attributes:
        method, path, query: the path as it came (percent-encoded, still to be checked; of a target in absolute form
            the path alone), the query as it came, without the question mark.
        hosts: every Host header, or the one :authority of HTTP/2.
        content_length: None: not declared.
        is_streamed: a body of unknown length may follow, which the front bounds at `Admission.max_body_bytes`.
        peer: the other end of the connection.
        client: who that speaks for; set by `Router.admit`, None before it.
    """

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: HeaderLines,
        hosts: Sequence[str],
        content_length: int | None,
        is_streamed: bool,
        peer: Peer = UNKNOWN_PEER,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.hosts = tuple(hosts)
        self.content_length = content_length
        self.is_streamed = is_streamed
        self.peer = peer
        self.client: Client | None = None
        self._headers = headers

    @property
    def client_address(self) -> str:
        """The client's IP address as far as it is known by now; "" on Unix sockets."""
        return self.peer.address if self.client is None else self.client.address

    def get(self, key: str, /) -> str | None:
        """The value of that name, all its lines joined; None if there is no such line."""
        return joined(key, self._headers.get_all(key))

    def get_all(self, key: str, /) -> Sequence[str]:
        """The values of all lines of that name, in their order."""
        return self._headers.get_all(key)


class _NoLines:
    def get_all(self, _key: str, /) -> Sequence[str]:
        return ()


def no_head(peer: Peer) -> Head:
    """Stands for the head of what came and is no request."""
    return Head("", "", "", _NoLines(), (), None, False, peer)


def joined(name: str, lines: Sequence[str]) -> str | None:
    """The lines of one header as one value (RFC 9110, 5.3; Cookie: RFC 9113, 8.2.3). Empty lines add nothing."""
    if not lines:
        return None
    if len(lines) == 1:
        return lines[0]
    return ("; " if name == "cookie" else ", ").join([line for line in lines if line])


TOGETHER = -1  # in place of a partition: without key, wherever the records go that are sent at about the same time
SPREAD = -2  # without key, any partition for each record


class Record:
    """A Kafka record on its way out; its partition may be one of the markers above, which say who chooses one."""

    def __init__(
        self, topic: str, value: bytes, key: bytes | None, headers: list[tuple[str, bytes]], partition: int
    ) -> None:
        self.topic = topic
        self.value = value
        self.key = key
        self.headers = headers
        self.partition = partition


class Reply(NamedTuple):
    """A reply record as it came in, undecoded but for its correlation id."""

    correlation_id: bytes  # as `ids.parse` takes it; anything else, also nothing: the record has none of ours
    partition: int
    offset: int
    headers: list[tuple[str, bytes]]  # all but those for the correlation id
    value: bytes


class Cut(IntEnum):
    """Why a front ended a connection that its client would have kept; columns of the counters in shared memory."""

    SLOW_READER = 0  # it did not take its answer in time
    SILENT = 1  # it connected and said nothing
    IDLE = 2  # its last request was long ago


class Tally(IntEnum):
    """Other things that are counted; columns of the counters in shared memory, behind those of `Cut`."""

    ACCESS_LOG_DROPPED = 8  # lines that could not be written as fast as they came
    OPTIONS = 9  # CORS preflights and `OPTIONS *`, answered by the gateway itself


class Gauge(IntEnum):
    """What a worker process says of itself now, beside its heartbeat; places in its record in shared memory."""

    OPEN_CONNECTIONS = 0  # of clients, on all of its listeners
    KAFKA_WAITING_RECORDS = 1  # in its producers, not acknowledged


class ReplyDisposition(IntEnum):
    """What became of a record on the response topic; the numbers are columns of the counters in shared memory."""

    ANSWERED = 0
    MISROUTED = 1  # right node, other worker: forwarded over the mesh
    LATE = 2  # its request has ended without it
    DUPLICATE = 3  # its request has been answered already
    ORPHAN = 4  # the worker that waited for it is dead
    FOREIGN = 5  # another node's, which reads it itself
    REROUTED = 6  # another node's, sent on through Kafka
    FORGED = 7  # well-formed id that was never issued
    MALFORMED = 8  # no correlation id that could be one of ours
    DROPPED = 9  # misrouted, but the link to its worker is full or broken
    RIVAL = 10  # the canary of another node on a partition that is ours: two nodes believe that they own it
