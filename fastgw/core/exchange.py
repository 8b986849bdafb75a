"""The life of one request: open, delivered, resolve, expire, cancel. This is the hot path.

One thread calls everything here, so there is nothing to lock. What a request *is* lives in two places: its slot in the
shared table (state, deadline, times; seen by everybody, outlives this process) and its entry in `_waiting` (whom to
answer; ours alone, found by slot number, no dictionary). Reply, deadline, disconnect, failed delivery and drain race
for the slot with compare-and-set; the one that wins takes the entry, answers, counts and releases. The losers do
nothing.

    reserve ──> open ──> delivered ──> resolve        the way it should go
       │          │          │
    abandon    refused    undelivered, expire, cancel, end_all: the side doors
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fastgw import _ctable, errors, problem
from fastgw._ctable import SlotRange, Table
from fastgw._ids import IdMaker
from fastgw.admission import Admission, Refusal
from fastgw.core.arrival_rate import ArrivalRate
from fastgw.core.plan import Plan, SlotQuota
from fastgw.dialects import BadReply
from fastgw.errors import Ending, KeyMissing, QueueFull, SendRefused
from fastgw.ids import CorrelationId, refusal_id
from fastgw.messages import Answer, Head, HeaderList, Record, Reply, ReplyDisposition, Tally

Send = Callable[[Record, int, int, int, int], None]
"""(record, token, delivery class, concurrency_hint, now_ns): see kafka.link.Link.send."""
CancelUnsent = Callable[[int], bool]
"""(token): True if its record was never handed over and will not be."""

REFUSED = -1  # what `open` returns for a request that has been answered already
SWEEP_AT_ONCE = 512  # requests that one sweep ends, so that a burst of deadlines cannot hold the loop
_OPTIONS = Ending(-1, "options", 204, errors.Outcome.NOT_RECORDED, False, "")  # for the access log alone
OWN_ERROR = "an internal error of the gateway: its log has it under this request_id"
SLOT_MASK = (1 << 20) - 1  # a token is the slot's sequence number << 20 | slot

_ANSWERED, _BAD_REPLY = errors.ANSWERED, errors.BAD_REPLY
_REPLY_ANSWERED = ReplyDisposition.ANSWERED  # looked up once: an enumeration is slow at it
_DISPOSITIONS = {  # by the verdict of the table
    _ctable.LATE: ReplyDisposition.LATE,
    _ctable.DUPLICATE: ReplyDisposition.DUPLICATE,
    _ctable.FORGED: ReplyDisposition.FORGED,
}


class Notes(Protocol):
    """Keeps of a request's head what is wanted at its end. What `take` returns is nobody else's business."""

    def take(self, head: Head | None, route_number: int | None, bytes_in: int) -> object: ...

    def dressed(self, kept: Any, headers: HeaderList) -> HeaderList:
        """The headers of its answer, as they shall go out."""

    def ended(
        self,
        kept: Any,
        ending: Ending,
        status: int,
        request_id: bytes,
        bytes_out: int,
        times: tuple[int, int, int, int] | None,
    ) -> None:
        """It is answered, or its client has left. `times`: see SlotRange.times; None: it never had a slot."""


class Journal(Protocol):
    """Takes what somebody should read in the log. Must not raise."""

    def broke(self, what: str, route: str, request_id: bytes) -> None:
        """An error of the gateway's own, which is being handled: called in its `except`."""

    def ended(self, name: str, route: str, request_id: bytes, detail: str) -> None:
        """A request has ended in a way that somebody must act on: the ending's name, what it says in the problem."""


# The Python side of a slot in use: token, plan, correlation id, whom to answer, what was noted. A plain tuple: one is
# made for each request, and a named one costs eight times that.
_Waiting = tuple[int, Plan, bytes, Answer, object]

