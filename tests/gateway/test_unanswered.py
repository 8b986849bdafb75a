"""Requests that nobody answers: their slots are used again, their late replies are named, and nothing of them stays."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.actors.flood import flood
from tests.actors.hand_service import hand_service
from tests.actors.raw_http import RawConnection, head
from tests.actors.repliers import replier
from tests.fronts.http2_client import Http2Client
from tests.fronts.raw_http import RawClient
from tests.gateway.gateways import Gateway
from tests.gateway.outcome_table import assert_told
from tests.ports import free_port
from tests.waiting import eventually

SLOTS = 16
MANY = 100_000
WARM_UP = 20_000  # the memory that is used again and again
CONNECTIONS = 500
FEW = 10  # descriptors: the Kafka client may connect once more
GROWTH_BYTES_MAX = 4 << 20  # 42 bytes for each of 100,000: less than the smallest object
NOBODY_ANSWERED = ("expired", "expired_unknown", "send_unknown", "not_sent")


@pytest.fixture
def topics(make_topics):
    return make_topics({"replies": 4, "orders": 4, "nobody": 4})


def test_a_reply_after_the_deadline_is_late_although_its_slot_is_used_again(tmp_path, kafka_bootstrap, topics):
    orders = topics["orders"]
    with Gateway(
        tmp_path, kafka_bootstrap, topics["replies"], [orders], workers=1, timeout="1s",
        settings=f"slots = {SLOTS}", more="max_in_flight = 1000",
    ) as gateway:  # fmt: skip
        for _ in range(2):  # each slot once, and once more
            clients = [RawConnection(gateway.port) for _ in range(SLOTS)]
            for client in clients:
                client.ask("POST", f"/{orders}", b"too late")
            for client in clients:
                assert_told(client.answer(), "expired")
                client.close()
        assert gateway.replies("late") == 0
        with replier(kafka_bootstrap, "header", [orders]):
            eventually(lambda: gateway.replies("late") == 2 * SLOTS, 20, "every reply is late")
            with RawConnection(gateway.port) as client:
                assert client.request("POST", f"/{orders}", b"in time").body == b"in time"
        assert gateway.replies("forged") == gateway.replies("duplicate") == 0
        assert gateway.replies("answered") == 1


def rss_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.leaks
@pytest.mark.timeout(300)
def test_nothing_is_left_of_100_000_requests_that_nobody_answered(tmp_path, kafka_bootstrap, topics):
    route = '[[route]]\nmethod = "POST"\npath = "/nobody"\ntopic = "{nobody}"\ntimeout = "50ms"\n'.format(**topics)
    with Gateway(
        tmp_path, kafka_bootstrap, topics["replies"], [topics["orders"]], workers=1,
        settings="slots = 2048", more=route,
    ) as gateway:  # fmt: skip
        pid = gateway.worker_pid(0)
        at_rest = descriptors(pid)

        def flood_and_settle(requests):
            assert flood(gateway.port, "/nobody", requests, CONNECTIONS).total() == requests
            eventually(lambda: gateway.metric("fastgw_in_flight") == 0, 10, "every slot is free")
            eventually(lambda: descriptors(pid) < at_rest + FEW, 10, "every connection is closed")
            return rss_bytes(pid)

        before = flood_and_settle(WARM_UP)
        growth = flood_and_settle(MANY) - before
        assert growth < GROWTH_BYTES_MAX
        # On a machine that stands still for a while Kafka's own verdict can come before the deadline.
        ended = [gateway.metric("fastgw_requests_total", ending=ending) for ending in NOBODY_ANSWERED]
        assert sum(ended) == WARM_UP + MANY
        assert gateway.status()["waiting"] == {"total": 0, "oldest": []}
        assert gateway.worker_pid(0) == pid
        with hand_service(kafka_bootstrap, [topics["orders"]]) as service, RawConnection(gateway.port) as client:
            client.ask("POST", f"/{topics['orders']}", b"still served")
            service.reply(service.take(), b"well")
            assert client.answer().body == b"well"


MIB = 1 << 20
STREAMS = 1000
REPLY_BYTES = 900_000  # what a Kafka client sends without being told to send more
BESIDE_BODIES_BYTES = 64 * MIB  # hyper's and the allocator's own, and copies on their way
BESIDE_SMALL_BYTES = 24 * MIB  # the same, of a hundred bodies; unbounded they would take 100 MiB
GIVEN_BACK_S = 90.0  # the allocator gives memory back a minute after the peak at the latest (memory_trim)


class Peak:
    """The largest resident size that was seen, and the size at the beginning."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.start = self.most = rss_bytes(pid)

    def look(self) -> None:
        self.most = max(self.most, rss_bytes(self._pid))


@pytest.fixture
def attacked(tmp_path, kafka_bootstrap, topics):
    """A gateway whose one worker speaks HTTP/2, with the default limits, and which has served a little."""
    with Gateway(
        tmp_path, kafka_bootstrap, topics["replies"], [topics["orders"]], workers=1, front="granian",
        more='[limits]\nbody_timeout = "5m"\nwrite_timeout = "5m"\n',
    ) as gateway, hand_service(kafka_bootstrap, [topics["orders"]]) as service:  # fmt: skip
        with RawConnection(gateway.port) as client:
            client.ask("POST", f"/{topics['orders']}", b"warm")
            service.reply(service.take(), b"warm")
            client.answer()
        yield gateway, service, f"/{topics['orders']}", Peak(gateway.worker_pid(0))


