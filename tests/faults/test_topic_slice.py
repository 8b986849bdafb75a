"""The evidence of the oracle: all records since a moment, or an error."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from fastgw.demo.broker import EmbeddedBroker
from tests.faults.topic_slice import EvidenceLost, TopicSlice

LARGE = b"x" * 900_000


def produce(bootstrap: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for value in values:
        producer.produce("asked", value, headers={"correlation_id": b"id"})
        assert producer.flush(10) == 0


def test_the_records_since_a_moment_are_read() -> None:
    with EmbeddedBroker({"asked": 2}) as broker:
        produce(broker.bootstrap, [b"before"])
        since = TopicSlice(broker.bootstrap, "asked")
        produce(broker.bootstrap, [b"one", b"two"])
        assert sorted(found.body for found in since.read()) == [b"one", b"two"]


def test_records_that_the_broker_has_thrown_away_are_an_error_and_no_lie_of_the_gateway() -> None:
    with EmbeddedBroker({"asked": 1}) as broker:
        since = TopicSlice(broker.bootstrap, "asked")
        produce(broker.bootstrap, [LARGE] * 8)  # it keeps 5 MiB of a partition
        with pytest.raises(EvidenceLost, match=r"asked has lost [1-9]"):
            since.read()
