"""The embedded broker inside the test's own process, with errors that a healthy Kafka gives to nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fastgw.demo.broker import MockCluster

PRODUCE = 0  # Kafka's number of the request


class FaultyBroker(MockCluster):
    """A mock cluster that is told what to refuse."""

    def fail_next(self, api_key: int, *codes: int) -> None:
        """The next requests of this kind are answered with these error codes, one each."""
        self.push_errors(api_key, codes)


@contextmanager
def faulty_broker(topics: Mapping[str, int]) -> Iterator[FaultyBroker]:
    """A faulty broker with these topics and their partitions, ended on the way out."""
    broker = FaultyBroker()
    try:
        for name, partitions in topics.items():
            broker.create_topic(name, partitions)
        yield broker
    finally:
        broker.close()
