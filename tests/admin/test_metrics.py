"""The Prometheus text, read back with the official client's parser, and what readiness is made of."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from fastgw import __version__, _ctable, errors, state_file, table
from fastgw._ctable import UNOWNED, Table
from fastgw.admin import metrics
from fastgw.messages import Cut, Gauge, ReplyDisposition, Tally
from tests.actors.tables import answer

NOW_NS = 1_000_000_000_000
SECOND_NS = 1_000_000_000
ROUTES = {0: "POST /orders", 1: "GET /orders/{id}"}


@pytest.fixture
def shared() -> Table:
    """A table of two workers, none of which has a process."""
    fd, created = table.create(0xABCDEF, 2, 64)
    os.close(fd)
    return created


def start_worker(shared: Table, worker: int, generation: int = 0, in_flight: int = 0, home: int = 3) -> int:
    """A worker process that serves since NOW_NS; its process index."""
    process = table.process_index(worker, generation)
    shared.register(process, 1000 + process, worker, generation)
    shared.heartbeat(process, NOW_NS, in_flight, home, 1)
    shared.set_ready(process, True)
    return process


def why_not_ready(shared: Table, now_ns: int = NOW_NS) -> list[str]:
    return metrics.why_not_ready(shared, metrics.worker_states(shared, now_ns))


def samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def values(
    shared: Table, name: str, routes: Mapping[int, str] = ROUTES, now_ns: int = NOW_NS
) -> dict[tuple[str, ...], float]:
    """Label values (in the order they are written) -> value, of one metric."""
    text = metrics.render(shared, routes, now_ns)
    return {tuple(s.labels.values()): s.value for s in samples(text) if s.name == name}


def ended(shared: Table, routes: Mapping[int, str] = ROUTES) -> dict[tuple[str, ...], float]:
    """Route, ending, outcome -> requests, of what has occurred."""
    return {labels: value for labels, value in values(shared, "fastgw_requests_total", routes).items() if value}


def test_requests_are_counted_by_route_ending_and_outcome(shared: Table) -> None:
    for ending, times in ((errors.ANSWERED, 3), (errors.EXPIRED, 1), (errors.EXPIRED_UNKNOWN, 2)):
        for _ in range(times):
            shared.count(0, 0, ending.number)
    shared.count(0, 1, errors.TABLE_FULL.number)
    assert ended(shared) == {
        ("POST /orders", "answered", "recorded"): 3,
        ("POST /orders", "expired", "recorded"): 1,
        ("POST /orders", "expired_unknown", "unknown"): 2,
        ("GET /orders/{id}", "table_full", "not_recorded"): 1,
    }


def test_requests_without_a_route_are_counted_too(shared: Table) -> None:
    shared.count(0, _ctable.UNROUTED, errors.NO_ROUTE.number)
    assert ended(shared) == {("", "no_route", "not_recorded"): 1}


def test_counts_of_all_processes_are_summed_and_survive_their_process(shared: Table) -> None:
    for worker, generation in ((0, 0), (0, 1), (1, 0)):
        process = start_worker(shared, worker, generation)
        shared.count(process, 0, errors.ANSWERED.number)
    shared.unregister(0)
    assert list(ended(shared).values()) == [3]


def endings_of(shared: Table, route: str, routes: Mapping[int, str] = ROUTES) -> set[str]:
    return {labels[1] for labels in values(shared, "fastgw_requests_total", routes) if labels[0] == route}


def named(numbers: frozenset[int]) -> set[str]:
    return {errors.ENDINGS[number].name for number in numbers}


def test_a_route_that_was_never_asked_for_has_its_common_endings_and_all_durations(shared: Table) -> None:
    assert endings_of(shared, "POST /orders") == named(metrics.COMMON)
    assert endings_of(shared, "") == named(metrics.COMMON_UNROUTED)
    assert ended(shared) == {}
    phases = {(route, phase): 0 for route in ROUTES.values() for phase in metrics.PHASE_NAMES.values()}
    assert values(shared, "fastgw_request_duration_seconds_count") == phases
    assert len(values(shared, "fastgw_request_duration_seconds_bucket")) == len(phases) * len(_ctable.BUCKETS)


def test_an_ending_that_is_not_common_appears_when_it_occurs(shared: Table) -> None:
    shared.count(0, 0, errors.BODY_TOO_LARGE.number)
    assert endings_of(shared, "POST /orders") == {*named(metrics.COMMON), "body_too_large"}
    assert endings_of(shared, "GET /orders/{id}") == named(metrics.COMMON)


def test_of_very_many_routes_those_are_shown_that_are_used(shared: Table) -> None:
    """The first answer of a route brings the zeros of its failures, so that no first failure is missed."""
    few = {route: f"GET /{route}" for route in range(metrics.FEW_ROUTES)}
    many = {**few, metrics.FEW_ROUTES: "GET /more"}
    shared.count(0, 7, errors.ANSWERED.number)
    assert endings_of(shared, "GET /6", few) == named(metrics.COMMON)
    assert endings_of(shared, "GET /6", many) == set()
    assert endings_of(shared, "GET /7", many) == named(metrics.COMMON)
    durations = values(shared, "fastgw_request_duration_seconds_count", many)
    assert set(durations) == {("GET /7", phase) for phase in metrics.PHASE_NAMES.values()}


def answer_with(shared: Table, route: int, status: int) -> None:
    slots = shared.open_range(0)
    token = slots.publish(slots.claim(), 7, route, 0, NOW_NS, 1)
    slots.resolve(token % _ctable.SLOTS_MAX, 7)
    slots.settle_answered(token, status, 2)


def test_answers_are_counted_by_route_and_class_and_every_class_is_there_from_the_start(shared: Table) -> None:
    name = "fastgw_http_responses_total"
    classes = ("2xx", "3xx", "4xx", "5xx")
    assert values(shared, name) == {(route, one): 0 for route in (*ROUTES.values(), "") for one in classes}
    for status in (200, 204, 302, 404, 503):
        answer_with(shared, 0, status)
    for ending in (errors.EXPIRED, errors.BODY_TOO_LARGE, errors.TABLE_FULL):
        shared.count(1, 0, ending.number)
    shared.count(1, _ctable.UNROUTED, errors.NO_ROUTE.number)
    shared.add_tally(1, Tally.OPTIONS, 2)
    found = values(shared, name)
    assert [found["POST /orders", one] for one in classes] == [2, 1, 2, 3]
    assert [found["", one] for one in classes] == [2, 0, 1, 0]
    assert sum(values(shared, "fastgw_requests_total").values()) + 2 == sum(found.values())


def test_what_no_client_was_told_is_no_answer(shared: Table) -> None:
    for ending in (errors.CANCELLED, errors.CANCELLED_EARLY, errors.CANCELLED_UNKNOWN):
        shared.count(0, 0, ending.number)
    assert set(values(shared, "fastgw_http_responses_total").values()) == {0}


def test_durations_are_cumulative_histograms_in_seconds(shared: Table) -> None:
    slots = shared.open_range(0)
    for duration_ns in (400_000, 500_000, 3_000_000, 20 * SECOND_NS):
        answer(slots, 0, started_ns=1, times_ns=None, ended_ns=1 + duration_ns)
    buckets = values(shared, "fastgw_request_duration_seconds_bucket")
    by_bound = {bound: count for (*label, bound), count in buckets.items() if label == ["POST /orders", "total"]}
    assert [float(bound) for bound in by_bound] == [*(ns / 1e9 for ns in _ctable.BUCKETS[:-1]), float("inf")]
    assert by_bound["0.0005"] == 2, "a bound belongs to its bucket"
    assert by_bound["0.0025"] == 2
    assert by_bound["0.005"] == by_bound["10.0"] == 3
    assert by_bound["+Inf"] == 4
    label = ("POST /orders", "total")
    assert values(shared, "fastgw_request_duration_seconds_count")[label] == 4
    assert values(shared, "fastgw_request_duration_seconds_sum")[label] == pytest.approx(20.0039)


def test_each_phase_has_its_histogram(shared: Table) -> None:
    answer(shared.open_range(0), 1, started_ns=1, times_ns=(2, SECOND_NS), ended_ns=2 * SECOND_NS)
    counts = values(shared, "fastgw_request_duration_seconds_count")
    assert {phase: count for (route, phase), count in counts.items() if route == "GET /orders/{id}"} == {
        "queue_to_ack": 1,
        "ack_to_reply": 1,
        "total": 1,
    }


def test_replies_are_counted_by_fate_and_every_fate_is_there_from_the_start(shared: Table) -> None:
    shared.count_disposition(1, ReplyDisposition.LATE)
    shared.count_disposition(2, ReplyDisposition.LATE)
    found = values(shared, "fastgw_replies_total")
    assert found.pop(("late",)) == 2
    assert set(found) == {(fate.name.lower(),) for fate in ReplyDisposition if fate is not ReplyDisposition.LATE}
    assert set(found.values()) == {0}


def test_connections_that_were_cut_are_counted_by_reason(shared: Table) -> None:
    shared.add_tally(1, Cut.SILENT, 1)
    shared.add_tally(2, Cut.SILENT, 2)
    assert values(shared, "fastgw_connections_cut_total") == {("slow_reader",): 0, ("silent",): 3, ("idle",): 0}


def test_partitions_are_shown_by_worker_node_and_topic(shared: Table) -> None:
    shared.write_map(bytes([0, 1, 0, UNOWNED, UNOWNED]))
    start_worker(shared, 0, home=2)
    start_worker(shared, 1, home=-1)
    assert values(shared, "fastgw_partitions_owned") == {("0",): 2, ("1",): 1}
    assert values(shared, "fastgw_home_partition") == {("0",): 2, ("1",): -1}
    assert values(shared, "fastgw_node_partitions") == {(): 3}
    assert values(shared, "fastgw_response_partitions") == {(): 5}
    assert values(shared, "fastgw_partition_map_version") == {(): 1}


def test_workers_are_shown_with_and_without_a_process(shared: Table) -> None:
    start_worker(shared, 1, generation=7, in_flight=5)
    later_ns = NOW_NS + SECOND_NS // 2
    for name, expected in {
        "fastgw_worker_up": {("0",): 0, ("1",): 1},
        "fastgw_worker_ready": {("0",): 0, ("1",): 1},
        "fastgw_worker_generation": {("1",): 7},
        "fastgw_worker_heartbeat_age_seconds": {("1",): 0.5},
        "fastgw_worker_starts_total": {("0",): 0, ("1",): 1},
        "fastgw_in_flight": {("0",): 0, ("1",): 5},
        "fastgw_ready": {(): 0},
        "fastgw_slots": {(): 64},
    }.items():
        assert values(shared, name, now_ns=later_ns) == expected, name


def test_the_gateway_and_its_build_are_named(shared: Table) -> None:
    text = metrics.render(shared, ROUTES, NOW_NS, name="shop")
    (build,) = (sample for sample in samples(text) if sample.name == "fastgw_build_info")
    assert build.labels == {"name": "shop", "version": __version__, "node": "abcdef"}
    assert build.value == 1


@pytest.mark.parametrize(
    ("name", "gauge"),
    [
        ("fastgw_open_connections", Gauge.OPEN_CONNECTIONS),
        ("fastgw_kafka_waiting_records", Gauge.KAFKA_WAITING_RECORDS),
        ("fastgw_kafka_waiting_bytes", Gauge.KAFKA_WAITING_BYTES),
        ("fastgw_answer_bytes", Gauge.ANSWER_BYTES),
    ],
)
def test_what_a_worker_process_says_of_itself_is_there_from_its_start(shared: Table, name: str, gauge: Gauge) -> None:
    assert values(shared, name) == {}
    start_worker(shared, 0)
    old, new = start_worker(shared, 1, generation=6), start_worker(shared, 1, generation=7)
    assert values(shared, name) == {("worker 0.0",): 0, ("worker 1.6",): 0, ("worker 1.7",): 0}
    shared.set_gauge(old, gauge, 5)
    shared.set_gauge(new, gauge, 3)
    assert values(shared, name) == {("worker 0.0",): 0, ("worker 1.6",): 5, ("worker 1.7",): 3}
    shared.unregister(old)
    assert values(shared, name) == {("worker 0.0",): 0, ("worker 1.7",): 3}


@pytest.mark.parametrize(
    "name",
    ["fastgw_process_resident_bytes", "fastgw_process_cpu_seconds_total", "fastgw_process_open_fds"],
)
def test_what_each_process_takes_of_the_machine_is_shown(shared: Table, name: str) -> None:
    shared.register(1, os.getpid(), 0, 3)
    shared.register(2, 2**22 + 1, 1, 0)  # above the largest pid there can be: it has just ended
    supervisor = state_file.of_this_process("shop", Path("fastgw.toml"), 0.0)
    found = [
        sample for sample in samples(metrics.render(shared, ROUTES, NOW_NS, (), supervisor)) if sample.name == name
    ]
    assert {sample.labels["process"] for sample in found} == {"supervisor", "agent", "worker 0.3"}
    assert all(sample.value > 0 for sample in found)


def test_label_values_come_back_as_they_were(shared: Table) -> None:
    name = 'say "hi"\\n to {Łódź}\n\\'
    shared.count(0, 5, errors.ANSWERED.number)
    assert list(ended(shared, {5: name})) == [(name, "answered", "recorded")]


def fill(shared: Table, routes: int) -> Mapping[int, str]:
    """Touches everything that a busy gateway touches."""
    ranges = [shared.open_range(process) for process in range(shared.processes)]
    for route in range(routes):
        for process, slots in enumerate(ranges):
            for ending in (errors.EXPIRED, errors.CANCELLED):
                shared.count(process, route, ending.number)
            answer(slots, route, started_ns=1, times_ns=(2, SECOND_NS), ended_ns=2 * SECOND_NS)
    for worker in range(shared.workers):
        start_worker(shared, worker)
    return {route: f"GET /routes/{route}" for route in range(routes)}


def test_every_metric_keeps_the_rules_of_promtool(shared: Table) -> None:
    """The rules of `promtool check metrics`: help, type, names, units, suffixes; no series twice."""
    text = metrics.render(shared, fill(shared, 2), NOW_NS)
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        name = family.name + "_total" * (family.type == "counter")
        assert f"# HELP {name} " in text
        assert f"# TYPE {name} {family.type}" in text
        assert re.fullmatch(r"fastgw(_[a-z]+)+", name)
        assert family.documentation[0].isupper()
        assert family.documentation.endswith(".")
        assert name.endswith("_total") == (family.type == "counter")
        assert not set(name.split("_")) & {"gauge", "counter", "histogram", "summary"}
        assert not set(name.split("_")) & {"ms", "ns", "us", "milliseconds", "sec", "min", "kb", "mb", "percent"}
        if family.type != "histogram":
            assert not name.endswith(("_bucket", "_count", "_sum"))
            assert all("le" not in sample.labels for sample in family.samples)
    series = [(sample.name, *sorted(sample.labels.items())) for sample in samples(text)]
    assert len(set(series)) == len(series)
    assert text.endswith("\n")


def test_the_number_of_series_is_bounded_by_the_configuration(shared: Table) -> None:
    few, many = (len(samples(metrics.render(shared, fill(shared, routes), NOW_NS))) for routes in (10, 20))
    per_route = len(metrics.COMMON) + len(metrics.CLASSES) + _ctable.PHASES * (len(_ctable.BUCKETS) + 2)
    assert many - few == 10 * per_route


def test_a_node_is_ready_when_every_worker_serves(shared: Table) -> None:
    start_worker(shared, 0)
    assert why_not_ready(shared) == ["worker 1: no process"]
    start_worker(shared, 1)
    assert why_not_ready(shared) == []


def test_a_reload_is_no_gap_in_readiness(shared: Table) -> None:
    start_worker(shared, 0)
    old = start_worker(shared, 1, generation=0, in_flight=2)
    new = table.process_index(1, 1)
    shared.register(new, 2000, 1, 1)
    assert why_not_ready(shared) == [], "the old generation still serves"
    shared.heartbeat(new, NOW_NS, 3, 5, 1)
    shared.set_ready(new, True)
    shared.set_draining(old)
    assert why_not_ready(shared) == []
    state = metrics.worker_states(shared, NOW_NS)[1]
    assert state.process is not None
    assert state.process.generation == 1
    assert state.in_flight == 5
    shared.unregister(old)
    assert why_not_ready(shared) == []


def test_a_worker_whose_loop_hangs_is_not_ready(shared: Table) -> None:
    start_worker(shared, 0)
    start_worker(shared, 1)
    fresh_ns = NOW_NS + metrics.HEARTBEAT_FRESH_NS - 1
    assert why_not_ready(shared, fresh_ns) == []
    assert why_not_ready(shared, fresh_ns + SECOND_NS // 10) == [
        "worker 0: no heartbeat for 2.6 s",
        "worker 1: no heartbeat for 2.6 s",
    ]


def test_a_worker_without_reply_path_and_one_that_drains_are_not_ready(shared: Table) -> None:
    shared.set_ready(start_worker(shared, 0), False)
    shared.set_draining(start_worker(shared, 1))
    assert why_not_ready(shared) == ["worker 0: its reply path is not ready", "worker 1: draining"]


def test_a_draining_service_is_not_ready_though_its_workers_still_serve(shared: Table) -> None:
    start_worker(shared, 0)
    start_worker(shared, 1)
    shared.set_service_draining()
    assert why_not_ready(shared) == ["the service is draining"]
    assert values(shared, "fastgw_draining") == {(): 1}
    assert values(shared, "fastgw_ready") == {(): 0}


def test_bytes_of_bodies_are_those_of_all_processes_of_a_worker(shared: Table) -> None:
    old, new = start_worker(shared, 1, generation=0), start_worker(shared, 1, generation=1)
    start_worker(shared, 0)
    shared.set_body_bytes(old, 7)
    shared.set_body_bytes(new, 5)
    assert values(shared, "fastgw_request_body_bytes") == {("0",): 0, ("1",): 12}
