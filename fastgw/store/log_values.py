"""Reads single values from the topic of kept replies: those that are too large for the tables."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from fastgw.config import Config
from fastgw.kafka import client_log
from fastgw.kafka.properties import store_consumer_properties

TIMEOUT_S = 5.0  # for one value
POLL_S = 0.05

OnValue = Callable[[bytes | None], None]
"""Called on the loop; None: Kafka does not give the record, because it does not answer or has deleted it."""


class LogValues:
    """Reads one value after the other, on a thread of its own."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self._loop = loop
        self._wanted: queue.SimpleQueue[tuple[int, int, OnValue] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log values", daemon=True)
        self._thread.start()

    def read(self, partition: int, offset: int, on_value: OnValue) -> None:
        """Read the value of this record."""
        self._wanted.put((partition, offset, on_value))

    def close(self) -> None:
        """End the thread when it has read what is wanted now."""
        self._wanted.put(None)

    def _run(self) -> None:
        consumer: Any = None
        while (wanted := self._wanted.get()) is not None:
            if consumer is None:  # most stores never need one
                consumer = Consumer(self._client_settings())
            partition, offset, on_value = wanted
            self._loop.call_soon_threadsafe(on_value, self._value(consumer, partition, offset))
        if consumer is not None:
            consumer.close()

    def _client_settings(self) -> dict[str, Any]:
        return {
            **store_consumer_properties(self._config, "fastgw-store-values"),
            "auto.offset.reset": "error",
            **client_log.listening(),
        }

    def _value(self, consumer: Consumer, partition: int, offset: int) -> bytes | None:
        consumer.assign([TopicPartition(self._config.later.topic, partition, offset)])
        ends = time.monotonic() + TIMEOUT_S
        try:
            while time.monotonic() < ends:
                message = consumer.poll(POLL_S)
                if message is None:
                    continue
                if message.error() is not None or message.offset() != offset:
                    return None
                value = message.value()
                return value.encode() if isinstance(value, str) else value or b""
            return None
        finally:
            consumer.unassign()
