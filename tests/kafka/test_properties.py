"""What both Kafka links share: settings, and the bound on what they log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from confluent_kafka import KafkaError
from msgspec.structs import replace

from fastgw import config, errors
from fastgw.config.values import owner_of_property
from fastgw.dialects.plain import RequestWire
from fastgw.errors import Outcome
from fastgw.kafka import link as kafka_client
from fastgw.kafka.link import REFUSALS, REPLACE_AGAIN_NS, LinkSettings, client_settings, patience
from fastgw.messages import Head
from fastgw.service.clients import consumer_properties, producer_properties

S, MS = 1_000_000_000, 1_000_000


class Lines:
    """The headers of a request."""

    def __init__(self, lines: Mapping[str, Sequence[str]]) -> None:
        self._lines = lines

    def get_all(self, key: str) -> Sequence[str]:
        return self._lines.get(key, ())


def settings(**client):
    return LinkSettings(client_settings("kafka:9092", client), "shop.replies", [4500, 60_000])


def test_an_operators_property_wins_over_what_clients_share_but_not_over_what_the_design_depends_on():
    made = settings(**{"client.id": "mine", "enable.idempotence": False, "enable.auto.commit": True})
    assert made.producer(0)["client.id"] == "mine"
    assert made.producer(0)["enable.idempotence"] is True
    assert made.producer(0)["acks"] == "all"
    assert made.consumer()["enable.auto.commit"] is False


def test_a_producer_gives_up_on_a_request_no_later_than_the_link_does_and_never_on_a_record():
    assert settings().producer(0)["request.timeout.ms"] == 4500
    assert settings().producer(1)["request.timeout.ms"] == 30_000
    for number, timeout_ms in enumerate(settings().delivery_timeouts_ms):
        assert settings().producer(number)["delivery.timeout.ms"] == timeout_ms + 60_000


@pytest.mark.parametrize("timeout_ms", [100, 450, 4500, 9000, 600_000])
def test_a_producer_is_retired_so_early_that_it_is_given_up_in_time(timeout_ms):
    given = patience(timeout_ms)
    assert given.unsent_ns == timeout_ms * MS
    assert given.retire_ns + given.grace_ns == max(timeout_ms * MS, REPLACE_AGAIN_NS + given.grace_ns)
    assert 0 < given.grace_ns <= 500 * MS


SIZES = """
[gateway]
name = "shop"
[kafka]
bootstrap = "kafka:9092"
[limits]
max_body = "2MiB"
max_target = "1KiB"
max_header = "8KiB"
[[route]]
method = "POST"
path = "/{path...}"
topic = "plain"
[[route]]
method = "POST"
path = "/copying"
topic = "copying"
request_headers = ["x-asked"]
"""


@pytest.mark.parametrize(("number", "name"), [(0, "content-language"), (0, "tracestate"), (1, "x-asked")])
def test_a_record_may_hold_the_largest_body_and_all_that_stands_beside_it(number, name):
    cfg = config.loads(SIZES, "test.toml")
    route, limits = cfg.routes[number], cfg.limits
    room = kafka_client.record_bytes(limits, [route])
    wire = RequestWire("shop.replies", route.path, ["POST"], route.request_headers)
    value = "x" * (limits.max_header_bytes - len(name))
    path = "/" + "p" * (limits.max_target_bytes - 1)
    head = Head("POST", path, "", Lines({name: [value]}), ["shop"], route.max_body_bytes, is_streamed=False)
    headers = wire.headers(bytes(40), 4095, 2**44, "POST", path, "", (("path", path),), head)
    assert value.encode() in [copied for _, copied in headers]
    framing = 5 * (2 * len(headers) + 3)  # each length takes five bytes at most
    assert route.max_body_bytes + sum(len(key) + len(copied) for key, copied in headers) + framing <= room
    assert settings()._replace(record_bytes=room).producer(0)["message.max.bytes"] == room
    assert settings(**{"message.max.bytes": 5}).producer(0)["message.max.bytes"] == 5


def test_the_largest_of_several_routes_says_how_large_a_record_may_become():
    cfg = config.loads(SIZES, "test.toml")
    small, large = replace(cfg.routes[0], max_body_bytes=1000), cfg.routes[1]
    assert kafka_client.record_bytes(cfg.limits, [small, large]) == kafka_client.record_bytes(cfg.limits, [large])


def test_the_error_codes_are_those_of_the_protocol():
    names = {
        KafkaError.MSG_SIZE_TOO_LARGE: errors.RECORD_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE: errors.RECORD_TOO_LARGE,
        KafkaError.UNKNOWN_TOPIC_OR_PART: errors.TOPIC_UNKNOWN,
        KafkaError.TOPIC_EXCEPTION: errors.TOPIC_UNKNOWN,
        KafkaError._UNKNOWN_TOPIC: errors.TOPIC_UNKNOWN,
        KafkaError._UNKNOWN_PARTITION: errors.TOPIC_UNKNOWN,
        KafkaError.TOPIC_AUTHORIZATION_FAILED: errors.NOT_AUTHORIZED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED: errors.NOT_AUTHORIZED,
        KafkaError.INVALID_RECORD: errors.REFUSED_SEND,
    }
    assert names == REFUSALS
    assert (KafkaError._QUEUE_FULL, KafkaError._FATAL) == (kafka_client.QUEUE_FULL, kafka_client.FATAL)
    assert {ending.outcome for ending in REFUSALS.values()} == {Outcome.NOT_RECORDED}


def test_a_property_that_an_operator_cannot_change_is_refused_in_the_configuration():
    """Otherwise it would be set, and silently mean nothing."""
    for made in (lambda link: link.producer(0), lambda link: link.consumer()):
        for name in made(settings()):
            assert made(settings(**{name: "probe"}))[name] == "probe" or owner_of_property(name), name


def test_no_client_ever_lets_a_broker_create_topics():
    link = settings(**{"allow.auto.create.topics": True})  # as if the check of the configuration had let it through
    for properties in (
        link.producer(0),
        link.consumer(),
        consumer_properties("kafka:9092", "orders", "service", {}),
        producer_properties("kafka:9092", "orders", 1, {}),
    ):
        assert properties["allow.auto.create.topics"] is False
