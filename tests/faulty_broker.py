"""The embedded broker inside the test's own process, with errors that a healthy Kafka gives to nobody."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fastgw.broker import MockCluster

PRODUCE = 0  # Kafka's number of the request


class FaultyBroker(MockCluster):
    """A mock cluster that is told what to refuse."""

    def fail_next(self, api_key: int, *codes: int) -> None:
        """The next requests of this kind are answered with these error codes, one each."""
        push = self._library.rd_kafka_mock_push_request_errors_array
        push.argtypes = [ctypes.c_void_p, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)]
        push(self._cluster, api_key, len(codes), (ctypes.c_int * len(codes))(*codes))


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
