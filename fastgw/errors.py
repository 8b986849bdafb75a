"""All failures of fastgw: the HTTP status of each, what happened to the record, and whether a retry helps.

There are two kinds of failure. An `Ending` says how one HTTP request ended. Endings are data, because the hot path
answers with them and never raises. An exception stops a command, which prints its text as one line.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """What happened to the request's record, as far as the gateway knows."""

    NOT_RECORDED = "not_recorded"  # the record is not in Kafka: the client may resend the request
    RECORDED = "recorded"  # the record is in the request topic: a resent request may be processed twice
    UNKNOWN = "unknown"  # the record may be in the request topic


# A canary, a drained sibling or a restarted worker is ready after about this time. A computed value would need
# admission by measured capacity.
RETRY_AFTER_S = 1


class Ending(NamedTuple):
    """How a request ended: one row of the outcome table (docs/outcomes.md)."""

    number: int  # column of the counters in shared memory: append, never reorder
    name: str  # the metric label and the last part of the problem's `type`
    status: int  # HTTP status; for ANSWERED the status of the service's reply is used
    outcome: Outcome
    retryable: bool  # whether the same request can be sent again safely and may succeed
    title: str
    retry_after_s: int = 0  # value of `Retry-After`, for temporary refusals; 0: no such header
    closes: bool = False  # close the connection: the rest of this request may still arrive on it
    alarming: bool = False  # an operator must act on the service, topic or Kafka: it is logged with a request id


_N, _R, _U = Outcome.NOT_RECORDED, Outcome.RECORDED, Outcome.UNKNOWN

