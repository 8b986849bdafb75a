"""The pages of the admin port: /livez, /readyz, /metrics, and /status with the waiting requests.

`Admin` makes the pages from shared memory: they work while all workers are busy, hang or are dead. Only the list of
open streams comes from the workers, which are asked for it and have little time to answer. server.py is the HTTP server
around it. No page changes anything. To protect the information in /status, the port listens on the loopback address by
default, and refuses requests with an unknown Host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from fastgw import __version__, _ctable
from fastgw._ctable import Table
from fastgw.admin import metrics, open_streams
from fastgw.admin.metrics import ServiceState
from fastgw.admin.open_streams import AskStreams
from fastgw.admin.store_state import StoreState, store_state
from fastgw.config import Config
from fastgw.messages import Gauge, HeaderList, Tally
from fastgw.state_file import State
from fastgw.table import log_of, worker_of

WAITING_SHOWN = 200  # requests that /status lists; the total counts all of them

PHASES = {
    _ctable.CLAIMED: "claimed",
    _ctable.SENT: "sent",
    _ctable.RECORDED: "recorded",
    _ctable.STREAMING: "streaming",
}
KINDS = {_ctable.SINGLE: "single", _ctable.KEPT: "kept", _ctable.STREAM: "stream"}

PLAIN = "text/plain; charset=utf-8"
_JSON = "application/json"


class Page(NamedTuple):
    """A response of the admin port. For HEAD the server sends only the length of the body."""

    status: int
    headers: HeaderList
    body: bytes


class Admin:
    """Makes the pages of the admin port.

    Attributes:
        config: the present configuration; a reload replaces it.
        services: returns the state of the services whose consumer groups are configured.
    """

    def __init__(
        self,
        table: Table,
        config: Config,
        clock_ns: Callable[[], int],
        supervisor: Callable[[], State | None] = lambda: None,
        ask_streams: AskStreams = lambda asked: [None for _ in asked],
    ) -> None:
        """
        Args:
            clock_ns: the monotonic clock, the same for all processes of this machine.
            supervisor: returns the present state of the supervisor, None if unknown.
            ask_streams: asks workers for their streams.
        """
        self._supervisor = supervisor
        self._ask_streams = ask_streams
        self.config = config
        self.services: Callable[[], Sequence[ServiceState]] = tuple
        self._table = table
        self._clock_ns = clock_ns
        self._began_ns = clock_ns()
        self._store_was_ready = False  # later trouble of the store concerns only the routes that need it
        self._pages: dict[str, Callable[[], Page]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/status": self._status,
        }

    def handle(self, method: str, target: str) -> Page:
        """The page for one request. `target` is as sent; its query is ignored."""
        make = self._pages.get(target.partition("?")[0])
        if make is None:
            return page(404, PLAIN, ("expected one of: " + " ".join(self._pages) + "\n").encode())
        if method not in ("GET", "HEAD"):
            refused = page(405, PLAIN, b"expected GET or HEAD\n")
            return refused._replace(headers=[*refused.headers, ("allow", "GET, HEAD")])
        return make()

    def _livez(self) -> Page:
        # Says only that this process answers: a failure of Kafka or a worker is no reason to kill the service.
        return page(200, PLAIN, b"alive\n")

    def _readyz(self) -> Page:
        reasons = self._why_not_ready(self._clock_ns())
        told = {"ready": not reasons, "reasons": reasons, "warnings": self._warnings()}
        return page(503 if reasons else 200, _JSON, _json(told))

    def _why_not_ready(self, now_ns: int) -> list[str]:
        reasons = metrics.why_not_ready(self._table, metrics.worker_states(self._table, now_ns))
        if not self._store_was_ready and self.config.needs_store:
            trouble = store_state(self._table, now_ns).trouble
            self._store_was_ready = not trouble
            if trouble and now_ns - self._began_ns < self.config.gateway.ready_wait_ns:
                reasons.append(f"store: {trouble}")
        return reasons

    def _warnings(self) -> list[str]:
        """Problems of single routes. The node stays ready: other routes work, and other nodes have the same problem."""
        warning = store_state(self._table, self._clock_ns()).warning if self.config.needs_store else ""
        store = [f"store: {warning}; requests that need it get 503"] if warning else []
        return store + [
            f'route "{name}": {service.detail} (service_group "{service.group}")'
            for service in self.services()
            if service.state in ("nobody", "backlog")
            for name in self._names_of(service)
        ]

    def _names_of(self, service: ServiceState) -> list[str]:
        names = self.config.route_names
        return [names.get(number, f"#{number}") for number in service.routes]

    def _metrics(self) -> Page:
        names, now_ns = self.config.route_names, self._clock_ns()
        name = self.config.gateway.name
        store = store_state(self._table, now_ns) if self.config.needs_store else None
        text = metrics.render(self._table, names, now_ns, self.services(), self._supervisor(), name, store)
        return page(200, metrics.CONTENT_TYPE, text.encode(errors="replace"))

    def _status(self) -> Page:
        return page(200, _JSON, _json(self.status()))

    def status(self) -> dict[str, Any]:
        """The content of /status. Times are in ms; missing values are `null`."""
        now_ns = self._clock_ns()
        table = self._table
        reasons = self._why_not_ready(now_ns)
        return {
            "name": self.config.gateway.name,
            "version": __version__,
            "node": f"{table.node:06x}",
            "ready": not reasons,
            "reasons": reasons,
            "draining": table.service_draining(),
            **_told_of(self._supervisor()),
            "workers": self._workers(now_ns),
            "partitions": self._partitions(),
            "services": self._services(),
            "store": self._store(now_ns) if self.config.needs_store else None,
            "waiting": self._waiting(now_ns),
        }

    def _store(self, now_ns: int) -> dict[str, Any]:
        store = store_state(self._table, now_ns)
        return {
            "topic": self.config.later.topic if self.config.keeps_replies else None,
            "trouble": store.warning or None,
            "heartbeat_age_ms": _ms(store.heartbeat_age_ns) if store.heartbeat_age_ns >= 0 else None,
            "entries": store.entries,
            "bytes": store.used_bytes,
            "max_bytes": store.max_bytes,
            "watches": store.watches,
            "lag_records": store.lag_records,
            "split": store.split,
            "split_lost": store.split_lost,
            "garbage": store.garbage,
            "unknown": store.unknown,
            "newer_layout": store.newer_layout or None,
            "keys": store.keys,
            "requests_with_key": {result: self._table.tally(tally) for tally, result in metrics.KEY_RESULTS.items()},
            "streams": self._streams(store) if self.config.has_streams else None,
        }

    def _streams(self, store: StoreState) -> dict[str, Any]:
        living = [one for one in map(self._table.process_info, range(self._table.processes)) if one]
        return {
            "topic": self.config.streams.topic,
            "partitions": store.stream_partitions,
            "open": sum(self._table.gauge(one.process, Gauge.STREAMS) for one in living),
            "items": self._table.tally(Tally.STREAM_ITEMS),
            "follows": store.follows,
            "behind": store.behind,
            "resumed": self._table.tally(Tally.STREAMS_RESUMED),
            "replays": store.stream_replays,
            "split": store.stream_split,
            "split_lost": store.stream_split_lost,
            "garbage": store.stream_garbage,
            **open_streams.shown(living, self._ask_streams),
        }

    def _services(self) -> list[dict[str, Any]]:
        """The services whose consumer groups are configured."""
        return [
            {
                "group": service.group,
                "topic": service.topic,
                "routes": self._names_of(service),
                "state": service.state,
                "detail": service.detail or None,
            }
            for service in self.services()
        ]

    def _workers(self, now_ns: int) -> list[dict[str, Any]]:
        """Every living worker process; during a reload a worker slot has two."""
        living = filter(None, map(self._table.process_info, range(self._table.processes)))
        return [
            {
                "slot": info.worker,
                "generation": info.generation,
                "pid": info.pid,
                "ready": info.ready,
                "draining": info.draining,
                "heartbeat_age_ms": _ms(now_ns - info.heartbeat_ns),
                "in_flight": info.in_flight,
                "body_bytes": info.body_bytes,
                "answer_bytes": self._table.gauge(info.process, Gauge.ANSWER_BYTES),
                "kafka_waiting_bytes": self._table.gauge(info.process, Gauge.KAFKA_WAITING_BYTES),
                "home_partition": info.home if info.home >= 0 else None,
                "map_version": info.applied_map_version,
            }
            for info in living
        ]

    def _partitions(self) -> dict[str, Any]:
        version, owners = self._table.read_map()
        return {
            "topic": self.config.gateway.response_topic,
            "map_version": version,
            "count": len(owners),
            # The index is the partition; null: it belongs to another node.
            "owners": [None if owner == _ctable.UNOWNED else owner for owner in owners],
            # The next offset that a successor would read; null: unknown, or it belongs to another node.
            "handled_to": [self._handled_to(partition, owner) for partition, owner in enumerate(owners)],
        }

    def _handled_to(self, partition: int, owner: int) -> int | None:
        log = log_of(self.config.kafka.bootstrap, self.config.gateway.response_topic)
        position = self._table.handled_to(partition, log)
        return None if owner == _ctable.UNOWNED or position == _ctable.UNKNOWN_POSITION else position

    def _waiting(self, now_ns: int) -> dict[str, Any]:
        names = self.config.route_names
        oldest = self._table.waiting(WAITING_SHOWN)
        return {
            "total": max(len(oldest), self._waiting_total()),
            "oldest": [
                {
                    "route": names.get(slot.route, f"#{slot.route}"),
                    "phase": PHASES.get(slot.state, "ended"),
                    "age_ms": _ms(now_ns - slot.claimed_ns),
                    "deadline_in_ms": _ms(slot.deadline_ns - now_ns),
                    "worker": worker_of(slot.process),
                    "kind": KINDS.get(slot.kind, "unknown"),
                    "home_partition": slot.home,
                }
                for slot in oldest
            ],
        }

    def _waiting_total(self) -> int:
        counts = map(self._table.states, range(self._table.processes))
        return sum(by_state.get(state, 0) for by_state in counts for state in PHASES)


def page(status: int, content_type: str, body: bytes) -> Page:
    """A response that must not be cached."""
    headers = [("content-type", content_type), ("content-length", str(len(body))), ("cache-control", "no-store")]
    return Page(status, headers, body)


def _told_of(state: State | None) -> dict[str, Any]:
    if state is None:
        return {"supervisor": None, "reload": None}
    last = state.reload
    reload = last and {
        "number": last.number,
        "began": _time(last.began_s),
        "ended": _time(last.ended_s),
        "result": last.result,
        "error": last.error or None,
    }
    return {"supervisor": {"pid": state.pid, "config": state.config}, "reload": reload}


def _time(epoch_s: float | None) -> str | None:
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds")


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)  # people read it in terminals


def _ms(duration_ns: int) -> float:
    return round(duration_ns / 1e6, 1)
