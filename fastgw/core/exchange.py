"""The life of one request: open, delivered, resolve, expire, cancel. This is the hot path.

One thread makes all calls, so there are no locks. A request's state lives in two places. Its slot in the shared table
has the state, the deadline and the times; every process can read it, and it outlives this process. Its entry in
`_waiting` has the callback that answers the request; it is private to this process and found by slot number, without a
dictionary. Reply, deadline, disconnect, failed delivery and drain race for the slot with compare-and-set. The winner
takes the entry, answers, counts, and releases the slot. The losers do nothing.

    reserve ──> open ──> delivered ──> resolve        the normal course
       │          │          │
    abandon    refused    undelivered, expire, cancel, end_all: all other endings

A request of another kind than SINGLE has a `Waiter`. It takes another way in (`prepare`, `send`), its answer comes from
its waiter (`resolve_kept`, `respond`, `fail`), and its waiter decides about its deadline and a client that leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from fastgw import _ctable, errors, problem
from fastgw._ctable import SlotRange, Table
from fastgw._ids import IdMaker
from fastgw.admission import Admission, Refusal
from fastgw.body_memory import LARGE_ANSWER_BYTES, AnswerMemory
from fastgw.core.arrival_rate import ArrivalRate
from fastgw.core.plan import Plan, SlotQuota
from fastgw.core.waiter import Waiter
from fastgw.dialects import BadReply
from fastgw.errors import Ending, KeyMissing, QueueFull, SendRefused
from fastgw.ids import CorrelationId, refusal_id
from fastgw.messages import Answer, Head, HeaderList, Record, Reply, ReplyDisposition, Tally

Send = Callable[[Record, int, int, int, int], None]
"""(record, token, delivery class, concurrency_hint, now_ns): see kafka.link.Link.send."""
CancelUnsent = Callable[[int], bool]
"""(token): True if the record was not handed to librdkafka and never will be."""

REFUSED = -1  # `open` returns it for a request that it has already answered
SWEEP_AT_ONCE = 512  # requests that one sweep ends at most: a burst of deadlines must not block the loop
_OPTIONS = Ending(-1, "options", 204, errors.Outcome.NOT_RECORDED, False, "")  # only for the access log
OWN_ERROR = "internal error of the gateway; its log has the error under this request_id"
SLOT_MASK = (1 << 20) - 1  # a token is the slot's sequence number << 20 | slot

_ANSWERED, _BAD_REPLY = errors.ANSWERED, errors.BAD_REPLY
_LARGE_BYTES = LARGE_ANSWER_BYTES
_REPLY_ANSWERED = ReplyDisposition.ANSWERED  # looked up once: an enumeration looks its members up slowly
_DISPOSITIONS = {  # by the result of SlotRange.resolve
    _ctable.LATE: ReplyDisposition.LATE,
    _ctable.DUPLICATE: ReplyDisposition.DUPLICATE,
    _ctable.FORGED: ReplyDisposition.FORGED,
    _ctable.ELSEWHERE: ReplyDisposition.ELSEWHERE,
}


class Notes(Protocol):
    """Keeps the parts of a request's head that are needed at its end. Only this object reads what `take` returns."""

    def take(self, head: Head | None, route_number: int | None, bytes_in: int) -> object: ...

    def dressed(self, kept: Any, headers: HeaderList) -> HeaderList:
        """The headers of the answer, with those that CORS adds."""

    def ended(
        self,
        kept: Any,
        ending: Ending,
        status: int,
        request_id: bytes,
        bytes_out: int,
        times: tuple[int, int, int, int] | None,
    ) -> None:
        """The request was answered, or its client left. `times`: see SlotRange.times; None: it never had a slot."""


class Journal(Protocol):
    """Writes errors and alarming endings to the log. Must not raise."""

    def broke(self, what: str, route: str, request_id: bytes) -> None:
        """Log an internal error of the gateway. Called in the `except` block that handles it."""

    def ended(self, name: str, route: str, request_id: bytes, detail: str) -> None:
        """Log an ending that needs an operator: its name, and the `detail` of the problem details."""