ANSWERED = Ending(0, "answered", 200, _R, False, "The service answered")
MALFORMED = Ending(1, "malformed", 400, _N, False, "The request is malformed", closes=True)
NO_ROUTE = Ending(2, "no_route", 404, _N, False, "No route matches this path")
WRONG_METHOD = Ending(3, "wrong_method", 405, _N, False, "This path does not allow this method")
BODY_TIMEOUT = Ending(4, "body_timeout", 408, _N, True, "The request body arrived too slowly", closes=True)
BODIES_FULL = Ending(5, "bodies_full", 503, _N, True, "The memory for incoming request bodies is full", RETRY_AFTER_S)
BODY_TOO_LARGE = Ending(6, "body_too_large", 413, _N, False, "The request body is too large", closes=True)
TARGET_TOO_LONG = Ending(7, "target_too_long", 414, _N, False, "The request target is too long")
HEADERS_TOO_LARGE = Ending(8, "headers_too_large", 431, _N, False, "The request headers are too large")
TABLE_FULL = Ending(9, "table_full", 503, _N, True, "The gateway has no free slot for this request", RETRY_AFTER_S)
IN_FLIGHT_CAP = Ending(10, "in_flight_cap", 503, _N, True, "Too many requests are waiting on this route", RETRY_AFTER_S)
QUEUE_FULL = Ending(11, "queue_full", 503, _N, True, "The send queue to Kafka is full", RETRY_AFTER_S)
DRAINING = Ending(12, "draining", 503, _N, True, "This gateway process is shutting down", RETRY_AFTER_S, True)
NOT_READY = Ending(13, "not_ready", 503, _N, True, "This gateway process cannot receive replies now", RETRY_AFTER_S)
TOPIC_UNKNOWN = Ending(14, "topic_unknown", 502, _N, False, "The request topic does not exist", alarming=True)
NOT_AUTHORIZED = Ending(
    15, "not_authorized", 502, _N, False, "Kafka does not authorize the gateway to write to this topic", alarming=True
)
RECORD_TOO_LARGE = Ending(16, "record_too_large", 413, _N, False, "The record is larger than the broker accepts")
SEND_UNKNOWN = Ending(
    17, "send_unknown", 504, _U, False, "Kafka did not report whether it wrote the record", alarming=True
)
EXPIRED_UNKNOWN = Ending(
    18, "expired_unknown", 504, _U, False, "The deadline passed before Kafka confirmed the record", alarming=True
)
EXPIRED = Ending(19, "expired", 504, _R, False, "The service did not answer before the deadline", alarming=True)
BAD_REPLY = Ending(
    20, "bad_reply", 502, _R, False, "The service's reply cannot be sent as an HTTP response", alarming=True
)
CANCELLED_UNKNOWN = Ending(
    21, "cancelled_unknown", 499, _U, False, "The client disconnected before Kafka confirmed the record"
)
CANCELLED = Ending(22, "cancelled", 499, _R, False, "The client disconnected before the service answered")
CANCELLED_EARLY = Ending(
    23, "cancelled_early", 499, _N, False, "The client disconnected before anything was sent to Kafka"
)
REFUSED_SEND = Ending(24, "refused_send", 502, _N, False, "The Kafka client refused to send the record", alarming=True)
NOT_SENT = Ending(
    25, "not_sent", 503, _N, True, "Kafka did not accept the record in time", RETRY_AFTER_S, alarming=True
)
HEADER_TIMEOUT = Ending(26, "header_timeout", 408, _N, True, "The request headers arrived too slowly")
EXPECTATION_FAILED = Ending(
    27, "expectation_failed", 417, _N, False, "The Expect header names an unsupported expectation"
)
CONNECTION_CAP = Ending(
    28, "connection_cap", 503, _N, True, "This gateway process has too many connections", RETRY_AFTER_S
)
NO_CONSUMER = Ending(29, "no_consumer", 503, _N, True, "No consumer is available for this route", RETRY_AFTER_S)
BACKLOG = Ending(
    30, "backlog", 503, _N, True, "The service's backlog takes longer than the request can wait", RETRY_AFTER_S
)
MISDIRECTED = Ending(31, "misdirected", 421, _N, False, "This gateway does not serve this host")
STORE_DOWN = Ending(32, "store_down", 503, _N, True, "The store of this node does not answer", RETRY_AFTER_S)
STORE_RESTORING = Ending(
    33, "store_restoring", 503, _N, True, "The store of this node is still reading its topics", RETRY_AFTER_S
)
STORE_BEHIND = Ending(34, "store_behind", 503, _N, True, "The store of this node cannot read on", RETRY_AFTER_S)
STORE_FULL = Ending(35, "store_full", 503, _N, True, "The store of this node is full", RETRY_AFTER_S)
WATCH_CAP = Ending(36, "watch_cap", 503, _N, True, "Too many requests wait for kept replies", RETRY_AFTER_S)
DEFERRED = Ending(37, "deferred", 202, _R, False, "The service is still working on the request")
WORK_EXPIRED = Ending(38, "work_expired", 504, _R, False, "The service did not answer in the time for its work")
TICKET_UNKNOWN = Ending(39, "ticket_unknown", 404, _N, False, "This is not a status URL of this gateway")
TICKET_GONE = Ending(40, "ticket_gone", 410, _N, False, "The answer is no longer kept")
TICKET_CANCELLED = Ending(41, "ticket_cancelled", 410, _R, False, "The request was cancelled")
ANSWERS_FULL = Ending(42, "answers_full", 502, _R, False, "The memory for answers that clients have not read is full")
KEY_INVALID = Ending(43, "key_invalid", 400, _N, False, "The Idempotency-Key is missing or invalid")
KEY_REUSED = Ending(44, "key_reused", 422, _N, False, "The Idempotency-Key was used for another request")
KEY_BUSY = Ending(
    45, "key_busy", 409, _U, True, "Another request with this Idempotency-Key is still under way", RETRY_AFTER_S
)
CLAIM_LATE = Ending(46, "claim_late", 503, _N, True, "The Idempotency-Key was not claimed in time", RETRY_AFTER_S)
KEPT_CAP = Ending(47, "kept_cap", 503, _N, True, "This route keeps too many replies", RETRY_AFTER_S)
NOT_ACCEPTABLE = Ending(48, "not_acceptable", 406, _N, False, "The answer has no media type that the client accepts")
HTTP_VERSION = Ending(49, "http_version", 505, _N, False, "A streamed answer needs HTTP/1.1 or later")
WRONG_LISTENER = Ending(50, "wrong_listener", 501, _N, False, "This listener cannot stream answers")
BAD_ITEM = Ending(51, "bad_item", 502, _R, False, "A record of the stream breaks the rules of streams", alarming=True)
STREAM_BROKEN = Ending(52, "stream_broken", 502, _R, False, "The stream ended before it was complete", alarming=True)
STREAM_IDLE = Ending(53, "stream_idle", 504, _R, False, "The service sent nothing for too long", alarming=True)
STREAM_MAX = Ending(54, "stream_max", 504, _R, False, "The stream took longer than the route allows")
SLOW_READER = Ending(55, "slow_reader", 499, _R, False, "The client read its stream too slowly")
OVERTAKEN = Ending(56, "overtaken", 410, _R, False, "Kafka has deleted records of the stream before they were read")
NEWER_LAYOUT = Ending(
    57, "newer_layout", 503, _N, True, "Another node writes records that this one cannot read", RETRY_AFTER_S
)
DEFERRED_JOINED = Ending(58, "deferred_joined", 202, _U, False, "A request with this Idempotency-Key is under way")
CANCEL_REFUSED = Ending(59, "cancel_refused", 409, _N, False, "A request with an Idempotency-Key cannot be cancelled")
REPLAY_CAP = Ending(60, "replay_cap", 503, _N, True, "Too many streams are read from the log again", RETRY_AFTER_S)

ENDINGS: tuple[Ending, ...] = tuple(
    sorted((value for value in dict(globals()).values() if isinstance(value, Ending)), key=lambda row: row.number)
)


class FastgwError(Exception):
    """Base of the exceptions that end a command with `exit_code`; the text says what was expected and found."""

    exit_code = 1


class ConfigError(FastgwError):
    """The configuration is wrong; the text names the file, the key, what was expected and what was found."""

    exit_code = 2


class StartError(FastgwError):
    """The environment prevents the start: port in use, broker unreachable, topic missing, too few partitions."""

    exit_code = 2


class TableError(FastgwError):
    """The shared table was misused (released twice) or does not match this program (magic, version or size)."""


class QueueFull(FastgwError):
    """The Kafka client's send queue has no room; nothing was sent."""


class SendRefused(FastgwError):
    """The Kafka client refused a record before it was sent; `ending` is the request's row of the outcome table."""

    def __init__(self, ending: Ending, detail: str) -> None:
        super().__init__(detail)
        self.ending = ending


class KeyMissing(FastgwError):
    """The request has no value in the place from which the route takes its record key."""


class StoreError(FastgwError):
    """The store cannot use its folder or write its tables: in use, disk full, I/O error. The tables stay consistent."""


class StoreDamaged(StoreError):
    """The store's tables are not what was written to them, and have to be built again from the topics."""
