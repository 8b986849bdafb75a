"""The types passed between the fronts, the core and the Kafka link: request heads, answers, records, replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

HeaderList = list[tuple[str, str]]
Answer = Callable[[int, HeaderList, bytes, bytes], None]
"""Sends an answer through a front: status 200-599, headers (lower-case names), body, request id. Call it exactly once.

The front writes the id, which is ASCII, as the header `x-request-id`. If the id is b"", it writes no such header.
"""


class Headers(Protocol):
    """Request headers by name. Names are lower case, values are latin-1: one character is one byte."""

    def get(self, key: str, /) -> str | None: ...
    def get_all(self, key: str, /) -> Sequence[str]: ...


class HeaderLines(Protocol):
    """Request headers as a front keeps them: the values of all lines with one name, in order."""

    def get_all(self, key: str, /) -> Sequence[str]: ...


class Peer(NamedTuple):
    """The other end of a connection."""

    address: str  # "" on Unix sockets
    port: int  # 0 on Unix sockets
    scheme: str  # "http" or "https"


UNKNOWN_PEER = Peer("", 0, "http")


class Client(NamedTuple):
    """The client that sent a request, as far as the gateway can know; see `forwarding`."""

    address: str  # canonical; "" on Unix sockets
    scheme: str  # "http" or "https"
    peer_address: str  # of the connection's peer: the client itself or the last proxy
    believed: str  # the header family that is trusted from this peer; "": none
    record_headers: tuple[tuple[str, bytes], tuple[str, bytes]]


class Head:
    """A request without its body, as a front parsed it. The core decides with it whether to admit the request.

    It also gives access to the headers (`get`, `get_all`: names are lower case).

    Attributes:
        method, path, query: the path as received (percent-encoded, not yet checked; of a target in absolute form
            only the path), the query as received, without the question mark.
        hosts: every Host header, or the one :authority of HTTP/2.
        content_length: None if it is not declared.
        is_streamed: a body of unknown length may follow; the front limits it to `Admission.max_body_bytes`.
        is_http10: the client cannot read chunks.
        cannot_stream: the front cannot stream the answer (`admission.Sink`).
        peer: the other end of the connection.
        client: the client for which the peer sent the request; `Router.admit` sets it, None before.
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
        is_http10: bool = False,
        cannot_stream: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.hosts = tuple(hosts)
        self.content_length = content_length
        self.is_streamed = is_streamed
        self.is_http10 = is_http10
        self.cannot_stream = cannot_stream
        self.peer = peer
        self.client: Client | None = None
        self._headers = headers

    @property
    def client_address(self) -> str:
        """The client's IP address; the peer's address until `client` is set; "" on Unix sockets."""
        return self.peer.address if self.client is None else self.client.address

    def get(self, key: str, /) -> str | None:
        """The value of this header, all its lines joined; None if there is no such line."""
        return joined(key, self._headers.get_all(key))

    def get_all(self, key: str, /) -> Sequence[str]:
        """The values of all lines with this name, in order."""
        return self._headers.get_all(key)


class _NoLines:
    def get_all(self, _key: str, /) -> Sequence[str]:
        return ()


def no_head(peer: Peer) -> Head:
    """An empty head, for input that could not be parsed as a request."""
    return Head("", "", "", _NoLines(), (), None, False, peer)


def joined(name: str, lines: Sequence[str]) -> str | None:
    """The lines of one header as one value (RFC 9110, 5.3; Cookie: RFC 9113, 8.2.3). Empty lines add nothing."""
    if not lines:
        return None
    if len(lines) == 1:
        return lines[0]
    return ("; " if name == "cookie" else ", ").join([line for line in lines if line])


TOGETHER = -1  # instead of a partition: no key; the record joins the partition of records sent at about the same time
SPREAD = -2  # instead of a partition: no key; each record may go to any partition


class Record:
    """A Kafka record to be sent. Its partition may be TOGETHER or SPREAD: then the Kafka link chooses one."""

    def __init__(
        self, topic: str, value: bytes, key: bytes | None, headers: list[tuple[str, bytes]], partition: int
    ) -> None:
        self.topic = topic
        self.value = value
        self.key = key
        self.headers = headers
        self.partition = partition