_Response = tuple[int, HeaderList, bytes, bytes]  # what an `Answer` takes


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
    ) -> None:
        """
        Args:
            table: for the counters.
            process_index: this process's place in the table; its slots are `process_index * slots_per_process` onwards.
            slots: the claiming side of those slots.
            ids: makes the correlation ids; its ownership is kept by the worker.
            plans: the routes, any order.
            send, cancel_unsent: of the Kafka link.
            journal: takes errors that no code expects. Whatever breaks, each request is ended and answered.
            notes: where somebody wants to know of each request, or has a word on its answer.
        """
        self._table = table
        self._process_index = process_index
        self._slots = slots
        self._first_slot = process_index * table.slots_per_process
        self._waiting: list[_Waiting | None] = [None] * table.slots_per_process
        self._ids = ids
        self._plans = {plan.number: plan for plan in plans}
        self._quota = SlotQuota(table.slots_per_process, len(plans))
        self._send = send
        self._cancel_unsent = cancel_unsent
        self._journal = journal
        self._notes = notes
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
        """Requests that hold a slot."""
        return self._slots.in_flight

    # The gate.

    def set_home(self, home: int, partition_count: int) -> None:
        """From now on ids are made for replies on `home`, of `partition_count` partitions."""
        self.home = home
        self._partition_count = partition_count

    def close_gate(self, ending: Ending, why: str) -> None:
        """New requests are refused with `ending`; those that wait are not touched."""
        self._closed_by, self._closed_why = ending, why

    def open_gate(self) -> None:
        """New requests are let in."""
        self._closed_by = None

    # The way in.

    def reserve(self, admission: Admission) -> Refusal | None:
        """Takes a place for a request whose body is about to be read; None if there is one.

        After None, exactly one of `open` and `abandon` must follow.
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
        full = "this route has used its slots, the others are reserved for other routes"
        return Refusal(errors.TABLE_FULL, full, number)

    def abandon(self, admission: Admission, ending: Ending, detail: str, answer: Answer | None) -> None:
        """The body did not come: the place is free again; `answer` is None when nobody is there to read one."""
        plan = self._plans[admission.route_number]
        self._quota.give(plan)
        self._table.count(self._process_index, plan.number, ending.number)
        raw = refusal_id()
        response = problem.answer(ending, detail, raw)
        self._respond(plan.name, raw, answer, response, ending, self._note(admission.headers, plan.number, 0), None)

    def refuse(self, refusal: Refusal, answer: Answer) -> None:
        """Answers and counts a request that may not enter."""
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
        """What is kept of a request until its end; None: nothing."""
        if self._notes is None:
            return None
        try:
            return self._notes.take(head, route_number, bytes_in)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("request not noted", "", b"")
            return None

    def open(self, admission: Admission, body: bytes, answer: Answer, now_ns: int) -> int:
        """A reserved request is complete: give it a slot and an id, and send its record.

        Args:
            admission: the verdict on its head.
            body: the whole body.
            answer: called exactly once, unless the client leaves first (`cancel`).
            now_ns: monotonic.

        Returns:
            The request's token, or REFUSED if it has been answered here and now.
        """
        plan = self._plans[admission.route_number]
        kept = None if self._notes is None else self._note(admission.headers, plan.number, len(body))
        if self.home < 0:
            return self._turn_away(plan, errors.NOT_READY, "this worker owns no response partition", answer, kept)
        slot = token = -1
        raw = b""
        try:
            if plan.compressor is not None:
                answer = plan.compressor.wrapping(answer, admission.headers)
            key = plan.key_of(admission.headers, admission.params, body) if plan.key_of else None
            slot = self._slots.claim()
            if slot < 0:
                return self._turn_away(plan, errors.TABLE_FULL, "every slot of this worker is taken", answer, kept)
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
            self._journal.broke("request not made into a record", plan.name, raw)
            return self._turn_away(plan, errors.REFUSED_SEND, OWN_ERROR, answer, kept, raw)
        # From here on whoever ends the slot finds whom to answer, `send` itself included.
        self._waiting[slot - self._first_slot] = (token, plan, raw, answer, kept)
        try:
            concurrency_hint = 0 if self._arrival_rate.is_alone(now_ns) else plan.in_flight
            self._send(record, token, plan.delivery_class, concurrency_hint, now_ns)
        except (QueueFull, SendRefused) as refused:
            ending, detail = _why_unsent(refused)
            self.undelivered(token, ending, detail)
            return REFUSED
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("record not sent", plan.name, raw)
            # How far it came nobody can say, unless it still waits here.
            self.undelivered(token, errors.REFUSED_SEND if self._is_unsent(token) else errors.SEND_UNKNOWN, OWN_ERROR)
            return REFUSED
        self._slots.sent(token, now_ns)
        return token

    def _turn_away(
        self, plan: Plan, ending: Ending, detail: str, answer: Answer, kept: object, raw: bytes | None = None
    ) -> int:
        self._quota.give(plan)
        self._table.count(self._process_index, plan.number, ending.number)
        raw = raw or refusal_id()
        self._respond(plan.name, raw, answer, self._failed(plan, ending, detail, raw), ending, kept, None)
        return REFUSED

    # What Kafka says of the record.

    def delivered(self, token: int, at_ns: int) -> None:
        """The record is in its topic, as is known since `at_ns` (monotonic)."""
        self._slots.recorded(token, at_ns)

    def undelivered(self, token: int, ending: Ending, detail: str) -> None:
        """The record was refused, or nobody can say whether it was written."""
        if self._slots.finish(token, _ctable.FAILED) >= 0:
            self._end(token, ending, detail)

    # The ends.

    def resolve(self, cid: CorrelationId, reply: Reply, now_ns: int) -> ReplyDisposition:
        """A reply to one of this process's ids: answer the request that waits for it, if one does."""
        token = self._slots.resolve(cid.slot, cid.tag)
        if token < 0:
            return _DISPOSITIONS[token]
        _, plan, raw, answer, kept = self._take(token)
        ending = _ANSWERED
        try:
            status, headers, body = plan.reply_wire.answer(reply)
            response = status, headers, body, raw
        except BadReply as bad:
            ending = _BAD_REPLY
            response = self._failed(plan, ending, str(bad), raw)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("reply not made into an answer", plan.name, raw)
            ending = _BAD_REPLY
            response = self._failed(plan, ending, OWN_ERROR, raw)
        self._quota.give(plan)
        times = None if kept is None else self._slots.times(token)
        if ending is _ANSWERED:
            ack_to_reply_ns = self._slots.settle_answered(token, response[0], now_ns)
        else:
            ack_to_reply_ns = self._slots.settle(token, ending.number, now_ns)
        self._respond(plan.name, raw, answer, response, ending, kept, times)
        self._learn(plan, raw, cid, reply.partition, ack_to_reply_ns)
        return _REPLY_ANSWERED

    def _learn(self, plan: Plan, raw: bytes, cid: CorrelationId, partition: int, ack_to_reply_ns: int) -> None:
        """What a reply tells of its service; last of all, as the request has its end with or without it."""
        try:
            if ack_to_reply_ns >= 0:
                plan.spread.observe(ack_to_reply_ns)
            plan.learner.observe(raw, cid.home, partition, self._partition_count)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("nothing learnt from a reply", plan.name, raw)

    def expire(self, now_ns: int) -> int:
        """Ends the requests whose deadline has passed, at most SWEEP_AT_ONCE of them; returns how many."""
        tokens = self._slots.expired(now_ns, SWEEP_AT_ONCE)
        for token in tokens:
            self._give_up(token, "the deadline passed")
        return len(tokens)

    def end_all(self, why: str) -> int:
        """Ends every request that still waits, as if its deadline had come; returns how many."""
        tokens = [waiting[0] for waiting in self._waiting if waiting is not None]
        for token in tokens:
            self._give_up(token, why)
        return len(tokens)

    def _give_up(self, token: int, why: str) -> None:
        state = self._slots.finish(token, _ctable.EXPIRED)
        if state == _ctable.RECORDED:
            self._end(token, errors.EXPIRED, f"{why}: the record is in its topic, no reply came")
        elif state >= 0 and self._is_unsent(token):
            self._end(token, errors.NOT_SENT, f"{why}: the record had not been sent")
        elif state >= 0:
            self._end(token, errors.EXPIRED_UNKNOWN, f"{why}: Kafka had not confirmed the record")

    def cancel(self, token: int) -> None:
        """The client has left: nobody is answered, the slot is free, a reply will be called late."""
        state = self._slots.finish(token, _ctable.CANCELLED)
        if state < 0:
            return
        if state == _ctable.RECORDED:
            self._end(token, errors.CANCELLED, "the client left", is_heard=False)
        else:
            ending = errors.CANCELLED_EARLY if self._is_unsent(token) else errors.CANCELLED_UNKNOWN
            self._end(token, ending, "the client left", is_heard=False)

    def _is_unsent(self, token: int) -> bool:
        """Whether its record was never handed over and will not be; in doubt it was."""
        try:
            return self._cancel_unsent(token)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("record not withdrawn", "", b"")
            return False

    def _end(self, token: int, ending: Ending, detail: str, is_heard: bool = True) -> None:
        """Ends a request whose slot has its final state; it is answered unless nobody is there to hear it."""
        _, plan, raw, answer, kept = self._take(token)
        times = None if kept is None else self._slots.times(token)
        self._table.count(self._process_index, plan.number, ending.number)
        self._quota.give(plan)
        self._slots.release(token)
        if is_heard:
            self._respond(plan.name, raw, answer, self._failed(plan, ending, detail, raw), ending, kept, times)
        elif kept is not None:
            self._respond(plan.name, raw, None, (ending.status, [], b"", raw), ending, kept, times)

    def _failed(self, plan: Plan, ending: Ending, detail: str, raw: bytes) -> _Response:
        """The gateway's own answer to a request of a route; an ending that somebody must act on goes to the log."""
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
        """Answers, with what CORS adds."""
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
        """Answers. A front that fails at it must not cost the others of a batch or of a sweep their answers."""
        try:
            if answer is not None:
                answer(*response)
            if self._notes is not None and kept is not None:
                self._notes.ended(kept, ending, response[0], raw, len(response[2]), times)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("answer not taken by the front", route, raw)

    def _dressed(self, kept: object, response: _Response, route: str) -> _Response:
        status, headers, body, raw = response
        assert self._notes is not None, "whoever has a note has them"
        try:
            return status, self._notes.dressed(kept, headers), body, raw
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("headers not added to an answer", route, raw)
            return response

    def _take(self, token: int) -> _Waiting:
        at = (token & SLOT_MASK) - self._first_slot
        waiting = self._waiting[at]
        assert waiting is not None, "whoever wins the slot's state is the first to take its entry"
        self._waiting[at] = None
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
