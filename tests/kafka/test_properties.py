"""The properties of the gateway's Kafka clients, and how large a record may become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from msgspec.structs import replace

from fastgw import config
from fastgw.config.librdkafka import owner_of_property
from fastgw.dialects.plain import RequestWire
from fastgw.kafka.link import LinkSettings
from fastgw.kafka.properties import (
    client_properties,
    consumer_properties,
    producer_properties,
    record_bytes,
    store_consumer_properties,
)
from fastgw.messages import Head
from fastgw.service import clients


class Lines:
    """The headers of a request."""

    def __init__(self, lines: Mapping[str, Sequence[str]]) -> None:
        self._lines = lines

    def get_all(self, key: str) -> Sequence[str]:
        return self._lines.get(key, ())


def settings(**client):
    return LinkSettings(client_properties("kafka:9092", client), "shop.replies", [4500, 60_000])


def test_an_operators_property_wins_over_what_clients_share_but_not_over_what_the_design_depends_on():
    made = settings(**{"client.id": "mine", "enable.idempotence": False, "enable.auto.commit": True})
    assert producer_properties(made, 0)["client.id"] == "mine"
    assert producer_properties(made, 0)["enable.idempotence"] is True
    assert producer_properties(made, 0)["acks"] == "all"
    assert consumer_properties(made)["enable.auto.commit"] is False


def test_a_producer_gives_up_on_a_request_no_later_than_the_link_does_and_never_on_a_record():
    assert producer_properties(settings(), 0)["request.timeout.ms"] == 4500
    assert producer_properties(settings(), 1)["request.timeout.ms"] == 30_000
    for number, timeout_ms in enumerate(settings().delivery_timeouts_ms):
        assert producer_properties(settings(), number)["delivery.timeout.ms"] == timeout_ms + 60_000


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
    room = record_bytes(limits, [route])
    wire = RequestWire("shop.replies", route.path, ["POST"], route.request_headers)
    value = "x" * (limits.max_header_bytes - len(name))
    path = "/" + "p" * (limits.max_target_bytes - 1)
    head = Head("POST", path, "", Lines({name: [value]}), ["shop"], route.max_body_bytes, is_streamed=False)
    headers = wire.headers(bytes(40), 4095, 2**44, "POST", path, "", (("path", path),), head)
    assert value.encode() in [copied for _, copied in headers]
    framing = 5 * (2 * len(headers) + 3)  # each length takes five bytes at most
    assert route.max_body_bytes + sum(len(key) + len(copied) for key, copied in headers) + framing <= room
    assert producer_properties(settings()._replace(record_bytes=room), 0)["message.max.bytes"] == room
    assert producer_properties(settings(**{"message.max.bytes": 5}), 0)["message.max.bytes"] == 5


def test_the_largest_of_several_routes_says_how_large_a_record_may_become():
    cfg = config.loads(SIZES, "test.toml")
    small, large = replace(cfg.routes[0], max_body_bytes=1000), cfg.routes[1]
    assert record_bytes(cfg.limits, [small, large]) == record_bytes(cfg.limits, [large])


def test_a_property_that_an_operator_cannot_change_is_refused_in_the_configuration():
    """Otherwise it would be set, and silently mean nothing."""
    for made in (lambda link: producer_properties(link, 0), consumer_properties):
        for name in made(settings()):
            assert made(settings(**{name: "probe"}))[name] == "probe" or owner_of_property(name), name


def test_no_client_ever_lets_a_broker_create_topics():
    allowed = {"allow.auto.create.topics": True}  # as if the check of the configuration had let it through
    link = settings(**allowed)
    cfg = config.loads(SIZES, "test.toml")
    cfg = replace(cfg, kafka=replace(cfg.kafka, client=allowed))
    for properties in (
        producer_properties(link, 0),
        consumer_properties(link),
        store_consumer_properties(cfg, "store"),
        clients.consumer_properties("kafka:9092", "orders", "service", {}),
        clients.producer_properties("kafka:9092", "orders", 1, {}),
        clients.stream_producer_properties("kafka:9092", "orders", 1, {}),
    ):
        assert properties["allow.auto.create.topics"] is False
