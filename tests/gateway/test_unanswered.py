"""Requests that nobody answers: their slots are used again, their late replies are named, and nothing of them stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.actors.flood import flood
from tests.actors.hand_service import hand_service
from tests.actors.raw_http import RawConnection
from tests.actors.repliers import replier
from tests.gateway.gateways import Gateway
from tests.gateway.outcome_table import assert_told
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
