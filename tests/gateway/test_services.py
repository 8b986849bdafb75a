"""A route that names its service's consumer group refuses what nobody would answer, and nothing of it is recorded."""

from __future__ import annotations

import json
from contextlib import contextmanager
from itertools import count

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.actors.commands import fastgw
from tests.actors.hand_service import hand_service, values_in
from tests.actors.raw_http import RawConnection
from tests.gateway.gateways import Gateway
from tests.gateway.outcome_table import assert_told, counted
from tests.waiting import eventually

BACKLOG = 5000
ROUTES = """
[[route]]
name = "watched"
method = "POST"
path = "/watched"
topic = "{orders}"
service_group = "{orders}-service"
[[route]]
name = "blind"
method = "POST"
path = "/blind"
topic = "{orders}"
"""


@pytest.fixture
def topics(make_topics):
    return make_topics({"replies": 2, "orders": 1})


@pytest.fixture
def gateway(tmp_path, kafka_bootstrap, topics):
    with Gateway(tmp_path, kafka_bootstrap, topics["replies"], [], workers=1, more=ROUTES.format(**topics)) as gateway:
        yield gateway


@contextmanager
def member(bootstrap, topic):
    """A consumer of the service's group that has the topic's partition."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"{topic}-service", "enable.auto.commit": False},
    )
    try:
        consumer.subscribe([topic])
        eventually(lambda: consumer.poll(0.1) or consumer.assignment(), 20, "the consumer has its partition")
        yield consumer
    finally:
        consumer.close()


def ending_of(client):
    """How a request on the watched route ends that nobody answers."""
    problem = client.request("POST", "/watched", b"probe", ["Prefer: wait=1"]).problem
    return problem["type"].removeprefix("urn:fastgw:problem:")


def until(client, ending):
    eventually(lambda: ending_of(client) == ending, 30, f"requests end with {ending}")


@pytest.mark.ending("no_consumer")
def test_while_nobody_of_the_service_is_there_requests_are_503_and_other_routes_go_on(gateway, kafka_bootstrap, topics):
    orders = topics["orders"]
    with hand_service(kafka_bootstrap, [orders]) as service, RawConnection(gateway.port) as client:
        until(client, "no_consumer")
        with counted(gateway, "no_consumer", route="watched"):
            assert_told(client.request("POST", "/watched", b"in vain"), "no_consumer")
        client.ask("POST", "/blind", b"blind")
        service.reply(service.take(b"blind"), b"well")
        assert client.answer().body == b"well"
        with member(kafka_bootstrap, orders):
            until(client, "expired")
            client.ask("POST", "/watched", b"hopeful")
            service.reply(service.take(b"hopeful"), b"here")
            assert client.answer().body == b"here"
        until(client, "no_consumer")
        assert_told(client.request("POST", "/watched", b"in vain"), "no_consumer")
    assert [value for value in values_in(kafka_bootstrap, orders) if value != b"probe"] == [b"blind", b"hopeful"]


@pytest.mark.ending("backlog")
def test_a_service_that_is_further_behind_than_a_request_can_wait_gets_no_more(gateway, kafka_bootstrap, topics):
    orders = topics["orders"]
    old = Producer({"bootstrap.servers": kafka_bootstrap})
    for _ in range(BACKLOG):
        old.produce(orders, b"old")
    assert old.flush(10) == 0
    with member(kafka_bootstrap, orders) as consumer, RawConnection(gateway.port) as client:
        done = count(1)

        def is_refused_while_one_is_done():
            consumer.commit(offsets=[TopicPartition(orders, 0, next(done))], asynchronous=False)
            return ending_of(client) == "backlog"

        eventually(is_refused_while_one_is_done, 60, "the agent has watched the backlog for a window")
        with counted(gateway, "backlog", route="watched"):
            assert_told(client.request("POST", "/watched", b"too much"), "backlog")
        end = consumer.get_watermark_offsets(TopicPartition(orders, 0))[1]
        consumer.commit(offsets=[TopicPartition(orders, 0, end)], asynchronous=False)
        until(client, "expired")
    assert b"too much" not in values_in(kafka_bootstrap, orders)


TYPO = """
[[route]]
name = "mistyped"
method = "POST"
path = "/mistyped"
topic = "{orders}"
service_group = "{orders}-servce"
[[route]]
name = "elsewhere"
method = "POST"
path = "/elsewhere"
topic = "{others}"
service_group = "{orders}-service"
"""


def test_a_service_group_with_a_typo_is_told_everywhere_and_the_node_stays_ready(
    tmp_path, kafka_bootstrap, make_topics
):
    topics = make_topics({"replies": 2, "orders": 1, "others": 1})
    orders, others = topics["orders"], topics["others"]
    wrong = {
        f"{orders}-servce": f'no such consumer group (did you mean "{orders}-service"',
        f"{orders}-service": f"no member of the consumer group has a partition of topic {others}; they read {orders}",
    }
    gateway = Gateway(tmp_path, kafka_bootstrap, topics["replies"], [], workers=1, more=TYPO.format(**topics))
    with member(kafka_bootstrap, orders), gateway:
        code, out, _ = fastgw("check", "--live", gateway.config)
        assert code == 0
        for group, why in wrong.items():
            assert f'warning: service_group "{group}": {why}' in out
        _, out, _ = fastgw("doctor", "--json", gateway.config)
        told = {one["check"]: one for one in json.loads(out)}
        for group, why in wrong.items():
            finding = told[f'service_group "{group}"']
            assert finding["level"] == "warning"
            assert finding["found"].startswith(why)

        eventually(lambda: {one["state"] for one in gateway.status()["services"]} == {"nobody"}, 20, "both are missed")
        services = {one["group"]: one for one in gateway.status()["services"]}
        for group, why in wrong.items():
            assert services[group]["detail"].startswith(why)
        assert services[f"{orders}-servce"]["routes"] == ["mistyped"]
        code, body = gateway.admin("/readyz")
        assert code == 200, "other routes are served, and no other node could do better"
        assert f'route "mistyped": {wrong[f"{orders}-servce"]}' in "".join(json.loads(body)["warnings"])
        assert "fastgw_service_up" in gateway.admin("/metrics")[1].decode()
        assert gateway.metric("fastgw_service_up", route="mistyped") == 0
        assert "did you mean" in gateway.log_text