def assert_is_small_again(gateway: Gateway, peak: Peak, limit_bytes: int) -> None:
    assert peak.most - peak.start < limit_bytes + BESIDE_BODIES_BYTES
    pid = gateway.worker_pid(0)
    eventually(lambda: rss_bytes(pid) < peak.start + 16 * MIB, GIVEN_BACK_S, "the memory is given back")


CROWD = 100  # clients, or streams of one client
SMALL_MIB = 4


@pytest.fixture
def small(tmp_path, kafka_bootstrap, topics):
    """A gateway of one worker that speaks HTTP/2 on one port, and has little memory for bodies on both."""
    http2, express = free_port(), free_port()
    with Gateway(
        tmp_path, kafka_bootstrap, topics["replies"], [topics["orders"]], workers=1,
        more=SMALL.format(mib=SMALL_MIB, http2=http2, express=express),
    ) as gateway:  # fmt: skip
        yield gateway, f"127.0.0.1:{http2}", f"127.0.0.1:{express}", f"/{topics['orders']}", Peak(gateway.worker_pid(0))


SMALL = """
[limits]
body_memory = "{mib}MiB"
connection_body_memory = "{mib}MiB"
[[listen]]
bind = "127.0.0.1:{http2}"
front = "granian"
[[listen]]
bind = "127.0.0.1:{express}"
"""


def assert_bodies_are_bounded(gateway: Gateway, peak: Peak) -> None:
    peak.look()
    assert gateway.status()["workers"][0]["body_bytes"] <= SMALL_MIB * MIB
    eventually(lambda: gateway.metric("fastgw_requests_total", ending="bodies_full") >= CROWD - SMALL_MIB - 1)
    assert peak.most - peak.start < SMALL_MIB * MIB + BESIDE_SMALL_BYTES


def test_a_hundred_bodies_of_one_connection_take_no_more_than_its_share(small):
    gateway, http2, _, path, peak = small
    with Http2Client(http2) as client:
        for _ in range(CROWD):
            stream = client.request(path, "POST", [("content-length", str(MIB))], complete=False)
            left = MIB - 1
            while left and not client.has_answer(stream):
                left -= client.send_some(stream, left)
            peak.look()
        assert_bodies_are_bounded(gateway, peak)
    eventually(lambda: gateway.status()["workers"][0]["body_bytes"] == 0)


def test_a_hundred_bodies_of_as_many_connections_take_no_more_than_all_may(small):
    gateway, _, express, path, peak = small
    with ExitStack() as stack:
        for _ in range(CROWD):
            client = stack.enter_context(RawClient(express))
            client.send_while_open(head("POST", path, f"Content-Length: {MIB}") + bytes(MIB - 1))
            peak.look()
        assert_bodies_are_bounded(gateway, peak)
    eventually(lambda: gateway.status()["workers"][0]["body_bytes"] == 0)


@pytest.mark.leaks
@pytest.mark.timeout(300)
def test_a_thousand_bodies_of_one_connection_take_no_more_than_its_share_and_it_is_given_back(attacked):
    """1,000 streams, each with all of its 1 MiB but one byte. Without a limit: from 52 to 1,392 MB, for good."""
    gateway, _, path, peak = attacked
    with Http2Client(f"127.0.0.1:{gateway.port}") as client:
        client.answer(client.request("/nothing"))
        headers = [("content-length", str(MIB))]
        for number in range(STREAMS):
            stream = client.request(path, "POST", headers, complete=False)
            left = MIB - 1
            while left and not client.has_answer(stream):
                left -= client.send_some(stream, left)
            if number % 20 == 0:
                peak.look()
        peak.look()
        assert gateway.metric("fastgw_requests_total", ending="bodies_full") >= STREAMS - 17
        assert gateway.status()["workers"][0]["body_bytes"] <= 16 * MIB
    eventually(lambda: gateway.status()["workers"][0]["body_bytes"] == 0)
    assert_is_small_again(gateway, peak, 16 * MIB)


@pytest.mark.leaks
@pytest.mark.timeout(300)
def test_a_thousand_answers_to_one_connection_that_reads_none_take_no_more_than_its_share(attacked):
    """The same on the way back: 1,000 replies of almost 1 MiB, and a window that stays shut."""
    gateway, service, path, peak = attacked
    with Http2Client(f"127.0.0.1:{gateway.port}", window_bytes=0) as client:
        for _ in range(STREAMS):
            client.request(path, "POST", body=b"x")
            service.reply(service.take(), bytes(REPLY_BYTES))
            peak.look()
        eventually(lambda: gateway.metric("fastgw_in_flight") == 0, 60, "all are answered")
        peak.look()
        held = gateway.status()["workers"][0]["answer_bytes"]
        fitting = 32 * MIB // REPLY_BYTES
        assert fitting * REPLY_BYTES <= held < fitting * REPLY_BYTES + MIB, "and problem details that are not read"
        assert gateway.metric("fastgw_requests_total", ending="answers_full") == STREAMS - fitting
        with RawConnection(gateway.port) as other:
            other.ask("POST", path, b"others are served")
            service.reply(service.take(), bytes(REPLY_BYTES))
            assert other.answer().body == bytes(REPLY_BYTES)
    eventually(lambda: gateway.status()["workers"][0]["answer_bytes"] == 0)
    assert_is_small_again(gateway, peak, 32 * MIB)
