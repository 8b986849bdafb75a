"""A route at run time, and the routes' shares of the slots."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from fastgw.admission import Params
from fastgw.dialects.plain import ReplyWire, RequestWire
from fastgw.ids import Partitioner
from fastgw.messages import TOGETHER, Answer, Head, Headers


class KeyRules(NamedTuple):
    """How a route treats idempotency keys. A record is sent at most `take_over_ms / 2` after its claim."""

    fingerprint_headers: tuple[str, ...]  # lower case
    take_over_ms: int  # so long after a claim another attempt may win
    max_kept: int  # keys that are held or answered
    dialect: str
    defers: bool = False  # the answer may be deferred


class Learner(Protocol):
    """Knows, or finds out, which partitioner a route's service uses for its replies."""

    current: Partitioner

    def observe(self, raw: bytes, home: int, partition: int, partition_count: int) -> bool: ...


class Waits(Protocol):
    """Observes how long a route's service takes to answer."""

    def observe(self, ack_to_reply_ns: int) -> None: ...


class Compresses(Protocol):
    """Compresses answers."""

    def wrapping(self, answer: Answer, head: Head, /) -> Answer: ...


class StreamRules(NamedTuple):
    """The settings of a route that streams."""

    is_json: bool  # its items are JSON; otherwise bytes
    head_wait_ns: int
    idle_timeout_ns: int
    max_duration_ns: int
    buffer_bytes: int
    cancels: bool  # a cancel record is sent when the client leaves
    end_line: bool
    resumes: bool = False  # clients may come back to a stream of events


class Plan:
    """One route at run time: its prepared settings, and how many of its requests are in flight.

    Attributes:
        in_flight: places that its requests hold, from `Exchange.reserve` to their end; `SlotQuota` counts them.
        has_consumer: False: no consumer reads its topic. The worker sets `has_consumer` and `backlog_ns`.
        backlog_ns: how far its service is behind; 0: not at all, or not known.
    """

    def __init__(
        self,
        number: int,
        name: str,
        topic: str,
        wire: RequestWire,
        learner: Learner,
        spread: Waits,
        max_in_flight: int,
        reply_wire: ReplyWire,
        key_of: Callable[[Headers, Params, bytes], bytes] | None = None,
        delivery_class: int = 0,
        partition: int = TOGETHER,
        compressor: Compresses | None = None,
        later_wire: RequestWire | None = None,
        work_timeout_ns: int = 0,
        key_rules: KeyRules | None = None,
        stream_wire: RequestWire | None = None,
        stream: StreamRules | None = None,
        cancels: bool = False,
    ) -> None:
        """
        Args:
            key_of: raises KeyMissing.
            delivery_class: picks the producer whose delivery timeout fits the route.
            partition: TOGETHER or SPREAD; always SPREAD with `key_of`. The worker changes it.
            compressor: for answers; None: answers are not compressed.
            later_wire: for requests whose reply is kept; None: the route has none.
            work_timeout_ns: how long the service may work on such a request.
            key_rules: for requests with an idempotency key; None: the route takes no keys.
            cancels: a record tells the service that a deferred request was cancelled.
            stream_wire, stream: for requests whose answer may be streamed; None: the route has none.
        """
        self.number = number
        self.name = name
        self.topic = topic
        self.wire = wire
        self.learner = learner
        self.spread = spread
        self.max_in_flight = max_in_flight
        self.reply_wire = reply_wire
        self.key_of = key_of
        self.delivery_class = delivery_class
        self.partition = partition
        self.compressor = compressor
        self.later_wire = later_wire
        self.work_timeout_ns = work_timeout_ns
        self.key_rules = key_rules
        self.stream_wire = stream_wire
        self.stream = stream
        self.cancels = cancels
        self.in_flight = 0
        self.has_consumer = True
        self.backlog_ns = 0


class SlotQuota:
    """Divides the slots of a worker between its routes.

    A route whose service is dead must not take the slots of all other routes. Half of the slots are reserved, an equal
    part for each route. The other half is shared: the first route that asks gets a slot. Each route has at least one
    reserved slot, so with fewer slots than routes, more places can be taken than there are slots.

    Attributes:
        own: reserved slots of each route.
        shared_left: free shared slots; negative where there are fewer slots than routes.
    """

    def __init__(self, slots: int, routes: int) -> None:
        self.own = max(1, slots // (2 * routes))
        self.shared_left = slots - self.own * routes

    def __repr__(self) -> str:
        return f"<SlotQuota {self.own} a route, {self.shared_left} shared ones left>"

    def take(self, plan: Plan) -> bool:
        """Take a place for a request of this route. False: none is free."""
        if plan.in_flight >= self.own:
            if self.shared_left <= 0:
                return False
            self.shared_left -= 1
        plan.in_flight += 1
        return True

    def give(self, plan: Plan) -> None:
        """Give back a place that `take` has taken."""
        plan.in_flight -= 1
        if plan.in_flight >= self.own:
            self.shared_left += 1
