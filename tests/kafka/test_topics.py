"""The topics of a configuration on a real Kafka: made as they are needed, and judged."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource

from fastgw import config
from fastgw.config import Config
from fastgw.errors import StartError
from fastgw.kafka import topic_checks, topics
from fastgw.kafka.link import LinkSettings
from fastgw.kafka.properties import client_properties, producer_properties, record_bytes

CONFIG = """
[gateway]
name = "{name}"
workers = 2
[kafka]
bootstrap = "{bootstrap}"
{more}
[[route]]
method = "POST"
path = "/orders"
topic = "{name}.orders"
"""


@pytest.fixture
def configured(kafka_bootstrap: str, kafka_admin: AdminClient) -> Iterator[Config]:
    """A configuration whose topics nobody has made yet; they go after the test."""
    cfg = config.loads(
        CONFIG.format(name=f"shop-{secrets.token_hex(4)}", bootstrap=kafka_bootstrap, more=""), "shop.toml"
    )
    yield cfg
    there = kafka_admin.list_topics(timeout=10).topics
    made = [name for name in topics.users_of(cfg) if name in there]
    if made:
        for future in kafka_admin.delete_topics(made).values():
            future.result(10)


def settings_of(admin: AdminClient, topic: str) -> dict[str, str]:
    (future,) = admin.describe_configs([ConfigResource("topic", topic)]).values()
    return {name: entry.value for name, entry in future.result(10).items()}


def test_missing_topics_are_an_error_that_names_the_command_which_creates_them(configured: Config) -> None:
    with pytest.raises(StartError, match=r"no such topic; `fastgw topics shop\.toml` creates it"):
        topic_checks.check(configured)


def test_topics_are_created_as_the_gateway_needs_them(configured: Config, kafka_admin: AdminClient) -> None:
    steps = topics.create(configured)
    assert [(step.action, step.partitions) for step in steps] == [("created", 8), ("created", 4)]
    assert topic_checks.check(configured) == []
    replies = settings_of(kafka_admin, configured.gateway.response_topic)
    assert replies["retention.ms"] == "3600000"
    assert replies["message.timestamp.type"] == "LogAppendTime"


def test_a_body_and_headers_of_the_largest_size_fit_into_a_record_of_a_topic_that_was_created(
    configured: Config, kafka_bootstrap: str
) -> None:
    """Neither librdkafka nor a broker takes a record of 1 MiB and a little more by itself."""
    topics.create(configured)
    room = record_bytes(configured.limits, configured.routes)
    settings = LinkSettings(client_properties(kafka_bootstrap, {}), "", [5000], record_bytes=room)
    producer = Producer(producer_properties(settings, 0))
    outcomes = []
    producer.produce(
        configured.routes[0].topic,
        bytes(configured.limits.max_body_bytes),
        headers={
            "http_query": bytes(configured.limits.max_target_bytes),
            "content-language": bytes(configured.limits.max_header_bytes),
        },
        on_delivery=lambda error, _message: outcomes.append(error),
    )
    assert producer.flush(10) == 0
    assert outcomes == [None]


def test_creating_again_changes_nothing_and_too_few_partitions_for_the_workers_become_enough(
    configured: Config,
) -> None:
    topics.create(configured, response_partitions=1)
    with pytest.raises(StartError, match="expected at least 2 partitions, one for each worker, got 1; `fastgw topics"):
        topic_checks.check(configured)
    assert [step.action for step in topics.create(configured)] == ["grew", "exists"]
    assert [step.action for step in topics.create(configured)] == ["exists", "exists"]


def test_a_number_of_partitions_that_is_no_power_of_two_is_a_warning(configured: Config) -> None:
    topics.create(configured, response_partitions=3)
    (warning,) = topic_checks.check(configured)
    assert str(warning).endswith("3 partitions; a power of two is recommended, here at least 8")


def test_the_embedded_broker_is_told_with_its_own_command(embedded_bootstrap: str) -> None:
    cfg = config.loads(CONFIG.format(name="shop", bootstrap=embedded_bootstrap, more=""), "shop.toml")
    with pytest.raises(StartError, match=r"name its topics when you start it: `fastgw broker NAME:PARTITIONS`"):
        topics.create(cfg)
