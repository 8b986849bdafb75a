"""On brokers that create topics on demand (Kafka's default), a topic that is deleted under a running gateway stays
deleted until `fastgw topics` makes it, and then everything goes on."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import contextmanager
from uuid import UUID

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from fastgw.dialects import streams
from fastgw.service.clients import consumer_properties, producer_properties
from tests.actors.commands import fastgw
from tests.actors.hand_service import hand_service
from tests.actors.raw_http import RawConnection
from tests.actors.stream_client import StreamClient
from tests.brokers.kafka_server import RealKafka, missing_tools
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

pytestmark = [
    pytest.mark.real_kafka,
    pytest.mark.skipif(bool(missing_tools()), reason="needs a broker of its own"),
]

WORKERS = 2
REPLIES, ORDERS, LANES = 8, 4, 8
WATCH_S = 4.0  # longer than librdkafka takes to ask again for topics that are gone

ROUTES = """
[[route]]
method = "POST"
path = "/watched"
topic = "orders"
service_group = "nobody"
"""


SECRETS = 'secrets = ["the secret of all tests about status URLs"]'
KEPT = """
[[route]]
method = "POST"
path = "/report"
topic = "orders"
later = true
[[route]]
method = "GET"
path = "/stream"
topic = "orders"
reply = "stream"
resume = true
[store]
dir = "{store}"
"""


@pytest.fixture(scope="module")
def kafka():
    settings = {"auto.create.topics.enable": "true", "num.partitions": "1"}
    with RealKafka(properties=settings) as broker:
        yield broker


@pytest.fixture(scope="module")
def admin(kafka):
    # Asks for all topics only, so it creates none.
    return AdminClient({"bootstrap.servers": kafka.bootstrap, "allow.auto.create.topics": False})


def partitions(admin, topic):
    known = admin.list_topics(timeout=10).topics
    return len(known[topic].partitions) if topic in known else 0


def delete(admin, topic):
    admin.delete_topics([topic])[topic].result(10)
    eventually(lambda: not partitions(admin, topic), 10, f"{topic} is gone")


def stays_away(admin, topic, while_doing=lambda: None):
    """For longer than any client needs to ask for it."""
    ends = time.monotonic() + WATCH_S
    while time.monotonic() < ends:
        while_doing()
        assert partitions(admin, topic) == 0, f"somebody has created {topic}"


def told(client):
    """How a request ends that nobody answers."""
    problem = client.request("POST", "/orders", b"probe", ["Prefer: wait=1"]).problem
    return problem["type"].removeprefix("urn:fastgw:problem:")


def assert_topic_unknown_is_logged(gateway):
    """A line at once, with the id of a request; those of the next seconds are only counted."""
    lines = [json.loads(line) for line in gateway.log_text.splitlines(keepends=True) if line.endswith("\n")]
    failed = [line for line in lines if line.get("ending") == "topic_unknown" and line["event"] == "request failed"]
    assert {line["route"] for line in failed} == {"POST /orders"}
    assert all(UUID(line["request_id"]).version == 8 for line in failed)


@contextmanager
def gateway(tmp_path, kafka, link):
    one = Gateway(tmp_path, kafka.bootstrap, "replies", ["orders"], WORKERS, more=ROUTES, kafka=f'link = "{link}"')
    assert fastgw("topics", one.config)[0] == 0
    with one:
        yield one


@pytest.mark.parametrize("link", ["native", "public"])
def test_a_deleted_topic_stays_deleted_until_fastgw_topics_creates_it(tmp_path, kafka, admin, link):
    with gateway(tmp_path, kafka, link) as one, RawConnection(one.port) as client:
        with hand_service(kafka.bootstrap, ["orders"]) as service:
            client.ask("POST", "/orders", b"before")
            service.reply(service.take(b"before"), b"yes")
            assert client.answer().body == b"yes"

        delete(admin, "orders")
        eventually(lambda: told(client) == "topic_unknown", 20, "requests are told that the topic does not exist")
        stays_away(admin, "orders", lambda: told(client))
        assert told(client) == "topic_unknown"
        assert_topic_unknown_is_logged(one)
        assert fastgw("topics", one.config)[0] == 0
        assert partitions(admin, "orders") == ORDERS
        eventually(lambda: told(client) == "expired", 20, "requests are recorded again")

        delete(admin, "replies")
        eventually(lambda: told(client) == "not_ready", 20, "requests are told that nobody could answer them")
        stays_away(admin, "replies", lambda: told(client))
        assert not one.ready
        assert fastgw("topics", one.config)[0] == 0
        assert partitions(admin, "replies") == REPLIES
        eventually(lambda: one.ready, 30, "all workers are ready again")
        with hand_service(kafka.bootstrap, ["orders"]) as service:
            client.ask("POST", "/orders", b"after")
            service.reply(service.take(b"after"), b"yes again")
            assert client.answer().body == b"yes again"


@pytest.mark.parametrize("link", ["native", "public"])
def test_the_topics_of_the_store_stay_deleted_until_fastgw_topics_creates_them(tmp_path, kafka, admin, link):
    """They are written by workers, and read by workers and by the store."""
    one = Gateway(
        tmp_path, kafka.bootstrap, "replies", [], more=KEPT.format(store=tmp_path / "store"), settings=SECRETS,
        kafka=f'link = "{link}"',
    )  # fmt: skip
    assert fastgw("topics", one.config)[0] == 0
    with one, RawConnection(one.port) as client:

        def deferred(body=b"report"):
            return client.request("POST", "/report", body, ["Prefer: respond-async"])

        delete(admin, "test.later")
        stays_away(admin, "test.later", deferred)
        asked = deferred().headers["location"]
        eventually(lambda: refused(client.request("GET", asked)) == "store_behind", 20, "clients are told of it")
        assert fastgw("topics", one.config)[0] == 0
        eventually(lambda: one.status()["store"]["trouble"] is None, 40, "the store reads on")
        # What was asked before may be told to be lost with the topic; what is asked now is not.
        eventually(lambda: refused(client.request("GET", deferred().headers["location"])) is None, 20, "and answers")

        delete(admin, "test.streams")
        stays_away(admin, "test.streams", deferred)
        assert fastgw("topics", one.config)[0] == 0
        assert partitions(admin, "test.later") == partitions(admin, "test.streams") == LANES
        with hand_service(kafka.bootstrap, ["orders"]) as service:
            location = deferred(b"kept").headers["location"]
            service.reply(service.take(b"kept"), b"yes")
            eventually(lambda: client.request("GET", location).body == b"yes", 20, "the reply is kept")
            eventually(lambda: streams_again(one, service), 60, "streams are served again")


def refused(answer):
    """The ending of a refusal; None: it is none."""
    return answer.problem["type"].removeprefix("urn:fastgw:problem:") if answer.status >= 400 else None


def streams_again(one, service):
    """Whether a new stream goes through the topic that was made again."""
    with StreamClient(one.port, "/stream", headers={"Accept": "application/json"}) as client:
        request = service.take()
        service.reply(request, b"1", streams.items_headers(b"a", 0, 1))
        service.reply(request, b"", streams.end_headers(b"a", True, 1))
        try:
            return json.loads(client.rest()) == [1]
        except (http.client.IncompleteRead, json.JSONDecodeError):
            return False


def test_a_service_on_the_sdk_creates_neither_topic(kafka, admin):
    consumer = Consumer(consumer_properties(kafka.bootstrap, "asked", "service", {}))
    producer = Producer(producer_properties(kafka.bootstrap, "asked", 1, {}) | {"message.timeout.ms": 3000})
    failed = []
    consumer.subscribe(["asked"])
    producer.produce("answered", b"reply", on_delivery=lambda error, _: failed.append(error.name()))
    eventually(lambda: (consumer.poll(0.1), producer.poll(0), failed)[-1], 20, "the reply is given up")
    consumer.close()
    assert failed == ["_MSG_TIMED_OUT"], "its time is over before librdkafka gives the topic up"
    assert not partitions(admin, "asked")
    assert not partitions(admin, "answered")


def test_looking_at_topics_that_are_missing_creates_none(tmp_path, kafka, admin):
    one = Gateway(tmp_path, kafka.bootstrap, "missing-replies", ["missing"], more=ROUTES.replace("orders", "absent"))
    for command in (["check", "--live"], ["doctor"], ["run"]):
        code, out, err = fastgw(*command, one.config)
        assert code != 0
        assert "missing" in out + err
    for topic in ("missing", "missing-replies", "absent"):
        assert not partitions(admin, topic)
