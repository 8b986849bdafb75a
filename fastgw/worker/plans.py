"""Builds the plans of a worker's routes, and updates them while the worker runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from fastgw._ctable import NO_CONSUMER, Table
from fastgw.config import Compression, Config, Route
from fastgw.config.units import NS_PER_MS
from fastgw.core import record_key
from fastgw.core.later import VARY
from fastgw.core.partitioner_learner import PartitionerLearner
from fastgw.core.plan import KeyRules, Plan, StreamRules
from fastgw.core.spread import Spread
from fastgw.dialects import plain
from fastgw.kafka import properties
from fastgw.kafka.link import WAITING_BYTES, LinkSettings
from fastgw.messages import SPREAD, TOGETHER

if TYPE_CHECKING:
    from fastgw.http.compression import Compressor

log = structlog.get_logger("fastgw.worker")

WAITS_FRESH_NS = 5_000_000_000  # the agent writes the waits every second while Kafka answers; older ones are ignored
CLASS_WITHOUT_ROUTES_NS = 5_000_000_000


class Plans:
    """The plans of all routes.

    Attributes:
        all: one for each route, in the order of the configuration.
    """

    def __init__(self, cfg: Config, classes: Sequence[int]) -> None:
        """
        Args:
            classes: see `delivery_classes`.
        """
        self._config = cfg
        self._classes = classes
        # Routes with the same topic have the same service, so they share what is learned about it.
        self._learners: dict[tuple[str, str], PartitionerLearner] = {}
        self._spreads: dict[tuple[str, str], Spread] = {}
        self._compressor = _compressor(cfg.compression)
        self._memory = plain.Memory()
        self.all = [self._plan(route) for route in cfg.routes]
        self._by_spread: dict[Spread, list[Plan]] = {}  # the routes that each `Spread` decides for
        for route, plan in zip(cfg.routes, self.all, strict=True):
            self._by_spread.setdefault(self._spreads[route.topic, route.spread], []).append(plan)
        # Plans whose service the agent watches.
        self._watched = [plan for route, plan in zip(cfg.routes, self.all, strict=True) if route.service_group]

    def _plan(self, route: Route) -> Plan:
        gateway, limits = self._config.gateway, self._config.limits
        spread = self._spreads.setdefault((route.topic, route.spread), Spread(route.spread))
        return Plan(
            route.number,
            route.name,
            route.topic,
            self._request_wire(route, gateway.response_topic),
            self._learners.setdefault((route.topic, route.partitioner), PartitionerLearner(route.partitioner)),
            spread,
            route.max_in_flight,
            plain.ReplyWire(
                route.response_headers,
                limits.max_reply_bytes,
                limits.max_reply_headers_bytes,
                self._memory,
                [VARY] if route.later else [],  # a client with another Prefer gets another answer
            ),
            record_key.key_of(route.key),
            class_of(self._classes, route.timeout_ns),
            _partition(route.key != "", spread.even),
            self._compressor if route.compress else None,
            self._request_wire(route, self._config.later.topic) if route.needs_store else None,
            route.work_timeout_ns,
            _key_rules(route),
            self._request_wire(route, self._config.streams.topic) if route.streams else None,
            _stream_rules(route) if route.streams else None,
            route.cancel,
        )

    def _request_wire(self, route: Route, reply_topic: str) -> plain.RequestWire:
        return plain.RequestWire(reply_topic, route.path, route.methods, route.request_headers)

    def follow_services(self, table: Table, now_ns: int) -> None:
        """Copy the agent's findings about the services into the plans. Findings that are too old count as none."""
        if not self._watched:
            return
        is_fresh = now_ns - table.waits_written_ns() < WAITS_FRESH_NS
        for plan in self._watched:
            wait_ns = table.wait_ns(plan.number) if is_fresh else 0
            plan.has_consumer = wait_ns != NO_CONSUMER
            plan.backlog_ns = max(wait_ns, 0)

    def decide_spread(self, now_ns: int, round_trip_ns: int) -> None:
        """Decide for each service whether its records are batched on one partition or spread; see `core.spread`.

        Args:
            now_ns: monotonic.
            round_trip_ns: the time of a record through Kafka and back, without any service.
        """
        for spread, plans in self._by_spread.items():
            if spread.decide(now_ns, round_trip_ns):
                for plan in plans:
                    plan.partition = _partition(plan.key_of is not None, spread.even)
                log.info("spread", topic=plans[0].topic, even=spread.even)


def _key_rules(route: Route) -> KeyRules | None:
    if route.idempotency == "off":
        return None
    take_over_ms = route.take_over_ns // NS_PER_MS
    return KeyRules(route.fingerprint_headers, take_over_ms, route.max_kept, route.dialect, route.later)


def _compressor(settings: Compression) -> Compressor | None:
    if not settings.encodings:
        return None
    # Imported here because its library costs a worker one megabyte, and few gateways need it.
    from fastgw.http.compression import Compressor

    return Compressor(settings)


def _stream_rules(route: Route) -> StreamRules:
    return StreamRules(
        route.items == "json",
        route.head_wait_ns,
        route.idle_timeout_ns,
        route.max_duration_ns,
        route.stream_buffer_bytes,
        route.cancel,
        route.end_line,
        route.resume,
    )


def _partition(has_key: bool, is_even: bool) -> int:
    return SPREAD if has_key or is_even else TOGETHER


def delivery_classes(timeouts_ns: Sequence[int]) -> list[int]:
    """The smallest timeout of each delivery class: timeouts within a factor of four share a producer.

    Each producer costs connections and threads, so there should be few. But with a delivery timeout far above a route's
    timeout, the gateway would learn too late whether a record was sent.
    """
    classes: list[int] = []
    for timeout_ns in sorted(set(timeouts_ns)):
        if not classes or timeout_ns > 4 * classes[-1]:
            classes.append(timeout_ns)
    return classes or [CLASS_WITHOUT_ROUTES_NS]


def class_of(classes: Sequence[int], timeout_ns: int) -> int:
    """The delivery class of a route with this timeout."""
    return max(number for number, smallest_ns in enumerate(classes) if smallest_ns <= timeout_ns)


def delivery_timeout_ms(timeout_ns: int) -> int:
    """A producer's delivery timeout: below the route's timeout by a tenth of it, but at least 50 ms and at most 1 s."""
    timeout_ms = timeout_ns // 1_000_000
    return max(100, timeout_ms - min(1000, max(50, timeout_ms // 10)))


def link_settings(cfg: Config, classes: Sequence[int]) -> LinkSettings:
    """The Kafka link of a worker with this configuration, with a producer for each delivery class."""
    kafka = cfg.kafka
    record_bytes = properties.record_bytes(cfg.limits, cfg.routes)
    return LinkSettings(
        properties.client_properties(kafka.bootstrap, kafka.client),
        cfg.gateway.response_topic,
        [delivery_timeout_ms(timeout_ns) for timeout_ns in classes],
        linger_ms=kafka.linger_ms,
        sticky_linger_ms=kafka.sticky_linger_ms,
        fetch_wait_ms=kafka.fetch_wait_ns // 1_000_000,
        queue_messages=2 * cfg.gateway.slots,
        waiting_bytes=max(WAITING_BYTES, record_bytes),
        record_bytes=record_bytes,
        partitioners=properties.partitioners(cfg.routes),
    )
