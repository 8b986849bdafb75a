"""Replies: turns the result of a handler into a record, sends it, and tracks it until Kafka has it.

Any thread may call `answer_of`, `try_produce` and `failure`; only the consumer's thread may call the rest.
"""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from fastgw.service.handlers import Handler, name_of
from fastgw.service.log import log
from fastgw.service.messages import Problem, ReplyRecord, Request, is_over, problem_record, reply_record
from fastgw.service.progress import OffsetProgress

QUEUE_FULL_WAIT_S = 0.005

# Waiting does not help a client after these errors.
NOT_ALLOWED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
UNKNOWN_PLACE = frozenset({KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART})
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
# A reply that failed with one of these errors would fail again.
NOT_RETRIABLE = (
    NOT_ALLOWED
    | UNKNOWN_PLACE
    | TOO_LARGE
    | {KafkaError._UNKNOWN_TOPIC, KafkaError.TOPIC_EXCEPTION, KafkaError._INVALID_ARG}
)


class Work(NamedTuple):
    """A record in progress: its origin, and the destination of its reply."""

    request: Request
    progress: OffsetProgress
    offset: int
    reply_to: str  # empty: no reply is wanted
    reply_partition: int  # -1: the key decides
    correlation_id: bytes  # empty: the request has none


class Replies:
    """The replies of one service.

    Attributes:
        producer: set before the first reply.
        replied, undeliverable, failed: records so far; see `Counts`.
    """

    def __init__(self) -> None:
        self.producer: Any = None
        self.replied = self.undeliverable = 0
        self._failed_guard = threading.Lock()
        self.failed = 0  # written under the guard
        self._refused: deque[tuple[Work, ReplyRecord, KafkaError]] = deque()  # replies that Kafka refused

    def __repr__(self) -> str:
        return f"<Replies {self.replied} replied, {len(self._refused)} refused>"

    # ---- making ----------------------------------------------------------------------------------------------------

    def answer_of(self, handler: Handler, work: Work) -> ReplyRecord:
        """Calls a sync handler and returns its reply, also if it raises."""
        try:
            return reply_record(work.correlation_id, handler(work.request))
        except Problem as refusal:
            return refused(work, refusal)
        except Exception:
            return self.failure(handler, work)

    def failure(self, handler: Handler, work: Work) -> ReplyRecord:
        """The reply to a request whose handler raised. It refers to the log and does not expose the exception."""
        self._count_failed()
        request = work.request
        name = name_of(handler)
        log.exception(
            "handler_failed handler=%s method=%s path=%s correlation_id=%s",
            name, request.method, request.path, request.correlation_id,
        )  # fmt: skip
        detail = f"handler {name!r} failed; the service's log has the reason under this request_id"
        return problem_record(work.correlation_id, 500, "service_failed", "The service failed on this request", detail)

    def _count_failed(self) -> None:
        with self._failed_guard:
            self.failed += 1

    def _too_large(self, work: Work, reply: ReplyRecord) -> ReplyRecord:
        self._count_failed()
        log.error("reply_too_large bytes=%d correlation_id=%s", len(reply.value), work.request.correlation_id)
        detail = f"the service's reply of {len(reply.value)} bytes is larger than Kafka accepts (message.max.bytes)"
        return problem_record(work.correlation_id, 500, "reply_too_large", "The service's reply is too large", detail)

    # ---- producing -------------------------------------------------------------------------------------------------

    def send(self, work: Work, reply: ReplyRecord) -> None:
        """Queues a reply from the consumer's thread. Waits while the queue is full: this is the back-pressure."""
        while not self.try_produce(work, reply):
            self.producer.poll(QUEUE_FULL_WAIT_S)

    def try_produce(self, work: Work, reply: ReplyRecord) -> bool:
        """Queues a reply; False if the queue is full. From any thread."""
        if not work.reply_to:
            work.progress.finish(work.offset)
            return True
        try:
            self.producer.produce(
                work.reply_to,
                reply.value,
                work.correlation_id or None,
                work.reply_partition,
                partial(self._on_delivered, work, reply),
                headers=reply.headers,
            )
        except BufferError:
            return False
        except KafkaException as failure:
            self._refused.append((work, reply, failure.args[0]))
        return True

    def _on_delivered(self, work: Work, reply: ReplyRecord, error: KafkaError | None, _message: Any) -> None:
        """Called by `poll` and `flush`, so always on the consumer's thread."""
        if error is None:
            self.replied += 1
            work.progress.finish(work.offset)
        else:
            self._refused.append((work, reply, error))

    def settle_refused(self) -> None:
        """Handles replies that Kafka refused.

        If the reply partition does not exist (or not yet in our metadata), the key chooses the partition, and the
        gateway forwards the reply. A reply that is too large is replaced by a problem that says so. Other replies are
        sent again once a turn until their deadline, and dropped after it.
        """
        for _ in range(len(self._refused)):
            work, reply, error = self._refused.popleft()
            code = error.code()
            if code in UNKNOWN_PLACE and work.reply_partition >= 0:
                self.send(work._replace(reply_partition=-1), reply)
            elif code in TOO_LARGE and not reply.is_problem:
                self.send(work, self._too_large(work, reply))
            elif code in NOT_RETRIABLE or is_over(work.request):
                self.undeliverable += 1
                log.error(
                    "reply_undeliverable topic=%s partition=%d reason=%s correlation_id=%s",
                    work.reply_to, work.reply_partition, error.str(), work.request.correlation_id,
                )  # fmt: skip
                work.progress.finish(work.offset)
            else:
                self.send(work, reply)


def refused(work: Work, refusal: Problem) -> ReplyRecord:
    """The reply for a handler that refused a request."""
    return problem_record(work.correlation_id, refusal.status, "refused", refusal.title, refusal.detail)


def no_handler(work: Work, topic: str, known: str) -> tuple[ReplyRecord, str]:
    """The reply to a request without a handler, and its detail."""
    request = work.request
    asked = f"{request.method} {request.route}".strip() or "requests without a route"
    detail = f"the service on topic {topic!r} has no handler for {asked!r}, only for: {known}"
    title = "The service does not know this route"
    return problem_record(work.correlation_id, 404, "no_handler", title, detail), detail
