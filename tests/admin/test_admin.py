"""The admin port: what it says, and that its server stands up to clients that are slow, rude or many."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastgw import __version__, _ctable, config, errors, state_file, table
from fastgw._ctable import UNOWNED, SlotRange, Table
from fastgw.admin import server as admin_server
from fastgw.admin.open_streams import STREAMS_SHOWN
from fastgw.admin.pages import PLAIN, WAITING_SHOWN, Admin, page
from fastgw.admin.server import CONNECTIONS_MAX, AdminServer
from fastgw.config import Config
from fastgw.messages import Gauge, StoreGauge, Tally
from fastgw.open_streams import OpenStream, OpenStreams
from fastgw.state_file import State
from tests.waiting import eventually

NOW_NS = 1_000_000_000_000
MS = 1_000_000


@pytest.fixture(scope="module")
def cfg() -> Config:
    return config.loads(
        """
        [gateway]
        name = "shop"
        [kafka]
        bootstrap = "localhost:9092"
        [[route]]
        method = "POST"
        path = "/orders"
        topic = "orders"
        [[route]]
        method = "GET"
        path = "/customers/{id}"
        topic = "customers"
        """
    )


@pytest.fixture
def shared() -> Table:
    """A table of two workers, both of which serve."""
    fd, created = table.create(0xABCDEF, 2, 512)
    os.close(fd)
    created.write_map(bytes([0, 1, UNOWNED, 0]))
    for worker in range(2):
        process = table.process_index(worker, 0)
        created.register(process, 1000 + worker, worker, 0)
        created.heartbeat(process, NOW_NS - 20 * MS, 3 * worker, worker, 1)
        created.set_ready(process, True)
    return created


@pytest.fixture
def pages(shared: Table, cfg: Config) -> Admin:
    return Admin(shared, cfg, lambda: NOW_NS)


def status_of(pages: Admin) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(pages.handle("GET", "/status").body)
    return found


# --- what it says ----------------------------------------------------------------------------------------------------


def test_a_process_that_answers_is_alive_whatever_the_workers_do(pages: Admin, shared: Table) -> None:
    shared.unregister(0)
    shared.set_service_draining()
    assert pages.handle("GET", "/livez").status == 200


def test_ready_means_that_every_worker_serves(pages: Admin, shared: Table) -> None:
    page = pages.handle("GET", "/readyz")
    assert (page.status, orjson.loads(page.body)) == (200, {"ready": True, "reasons": [], "warnings": []})
    shared.set_ready(0, False)
    page = pages.handle("GET", "/readyz")
    assert page.status == 503
    assert orjson.loads(page.body) == {
        "ready": False,
        "reasons": ["worker 0: its reply path is not ready"],
        "warnings": [],
    }


class WithStore:
    """The pages of a node whose configuration needs a store, at a time that a test moves."""

    def __init__(self, shared: Table, ready_wait: str) -> None:
        self.shared, self.now_ns = shared, NOW_NS
        cfg = config.loads(
            f"""
            [gateway]
            name = "shop"
            secrets = ["a secret that has at least 32 bytes"]
            ready_wait = "{ready_wait}"
            [kafka]
            bootstrap = "localhost:9092"
            [store]
            dir = "/store"
            [[route]]
            method = "POST"
            path = "/reports"
            topic = "reports"
            later = true
            """
        )
        self.pages = Admin(shared, cfg, lambda: self.now_ns)

    def store(self, *, is_ready: bool) -> None:
        self.shared.set_store_gauge(StoreGauge.READY, int(is_ready))
        self.shared.store_beats(self.now_ns)

    def readyz(self) -> tuple[int, list[str], list[str]]:
        """Status, reasons and warnings; the workers serve."""
        for worker in range(2):
            self.shared.heartbeat(table.process_index(worker, 0), self.now_ns, 0, worker, 1)
        page = self.pages.handle("GET", "/readyz")
        told = orjson.loads(page.body)
        return page.status, told["reasons"], told["warnings"]


def test_ready_waits_for_the_first_look_of_the_store(shared: Table) -> None:
    node = WithStore(shared, "30s")
    warning = "; requests that need it get 503"
    trouble = "store: it has not started yet"
    assert node.readyz() == (503, [trouble], [trouble + warning])
    node.store(is_ready=False)
    trouble = "store: it still reads its topic, 0 records are left"
    assert node.readyz() == (503, [trouble], [trouble + warning])
    node.store(is_ready=True)
    assert node.readyz() == (200, [], [])
    node.store(is_ready=False)
    assert node.readyz() == (200, [], [trouble + warning]), "other routes work, and other nodes read the same topic"


def test_ready_waits_for_the_store_at_most_as_long_as_configured(shared: Table) -> None:
    node = WithStore(shared, "30s")
    node.now_ns += 30_000 * MS - 1
    assert node.readyz()[0] == 503
    node.now_ns += 1
    trouble = "store: it has not started yet"
    assert node.readyz() == (200, [], [f"{trouble}; requests that need it get 503"])


def test_a_drain_is_seen_at_once(pages: Admin, shared: Table) -> None:
    shared.set_service_draining()
    assert pages.handle("GET", "/readyz").status == 503


def test_metrics_name_the_routes_of_the_present_configuration(pages: Admin, shared: Table, cfg: Config) -> None:
    shared.count(0, 1, errors.ANSWERED.number)
    page = pages.handle("GET", "/metrics?format=text")
    assert ("content-type", "text/plain; version=0.0.4; charset=utf-8") in page.headers
    families = {family.name: family for family in text_string_to_metric_families(page.body.decode())}
    named = {sample.labels["route"] for sample in families["fastgw_requests"].samples}
    assert "GET /customers/{id}" in named
    pages.config = config.loads(
        """
        [gateway]
        name = "shop"
        [kafka]
        bootstrap = "localhost:9092"
        [[route]]
        method = "POST"
        path = "/orders"
        topic = "orders"
        [[route]]
        name = "customer"
        method = "GET"
        path = "/customers/{id}"
        topic = "customers"
        """
    )
    page = pages.handle("GET", "/metrics").body
    assert b'route="customer"' in page
    assert b'route="GET /customers/{id}"' not in page


def streaming() -> Config:
    return config.loads(
        """
        [gateway]
        name = "shop"
        [kafka]
        bootstrap = "localhost:9092"
        [[route]]
        method = "GET"
        path = "/orders"
        topic = "orders"
        reply = "stream"
        """
    )


def open_stream(age_ns: int, position: int = 7) -> OpenStream:
    return OpenStream("GET /orders", f"id-{age_ns}", "behind", True, 12, 3, position, 4096, age_ns)


def test_status_shows_the_oldest_streams_of_all_workers_and_who_is_silent(shared: Table) -> None:
    asked: list[Sequence[tuple[int, int]]] = []

    def ask(workers: Sequence[tuple[int, int]]) -> list[OpenStreams | None]:
        asked.append(workers)
        young = [open_stream(1000 * MS + number) for number in range(STREAMS_SHOWN)]
        return [OpenStreams(999, [open_stream(2000 * MS, position=-1), *young]), None]

    shared.set_store_gauge(StoreGauge.STREAM_REPLAYS, 4)
    shared.set_store_gauge(StoreGauge.STREAM_SPLIT, 5)
    shared.set_store_gauge(StoreGauge.STREAM_GARBAGE, 6)
    shared.set_store_gauge(StoreGauge.STREAM_SPLIT_LOST, 7)
    shared.add_tally(0, Tally.STREAMS_RESUMED, 3)
    pages = Admin(shared, streaming(), lambda: NOW_NS, ask_streams=ask)
    told = status_of(pages)["store"]["streams"]
    assert asked == [[(0, 0), (1, 0)]]
    assert [told[name] for name in ("resumed", "replays", "split", "garbage", "split_lost")] == [3, 4, 5, 6, 7]
    assert told["silent_workers"] == [1]
    assert len(told["oldest"]) == STREAMS_SHOWN
    assert told["oldest"][0] == {
        "route": "GET /orders",
        "id": f"id-{2000 * MS}",
        "phase": "behind",
        "resumed": True,
        "items": 12,
        "partition": 3,
        "position": None,
        "buffer_bytes": 4096,
        "age_ms": 2000.0,
        "worker": 0,
    }
    assert told["oldest"][1]["id"] == f"id-{1000 * MS + STREAMS_SHOWN - 1}"
    metrics = pages.handle("GET", "/metrics").body
    for line in (b"streams_resumed_total 3", b"stream_replays_total 4", b'store_split_total{topic="streams"} 5'):
        assert b"fastgw_" + line + b"\n" in metrics


def test_status_shows_the_service_its_workers_and_the_partitions(pages: Admin, shared: Table) -> None:
    log = table.log_of("localhost:9092", "shop.replies")
    for partition, position in ((0, 17), (2, 5), (3, 0)):  # 2 belongs to another node
        shared.set_handled_to(partition, log, position)
    shared.set_body_bytes(table.process_index(1, 0), 7)
    shared.set_gauge(table.process_index(1, 0), Gauge.ANSWER_BYTES, 8)
    shared.set_gauge(table.process_index(1, 0), Gauge.KAFKA_WAITING_BYTES, 9)
    status = status_of(pages)
    workers = status.pop("workers")
    assert status == {
        "name": "shop",
        "version": __version__,
        "node": "abcdef",
        "ready": True,
        "reasons": [],
        "draining": False,
        "supervisor": None,
        "reload": None,
        "partitions": {
            "topic": "shop.replies",
            "map_version": 1,
            "count": 4,
            "owners": [0, 1, None, 0],
            "handled_to": [17, None, None, 0],
        },
        "services": [],
        "store": None,
        "waiting": {"total": 0, "oldest": []},
    }
    assert workers[1] == {
        "slot": 1,
        "generation": 0,
        "pid": 1001,
        "ready": True,
        "draining": False,
        "heartbeat_age_ms": 20.0,
        "in_flight": 3,
        "body_bytes": 7,
        "answer_bytes": 8,
        "kafka_waiting_bytes": 9,
        "home_partition": 1,
        "map_version": 1,
    }


def test_status_shows_both_generations_during_a_reload(pages: Admin, shared: Table) -> None:
    shared.register(table.process_index(1, 1), 2001, 1, 1)
    workers = status_of(pages)["workers"]
    assert [(worker["slot"], worker["generation"]) for worker in workers] == [(0, 0), (1, 0), (1, 1)]
    assert workers[2]["home_partition"] is None


def publish(slots: SlotRange, route: int, age_ms: int, deadline_in_ms: int) -> int:
    claimed_ns = NOW_NS - age_ms * MS
    return slots.publish(slots.claim(), 1, route, 3, NOW_NS + deadline_in_ms * MS, claimed_ns)


def test_status_shows_what_waits_oldest_first(pages: Admin, shared: Table) -> None:
    first, second = shared.open_range(0), shared.open_range(2)
    recorded = publish(first, 1, age_ms=900, deadline_in_ms=4100)
    sent = publish(second, 0, age_ms=300, deadline_in_ms=-2)
    publish(first, 7, age_ms=100, deadline_in_ms=5)
    ended = publish(first, 0, age_ms=5000, deadline_in_ms=5)
    first.sent(recorded, NOW_NS)
    first.recorded(recorded, NOW_NS)
    second.sent(sent, NOW_NS)
    first.finish(ended, _ctable.CANCELLED)
    waiting = status_of(pages)["waiting"]
    assert waiting["total"] == 3
    keys = ("route", "phase", "age_ms", "deadline_in_ms", "worker", "home_partition")
    assert [tuple(one[key] for key in keys) for one in waiting["oldest"]] == [
        ("GET /customers/{id}", "recorded", 900.0, 4100.0, 0, 3),
        ("POST /orders", "sent", 300.0, -2.0, 1, 3),
        ("#7", "claimed", 100.0, 5.0, 0, 3),
    ]


def test_status_lists_a_bounded_number_and_counts_all(pages: Admin, shared: Table) -> None:
    slots = shared.open_range(0)
    for age_ms in range(WAITING_SHOWN + 50):
        publish(slots, 0, age_ms, 1000)
    waiting = status_of(pages)["waiting"]
    assert waiting["total"] == WAITING_SHOWN + 50
    assert [one["age_ms"] for one in waiting["oldest"]] == [float(age) for age in range(249, 49, -1)]


def test_what_became_of_the_last_reload_is_in_status_and_metrics(shared: Table, cfg: Config) -> None:
    state = state_file.of_this_process("shop", Path("/etc/shop.toml"), 1_700_000_000.0)
    said: list[State] = [state]
    pages = Admin(shared, cfg, lambda: NOW_NS, lambda: said[-1])

    def samples() -> dict[str, float]:
        families = text_string_to_metric_families(pages.handle("GET", "/metrics").body.decode())
        found = [sample for family in families if "reload" in family.name for sample in family.samples]
        return {f"{sample.name}{sample.labels.get('result', '')}": sample.value for sample in found}

    assert status_of(pages)["reload"] is None
    assert status_of(pages)["supervisor"] == {"pid": os.getpid(), "config": "/etc/shop.toml"}
    assert samples() == {
        "fastgw_reloads_totalok": 0,
        "fastgw_reloads_totalrefused": 0,
        "fastgw_reloads_totalundone": 0,
        "fastgw_config_last_reload_successful": 1,
        "fastgw_config_last_reload_timestamp_seconds": round(state.decided_s, 3),
    }
    said.append(said[-1].begun(1_700_000_001.5))
    running = status_of(pages)["reload"]
    assert (running["number"], running["result"], running["ended"], running["error"]) == (1, "running", None, None)
    assert samples()["fastgw_config_last_reload_successful"] == 1
    said.append(said[-1].ended(1_700_000_002.25, state_file.REFUSED, "no such topic"))
    refused = status_of(pages)["reload"]
    assert (refused["result"], refused["error"]) == ("refused", "no such topic")
    assert refused["began"] == "2023-11-14T22:13:21.500+00:00"
    assert refused["ended"] == "2023-11-14T22:13:22.250+00:00"
    assert (samples()["fastgw_reloads_totalrefused"], samples()["fastgw_config_last_reload_successful"]) == (1, 0)
    said.append(said[-1].begun(1_700_000_001.5))
    assert samples()["fastgw_config_last_reload_successful"] == 0, "until it is known better"
    said.append(said[-1].ended(1_700_000_002.25, state_file.OK))
    assert status_of(pages)["reload"]["number"] == 2
    assert (samples()["fastgw_reloads_totalok"], samples()["fastgw_config_last_reload_successful"]) == (1, 1)
    assert samples()["fastgw_config_last_reload_timestamp_seconds"] == round(said[-1].decided_s, 3)


def test_other_paths_and_methods_are_refused_with_what_would_be_right(pages: Admin) -> None:
    page = pages.handle("GET", "/")
    assert page.status == 404
    assert b"/readyz" in page.body
    page = pages.handle("DELETE", "/status")
    assert page.status == 405
    assert ("allow", "GET, HEAD") in page.headers


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/metrics", "/status", "/nothing"])
def test_no_page_may_be_cached(pages: Admin, target: str) -> None:
    assert ("cache-control", "no-store") in pages.handle("GET", target).headers


# --- its server ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(pages: Admin) -> Iterator[AdminServer]:
    listening = socket.create_server(("127.0.0.1", 0))
    running = AdminServer(listening, pages)
    running.start()
    yield running
    running.stop()


def connect(server: AdminServer) -> socket.socket:
    return socket.create_connection(server.server_address, timeout=10)


def exchange(server: AdminServer, sent: bytes) -> bytes:
    """Everything that comes back until the server closes the connection."""
    with connect(server) as client:
        client.sendall(sent)
        received = b""
        while data := client.recv(65536):
            received += data
    return received


@pytest.fixture
def client(server: AdminServer) -> Iterator[http.client.HTTPConnection]:
    host, port = server.server_address[:2]
    connection = http.client.HTTPConnection(str(host), int(port), timeout=10)
    yield connection
    connection.close()


def test_pages_are_served_over_one_connection(client: http.client.HTTPConnection) -> None:
    local = None
    for target in ("/livez", "/readyz", "/status", "/metrics"):
        client.request("GET", target)
        response = client.getresponse()
        body = response.read()
        assert response.status == 200
        assert response.headers["content-length"] == str(len(body))
        assert response.headers["cache-control"] == "no-store"
        assert client.sock is not None
        local = local or client.sock.getsockname()
        assert client.sock.getsockname() == local


def test_head_has_the_headers_of_get_and_no_body(client: http.client.HTTPConnection) -> None:
    client.request("GET", "/livez")
    expected = client.getresponse()
    expected.read()
    client.request("HEAD", "/livez")
    response = client.getresponse()
    assert response.read() == b""
    assert response.getheaders() == expected.getheaders()


def test_a_body_nobody_reads_is_not_taken_for_the_next_request(server: AdminServer) -> None:
    smuggled = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
    received = exchange(server, head + smuggled)
    assert received.startswith(b"HTTP/1.1 405 ")
    assert b"connection: close\r\n" in received
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /livez HTTP/9.9\r\n\r\n", b"400"),
        (b"GET /livez HTTP/2.0\r\nHost: localhost\r\n\r\n", b"505"),
        (b"BREW /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /livez HTTP/1.1\r\na: " + b"b" * 70_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_requests_that_cannot_be_read_are_refused_in_plain_text(
    server: AdminServer, sent: bytes, status: bytes
) -> None:
    received = exchange(server, sent)
    assert b" " + status + b" " in received[:20]
    assert b"html" not in received.lower()
    assert exchange(server, b"GET /livez HTTP/1.0\r\n\r\n").endswith(b"alive\n")


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 0\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 0\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Content-Length : 5\r\n",
        b"Host: localhost\r\n",
        b"X\r\n",
        b"X: a\r\n b\r\n",
    ],
)
def test_a_head_that_leaves_its_end_or_host_in_doubt_is_refused(server: AdminServer, lines: bytes) -> None:
    smuggled = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"
    received = exchange(server, b"POST /livez HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n" + smuggled)
    assert received.startswith(b"HTTP/1.1 400 "), received
    assert received.count(b"HTTP/1.1 ") == 1


def ask(server: AdminServer, host: bytes, target: bytes = b"/status", version: bytes = b"1.1") -> int:
    line = b"Host: " + host + b"\r\n" if host else b""
    received = exchange(server, b"GET " + target + b" HTTP/" + version + b"\r\n" + line + b"connection: close\r\n\r\n")
    return int(received.split()[1])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost", 200),
        (b"LocalHost:9100", 200),
        (b"localhost.:1", 200),
        (b"shop.localhost", 200),
        (b"127.0.0.1", 200),
        (b"127.0.0.1:1", 200),
        (b"127.9.9.9", 200),
        (b"[::1]:9100", 200),
        (b"[::ffff:127.0.0.1]", 200),
        (b"gateway-1.test", 200),
        (b"GATEWAY-1.test:80", 200),
        (b"rebound.evil.test", 421),
        (b"localhost.evil.test", 421),
        (b"127.0.0.1.evil.test", 421),
        (b"evillocalhost", 421),
        (b"10.1.2.3", 421),
        (b"[2001:db8::1]", 421),
        (b"a@localhost", 400),
        (b"localhost, evil.test", 400),
        (b"evil.test/localhost", 400),
        (b"", 400),
    ],
)
def test_only_names_of_this_machine_are_answered(pages: Admin, server: AdminServer, host: bytes, status: int) -> None:
    pages.config = msgspec.structs.replace(pages.config, admin=config.Admin(hosts=("gateway-1.test",)))
    assert ask(server, host) == status
    if host:
        assert ask(server, host, target=b"http://" + host + b"/metrics") == status


def test_the_address_that_is_listened_on_is_a_name_of_this_machine(pages: Admin, server: AdminServer) -> None:
    pages.config = msgspec.structs.replace(pages.config, admin=config.Admin(listen="gateway-2.test:9100"))
    assert ask(server, b"gateway-2.test:9100") == 200
    assert ask(server, b"gateway-1.test:9100") == 421


def test_a_host_that_is_not_served_is_told_what_to_do(server: AdminServer) -> None:
    assert b"admin.hosts" in exchange(server, b"GET /status HTTP/1.1\r\nHost: evil.test\r\n\r\n")


def test_an_offer_to_upgrade_is_passed_by(server: AdminServer) -> None:
    offer = b"Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    received = exchange(server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + offer + b"\r\n")
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"alive\n")


def test_http_1_0_need_not_name_a_host(server: AdminServer) -> None:
    assert ask(server, b"", version=b"1.0") == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://localhost/metrics", 200),
        (b"HTTP://LOCALHOST:80/readyz?a=b", 200),
        (b"https://localhost/livez", 200),
        (b"http://localhost", 404),
        (b"http://127.0.0.1/metrics", 400),
        (b"http://evil.test/metrics", 400),
        (b"ftp://localhost/metrics", 404),
        (b"*", 404),
    ],
)
def test_targets_in_absolute_form_are_served(server: AdminServer, target: bytes, status: int) -> None:
    assert ask(server, b"localhost", target) == status


def test_what_is_read_in_a_terminal_ends_with_a_newline(pages: Admin) -> None:
    for target in ("/livez", "/readyz", "/metrics", "/status", "/nothing"):
        body = pages.handle("GET", target).body
        assert body.endswith(b"\n")
        assert not body.endswith(b"\n\n")


def test_many_requests_at_once_are_answered_in_order_and_no_faster_than_they_are_read(server: AdminServer) -> None:
    requests = b"".join(
        b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in (b"livez", b"status", b"nothing") * 50
    )
    received = exchange(server, requests + b"GET /livez HTTP/1.0\r\n\r\n")
    statuses = re.findall(rb"HTTP/1.1 (\d+) ", received)
    assert statuses == [b"200", b"200", b"404"] * 50 + [b"200"]


def test_requests_wait_until_the_answers_before_them_are_taken(server: AdminServer, pages: Admin) -> None:
    made = []
    pages._pages["/large"] = lambda: made.append(1) or page(200, PLAIN, b"x" * (8 << 20))  # type: ignore[func-returns-value]
    with connect(server) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        eventually(lambda: made)
        assert exchange(server, b"GET /livez HTTP/1.0\r\n\r\n").endswith(b"alive\n")
        assert len(made) == 1


def test_what_a_client_sends_while_it_takes_nothing_stays_in_the_kernel(server: AdminServer, pages: Admin) -> None:
    pages._pages["/large"] = lambda: page(200, PLAIN, b"x" * (8 << 20))
    with connect(server) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: any(not one._is_writable for one in list(server._open)))
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.sendall(b"x" * (64 << 20))
        assert all(len(one._received) < 1 << 20 for one in list(server._open))


def test_a_client_that_says_nothing_is_hung_up_on(server: AdminServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_server, "IDLE_TIMEOUT_S", 0.05)
    assert exchange(server, b"GET /livez HT") == b""


def test_idle_connections_do_not_lock_out_a_probe(server: AdminServer) -> None:
    idle = [connect(server) for _ in range(CONNECTIONS_MAX)]
    eventually(lambda: len(server._open) == CONNECTIONS_MAX)
    assert exchange(server, b"GET /livez HTTP/1.0\r\n\r\n").endswith(b"alive\n")
    assert idle[0].recv(1) == b"", "the oldest one had to go"
    for connection in idle:
        connection.close()
    eventually(lambda: len(server._open) == 0)


def test_connections_that_come_all_at_once_are_no_more_than_there_may_be(server: AdminServer) -> None:
    class Transport(asyncio.Transport):
        def abort(self) -> None:
            aborted.append(self)  # as asyncio does: the protocol is told later

    async def come() -> None:
        for _ in range(3 * CONNECTIONS_MAX):
            one = admin_server._Connection(server)
            one.connection_made(Transport())
            made.append(one)

    aborted: list[Transport] = []
    made: list[admin_server._Connection] = []
    asyncio.run(come())
    assert len({id(one) for one in aborted}) == 2 * CONNECTIONS_MAX
    for one in made:
        one.connection_lost(None)
    assert not server._open


def test_a_client_that_breaks_off_harms_nobody(server: AdminServer) -> None:
    for _ in range(20):
        with connect(server) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10)
    assert exchange(server, b"GET /livez HTTP/1.0\r\n\r\n").endswith(b"alive\n")


def test_an_error_of_ours_costs_one_connection(
    server: AdminServer, pages: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "handle", lambda *_: 1 / 0)
    assert exchange(server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
    monkeypatch.undo()
    assert exchange(server, b"GET /livez HTTP/1.0\r\n\r\n").endswith(b"alive\n")


def test_the_listening_socket_outlives_the_server(pages: Admin) -> None:
    """As in a restart: the supervisor holds the socket, clients that come meanwhile wait in its queue."""
    with socket.create_server(("127.0.0.1", 0)) as supervisors:
        first = AdminServer(socket.socket(fileno=os.dup(supervisors.fileno())), pages)
        first.start()
        assert exchange(first, b"GET /livez HTTP/1.0\r\n\r\n").endswith(b"alive\n")
        first.stop()
        with connect(first) as client:
            client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            second = AdminServer(socket.socket(fileno=os.dup(supervisors.fileno())), pages)
            second.start()
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        second.stop()