class Reply(NamedTuple):
    """A reply record as received; only its correlation id is decoded."""

    correlation_id: bytes  # for `ids.parse`; empty or other bytes if the record has no id of ours
    partition: int
    offset: int
    headers: list[tuple[str, bytes]]  # all except those with the correlation id
    value: bytes


class Cut(IntEnum):
    """Why a front closed a connection that its client kept open; columns of the counters in shared memory."""

    SLOW_READER = 0  # the client did not read its answer in time
    SILENT = 1  # the client connected and sent nothing
    IDLE = 2  # the client sent no further request within the idle timeout


class Tally(IntEnum):
    """Further counters; columns of the counters in shared memory, after those of `Cut`."""

    ACCESS_LOG_DROPPED = 8  # access log lines dropped because they could not be written fast enough
    OPTIONS = 9  # CORS preflights and `OPTIONS *`, answered by the gateway itself
    # Requests with an idempotency key:
    KEYS_SENT = 10  # was sent, as the first one
    KEYS_TAKEN_OVER = 11  # was sent, as another attempt after a holder that has not answered
    KEYS_JOINED = 13  # waits for the answer to a request that was under way
    KEYS_REPLAYED = 14  # was answered before
    STREAM_ITEMS = 12  # items of streams that were written to clients
    STREAMS_RESUMED = 16  # clients that came back to a stream and could go on


class Gauge(IntEnum):
    """Current values that a worker process reports beside its heartbeat; places in its record in shared memory."""

    OPEN_CONNECTIONS = 0  # client connections on all listeners
    KAFKA_WAITING_RECORDS = 1  # records that Kafka has not acknowledged, in its producers or waiting for one
    KAFKA_WAITING_BYTES = 2  # the bytes of these records
    ANSWER_BYTES = 3  # of answers that its clients have not read and that it still holds
    STREAMS = 4  # streamed answers under way


class StoreGauge(IntEnum):
    """Current values of the store; places in its record in shared memory."""

    READY = 0  # 1: every partition of its topic has been read to its end
    BEHIND = 1  # 1: it gets no new records
    ENTRIES = 2
    USED_BYTES = 3
    MAX_BYTES = 4
    WATCHES = 5
    LAG_RECORDS = 6  # records of its topic that it has not read, at the last look
    SPLIT = 7  # counts: replies found on another partition than their home, sent on to it
    GARBAGE = 8  # counts: control records without a valid MAC
    KEYS = 9  # idempotency keys that it knows
    NEWER_LAYOUT = 10  # the format of records that another node writes and this one cannot read; 0: none
    UNKNOWN = 11  # counts: control records of an unknown kind
    FOLLOWS = 12  # streams that workers follow
    FOLLOWS_BEHIND = 13  # of these, streams that are read from the log again, because their clients are slower
    STREAM_PARTITIONS = 14  # partitions of the topic of streams that it reads for this node
    SPLIT_LOST = 15  # counts: split replies that Kafka refused on their home partition
    STREAM_REPLAYS = 16  # counts: streams that it began to read from the log again
    STREAM_SPLIT = 17  # counts: records of streams found on another partition than their home, sent on to it
    STREAM_GARBAGE = 18  # counts: records on the topic of streams that have no id of a gateway
    STREAM_SPLIT_LOST = 19  # as SPLIT_LOST, of records of streams


class ReplyDisposition(IntEnum):
    """What happened to a record on the response topic; the numbers are columns of the counters in shared memory."""

    ANSWERED = 0
    MISROUTED = 1  # right node, other worker: forwarded over the mesh
    LATE = 2  # its request had ended before it arrived
    DUPLICATE = 3  # its request has been answered already
    ORPHAN = 4  # the worker that waited for it is dead
    FOREIGN = 5  # it belongs to another node, which reads this partition itself or has died
    REROUTED = 6  # it belongs to another node; sent on to it through Kafka
    FORGED = 7  # well-formed id that was never issued
    MALFORMED = 8  # no correlation id that could be one of ours
    DROPPED = 9  # misrouted, but the link to its worker is full or broken
    RIVAL = 10  # canary of another node on one of our partitions: two nodes claim the same partition
    ELSEWHERE = 11  # its id names another topic than the response topic: sent on to its home partition there
