"""Deferred answers: a request whose service takes long gets 202 and a status URL, and its reply is kept.

    open ──> record sent, store watches ──┬─> the reply comes in time ──> it is the answer
                                          ├─> time to defer, and the record is in Kafka ──> 202, the slot is free
                                          └─> Kafka has not confirmed it before the timeout ──> 504 unknown

The reply goes to the topic of kept replies, which the store of every node reads. So a status URL works on every worker
of every node, also after the worker that took the request has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from fastgw import _ctable, errors
from fastgw.admission import Admission
from fastgw.core import kept
from fastgw.core.exchange import REFUSED, Exchange
from fastgw.core.kept import KeptReplies
from fastgw.core.plan import Plan
from fastgw.errors import Ending, KeyMissing
from fastgw.ids import IdMaker
from fastgw.kept_replies import Known, State
from fastgw.messages import Answer, HeaderList, Record, Reply
from fastgw.tokens import Secrets, Ticket, seal_ticket

NS_PER_MS = 1_000_000
ANSWER_EXPIRED = ("answer_expired", b"1")  # the service answers with a problem what it takes from the topic too late
VARY = ("vary", "Prefer")


class LaterSettings(NamedTuple):
    """Settings of all routes with deferred answers. Times are in ms."""

    topic: str
    path: str  # the status URL is this, a slash, and the ticket
    keep_ms: int
    retry_after_s: int


class Status(msgspec.Struct, frozen=True):
    """The body of a 202: the state of a deferred request."""

    id: str
    status: str  # "working" or "cancelled"
    outcome: str
    created: str  # RFC 3339
    expires: str  # when the status URL ends


_ENCODE = msgspec.json.Encoder().encode


class Later:
    """All requests of one worker whose answers may be deferred."""

    def __init__(
        self,
        settings: LaterSettings,
        secrets: Secrets,
        exchange: Exchange,
        store: KeptReplies,
        ids: IdMaker,
        turn: int,
        clock_ns: Callable[[], int],
    ) -> None:
        """
        Args:
            ids: makes ids for the topic of kept replies.
            turn: workers with different numbers use different partitions, as long as there are enough.
            clock_ns: the monotonic clock.
        """
        self.settings = settings
        self.secrets = secrets
        self.exchange = exchange
        self.store = store
        self._ids = ids
        self.clock_ns = clock_ns
        self._turn = turn
        self._partitions = 0  # for which the ids are made

    def __repr__(self) -> str:
        return f"<Later {self.settings.topic}: {self._partitions} partitions>"

    def open(self, admission: Admission, body: bytes, answer: Answer, now_ns: int) -> int:
        """Take a complete request. Returns its token, or REFUSED if it is answered already."""
        exchange, plan = self.exchange, self.exchange.plan_of(admission)
        refused = kept.refusal(self.store, is_new=True, route=plan.name)
        if refused is not None:
            return exchange.turn_away(admission, *refused, answer, len(body))
        try:
            key = plan.key_of(admission.headers, admission.params, body) if plan.key_of else None
        except KeyMissing as missing:
            return exchange.turn_away(admission, errors.MALFORMED, str(missing), answer, len(body))
        if plan.compressor is not None:
            answer = plan.compressor.wrapping(answer, admission.headers)
        home = self._home()
        assert self.store.topics is not None
        deferral = Deferral(self, plan, admission, answer, self.store.topics.later_id, home, now_ns)
        prepared = exchange.prepare(
            admission, deferral.answer, deferral, _ctable.KEPT, self._ids, home, deferral.first_deadline_ns, now_ns,
            len(body),
        )  # fmt: skip
        if prepared is None:
            return REFUSED
        token, raw = prepared
        deferral.begin(token, raw)
        record = Record(plan.topic, body, key, self._headers(plan, admission, deferral), plan.partition)
        return token if exchange.send(token, record, now_ns) else REFUSED

    def _home(self) -> int:
        """The partition for the replies of this worker: one, so that they travel together."""
        topics = self.store.topics
        assert topics is not None, "the store was asked before"
        home = self._turn % topics.later_partitions
        if self._partitions != topics.later_partitions:
            self._partitions = topics.later_partitions
            self._ids.set_ownership(topics.later_partitions, [home], home)
        return home

    def _headers(self, plan: Plan, admission: Admission, deferral: Deferral) -> list[tuple[str, bytes]]:
        assert plan.later_wire is not None, "only routes with deferred answers come here"
        headers = plan.later_wire.headers(
            deferral.raw,
            deferral.home,
            deferral.work_until_ms,
            admission.method,
            admission.path,
            admission.query,
            admission.params,
            admission.headers,
        )
        return [*headers, ANSWER_EXPIRED]

    def deferred(self, ticket: Ticket, ending: Ending, is_async: bool) -> tuple[HeaderList, bytes]:
        """Headers and body of the 202 to a request.

        Args:
            is_async: the client has asked for it.
        """
        applied = [("preference-applied", "respond-async")] if is_async else []
        return self.status(seal_ticket(self.secrets, ticket), ticket, ending, more=applied)

    def status(
        self,
        ticket_text: str,
        ticket: Ticket,
        ending: Ending = errors.DEFERRED,
        status: str = "working",
        more: Sequence[tuple[str, str]] = (),
    ) -> tuple[HeaderList, bytes]:
        """Headers and body of a 202.

        Args:
            ending: says what is known of the record.
        """
        headers = [
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
            ("fastgw-outcome", ending.outcome.value),
            ("location", f"{self.settings.path}/{ticket_text}"),
            ("retry-after", str(self.settings.retry_after_s)),
            VARY,
            *more,
        ]
        told = Status(
            ticket.correlation_id.decode(),
            status,
            ending.outcome.value,
            _rfc3339(ticket.created_ms),
            _rfc3339(ticket.expires_ms),
        )
        return headers, _ENCODE(told)


class Deferral:
    """One request whose answer may be deferred. Implements `Waiter`."""

    def __init__(
        self,
        later: Later,
        plan: Plan,
        admission: Admission,
        answer: Answer,
        topic_id: bytes,
        home: int,
        now_ns: int,
    ) -> None:
        """
        Args:
            topic_id, home: the topic and the partition of its reply.
        """
        self._later = later
        self._plan = plan
        self._answer = answer
        self._is_async = admission.is_async
        self._defer_at_ns = now_ns + admission.defer_after_ns
        self._deadline_ns = now_ns + admission.timeout_ns
        # Without a wait, the report that the record is in Kafka defers the answer, and not a deadline.
        self.first_deadline_ns = self._defer_at_ns if admission.defer_after_ns else self._deadline_ns
        self._created_ms = (now_ns + later.exchange.epoch_offset_ns) // NS_PER_MS
        self._topic_id = topic_id
        self.home = home
        self.work_until_ms = self._created_ms + plan.work_timeout_ns // NS_PER_MS
        self.raw = b""
        self._token = -1
        self._partition = -1  # of the record; -1: Kafka has not confirmed it
        self._watch = -1

    def __repr__(self) -> str:
        return f"<Deferral {self._plan.name!r} home {self.home}, recorded on {self._partition}>"

    def begin(self, token: int, raw: bytes) -> None:
        """The request has a slot and an id; its record is sent next."""
        self._token, self.raw = token, raw
        # Before the record is sent: the reply may come at once.
        store, route = self._later.store, self._plan.name
        self._watch = store.watch(raw, self.home, self.work_until_ms, self._on_state, route)

    def answer(self, status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
        """Answer, and say that the answer depends on the client's preference (RFC 7240, section 3)."""
        self._answer(status, headers if VARY in headers else [*headers, VARY], body, request_id)

    def _on_state(self, state: State) -> None:
        if state.known == Known.ANSWERED and (why := kept.why_left(state)):
            self._later.exchange.fail(self._token, errors.BAD_REPLY, why)
        elif state.known == Known.ANSWERED:
            reply = Reply(self.raw, state.partition, state.offset, state.headers, state.value)
            self._later.exchange.resolve_kept(self._token, reply, self._later.clock_ns())

    def _defer(self) -> None:
        ticket = Ticket(
            self.raw,
            b"",
            self._topic_id,
            self._partition,
            self._plan.name,
            "",
            self._created_ms,
            self.work_until_ms,
            self._created_ms + self._later.settings.keep_ms,
        )
        headers, body = self._later.deferred(ticket, errors.DEFERRED, self._is_async)
        self._later.exchange.respond(self._token, errors.DEFERRED, headers, body)

    # Waiter.

    def on_recorded(self, partition: int) -> None:
        self._partition = partition
        if self._later.clock_ns() >= self._defer_at_ns:
            self._defer()

    def on_deadline(self, now_ns: int) -> int:
        if self._partition < 0:
            return self._deadline_ns if now_ns < self._deadline_ns else 0
        self._defer()
        return 0

    def on_gone(self) -> bool:
        return True  # nobody else knows the status URL

    def on_drain(self) -> None:
        if self._partition >= 0:
            self._defer()

    def on_end(self, ending: Ending | None) -> None:  # noqa: ARG002
        self._later.store.unwatch(self._watch)


def _rfc3339(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
