"""What a gateway that stops, reloads, or whose reply path is broken, tells those who wait and those who still come."""

from __future__ import annotations

import signal

import pytest
from confluent_kafka.admin import NewTopic

from tests.actors.hand_service import hand_service, values_in
from tests.actors.raw_http import RawConnection, head
from tests.gateway.gateways import Gateway
from tests.gateway.outcome_table import assert_told, counted
from tests.waiting import eventually

on_both_links = pytest.mark.parametrize("link", ["native", "public"])


@pytest.fixture
def topics(make_topics):
    return make_topics({"replies": 2, "orders": 1})


@pytest.mark.ending("draining")
@on_both_links
def test_a_request_that_comes_during_the_drain_is_503_and_those_that_wait_are_answered(
    tmp_path, kafka_bootstrap, topics, link
):
    orders, kafka = topics["orders"], f'link = "{link}"'
    with (
        Gateway(tmp_path, kafka_bootstrap, topics["replies"], [orders], workers=1, kafka=kafka) as gateway,
        hand_service(kafka_bootstrap, [orders]) as service,
        RawConnection(gateway.port) as parked,
        RawConnection(gateway.port) as late,
        RawConnection(gateway.port) as idle,
    ):
        assert idle.request("POST", "/nowhere").status == 404
        parked.ask("POST", f"/{orders}", b"in time")
        taken = service.take()
        request = head("POST", f"/{orders}", "Content-Length: 8") + b"too late"
        late.send(request[:10])  # so that it is accepted, and no idle connection, which the drain would close
        eventually(lambda: gateway.metric("fastgw_in_flight") == 1, 5, "one request waits")
        eventually(lambda: gateway.metric("fastgw_open_connections") == 3, 5, "all three are there")
        eventually(lambda: gateway.metric("fastgw_http_responses_total") == 1, 5, "the 404 is counted")
        assert gateway.metric("fastgw_http_responses_total", route="", **{"class": "4xx"}) == 1
        gateway.signal(signal.SIGTERM)
        eventually(lambda: not gateway.ready, 5, "readiness goes first")
        assert idle.is_closed(), "until then a connection may bring one more request"
        before = gateway.metric("fastgw_requests_total", ending="draining")
        late.send(request[10:])
        assert_told(late.answer(), "draining")
        assert late.is_closed()
        eventually(lambda: gateway.metric("fastgw_requests_total", ending="draining") == before + 1, 5, "it is counted")
        service.reply(taken, b"well")
        assert parked.answer().body == b"well"
        assert gateway.process.wait(15) == 0
    assert values_in(kafka_bootstrap, orders) == [b"in time"]


@pytest.mark.ending("expired")
@on_both_links
def test_what_still_waits_at_the_end_of_the_drain_is_answered_with_its_honest_outcome(
    tmp_path, kafka_bootstrap, topics, link
):
    orders, kafka = topics["orders"], f'link = "{link}"'
    with (
        Gateway(
            tmp_path, kafka_bootstrap, topics["replies"], [orders], workers=1, kafka=kafka, drain_timeout="500ms"
        ) as gateway,
        hand_service(kafka_bootstrap, [orders]) as service,
        RawConnection(gateway.port) as parked,
    ):
        parked.ask("POST", f"/{orders}", b"patient")
        service.take()
        gateway.signal(signal.SIGTERM)
        answer = parked.answer()
        assert_told(answer, "expired", closes=True)
        assert "shutting down" in answer.problem["detail"]
        assert gateway.process.wait(15) == 0


@on_both_links
def test_a_request_that_waits_through_a_reload_is_answered_and_the_next_one_by_the_new_worker(
    tmp_path, kafka_bootstrap, topics, link
):
    orders, kafka = topics["orders"], f'link = "{link}"'
    with (
        Gateway(tmp_path, kafka_bootstrap, topics["replies"], [orders], workers=1, kafka=kafka) as gateway,
        hand_service(kafka_bootstrap, [orders]) as service,
        RawConnection(gateway.port) as parked,
    ):
        parked.ask("POST", f"/{orders}", b"before")
        taken = service.take()
        before = gateway.worker_pid(0)
        gateway.signal(signal.SIGHUP)
        eventually(lambda: any(worker["draining"] for worker in gateway.status()["workers"]), 20, "the old one leaves")
        with RawConnection(gateway.port) as after:
            after.ask("POST", f"/{orders}", b"after")
            service.reply(service.take(), b"well as well")
            assert after.answer().body == b"well as well"
        service.reply(taken, b"well")
        assert parked.answer().body == b"well"
        eventually(lambda: before not in [worker["pid"] for worker in gateway.status()["workers"]], 20, "it has left")
    assert values_in(kafka_bootstrap, orders) == [b"before", b"after"]


@pytest.mark.ending("not_ready")
def test_with_its_response_topic_deleted_the_gateway_is_not_ready_and_comes_back_with_the_topic(
    tmp_path, kafka_bootstrap, topics, kafka_admin
):
    replies, orders = topics["replies"], topics["orders"]
    with (
        Gateway(tmp_path, kafka_bootstrap, replies, [orders], workers=1) as gateway,
        hand_service(kafka_bootstrap, [orders]) as service,
        RawConnection(gateway.port) as client,
    ):
        kafka_admin.delete_topics([replies])[replies].result(10)
        eventually(lambda: not gateway.ready, 10, "readiness is lost")
        assert gateway.admin("/livez")[0] == 200
        with counted(gateway, "not_ready"):
            assert_told(client.request("POST", f"/{orders}", b"nobody would hear"), "not_ready")
        assert values_in(kafka_bootstrap, orders) == []

        kafka_admin.create_topics([NewTopic(replies, 2, -1)])[replies].result(10)
        eventually(lambda: gateway.ready, 60, "ready again")
        client.ask("POST", f"/{orders}", b"again")
        service.reply(service.take(), b"well")
        assert client.answer().body == b"well"
