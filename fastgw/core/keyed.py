"""Requests with an `Idempotency-Key`: one record for each key, and the same answer for everybody who sends it.

    open ──> watch the key ──┬─> answered ───────────────────────────> the kept answer
                             ├─> held ────> join its holder ─────────> the holder's answer
                             └─> free ────> claim ──┬─> won ──> send ─> the service's answer
                                                    └─> lost ─> release, and see who holds the key

The log decides, not this worker: a claim has won when the store has read it back. `store.lane` has the rules. All
requests of this worker with one key share a watch, and only one of them claims at a time.

A holder whose worker has died answers nobody. Its key can be taken over after `take_over`: a request that waits then
claims the next attempt.

    stage      waits for                           its deadline                its client leaves
    -----      ---------                           ------------                -----------------
    FRESH      the state of the key                503, nothing was sent       it goes on
    CLAIMING   its claim to be read back           503, it releases the key    it goes on
    JOINED     the holder's answer                 409, ask again; or 202      it ends
    SENT       the reply of the service            504, the key stays held;    it goes on
                                                   or 202, if it is recorded
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from heapq import heappop, heappush
from typing import Final, NamedTuple

from fastgw import _ctable, errors
from fastgw.admission import NEVER, Admission
from fastgw.core import idempotency, kept
from fastgw.core.exchange import OWN_ERROR, REFUSED, Exchange, Journal
from fastgw.core.kept import KeptReplies
from fastgw.core.later import ANSWER_EXPIRED, VARY, Later
from fastgw.core.plan import KeyRules, Plan
from fastgw.dialects import control
from fastgw.dialects.control import Claim, Place, Released
from fastgw.errors import Ending, KeyMissing, Outcome
from fastgw.ids import IdMaker
from fastgw.kept_replies import KeyKnown, KeyState, Known, State
from fastgw.messages import Answer, HeaderList, Record, Reply, Tally
from fastgw.tokens import Secrets, Ticket

NS_PER_MS = 1_000_000
WATCHES_MAX: Final = 100_000  # keys that one worker follows at the same time
TRY_AGAIN_NS: Final = 1_000_000_000  # after a take-over that could not be claimed
NO_PARTITION: Final = 0  # in tickets of keys: such a request cannot be cancelled, so nobody needs its partition
REPLAYED = ("idempotency-replayed", "true")
_GIVEN_UP = "the request with this key was given up before it was sent"


class KeySettings(NamedTuple):
    """Settings of all routes with idempotency keys."""

    topic: str  # of kept replies
    lanes: int
    keep_ms: int  # how long an answer is kept
    bodies_bytes: int  # of requests that wait for their key, in one worker


class KeyedRequests:
    """All requests with a key of one worker."""

    def __init__(
        self,
        settings: KeySettings,
        secrets: Secrets,
        exchange: Exchange,
        store: KeptReplies,
        make_ids: Callable[[], IdMaker],
        write: Callable[[Record], bool],
        count: Callable[[Tally], None],
        clock_ns: Callable[[], int],
        journal: Journal,
        later: Later,
    ) -> None:
        """
        Args:
            make_ids: makes a maker of ids for the topic of kept replies; each lane needs its own.
            write: sends a control record without a callback; False: it was refused.
            count: counts what became of a request.
            clock_ns: the monotonic clock.
            journal: logs unexpected errors. After one, its request is still ended and answered.
            later: makes the answers that are deferred.
        """
        self.settings = settings
        self.secrets = secrets
        self.exchange = exchange
        self.store = store
        self.write = write
        self.count = count
        self.clock_ns = clock_ns
        self.journal = journal
        self.later = later
        self._make_ids = make_ids
        self._ids: dict[int, IdMaker] = {}
        self._groups: dict[bytes, _Group] = {}
        self._due: list[tuple[int, bytes]] = []  # a heap of (monotonic ns, key): when a take-over may win
        self.held_bytes = 0  # of the bodies of requests that may still be sent

    def __repr__(self) -> str:
        return f"<KeyedRequests {len(self._groups)} keys>"

    def open(self, admission: Admission, body: bytes, answer: Answer, now_ns: int) -> int:
        """Take a complete request with a key. Returns its token, or REFUSED if it is answered already."""
        exchange, plan = self.exchange, self.exchange.plan_of(admission)
        refused = self._refusal()
        if refused is not None:
            return exchange.turn_away(admission, *refused, answer, len(body))
        try:
            record_key = plan.key_of(admission.headers, admission.params, body) if plan.key_of else None
        except KeyMissing as missing:
            return exchange.turn_away(admission, errors.MALFORMED, str(missing), answer, len(body))
        if self.held_bytes and self.held_bytes + len(body) > self.settings.bodies_bytes:
            full = f"bodies of {self.held_bytes} bytes wait for their keys already (limits.body_memory)"
            return exchange.turn_away(admission, errors.BODIES_FULL, full, answer, len(body))
        if plan.compressor is not None:
            answer = plan.compressor.wrapping(answer, admission.headers)
        request = _Request(self, plan, admission, body, record_key, now_ns, answer)
        lane = control.lane_of(request.key_hash, self.settings.lanes)
        prepared = exchange.prepare(
            admission, request.answer, request, _ctable.KEPT, self._ids_of(lane), lane, request.first_deadline_ns,
            now_ns, len(body),
        )  # fmt: skip
        if prepared is None:
            return REFUSED
        request.token, request.raw = prepared
        self.held_bytes += len(body)
        group = self._groups.get(request.key_hash)
        if group is None:
            group = self._groups[request.key_hash] = _Group(self, plan, request.key_hash, lane)
        group.add(request)
        return REFUSED if request.stage is _Stage.ENDED else request.token

    def _refusal(self) -> tuple[Ending, str] | None:
        """Why no key can be served now; None: it can."""
        refused = kept.refusal(self.store, is_new=False)
        if refused is not None:
            return refused
        topics, lanes = self.store.topics, self.settings.lanes
        assert topics is not None, "otherwise it was refused"
        if topics.later_partitions != lanes:
            got = f"expected later.lanes = {lanes} partitions of {self.settings.topic}, got {topics.later_partitions}"
            return errors.NOT_READY, f"{got}; `fastgw check` says what to do"
        if topics.other_lanes:
            got = f"expected later.lanes = {lanes} on every node, got {topics.other_lanes} on another one"
            return errors.NOT_READY, got
        if len(self._groups) >= WATCHES_MAX:
            return errors.WATCH_CAP, f"requests with {WATCHES_MAX} different keys wait already"
        return None

    def _ids_of(self, lane: int) -> IdMaker:
        maker = self._ids.get(lane)
        if maker is None:
            maker = self._ids[lane] = self._make_ids()
            maker.set_ownership(self.settings.lanes, [lane], lane)
        return maker

    def forget(self, group: _Group) -> None:
        """Nobody waits for this key any more."""
        del self._groups[group.key_hash]

    def wake(self, group: _Group, at_ns: int) -> None:
        """Look at this key again at that time."""
        heappush(self._due, (at_ns, group.key_hash))

    def tick(self, now_ns: int) -> None:
        """Take over the keys whose holders had their time."""
        while self._due and self._due[0][0] <= now_ns:
            group = self._groups.get(heappop(self._due)[1])
            if group is not None:
                group.take_over(now_ns)

    def end_all(self) -> int:
        """The worker ends: end the requests that have sent nothing, as at their deadlines; return how many.

        Otherwise a client that waits for the answer to another request would be told that the work may be lost.
        """
        return sum([group.end_unsent() for group in list(self._groups.values())])


class _Stage(Enum):
    FRESH = 0
    CLAIMING = 1
    JOINED = 2
    SENT = 3
    ENDED = 4


class _Group:
    """The requests of this worker with one key."""

    def __init__(self, keyed: KeyedRequests, plan: Plan, key_hash: bytes, lane: int) -> None:
        self._keyed = keyed
        self.key_hash, self.lane = key_hash, lane
        self.state: KeyState | None = None  # the last one that says what the key is; None: the store has not answered
        self.take_over_at_ns = 0
        self._requests: list[_Request] = []
        self._watch = keyed.store.watch_key(key_hash, lane, plan.name, self._on_state)

    def add(self, request: _Request) -> None:
        """Let a request wait for the key."""
        request.group = self
        self._requests.append(request)
        state = self.state
        if state is not None:
            _tell(request, lambda request: request.look(state))

    def remove(self, request: _Request) -> None:
        """A request has ended."""
        self._requests.remove(request)
        if not self._requests:
            self._keyed.store.unwatch(self._watch)
            self._keyed.forget(self)

    @property
    def is_claimed(self) -> bool:
        """Whether one of the requests waits for its claim to be read back."""
        return any(request.stage is _Stage.CLAIMING for request in self._requests)

    def take_over(self, now_ns: int) -> None:
        """Claim the next attempt for one of the requests, if the holder still has not answered."""
        state = self.state
        if state is None or state.known != KeyKnown.HELD or now_ns < self.take_over_at_ns or self.is_claimed:
            return
        for request in self._requests:
            if request.stage is _Stage.JOINED and request.has_body:
                _tell(request, lambda request: request.claim(state))
                return

    def end_unsent(self) -> int:
        """End the requests that have sent nothing; return how many."""
        unsent = [request for request in self._requests if request.stage is not _Stage.SENT]
        for request in unsent:
            request.give_up()
        return len(unsent)

    def _on_state(self, state: KeyState) -> None:
        if state.known == KeyKnown.LOST:
            for request in self._requests:
                if request.stage is _Stage.CLAIMING and request.raw in state.ids:
                    _tell(request, lambda request: request.lost(self.state))
                    return
            return
        if state.known == KeyKnown.FREED:
            self._on_freed(state)
            return
        self.state = state
        if state.known == KeyKnown.HELD:
            self.take_over_at_ns = self._keyed.clock_ns() + state.take_over_in_ms * NS_PER_MS
        self._each(lambda request: request.look(state))

    def _each(self, tell: Callable[[_Request], None]) -> None:
        for request in list(self._requests):
            _tell(request, tell)

    def _on_freed(self, state: KeyState) -> None:
        """The key is free again. Who waited for its holder gets what has freed it; who comes later may claim."""
        free = self.state = KeyState(state.number, KeyKnown.FREE, kept=state.kept)
        self._each(lambda request: request.freed(state))
        self._each(lambda request: request.look(free) if request.stage is _Stage.FRESH else None)


def _tell(request: _Request, tell: Callable[[_Request], None]) -> None:
    """Tell a request. An error must neither keep others waiting, nor cut the connection to the store."""
    try:
        tell(request)
    except MemoryError:
        raise  # ends the worker
    except Exception:
        request.broke()


class _Request:
    """One request with a key. Implements `Waiter`."""

    group: _Group

    def __init__(
        self,
        keyed: KeyedRequests,
        plan: Plan,
        admission: Admission,
        body: bytes,
        record_key: bytes | None,
        now_ns: int,
        answer: Answer,
    ) -> None:
        assert plan.key_rules is not None, "only routes with idempotency keys come here"
        self._keyed = keyed
        self._plan = plan
        self._rules: KeyRules = plan.key_rules
        self._admission = admission
        self._body: bytes | None = body  # None: it cannot be sent any more
        self._record_key = record_key
        self._deadline_ns = now_ns + admission.timeout_ns
        self._may_defer = admission.defer_after_ns != NEVER
        self._defer_at_ns = now_ns + max(admission.defer_after_ns, 0)
        # Without a wait, the report that the record is in Kafka defers the answer, and not a deadline.
        self.first_deadline_ns = self._defer_at_ns if admission.defer_after_ns > 0 else self._deadline_ns
        self._is_recorded = False
        self._holding = b"", 0  # the id of its first attempt, and when that was claimed: for the status URL
        self._answer = answer
        key = idempotency.key_of(admission.headers)
        assert key is not None, "the router admits requests without a key as plain ones"
        self._key = key
        self.key_hash = idempotency.key_hash(plan.name, "", key)
        self._fingerprint = idempotency.fingerprint(
            admission.method,
            admission.path,
            admission.query,
            body,
            self._rules.fingerprint_headers,
            admission.headers,
        )
        self.token, self.raw = -1, b""
        self.stage = _Stage.FRESH
        self._holder = b""  # JOINED: the id of the request that it has joined
        self._attempt = 0
        self._claimed_ns = 0
        self._claimed_at: Place | None = None
        self._is_replayed = False
        self._look_back_watch = -1

    def __repr__(self) -> str:
        return f"<{self._plan.name!r} with key, {self.stage.name}>"

    def answer(self, status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
        """Answer, and say so if the answer was there before, or if it depends on the client's preference."""
        more = [REPLAYED] if self._is_replayed else []
        if self._may_defer and VARY not in headers:
            more.append(VARY)
        self._answer(status, [*headers, *more] if more else headers, body, request_id)

    @property
    def has_body(self) -> bool:
        """Whether it can still be sent."""
        return self._body is not None

    def _drop_body(self) -> None:
        if self._body is not None:
            self._keyed.held_bytes -= len(self._body)
            self._body = None

    # What the store tells.

    def look(self, state: KeyState) -> None:
        """Decide by the state of the key what comes next."""
        known, stage = state.known, self.stage
        if stage is _Stage.ENDED:
            return
        if stage is _Stage.CLAIMING:
            # Until the claim is read back, whatever else happens to the key decides nothing for it.
            if known == KeyKnown.HELD and state.ids[0] == self.raw:
                self._holding = state.first_id, state.first_ms
                self._won()
        elif known in _TROUBLES:
            if stage is _Stage.FRESH:
                self._end(*_TROUBLES[known])
        elif known == KeyKnown.FREE:
            self._look_at_free(state)
        elif stage is _Stage.FRESH and state.fingerprint != self._fingerprint:
            what = "expected the request that this Idempotency-Key was first used for, got another method, path, query"
            self._end(errors.KEY_REUSED, f"{what}, body or header that counts")
        elif known == KeyKnown.ANSWERED:
            self._look_at_answer(state)
        else:
            self._look_at_holder(state)

    def _look_at_free(self, state: KeyState) -> None:
        if self.stage is not _Stage.FRESH:
            self._look_back()
        elif not self.group.is_claimed:
            self.claim(state)

    def _look_at_answer(self, state: KeyState) -> None:
        if state.fingerprint != self._fingerprint:
            self._look_back()  # another request used the key after this one's holder had freed it
            return
        if self.stage is _Stage.FRESH:
            self._is_replayed = True
            self._keyed.count(Tally.KEYS_REPLAYED)
        self._resolve(state.ids[0], state)

    def _look_at_holder(self, state: KeyState) -> None:
        if self.stage is _Stage.FRESH:
            self.stage, self._holder = _Stage.JOINED, state.ids[0]
            self._holding = state.first_id, state.first_ms
            self._keyed.count(Tally.KEYS_JOINED)
            self._wait_for_take_over()
            if self.stage is _Stage.JOINED and self._is_time_to_defer():
                self._defer(errors.DEFERRED_JOINED)
        elif (self.raw if self.stage is _Stage.SENT else self._holder) not in state.ids:
            self._look_back()
        elif self.stage is _Stage.JOINED:
            self._holder = state.ids[0]
            self._wait_for_take_over()

    def _wait_for_take_over(self) -> None:
        """Take the key over, or be woken when the holder has had its time, if this request still waits then."""
        now_ns, at_ns = self._keyed.clock_ns(), self.group.take_over_at_ns
        if at_ns <= now_ns:
            self.group.take_over(now_ns)
        elif at_ns < self._deadline_ns:
            self._keyed.wake(self.group, at_ns)
        else:
            self._drop_body()  # or thousands that wait for one answer would fill the memory

    def freed(self, state: KeyState) -> None:
        """The key has become free: by the reply in `state`, or because nothing was sent."""
        if self.stage not in (_Stage.JOINED, _Stage.SENT):
            return
        if (self.raw if self.stage is _Stage.SENT else self._holder) not in state.ids:
            self._look_back()
        elif state.offset >= 0:
            self._resolve(state.ids[0], state)
        elif self.stage is _Stage.JOINED:
            self._end(errors.CLAIM_LATE, _GIVEN_UP)

    def lost(self, state: KeyState | None) -> None:
        """The claim does not hold the key. It is released: once Kafka has deleted the record to which it lost, it would
        look as if it had won.
        """
        self._release()
        self.stage = _Stage.JOINED if self._holder else _Stage.FRESH
        if state is None or state.known == KeyKnown.FREE:
            self._end_unsent("the key was claimed by another request")
        else:
            self.look(state)

    # The way out.

    def claim(self, state: KeyState) -> None:
        """Write a claim: for a free key, or for the next attempt after a holder that has not answered."""
        topics, settings = self._keyed.store.topics, self._keyed.settings
        refused = kept.refusal(self._keyed.store, is_new=True, route=self._plan.name)
        if refused is None and state.known == KeyKnown.FREE and state.kept >= self._rules.max_kept:
            refused = errors.KEPT_CAP, f"{state.kept} keys of this route are kept already (max_kept)"
        if refused is not None:
            self._not_claimed(*refused)
            return
        assert topics is not None, "otherwise it was refused"
        replaces = state.ids[0] if state.known == KeyKnown.HELD else b""
        self._attempt = state.attempt + 1 if replaces else 1
        claim = Claim(
            self.raw,
            self.key_hash,
            self._fingerprint,
            self._attempt,
            replaces,
            settings.lanes,
            self._rules.take_over_ms,
            settings.keep_ms,
            self._plan.name,
            self._rules.dialect,
        )
        self._claimed_at = Place(settings.topic, topics.later_id, self.group.lane)
        self._claimed_ns = self._keyed.clock_ns()
        if not self._keyed.write(control.encode(claim, self._keyed.secrets, self._claimed_at)):
            self._not_claimed(errors.QUEUE_FULL, "the claim of the key could not be sent")
            return
        self.stage = _Stage.CLAIMING

    def _not_claimed(self, ending: Ending, detail: str) -> None:
        if self.stage is _Stage.JOINED:  # a take-over can wait
            self._keyed.wake(self.group, self._keyed.clock_ns() + TRY_AGAIN_NS)
        else:
            self._end(ending, detail)

    def _won(self) -> None:
        now_ns = self._keyed.clock_ns()
        if now_ns - self._claimed_ns > self._rules.take_over_ms * NS_PER_MS // 2:
            self._end_unsent("the claim of the key was read back too late to send the request")
            return
        record = self._record()
        self.stage = _Stage.SENT
        self._keyed.count(Tally.KEYS_SENT if self._attempt == 1 else Tally.KEYS_TAKEN_OVER)
        self._drop_body()
        self._keyed.exchange.send(self.token, record, now_ns)

    def _record(self) -> Record:
        plan, admission = self._plan, self._admission
        assert plan.later_wire is not None, "only routes with idempotency keys come here"
        assert self._body is not None, "only requests with a body claim a key"
        # Counted from the claim: a reply counts only before the take-over, which is counted from there, too.
        until_ns = self._claimed_ns + self._keyed.exchange.epoch_offset_ns + plan.work_timeout_ns
        headers = plan.later_wire.headers(
            self.raw,
            self.group.lane,
            until_ns // NS_PER_MS,
            admission.method,
            admission.path,
            admission.query,
            admission.params,
            admission.headers,
        )
        headers = [
            *headers,
            *([ANSWER_EXPIRED] if self._rules.defers else []),
            ("idempotency_key", self._key.encode()),
            ("idempotency_attempt", b"%d" % self._attempt),
        ]
        return Record(plan.topic, self._body, self._record_key, headers, plan.partition)

    def _release(self) -> None:
        """Give the claim up. What is not written frees the key all the same, after `take_over`."""
        assert self._claimed_at is not None, "only what was claimed is released"
        released = Released(self.raw, self.key_hash)
        # Where the claim is, also if the store does not answer any more, or has another topic now.
        self._keyed.write(control.encode(released, self._keyed.secrets, self._claimed_at))

    # The ends.

    def _resolve(self, correlation_id: bytes, state: KeyState | State) -> None:
        if why := kept.why_left(state):
            self._end(errors.BAD_REPLY, why)
            return
        reply = Reply(correlation_id, state.partition, state.offset, state.headers, state.value)
        self._keyed.exchange.resolve_kept(self.token, reply, self._keyed.clock_ns())

    def _end(self, ending: Ending, detail: str) -> None:
        self._keyed.exchange.fail(self.token, ending, detail)

    def broke(self) -> None:
        """An unexpected error: end the request. Called in the `except` block."""
        self._keyed.journal.broke("request with key not handled", self._plan.name, self.raw)
        self._end(errors.SEND_UNKNOWN if self.stage is _Stage.SENT else errors.REFUSED_SEND, OWN_ERROR)

    def _end_unsent(self, detail: str) -> None:
        """End a request that has sent nothing. If it was to take over, the attempt before it may be recorded."""
        self._end(errors.KEY_BUSY if self._holder else errors.CLAIM_LATE, detail)

    def _look_back(self) -> None:
        """The key has moved on while the store could not be heard. Ask for the reply to the request that held it."""
        if self._look_back_watch >= 0:
            return
        correlation_id = self.raw if self.stage is _Stage.SENT else self._holder

        def on_state(state: State) -> None:
            if state.known == Known.ANSWERED:
                self._resolve(correlation_id, state)
            elif state.known not in (Known.RESTORING, Known.BEHIND) and self.stage is _Stage.JOINED:
                self._end(errors.KEY_BUSY, "the request that held the key was not answered")

        self._look_back_watch = self._keyed.store.watch(correlation_id, self.group.lane, 0, on_state)

    # Deferring.

    def _is_time_to_defer(self) -> bool:
        return self._may_defer and self._keyed.clock_ns() >= self._defer_at_ns

    def _defer(self, ending: Ending) -> None:
        """Answer 202 with the status URL that all requests of this holding of the key get."""
        topics, settings = self._keyed.store.topics, self._keyed.settings
        if topics is None:
            self._end(errors.KEY_BUSY, "the store of this node does not answer, so there is no status URL")
            return
        first_id, first_ms = self._holding
        ticket = Ticket(
            first_id,
            self.key_hash,
            topics.later_id,
            NO_PARTITION,
            self._plan.name,
            "",
            first_ms,
            first_ms + self._rules.take_over_ms,
            first_ms + settings.keep_ms,
        )
        headers, body = self._keyed.later.deferred(ticket, ending, self._admission.is_async)
        self._keyed.exchange.respond(self.token, ending, headers, body)

    def _defer_if_known(self) -> bool:
        """Defer if the client can be told what it will be answered with. False: it cannot yet."""
        if self._may_defer and self.stage is _Stage.SENT and self._is_recorded:
            self._defer(errors.DEFERRED)
        elif self._may_defer and self.stage is _Stage.JOINED:
            self._defer(errors.DEFERRED_JOINED)
        else:
            return False
        return True

    # Waiter.

    def on_recorded(self, partition: int) -> None:  # noqa: ARG002
        self._is_recorded = True
        if self._is_time_to_defer():
            self._defer(errors.DEFERRED)

    def on_deadline(self, now_ns: int) -> int:
        if self._defer_if_known():
            return 0
        if now_ns < self._deadline_ns:
            return self._deadline_ns
        self.give_up()
        return 0  # what was sent is the exchange's to explain

    def give_up(self) -> None:
        """End it if it has sent nothing: its time is over, or the worker ends."""
        if self.stage is _Stage.JOINED:
            self._end(errors.KEY_BUSY, "the deadline passed before the request that holds the key was answered")
        elif self.stage is _Stage.CLAIMING:
            self._end_unsent("the deadline passed before the claim of the key was read back")
        elif self.stage is _Stage.FRESH and self.group.state is None:
            self._end(errors.STORE_DOWN, "the store of this node did not answer in time")
        elif self.stage is _Stage.FRESH:
            self._end(errors.CLAIM_LATE, "the deadline passed while another request claimed the key")

    def on_gone(self) -> bool:
        # A client that leaves withdraws nothing: it may ask again, and then wants the answer.
        return self.stage is _Stage.JOINED

    def on_drain(self) -> None:
        if self.stage in (_Stage.FRESH, _Stage.CLAIMING):
            self._end(errors.KEY_BUSY if self._holder else errors.DRAINING, "this gateway is shutting down")
        else:
            self._defer_if_known()

    def on_end(self, ending: Ending | None) -> None:
        was, self.stage = self.stage, _Stage.ENDED
        self._drop_body()
        is_unsent = was is _Stage.SENT and ending is not None and ending.outcome is Outcome.NOT_RECORDED
        if was is _Stage.CLAIMING or is_unsent:
            self._release()
        if self._look_back_watch >= 0:
            self._keyed.store.unwatch(self._look_back_watch)
        self.group.remove(self)


_TROUBLES: Final[Mapping[int, tuple[Ending, str]]] = {
    KeyKnown.RESTORING: (errors.STORE_RESTORING, "the store of this node has not read its topic yet"),
    KeyKnown.BEHIND: (errors.STORE_BEHIND, "the store of this node does not get new records from Kafka"),
    KeyKnown.NEWER_LAYOUT: (errors.NEWER_LAYOUT, "another node writes records that this one cannot read"),
}
