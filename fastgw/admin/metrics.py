"""The state of the service from the shared table: which workers serve, and metrics in Prometheus text format 0.0.4.

Workers only add to their own counters in shared memory. A scrape sums the counters here, so it costs the workers
nothing, and a counter keeps its value when its worker is replaced.

The number of series is bounded: label values are configured names and constants (never an id, a path or a header).

Series exist from the start with the value 0: `rate` and `increase` miss the first event of a counter that appears with
it (Prometheus, "Instrumentation", "Avoid missing metrics"). There are two exceptions. An ending that is not common
(`COMMON`, `COMMON_UNROUTED`) appears when it occurs. And if there are more than `FEW_ROUTES` routes, the endings and
durations of a route appear, all at once, with its first request: 2,000 routes have 142,000 such series.

`worker` is a worker slot, independent of its process. `process` is one process, named as in the log: `supervisor`,
`agent`, or `worker 0.3` for the process of generation 3 in slot 0. During a reload a slot has two.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from fastgw import __version__, _ctable, errors
from fastgw._ctable import ProcessInfo, Table
from fastgw.admin.process_usage import usage_of
from fastgw.admin.store_state import StoreState
from fastgw.errors import ANSWERED, ENDINGS
from fastgw.messages import Cut, Gauge, ReplyDisposition, Tally
from fastgw.state_file import RESULTS, State
from fastgw.table import processes_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HEARTBEAT_FRESH_NS = 2_500_000_000  # a worker whose loop has not turned for this long does not serve
PHASE_NAMES = {
    _ctable.QUEUE_TO_ACK: "queue_to_ack",
    _ctable.ACK_TO_REPLY: "ack_to_reply",
    _ctable.TOTAL: "total",
}
CLASSES = ("2xx", "3xx", "4xx", "5xx")
CLIENT_LEFT = 499  # the status of endings without a response
NO_ROUTE_NAME = ""  # the route label of requests that matched no route (an empty label is no label)

FEW_ROUTES = 200  # 14,200 series of endings and durations: about what an instance may have without a reason
# Endings that every route shows from the start: those that mean a fault, and the limits that operators set. Alerts ask
# for no others.
COMMON = frozenset(
    ending.number
    for ending in (
        errors.ANSWERED,
        errors.CANCELLED,
        errors.BODIES_FULL,
        errors.TABLE_FULL,
        errors.IN_FLIGHT_CAP,
        errors.QUEUE_FULL,
        errors.NOT_READY,
        errors.NO_CONSUMER,
        errors.BACKLOG,
        *(ending for ending in ENDINGS if ending.alarming),
    )
)
COMMON_UNROUTED = frozenset(
    ending.number
    for ending in (
        errors.MALFORMED,
        errors.NO_ROUTE,
        errors.WRONG_METHOD,
        errors.HEADER_TIMEOUT,
        errors.CONNECTION_CAP,
    )
)

# What became of requests with an idempotency key.
KEY_RESULTS = {
    Tally.KEYS_SENT: "sent",
    Tally.KEYS_TAKEN_OVER: "taken_over",
    Tally.KEYS_JOINED: "joined",
    Tally.KEYS_REPLAYED: "replayed",
}

Labels = tuple[tuple[str, object], ...]
Sample = tuple[Labels, float]


class ServiceState(NamedTuple):
    """The state of a service whose consumer group is configured."""

    group: str
    topic: str
    routes: tuple[int, ...]  # route numbers
    state: str  # "there", "nobody" (requests get 503 no_consumer), "backlog", "unknown"
    detail: str  # for people; empty if the service is there


class WorkerState(NamedTuple):
    """One worker slot at one moment."""

    worker: int
    process: ProcessInfo | None  # the relevant one of the (at most two) living processes of this slot
    serving: bool  # it is ready, not draining, and has a fresh heartbeat
    heartbeat_age_ns: int  # 0 without a process
    in_flight: int  # requests of all living processes of this slot
    body_bytes: int  # of incoming request bodies of all living processes


def worker_states(table: Table, now_ns: int) -> list[WorkerState]:
    """Every worker slot in order; `now_ns` is monotonic, as in the heartbeats."""
    return [_worker_state(table, worker, now_ns) for worker in range(table.workers)]


def _worker_state(table: Table, worker: int, now_ns: int) -> WorkerState:
    living = [info for process in processes_of(worker) if (info := table.process_info(process))]
    if not living:
        return WorkerState(worker, None, False, 0, 0, 0)
    # During a reload two generations live. The old one counts until the new one serves, also while it drains alone.
    chosen = max(living, key=lambda info: (_serves(info, now_ns), not info.draining))
    in_flight = sum(info.in_flight for info in living)
    body_bytes = sum(info.body_bytes for info in living)
    age_ns = max(0, now_ns - chosen.heartbeat_ns)
    return WorkerState(worker, chosen, _serves(chosen, now_ns), age_ns, in_flight, body_bytes)


def _serves(info: ProcessInfo, now_ns: int) -> bool:
    return info.ready and not info.draining and now_ns - info.heartbeat_ns < HEARTBEAT_FRESH_NS


def why_not_ready(table: Table, states: Iterable[WorkerState]) -> list[str]:
    """The reasons why this node should get no traffic; empty if it should."""
    reasons = ["the service is draining"] if table.service_draining() else []
    reasons += [f"worker {state.worker}: {_why_not_serving(state)}" for state in states if not state.serving]
    return reasons


def _why_not_serving(state: WorkerState) -> str:
    if state.process is None:
        return "no process"
    if state.process.draining:
        return "draining"
    if not state.process.ready:
        return "its reply path is not ready"
    return f"no heartbeat for {state.heartbeat_age_ns / 1e9:.1f} s"


def render(
    table: Table,
    routes: Mapping[int, str],
    now_ns: int,
    services: Iterable[ServiceState] = (),
    supervisor: State | None = None,
    name: str = "",
    store: StoreState | None = None,
) -> str:
    """All metrics as Prometheus text.

    Args:
        table: the shared table.
        routes: route number -> name, for the routes of the present configuration.
        now_ns: monotonic time.
        services: the services of routes with a consumer group.
        supervisor: the state of the supervisor, None if unknown.
        name: the name of the gateway.
        store: the state of the store; None: no route needs one.
    """
    states = worker_states(table, now_ns)
    named = {**routes, _ctable.UNROUTED: NO_ROUTE_NAME}
    endings = {number: table.endings(number) for number in named}
    shown = {number: name for number, name in routes.items() if len(routes) <= FEW_ROUTES or any(endings[number])}
    lines: list[str] = []
    for family in (
        _service(table, states, name),
        _requests(shown, endings),
        _responses(table, named, endings),
        _durations(table, shown),
        _replies(table),
        _connections(table),
        _workers(table, states),
        _processes(table, supervisor),
        _partitions(table, states),
        _services(services, routes),
        _store(table, store),
        _reloads(supervisor),
    ):
        lines.extend(family)
    return "\n".join(lines) + "\n"


def _service(table: Table, states: list[WorkerState], name: str) -> Iterator[str]:
    build = (("name", name), ("version", __version__), ("node", f"{table.node:06x}"))
    yield from _gauge("build_info", "Name and version of this gateway, and the random name of this node.", [(build, 1)])
    ready = not why_not_ready(table, states)
    yield from _gauge("ready", "Whether this node should get traffic, as /readyz says.", [((), ready)])
    yield from _gauge(
        "draining", "Whether the service is shutting down and refuses new requests.", [((), table.service_draining())]
    )


def _store(table: Table, store: StoreState | None) -> Iterator[str]:
    if store is None:
        return
    figures = (
        ("store_up", "Whether the store has read its topic and gets new records.", not store.trouble),
        ("store_newer_layout", "The format of records that a newer node writes; 0: none.", store.newer_layout),
        ("store_entries", "Records that the store keeps.", store.entries),
        ("store_bytes", "Size of what the store keeps.", store.used_bytes),
        ("store_max_bytes", "The most that the store may keep (store.max_bytes).", store.max_bytes),
        ("store_watches", "Requests that wait for what the store reads.", store.watches),
        ("store_lag_records", "Records of its topic that the store has not read.", store.lag_records),
        ("store_keys", "Idempotency keys that the store knows.", store.keys),
        ("store_follows", "Streams that the store delivers to workers.", store.follows),
        ("store_follows_behind", "Of these, streams whose clients are slower than their services.", store.behind),
    )
    for name, text, value in figures:
        yield from _gauge(name, text, [((), value)])
    text = "Kept replies and records of streams found on another partition than their home, and sent on to it."
    yield from _counter("store_split_total", text, _by_topic(store.split, store.stream_split))
    text = "Of these, replies that are lost, because Kafka refuses them there."
    yield from _counter("store_split_lost_total", text, _by_topic(store.split_lost, store.stream_split_lost))
    text = "Control records that no gateway with the present secrets has written, and records of streams without an id."
    yield from _counter("store_garbage_total", text, _by_topic(store.garbage, store.stream_garbage))
    text = "Control records of a kind that this version does not know."
    yield from _counter("store_unknown_total", text, [((), store.unknown)])
    text = "How often the store has begun to read a stream from the log again."
    yield from _counter("stream_replays_total", text, [((), store.stream_replays)])
    samples = [((("result", result),), table.tally(tally)) for tally, result in KEY_RESULTS.items()]
    text = "Requests with an idempotency key, by what became of them; refused ones are in fastgw_requests_total."
    yield from _counter("idempotency_total", text, samples)


def _by_topic(later: int, streams: int) -> list[Sample]:
    return [((("topic", "later"),), later), ((("topic", "streams"),), streams)]


Endings = Mapping[int, tuple[int, ...]]  # route number -> requests by ending number


def _requests(shown: Mapping[int, str], endings: Endings) -> Iterator[str]:
    name = "fastgw_requests_total"
    yield from _head(name, "counter", "Requests by route, ending, and outcome of their record.")
    for number, route in shown.items():
        yield from _endings(f"{name}{{{_labels((('route', route),))},", endings[number], COMMON)
    yield from _endings(f'{name}{{route="{NO_ROUTE_NAME}",', endings[_ctable.UNROUTED], COMMON_UNROUTED)


def _endings(start: str, counts: tuple[int, ...], common: frozenset[int]) -> Iterator[str]:
    for number, labels in enumerate(_ENDING_LABELS):
        if counts[number] or number in common:
            yield f"{start}{labels}}} {counts[number]}"


def _responses(table: Table, routes: Mapping[int, str], endings: Endings) -> Iterator[str]:
    samples: list[Sample] = [
        ((("route", name), ("class", status_class)), count)
        for number, name in routes.items()
        for status_class, count in zip(CLASSES, _by_class(table, number, endings[number]), strict=True)
    ]
    text = "HTTP responses to clients, by route and status class; from services and from the gateway."
    yield from _counter("http_responses_total", text, samples)


def _by_class(table: Table, route: int, endings: tuple[int, ...]) -> list[int]:
    """The number of responses of each class to a route's clients."""
    counts = list(table.answered(route))
    for ending, count in zip(ENDINGS, endings, strict=False):
        if count and ending is not ANSWERED and ending.status != CLIENT_LEFT:
            counts[ending.status // 100 - 2] += count
    if route == _ctable.UNROUTED:
        counts[0] += table.tally(Tally.OPTIONS)  # these got 204 and have no ending
    return counts


def _durations(table: Table, shown: Mapping[int, str]) -> Iterator[str]:
    name = "fastgw_request_duration_seconds"
    yield from _head(name, "histogram", "Time of requests by phase: queue to ack, ack to reply, and in total.")
    for number, route in shown.items():
        for phase, phase_name in PHASE_NAMES.items():
            labels = _labels((("route", route), ("phase", phase_name)))
            yield from _histogram(name, labels, *table.histogram(number, phase))


def _histogram(name: str, labels: str, counts: tuple[int, ...], sum_ns: int) -> Iterator[str]:
    start = f"{name}_bucket{{{labels}"
    reached = 0
    for bound, count in zip(_BOUND_LABELS, counts, strict=True):
        reached += count
        yield f"{start}{bound} {reached}"
    yield f"{name}_sum{{{labels}}} {sum_ns / 1e9!r}"
    yield f"{name}_count{{{labels}}} {reached}"


def _replies(table: Table) -> Iterator[str]:
    samples = [
        ((("fate", disposition.name.lower()),), count)
        for disposition, count in zip(ReplyDisposition, table.dispositions(), strict=False)
    ]
    yield from _counter("replies_total", "Records on the response topic by what happened to them.", samples)


def _connections(table: Table) -> Iterator[str]:
    samples = [((("reason", cut.name.lower()),), table.tally(cut)) for cut in Cut]
    yield from _counter(
        "connections_cut_total", "Connections that the gateway closed because of their client's behaviour.", samples
    )
    yield from _counter(
        "access_log_dropped_total",
        "Lines of the access log dropped because they could not be written fast enough.",
        [((), table.tally(Tally.ACCESS_LOG_DROPPED))],
    )
    yield from _counter(
        "options_answered_total",
        "CORS preflights and OPTIONS *, which the gateway answers; they are not in fastgw_requests_total.",
        [((), table.tally(Tally.OPTIONS))],
    )


def _workers(table: Table, states: list[WorkerState]) -> Iterator[str]:
    def of_all(values: Iterable[float]) -> list[Sample]:
        return [((("worker", state.worker),), value) for state, value in zip(states, values, strict=True)]

    living = [(state, state.process) for state in states if state.process is not None]
    yield from _gauge("in_flight", "Waiting requests, by worker.", of_all(s.in_flight for s in states))
    yield from _gauge(
        "request_body_bytes",
        "Bytes of incoming request bodies, by worker.",
        of_all(s.body_bytes for s in states),
    )
    yield from _gauge(
        "slots", "The maximum number of waiting requests of one worker process.", [((), table.slots_per_process)]
    )
    yield from _gauge("worker_up", "Whether the worker has a process.", of_all(bool(s.process) for s in states))
    yield from _gauge("worker_ready", "Whether the worker serves requests.", of_all(s.serving for s in states))
    yield from _gauge(
        "worker_generation",
        "Generation of the worker's process, from 0 to 255, then 0 again.",
        [((("worker", state.worker),), process.generation) for state, process in living],
    )
    yield from _counter(
        "worker_starts_total",
        "Processes started for the worker.",
        of_all(table.worker_starts(s.worker) for s in states),
    )
    yield from _gauge(
        "worker_heartbeat_age_seconds",
        "Time since the worker's loop last turned.",
        [((("worker", state.worker),), state.heartbeat_age_ns / 1e9) for state, _ in living],
    )


def _processes(table: Table, supervisor: State | None) -> Iterator[str]:
    workers = list(filter(None, map(table.process_info, range(table.processes))))
    pids = {"agent": os.getpid()} | {_name_of(worker): worker.pid for worker in workers}
    if supervisor is not None:
        pids = {"supervisor": supervisor.pid} | pids

    def of_workers(gauge: Gauge) -> list[Sample]:
        return [((("process", _name_of(worker)),), table.gauge(worker.process, gauge)) for worker in workers]

    yield from _gauge("open_connections", "Open client connections.", of_workers(Gauge.OPEN_CONNECTIONS))
    text = "Records of the process that Kafka has not acknowledged."
    yield from _gauge("kafka_waiting_records", text, of_workers(Gauge.KAFKA_WAITING_RECORDS))
    text = "Bytes of these records: values, keys and headers."
    yield from _gauge("kafka_waiting_bytes", text, of_workers(Gauge.KAFKA_WAITING_BYTES))
    text = "Bytes of answers that clients have not read and that the process still holds."
    yield from _gauge("answer_bytes", text, of_workers(Gauge.ANSWER_BYTES))
    yield from _gauge("streams", "Streamed answers under way.", of_workers(Gauge.STREAMS))
    text = "Items of streams that were written to clients."
    yield from _counter("stream_items_total", text, [((), table.tally(Tally.STREAM_ITEMS))])
    text = "Clients that came back to a stream and could go on."
    yield from _counter("streams_resumed_total", text, [((), table.tally(Tally.STREAMS_RESUMED))])
    usages = [((("process", name),), usage) for name, pid in pids.items() if (usage := usage_of(pid))]
    yield from _gauge(
        "process_resident_bytes", "Memory of the process.", [(labels, one.resident_bytes) for labels, one in usages]
    )
    text = "CPU time of the process, user and system."
    yield from _counter("process_cpu_seconds_total", text, [(labels, one.cpu_s) for labels, one in usages])
    yield from _gauge("process_open_fds", "Open file descriptors.", [(labels, one.open_fds) for labels, one in usages])


def _name_of(worker: ProcessInfo) -> str:
    return f"worker {worker.worker}.{worker.generation}"


def _partitions(table: Table, states: list[WorkerState]) -> Iterator[str]:
    version, owners = table.read_map()
    yield from _gauge("response_partitions", "Partitions of the response topic.", [((), len(owners))])
    owned = len(owners) - owners.count(_ctable.UNOWNED)
    yield from _gauge("node_partitions", "Partitions of the response topic that belong to this node.", [((), owned)])
    yield from _gauge("partition_map_version", "Number of writes of the partition map.", [((), version)])
    yield from _gauge(
        "partitions_owned",
        "Partitions of the response topic by the worker that owns them.",
        [((("worker", state.worker),), owners.count(state.worker)) for state in states],
    )
    yield from _gauge(
        "home_partition",
        "The partition to which replies for the worker are directed; -1: none.",
        [((("worker", state.worker),), state.process.home) for state in states if state.process is not None],
    )


def _services(services: Iterable[ServiceState], routes: Mapping[int, str]) -> Iterator[str]:
    samples = [
        ((("route", routes[number]), ("group", one.group)), one.state != "nobody")
        for one in services
        for number in one.routes
        if number in routes and one.state != "unknown"
    ]
    if samples:
        text = "Whether the service has a consumer; only for routes with service_group."
        yield from _gauge("service_up", text, samples)


def _reloads(supervisor: State | None) -> Iterator[str]:
    if supervisor is None:
        return
    results = [((("result", result),), supervisor.results.get(result, 0)) for result in RESULTS]
    yield from _counter("reloads_total", "Reloads by result.", results)
    # Named like Prometheus's own metrics.
    text = "Whether the gateway runs with the configuration of the last reload."
    yield from _gauge("config_last_reload_successful", text, [((), supervisor.is_current)])
    text = "Time of the end of the last reload, or of the start."
    yield from _gauge("config_last_reload_timestamp_seconds", text, [((), round(supervisor.decided_s, 3))])


def _gauge(name: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    return _family(f"fastgw_{name}", "gauge", text, samples)


def _counter(name: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    return _family(f"fastgw_{name}", "counter", text, samples)


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield from _head(name, kind, text)
    for labels, value in samples:
        number = int(value) if isinstance(value, bool) else value
        yield f"{name}{{{_labels(labels)}}} {number!r}" if labels else f"{name} {number!r}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def _labels(labels: Labels) -> str:
    return ",".join(f'{name}="{str(value).translate(_ESCAPES)}"' for name, value in labels)


_ENDING_LABELS = tuple(_labels((("ending", one.name), ("outcome", one.outcome.value))) for one in ENDINGS)
_BOUNDS = (*(repr(bound_ns / 1e9) for bound_ns in _ctable.BUCKETS[:-1]), "+Inf")  # the last bucket takes the rest
_BOUND_LABELS = tuple(f',le="{bound}"}}' for bound in _BOUNDS)
