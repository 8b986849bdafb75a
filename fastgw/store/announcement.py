"""Tells the other nodes in which format this node writes its records: one `layout` record to each partition.

It is written by a thread of its own, because nothing waits for it. The records of this node would say the same; but a
node of an older version should know before the first of them.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

import structlog
from confluent_kafka import KafkaException, Producer

from fastgw.config import Config
from fastgw.dialects import control
from fastgw.dialects.control import Layout, Place
from fastgw.kafka import client_log
from fastgw.kafka.properties import store_producer_properties
from fastgw.tokens import Secrets

TIMEOUT_S = 5.0
AGAIN_S = 1.0

log = structlog.get_logger("fastgw.store")


class Announcement:
    """Writes to each partition once, as long as this process lives and the topic is the same."""

    def __init__(self, config: Config, secrets: Secrets) -> None:
        self._config = config
        self._secrets = secrets
        self._announced: set[tuple[bytes, int]] = set()  # topic ids and partitions, also those that a thread writes to
        self._closing = threading.Event()

    def write(self, topic_id: bytes, partitions: Collection[int]) -> None:
        """Write to those of these partitions that have no record of this process yet. Returns at once."""
        places = {(topic_id, partition) for partition in partitions} - self._announced
        self._announced |= places
        if places:
            threading.Thread(target=self._run, args=(places,), name="announcement", daemon=True).start()

    def use(self, config: Config, secrets: Secrets) -> None:
        """Go on with another configuration; records that are on their way stay as they are."""
        self._config, self._secrets = config, secrets

    def close(self) -> None:
        """Write nothing more."""
        self._closing.set()

    def _run(self, places: set[tuple[bytes, int]]) -> None:
        producer = Producer({
            **store_producer_properties(self._config, "fastgw-store-layout", TIMEOUT_S),
            **client_log.listening(),
        })  # fmt: skip
        left = places
        while left and not self._closing.is_set():
            confirmed = self._written(producer, left)
            left = left - confirmed
            if left:
                log.warning("layout not announced", partitions=len(left), again_s=AGAIN_S)
                self._closing.wait(AGAIN_S)

    def _written(self, producer: Producer, places: set[tuple[bytes, int]]) -> set[tuple[bytes, int]]:
        """The places whose record Kafka has confirmed."""
        topic, confirmed = self._config.later.topic, set()
        for topic_id, partition in sorted(places):

            def on_delivery(error: Any, _message: Any, place: tuple[bytes, int] = (topic_id, partition)) -> None:
                if error is None:
                    confirmed.add(place)

            record = control.encode(Layout(control.LAYOUT), self._secrets, Place(topic, topic_id, partition))
            try:
                producer.produce(topic, record.value, None, partition, on_delivery, headers=record.headers)
            except (KafkaException, BufferError) as error:
                log.warning("layout not announced", partition=partition, error=str(error))
        producer.flush(2 * TIMEOUT_S)
        return confirmed
