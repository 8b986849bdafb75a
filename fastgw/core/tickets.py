"""Status URLs: what a client is told about its deferred request.

    GET     the service's answer, exactly as if it had been in time; 202 while the service works;
            504 after the time for the work; 410 after the answer is no longer kept, or after a cancellation
    DELETE  writes the cancellation into the topic of the replies: whichever comes first there, the reply or the
            cancellation, decides. With `cancel = true`, a record then tells the service to stop

A ticket carries all that is needed, so any worker of any node can answer. It is a capability: whoever has the URL may
use it. So neither logs nor messages contain it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush

from fastgw import errors, ids
from fastgw.admission import Admission, Refusal
from fastgw.body_memory import LARGE_ANSWER_BYTES
from fastgw.core import kept
from fastgw.core.exchange import REFUSED, Exchange
from fastgw.core.kept import OnState
from fastgw.core.later import NS_PER_MS, VARY, Later
from fastgw.core.plan import Plan
from fastgw.dialects import BadReply, control
from fastgw.dialects.control import Cancelled, Place
from fastgw.dialects.streams import cancel_record
from fastgw.errors import Ending
from fastgw.kept_replies import Known, State
from fastgw.messages import Answer, HeaderList, Record, Reply
from fastgw.tokens import BadToken, ExpiredToken, Ticket, open_ticket

FIRST_TOKEN = 1 << 62  # above all tokens of slots
LOOK_NS = 2_000_000_000  # how long a look into the store may take
CANCEL_NS = 5_000_000_000  # how long a cancellation may take until it is read back

_TOLD = {
    Known.CANCELLED: (errors.TICKET_CANCELLED, "the request was cancelled with DELETE"),
    Known.EXPIRED: (errors.WORK_EXPIRED, "work_timeout of the route has passed without a reply"),
    Known.RESTORING: (errors.STORE_RESTORING, "the store of this node has not read its topic yet"),
    Known.RELEASED: (errors.CLAIM_LATE, "the request was given up before it was sent; send it again with its key"),
    Known.BEHIND: (errors.STORE_BEHIND, "the store of this node does not get new records from Kafka"),
}

Write = Callable[[Record], bool]
"""Sends a record without a callback; False: it was refused."""


class Tickets:
    """The requests of one worker for status URLs. They need no slot: they wait, if at all, for the store."""

    def __init__(
        self, later: Later, exchange: Exchange, plans: Mapping[str, Plan], write: Write, waits_max: int
    ) -> None:
        """
        Args:
            plans: by the name of the route.
            write: sends the records of a cancellation.
            waits_max: requests that may wait at the same time.
        """
        self._later = later
        self._exchange = exchange
        self._plans = plans
        self._write = write
        self._waits_max = waits_max
        self._waits: dict[int, _Wait] = {}
        self._due: list[tuple[int, int]] = []  # a heap of (deadline, token)
        self._last_token = FIRST_TOKEN

    def __repr__(self) -> str:
        return f"<Tickets {len(self._waits)} waiting>"

    @property
    def waiting(self) -> int:
        """The number of requests that wait for the store."""
        return len(self._waits)

    def open(self, admission: Admission, answer: Answer, now_ns: int) -> int:
        """Take a request. Returns its token, or REFUSED if it is answered already."""
        text = admission.params[0][1]
        try:
            ticket = open_ticket(self._later.secrets, text, self._epoch_ms(now_ns))
        except ExpiredToken:
            return self._refuse(admission, answer, errors.TICKET_GONE, "the time of this status URL is over")
        except BadToken as bad:
            return self._refuse(admission, answer, errors.TICKET_UNKNOWN, str(bad))
        if self._epoch_ms(now_ns) >= ticket.created_ms + self._later.settings.keep_ms:
            # The store has given up its reply, and could only say that there is none.
            return self._refuse(admission, answer, errors.TICKET_GONE, "later.keep was lowered, and is over")
        plan = self._plans.get(ticket.route)
        if plan is None:
            return self._refuse(admission, answer, errors.TICKET_GONE, "its route is no longer configured")
        if plan.compressor is not None:
            answer = plan.compressor.wrapping(answer, admission.headers)
        refused = kept.refusal(self._later.store, is_new=False)
        if refused is not None:
            return self._refuse(admission, answer, *refused)
        topics = self._later.store.topics
        if topics is not None and topics.later_id != ticket.topic_id:
            return self._refuse(admission, answer, errors.TICKET_GONE, "its topic of kept replies was made anew")
        if admission.method == "DELETE" and ticket.key_hash:
            others = "others may wait for the same answer"
            return self._refuse(admission, answer, errors.CANCEL_REFUSED, others)
        if len(self._waits) >= self._waits_max:
            return self._refuse(
                admission, answer, errors.WATCH_CAP, f"{self._waits_max} requests wait already (store.max_waits)"
            )
        return self._wait(_Wait(admission, answer, text, ticket, plan), now_ns)

    def _refuse(self, admission: Admission, answer: Answer, ending: Ending, detail: str) -> int:
        self._exchange.refuse(Refusal(ending, detail, admission.route_number, head=admission.headers), answer)
        return REFUSED

    def _epoch_ms(self, now_ns: int) -> int:
        return (now_ns + self._exchange.epoch_offset_ns) // NS_PER_MS

    # Waiting.

    def _wait(self, wait: _Wait, now_ns: int) -> int:
        self._last_token += 1
        token = wait.token = self._last_token
        longest_ns = CANCEL_NS if wait.cancels else max(LOOK_NS, wait.admission.defer_after_ns)
        wait.stays_until_ns = now_ns + wait.admission.defer_after_ns
        wait.deadline_ns = now_ns + longest_ns
        self._waits[token] = wait
        heappush(self._due, (wait.deadline_ns, token))
        wait.watch = self._watch(wait, lambda state: self._on_state(token, state))
        return token

    def _watch(self, wait: _Wait, on_state: OnState) -> int:
        store, ticket = self._later.store, wait.ticket
        cid, home, until_ms = ticket.correlation_id, _home_of(ticket), ticket.work_until_ms
        if ticket.key_hash and wait.plan.key_rules is not None:
            return store.watch_holding(ticket.key_hash, home, cid, until_ms, on_state)
        return store.watch(cid, home, until_ms, on_state)

    def _on_state(self, token: int, state: State) -> None:
        wait = self._waits.get(token)
        if wait is None:
            return
        now_ns = self._later.clock_ns()
        known = Known(state.known)
        wait.trouble = known if known in (Known.RESTORING, Known.BEHIND) else None
        if wait.trouble is not None:
            return  # the store tells again when it can; until then there is time
        if known != Known.OPEN:
            self._end(token)
            self._tell(wait, state)
        elif wait.cancels:
            self._cancel(wait)
        elif now_ns >= wait.stays_until_ns:
            self._end(token)
            self._tell_working(wait)
        else:
            wait.is_open = True

    def _end(self, token: int) -> None:
        wait = self._waits.pop(token)
        self._later.store.unwatch(wait.watch)

    def gone(self, token: int) -> None:
        """The client has left."""
        if token in self._waits:
            self._end(token)

    def expire(self, now_ns: int) -> None:
        """End the requests that have waited long enough."""
        while self._due and self._due[0][0] <= now_ns:
            _, token = heappop(self._due)
            wait = self._waits.get(token)
            if wait is not None:
                self._end(token)
                self._give_up(wait)

    def drain(self) -> None:
        """Answer all that wait with what is known now."""
        for token, wait in list(self._waits.items()):
            if wait.is_open:
                self._end(token)
                self._give_up(wait)

    def _give_up(self, wait: _Wait) -> None:
        if wait.trouble is not None:
            self._problem(wait, *_TOLD[wait.trouble])
        elif wait.cancels:
            self._problem(wait, errors.SEND_UNKNOWN, "the cancellation was not read back in time; ask the status URL")
        elif wait.is_open:
            self._tell_working(wait)
        else:
            self._problem(wait, errors.STORE_DOWN, "the store of this node did not answer in time")

    # Cancelling.

    def _cancel(self, wait: _Wait) -> None:
        if wait.is_open:
            return  # written already
        wait.is_open = True
        topic = self._later.settings.topic
        place = Place(topic, wait.ticket.topic_id, _home_of(wait.ticket))
        record = control.encode(Cancelled(wait.ticket.correlation_id), self._later.secrets, place)
        if not self._write(record):
            self._end(wait.token)
            self._problem(wait, errors.QUEUE_FULL, "the cancellation could not be sent")

    def _tell_service(self, wait: _Wait) -> None:
        """Tell the service that its work is for nobody, if its route wants that. This is best effort."""
        if wait.plan.cancels:
            headers, value = cancel_record(wait.ticket.correlation_id)
            self._write(Record(wait.plan.topic, value, None, headers, wait.ticket.request_partition))

    # Answers.

    def _tell(self, wait: _Wait, state: State) -> None:
        if wait.cancels and state.known == Known.CANCELLED:
            self._tell_service(wait)
            headers, body = self._later.status(wait.text, wait.ticket, status="cancelled")
            self._answer(wait, errors.DEFERRED, errors.DEFERRED.status, headers, body)
        elif state.known == Known.ANSWERED:
            self._tell_answer(wait, state)
        else:
            self._problem(wait, *_TOLD[Known(state.known)])

    def _tell_working(self, wait: _Wait) -> None:
        # The holder of a key may not have sent its record yet.
        ending = errors.DEFERRED_JOINED if wait.ticket.key_hash else errors.DEFERRED
        headers, body = self._later.status(wait.text, wait.ticket, ending)
        self._answer(wait, ending, ending.status, headers, body)

    def _tell_answer(self, wait: _Wait, state: State) -> None:
        if why := kept.why_left(state):
            self._problem(wait, errors.BAD_REPLY, why)
            return
        ticket = wait.ticket
        reply = Reply(ticket.correlation_id, state.partition, state.offset, state.headers, state.value)
        try:
            status, headers, body = wait.plan.reply_wire.answer(reply)
        except BadReply as bad:
            self._problem(wait, errors.BAD_REPLY, str(bad))
            return
        answers, connection = self._exchange.answers, wait.admission.connection
        if len(body) > LARGE_ANSWER_BYTES and not answers.has_room(len(body), connection):
            self._problem(wait, errors.ANSWERS_FULL, answers.why_full(len(body), connection))
            return
        told = [*headers, ("cache-control", "no-store"), VARY]
        self._answer(wait, errors.ANSWERED, status, told, body)

    def _answer(self, wait: _Wait, ending: Ending, status: int, headers: HeaderList, body: bytes) -> None:
        number, head = wait.admission.route_number, wait.admission.headers
        response = status, headers, body, wait.ticket.correlation_id
        self._exchange.answer_at_once(number, head, wait.answer, ending, response)

    def _problem(self, wait: _Wait, ending: Ending, detail: str) -> None:
        self._refuse(wait.admission, wait.answer, ending, detail)


def _home_of(ticket: Ticket) -> int:
    """The partition of the topic of kept replies that decides this request."""
    cid = ids.parse(ticket.correlation_id)
    assert cid is not None, "`open_ticket` has checked it"
    return cid.home


class _Wait:
    """One request for a status URL while it waits for the store."""

    def __init__(self, admission: Admission, answer: Answer, text: str, ticket: Ticket, plan: Plan) -> None:
        self.admission = admission
        self.answer = answer
        self.text = text
        self.ticket = ticket
        self.plan = plan
        self.cancels = admission.method == "DELETE"
        self.is_open = False  # the store has said that nothing is decided yet
        self.trouble: Known | None = None  # why the store cannot say it now
        self.stays_until_ns = self.deadline_ns = 0
        self.token = self.watch = -1