# The Python side of a slot in use: token, plan, correlation id, answer callback (None: the client has left, and the
# request goes on), result of `Notes.take`, `Admission.connection`. A plain tuple, because one is made for each request
# and a named tuple costs eight times as much.
_Waiting = tuple[int, Plan, bytes, "Answer | None", object, "Hashable | None"]

_Response = tuple[int, HeaderList, bytes, bytes]  # the arguments of an `Answer`


class Exchange:
    """All requests of one worker process."""

    def __init__(
        self,
        table: Table,
        process_index: int,
        slots: SlotRange,
        ids: IdMaker,
        plans: Sequence[Plan],
        send: Send,
        cancel_unsent: CancelUnsent,
        journal: Journal,
        notes: Notes | None = None,
        answers: AnswerMemory | None = None,
    ) -> None:
        """
        Args:
            table: for the counters.
            process_index: this process's index in the table; its slots begin at `process_index * slots_per_process`.
            slots: claims and releases these slots.
            ids: makes the correlation ids; the worker tells it which partitions it may use.
            plans: the routes, in any order.
            send, cancel_unsent: methods of the Kafka link.
            journal: logs unexpected errors. After an unexpected error the request is still ended and answered.
            notes: for the access log and CORS; None when both are off.
            answers: the answers that clients have not read; a large reply must fit beside them. None: no limit.
        """
        self._table = table
        self._process_index = process_index
        self._slots = slots
        self._first_slot = process_index * table.slots_per_process
        self._waiting: list[_Waiting | None] = [None] * table.slots_per_process
        self._waiters: dict[int, Waiter] = {}  # token -> waiter, of requests that are not SINGLE
        self._ids = ids
        self._plans = {plan.number: plan for plan in plans}
        self._quota = SlotQuota(table.slots_per_process, len(plans))
        self._send = send
        self._cancel_unsent = cancel_unsent
        self._journal = journal
        self._notes = notes
        self.answers = AnswerMemory() if answers is None else answers
        self._arrival_rate = ArrivalRate()
        self.home = -1  # the partition that ids are made for; -1: none
        self._partition_count = 0
        self._closed_by: Ending | None = errors.NOT_READY
        self._closed_why = "this worker does not receive replies from Kafka yet"
        self.epoch_offset_ns = 0  # wall clock minus monotonic clock, kept fresh by the worker

    def __repr__(self) -> str:
        return f"<Exchange process {self._process_index}: {self.in_flight} in flight, home {self.home}>"

    @property
    def in_flight(self) -> int:
        """The number of requests that hold a slot."""
        return self._slots.in_flight

    # The gate.

    def set_home(self, home: int, partition_count: int) -> None:
        """From now on ids are made so that replies arrive on partition `home`, one of `partition_count`."""
        self.home = home
        self._partition_count = partition_count

    def close_gate(self, ending: Ending, why: str) -> None:
        """Refuse new requests with `ending`. Requests in flight go on."""
        self._closed_by, self._closed_why = ending, why

    def open_gate(self) -> None:
        """Admit new requests."""
        self._closed_by = None

    # The way in.

    def reserve(self, admission: Admission) -> Refusal | None:
        """Reserve a place for a request before its body is read. None: the place is reserved.

        After None, the caller must call exactly one of `open` and `abandon`.
        """
        number = admission.route_number
        if self._closed_by is not None:
            return Refusal(self._closed_by, self._closed_why, number)
        plan = self._plans[number]
        if plan.in_flight >= plan.max_in_flight:
            return Refusal(errors.IN_FLIGHT_CAP, f"{plan.max_in_flight} requests wait on {plan.name!r} already", number)
        if not plan.has_consumer or plan.backlog_ns > admission.timeout_ns:
            return _service_unavailable(plan)
        if self._quota.take(plan):
            return None
        full = "this route has used all its slots; the free slots are reserved for other routes"
        return Refusal(errors.TABLE_FULL, full, number)

    def abandon(self, admission: Admission, ending: Ending, detail: str, answer: Answer | None) -> None:
        """Give the reserved place back: the body did not arrive. `answer` is None when the client has left."""
        plan = self._plans[admission.route_number]
        self._quota.give(plan)
        self._table.count(self._process_index, plan.number, ending.number)
        raw = refusal_id()
        response = problem.answer(ending, detail, raw)
        self._respond(plan.name, raw, answer, response, ending, self._note(admission.headers, plan.number, 0), None)

    def refuse(self, refusal: Refusal, answer: Answer) -> None:
        """Answer and count a request that is not admitted."""
        raw = refusal_id()
        if refusal.is_options:
            self._table.add_tally(self._process_index, Tally.OPTIONS, 1)
            kept = self._note(refusal.head, refusal.route_number, 0)
            self._respond_as_is("", raw, answer, (204, refusal.headers or [], b"", raw), _OPTIONS, kept, None)
            return
        number = _ctable.UNROUTED if refusal.route_number is None else refusal.route_number
        ending = refusal.ending
        self._table.count(self._process_index, number, ending.number)
        response = problem.answer(ending, refusal.detail, raw, refusal.headers)
        self._respond("", raw, answer, response, ending, self._note(refusal.head, refusal.route_number, 0), None)

    def _note(self, head: Head | None, route_number: int | None, bytes_in: int) -> object:
        """The result of `Notes.take`; None without notes, or after an error in them."""
        if self._notes is None:
            return None
        try:
            return self._notes.take(head, route_number, bytes_in)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("request details not kept", "", b"")
            return None

    def open(self, admission: Admission, body: bytes, answer: Answer, now_ns: int) -> int:
        """Give a complete, reserved request a slot and an id, and send its record.

        Args:
            admission: the router's result for its head.
            body: the whole body.
            answer: called exactly once, unless the client leaves first (`cancel`).
            now_ns: monotonic.

        Returns:
            The request's token, or REFUSED if this call has already answered it.
        """
        plan = self._plans[admission.route_number]
        kept = None if self._notes is None else self._note(admission.headers, plan.number, len(body))
        if self.home < 0:
            return self._turn_away(plan, errors.NOT_READY, "this worker has no response partition", answer, kept)
        slot = token = -1
        raw = b""
        try:
            if plan.compressor is not None:
                answer = plan.compressor.wrapping(answer, admission.headers)
            key = plan.key_of(admission.headers, admission.params, body) if plan.key_of else None
            slot = self._slots.claim()
            if slot < 0:
                return self._turn_away(plan, errors.TABLE_FULL, "all slots of this worker are in use", answer, kept)
            raw = self._ids.make(slot, plan.learner.current)
            deadline_ns = now_ns + admission.timeout_ns
            headers = plan.wire.headers(
                raw,
                self.home,
                (deadline_ns + self.epoch_offset_ns) // 1_000_000,
                admission.method,
                admission.path,
                admission.query,
                admission.params,
                admission.headers,
            )
            record = Record(plan.topic, body, key, headers, plan.partition)
            token = self._slots.publish(slot, self._ids.tag, plan.number, self.home, deadline_ns, now_ns)
        except KeyMissing as missing:
            return self._turn_away(plan, errors.MALFORMED, str(missing), answer, kept)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            if slot >= 0:
                self._slots.abandon(slot)
            raw = raw or refusal_id()
            self._journal.broke("record not built", plan.name, raw)
            return self._turn_away(plan, errors.REFUSED_SEND, OWN_ERROR, answer, kept, raw)
        # Before `send`: any code that ends the slot, `send` included, needs the entry to answer the request.
        self._waiting[slot - self._first_slot] = (token, plan, raw, answer, kept, admission.connection)
        return token if self._send_record(token, record, plan, raw, now_ns) else REFUSED

    def _send_record(self, token: int, record: Record, plan: Plan, raw: bytes, now_ns: int) -> bool:
        try:
            concurrency_hint = 0 if self._arrival_rate.is_alone(now_ns) else plan.in_flight
            self._send(record, token, plan.delivery_class, concurrency_hint, now_ns)
        except (QueueFull, SendRefused) as refused:
            ending, detail = _why_unsent(refused)
            self.undelivered(token, ending, detail)
            return False
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("record not sent", plan.name, raw)
            # The record may or may not have left, unless it still waits here.
            self.undelivered(token, errors.REFUSED_SEND if self._is_unsent(token) else errors.SEND_UNKNOWN, OWN_ERROR)
            return False
        self._slots.sent(token, now_ns)
        return True

    # The way in of requests with a waiter.

    def plan_of(self, admission: Admission) -> Plan:
        """The plan of the route of an admitted request."""
        return self._plans[admission.route_number]

    def prepare(
        self,
        admission: Admission,
        answer: Answer,
        waiter: Waiter,
        kind: int,
        ids: IdMaker,
        home: int,
        deadline_ns: int,
        now_ns: int,
        body_bytes: int,
    ) -> tuple[int, bytes] | None:
        """Give a complete, reserved request a slot and an id. No record is sent yet.

        Args:
            kind: KEPT or STREAM.
            ids: makes ids whose replies arrive on partition `home` of their topic.
            deadline_ns: when `Waiter.on_deadline` is called (monotonic).
            body_bytes: for the access log.

        Returns:
            Token and id; None: the request was refused and is answered.
        """
        plan = self._plans[admission.route_number]
        kept = self._note(admission.headers, plan.number, body_bytes)
        slot = self._slots.claim()
        if slot < 0:
            self._turn_away(plan, errors.TABLE_FULL, "all slots of this worker are in use", answer, kept)
            return None
        raw = ids.make(slot, plan.learner.current)
        token = self._slots.publish_kind(slot, ids.tag, plan.number, home, kind, deadline_ns, now_ns)
        self._waiting[slot - self._first_slot] = (token, plan, raw, answer, kept, admission.connection)
        self._waiters[token] = waiter
        return token, raw

    def send(self, token: int, record: Record, now_ns: int) -> bool:
        """Send the record of a prepared request. False: it was refused, and the request has ended."""
        waiting = self._waiting[(token & SLOT_MASK) - self._first_slot]
        assert waiting is not None, "a request is sent before it ends"
        _, plan, raw, _, _, _ = waiting
        return self._send_record(token, record, plan, raw, now_ns)

    def turn_away(self, admission: Admission, ending: Ending, detail: str, answer: Answer, body_bytes: int) -> int:
        """Refuse a complete, reserved request; returns REFUSED."""
        plan = self._plans[admission.route_number]
        return self._turn_away(plan, ending, detail, answer, self._note(admission.headers, plan.number, body_bytes))

    def answer_at_once(
        self, route_number: int, head: Head, answer: Answer, ending: Ending, response: _Response
    ) -> None:
        """Answer and count a request that has no slot."""
        if ending is _ANSWERED:
            self._table.count_answered(self._process_index, route_number, response[0])
        else:
            self._table.count(self._process_index, route_number, ending.number)
        kept = self._note(head, route_number, 0)
        self._respond("", response[3], answer, response, ending, kept, None)

    def resolve_kept(self, token: int, reply: Reply, now_ns: int) -> bool:
        """Answer a request with the reply that its waiter found. False: it has ended already."""
        if self._slots.finish(token, _ctable.ANSWERED) < 0:
            return False
        self._answer(self._take(token), reply, now_ns)
        return True

    def respond(self, token: int, ending: Ending, headers: HeaderList, body: bytes) -> bool:
        """End a request with an answer of the gateway that is not a problem. False: it has ended already."""
        if self._slots.finish(token, _ctable.ANSWERED) < 0:
            return False
        (_, plan, raw, answer, kept, _), times = self._close(token, ending)
        self._respond(plan.name, raw, answer, (ending.status, headers, body, raw), ending, kept, times)
        return True

    def begin_stream(self, token: int, headers: HeaderList) -> HeaderList:
        """The first part of the answer is sent next. Returns its headers, with those that CORS adds."""
        self._slots.streaming(token)
        waiting = self._waiting[(token & SLOT_MASK) - self._first_slot]
        assert waiting is not None, "a stream begins before it ends"
        _, plan, raw, _, kept, _ = waiting
        return headers if kept is None else self._dressed(kept, (200, headers, b"", raw), plan.name)[1]

    def dressed(self, admission: Admission, headers: HeaderList) -> HeaderList:
        """The headers of an answer to a request without a slot, with those that CORS adds."""
        kept = self._note(admission.headers, admission.route_number, 0)
        return headers if kept is None else self._dressed(kept, (200, headers, b"", b""), "")[1]

    def complete(self, token: int, status: int, bytes_out: int, now_ns: int) -> bool:
        """End a request whose answer its waiter has sent itself. False: it has ended already.

        Args:
            status: that of the service, for the counters.
            bytes_out: for the access log.
        """
        if self._slots.finish(token, _ctable.ANSWERED) < 0:
            return False
        _, plan, raw, _, kept, _ = self._take(token)
        self._quota.give(plan)
        times = None if kept is None else self._slots.times(token)
        self._slots.settle_answered(token, status, now_ns)
        if self._notes is not None and kept is not None:
            self._notes.ended(kept, _ANSWERED, status, raw, bytes_out, times)
        return True

    def withdraw(self, token: int) -> None:
        """End a prepared request whose client has left before its record was sent."""
        if self._slots.finish(token, _ctable.CANCELLED) >= 0:
            self._end(token, errors.CANCELLED_EARLY, "the client left", is_heard=False)

    def extend(self, token: int, deadline_ns: int) -> None:
        """Change when the waiter of a request is asked about its deadline."""
        self._slots.extend(token, deadline_ns)

    def drain(self) -> None:
        """The worker drains: requests with a waiter that can end well now end."""
        for waiter in list(self._waiters.values()):
            waiter.on_drain()

    def _turn_away(
        self, plan: Plan, ending: Ending, detail: str, answer: Answer, kept: object, raw: bytes | None = None
    ) -> int:
        self._quota.give(plan)
        self._table.count(self._process_index, plan.number, ending.number)
        raw = raw or refusal_id()
        self._respond(plan.name, raw, answer, self._failed(plan, ending, detail, raw), ending, kept, None)
        return REFUSED

    # Delivery reports.

    def delivered(self, token: int, at_ns: int, partition: int) -> None:
        """The record is in this partition of its topic. `at_ns`: when the link learned that (monotonic)."""
        self._slots.recorded(token, at_ns)
        waiter = self._waiters.get(token) if self._waiters else None
        if waiter is not None:
            waiter.on_recorded(partition)

    def undelivered(self, token: int, ending: Ending, detail: str) -> None:
        """The record was refused, or it is unknown whether it was written: `ending` says which."""
        self.fail(token, ending, detail)

    def fail(self, token: int, ending: Ending, detail: str) -> bool:
        """End a request with a problem. False: it has ended already."""
        if self._slots.finish(token, _ctable.FAILED) < 0:
            return False
        self._end(token, ending, detail)
        return True

    # The ends.

    def resolve(self, cid: CorrelationId, reply: Reply, now_ns: int) -> ReplyDisposition:
        """Answer the request that waits for this reply, if one does. The id is one of this process."""
        token = self._slots.resolve(cid.slot, cid.tag)
        if token < 0:
            return _DISPOSITIONS[token]
        waiting = self._take(token)
        ack_to_reply_ns = self._answer(waiting, reply, now_ns)
        self._learn(waiting[1], waiting[2], cid, reply.partition, ack_to_reply_ns)
        return _REPLY_ANSWERED

    def _answer(self, waiting: _Waiting, reply: Reply, now_ns: int) -> int:
        """Answer with a reply. The slot has its final state. Returns the ns from the record to the reply, or -1."""
        token, plan, raw, answer, kept, connection = waiting
        ending = _ANSWERED
        try:
            status, headers, body = plan.reply_wire.answer(reply)
            response = status, headers, body, raw
            if len(body) > _LARGE_BYTES and answer is not None and not self.answers.has_room(len(body), connection):
                ending = errors.ANSWERS_FULL
                response = self._failed(plan, ending, self.answers.why_full(len(body), connection), raw)
        except BadReply as bad:
            ending = _BAD_REPLY
            response = self._failed(plan, ending, str(bad), raw)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("answer not built", plan.name, raw)
            ending = _BAD_REPLY
            response = self._failed(plan, ending, OWN_ERROR, raw)
        self._quota.give(plan)
        times = None if kept is None else self._slots.times(token)
        if ending is _ANSWERED:
            ack_to_reply_ns = self._slots.settle_answered(token, response[0], now_ns)
        else:
            ack_to_reply_ns = self._slots.settle(token, ending.number, now_ns)
        self._respond(plan.name, raw, answer, response, ending, kept, times)
        return ack_to_reply_ns

    def _learn(self, plan: Plan, raw: bytes, cid: CorrelationId, partition: int, ack_to_reply_ns: int) -> None:
        """Update what is known about the service. Done last: an error here must not cost the request its answer."""
        try:
            if ack_to_reply_ns >= 0:
                plan.spread.observe(ack_to_reply_ns)
            plan.learner.observe(raw, cid.home, partition, self._partition_count)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("reply not evaluated", plan.name, raw)

    def expire(self, now_ns: int) -> int:
        """End up to SWEEP_AT_ONCE requests whose deadline has passed; return how many."""
        tokens = self._slots.expired(now_ns, SWEEP_AT_ONCE)
        for token in tokens:
            waiter = self._waiters.get(token) if self._waiters else None
            deadline_ns = 0 if waiter is None else waiter.on_deadline(now_ns)
            if deadline_ns > now_ns:
                self._slots.extend(token, deadline_ns)
            else:
                self._give_up(token, "the deadline passed")
        return len(tokens)

    def end_all(self, why: str) -> int:
        """End all requests in flight as if their deadlines had passed; return how many."""
        tokens = [waiting[0] for waiting in self._waiting if waiting is not None]
        for token in tokens:
            self._give_up(token, why)
        return len(tokens)

    def _give_up(self, token: int, why: str) -> None:
        state = self._slots.finish(token, _ctable.EXPIRED)
        if state == _ctable.RECORDED:
            self._end(token, errors.EXPIRED, f"{why}: the record is in its topic, no reply came")
        elif state == _ctable.STREAMING:
            self._end(token, errors.STREAM_BROKEN, f"{why}: the stream was not complete")
        elif state >= 0 and self._is_unsent(token):
            self._end(token, errors.NOT_SENT, f"{why}: the record had not been sent")
        elif state >= 0:
            self._end(token, errors.EXPIRED_UNKNOWN, f"{why}: Kafka had not confirmed the record")

    def cancel(self, token: int) -> None:
        """End a request whose client has left, without an answer. A later reply counts as late."""
        waiter = self._waiters.get(token) if self._waiters else None
        if waiter is not None and not waiter.on_gone():
            self._forget_client(token)
            return
        state = self._slots.finish(token, _ctable.CANCELLED)
        if state < 0:
            return
        if state in (_ctable.RECORDED, _ctable.STREAMING):
            self._end(token, errors.CANCELLED, "the client left", is_heard=False)
        else:
            ending = errors.CANCELLED_EARLY if self._is_unsent(token) else errors.CANCELLED_UNKNOWN
            self._end(token, ending, "the client left", is_heard=False)

    def _forget_client(self, token: int) -> None:
        at = (token & SLOT_MASK) - self._first_slot
        waiting = self._waiting[at]
        assert waiting is not None, "its waiter is known, so it has not ended"
        token, plan, raw, _, kept, connection = waiting
        self._waiting[at] = (token, plan, raw, None, kept, connection)

    def _is_unsent(self, token: int) -> bool:
        """Whether the record was not handed to librdkafka and never will be. False when in doubt."""
        try:
            return self._cancel_unsent(token)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("record not cancelled", "", b"")
            return False

    def _end(self, token: int, ending: Ending, detail: str, is_heard: bool = True) -> None:
        """End a request whose slot has its final state. `is_heard` False: the client has left, so nothing is sent."""
        (_, plan, raw, answer, kept, _), times = self._close(token, ending)
        if is_heard:
            self._respond(plan.name, raw, answer, self._failed(plan, ending, detail, raw), ending, kept, times)
        elif kept is not None:
            self._respond(plan.name, raw, None, (ending.status, [], b"", raw), ending, kept, times)

    def _close(self, token: int, ending: Ending) -> tuple[_Waiting, tuple[int, int, int, int] | None]:
        """Count a request whose slot has its final state, and free the slot. Returns its entry, and its times."""
        waiting = self._take(token, ending)
        _, plan, _, _, kept, _ = waiting
        times = None if kept is None else self._slots.times(token)
        self._table.count(self._process_index, plan.number, ending.number)
        self._quota.give(plan)
        self._slots.release(token)
        return waiting, times

    def _failed(self, plan: Plan, ending: Ending, detail: str, raw: bytes) -> _Response:
        """The gateway's own answer to a failed request. An ending that needs an operator is logged."""
        if ending.alarming:
            self._journal.ended(ending.name, plan.name, raw, detail)
        return problem.answer(ending, detail, raw)

    def _respond(
        self,
        route: str,
        raw: bytes,
        answer: Answer | None,
        response: _Response,
        ending: Ending,
        kept: object,
        times: tuple[int, int, int, int] | None,
    ) -> None:
        """Answer, with the headers that CORS adds."""
        if kept is not None:
            response = self._dressed(kept, response, route)
        self._respond_as_is(route, raw, answer, response, ending, kept, times)

    def _respond_as_is(
        self,
        route: str,
        raw: bytes,
        answer: Answer | None,
        response: _Response,
        ending: Ending,
        kept: object,
        times: tuple[int, int, int, int] | None,
    ) -> None:
        """Answer. An error in the front must not keep the other requests of a batch or a sweep from their answers."""
        try:
            if answer is not None:
                answer(*response)
            if self._notes is not None and kept is not None:
                self._notes.ended(kept, ending, response[0], raw, len(response[2]), times)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("front did not send the answer", route, raw)

    def _dressed(self, kept: object, response: _Response, route: str) -> _Response:
        status, headers, body, raw = response
        assert self._notes is not None, "a note was taken, so there are notes"
        try:
            return status, self._notes.dressed(kept, headers), body, raw
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("CORS headers not added", route, raw)
            return response

    def _take(self, token: int, ending: Ending | None = None) -> _Waiting:
        """The entry of a request that ends, removed; its waiter is told first. `ending` None: a reply ends it."""
        at = (token & SLOT_MASK) - self._first_slot
        waiting = self._waiting[at]
        assert waiting is not None, "only the winner of the slot's state takes the entry"
        self._waiting[at] = None
        if self._waiters:
            waiter = self._waiters.pop(token, None)
            if waiter is not None:
                waiter.on_end(ending)
        return waiting


def _service_unavailable(plan: Plan) -> Refusal:
    if not plan.has_consumer:
        return Refusal(errors.NO_CONSUMER, f"no consumer of {plan.name!r} has a partition of its topic", plan.number)
    behind_s = plan.backlog_ns / 1e9
    return Refusal(errors.BACKLOG, f"the service of {plan.name!r} is {behind_s:.0f} s behind", plan.number)


def _why_unsent(refused: QueueFull | SendRefused) -> tuple[Ending, str]:
    if isinstance(refused, SendRefused):
        return refused.ending, str(refused)
    return errors.QUEUE_FULL, str(refused)
