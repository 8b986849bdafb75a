"""What a topic got since a moment: the part of the oracle's evidence that comes from Kafka."""

from __future__ import annotations

import secrets

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from tests.faults.oracle import NO_HEADERS, Found
from tests.waiting import eventually

ANSWER_S = 10.0
READ_S = 120.0
AT_ONCE = 2000
OF_STREAMS = ("stream_attempt", "stream_seq", "stream_total", "stream_end")  # headers


class EvidenceLost(Exception):
    """Records that the oracle needs are no longer there."""


class TopicSlice:
    """The records of a topic from its present end on."""

    def __init__(self, bootstrap: str, topic: str, is_whole: bool = False) -> None:
        """
        Args:
            is_whole: from its start on, also if the topic is made anew meanwhile.
        """
        self._bootstrap = bootstrap
        self._topic = topic
        self._starts = {} if is_whole else {partition: high for partition, (_, high) in self._spans().items()}

    def read(self) -> list[Found]:
        """All records that are there now; partitions that the topic did not have before are read from their start.

        Raises:
            EvidenceLost: the broker has thrown some of them away, as a mock cluster does beyond 5 MiB a partition.
        """
        spans = self._spans()
        ends = {partition: high for partition, (_, high) in spans.items()}
        starts = {partition: self._starts.get(partition, 0) for partition in ends}
        lost = sum(max(0, low - starts[partition]) for partition, (low, _) in spans.items())
        if lost:
            raise EvidenceLost(f"{self._topic} has lost {lost} of its records: without them nothing can be judged")
        left = {partition for partition, end in ends.items() if end > starts[partition]}
        found: list[Found] = []
        consumer = self._consumer()
        try:
            consumer.assign([TopicPartition(self._topic, partition, starts[partition]) for partition in left])

            def read_more() -> bool:
                for message in consumer.consume(AT_ONCE, 0.2):
                    if message.error() is not None:
                        raise KafkaException(message.error())
                    if message.offset() < ends[message.partition()]:
                        found.append(_found(message))
                    if message.offset() >= ends[message.partition()] - 1:
                        left.discard(message.partition())
                return not left

            if left:
                eventually(read_more, READ_S, f"all records of {self._topic}")
        finally:
            consumer.close()
        return found

    def _spans(self) -> dict[int, tuple[int, int]]:
        consumer = self._consumer()
        try:
            return eventually(lambda: self._asked(consumer), 3 * ANSWER_S, f"the ends of {self._topic}")
        finally:
            consumer.close()

    def _asked(self, consumer: Consumer) -> dict[int, tuple[int, int]]:
        # A partition may be without leader for a moment after a fault.
        try:
            partitions = consumer.list_topics(self._topic, timeout=ANSWER_S).topics[self._topic].partitions
            return {
                number: consumer.get_watermark_offsets(TopicPartition(self._topic, number), timeout=ANSWER_S)
                for number in partitions
            }
        except KafkaException:
            return {}

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": f"oracle-{secrets.token_hex(4)}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )


def _found(message: Message) -> Found:
    try:
        headers = dict(message.headers() or [])
    except UnicodeDecodeError:  # some scenarios write such header names
        headers = {}
    return Found(
        headers.get("correlation_id") or message.key() or b"",
        message.value() or headers.get("http_query") or b"",
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        int(headers.get("deadline") or 0),
        headers.get("fastgw_kind") or b"",
        {name: headers[name] for name in OF_STREAMS if name in headers} or NO_HEADERS,
    )
