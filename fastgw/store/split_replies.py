"""Records of kept replies and of streams on another partition than their home: they are sent there, once.

Only a request's home partition decides, because only one log gives all readers the same order. A service whose client
chose another partition would leave its request undecided. The node that owns the partition of arrival sends the reply
on, before the store goes on: otherwise a store that is killed at that moment would have passed it by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer

from fastgw import ids
from fastgw._ctable import UNOWNED, Table
from fastgw.config import Config
from fastgw.dialects import plain
from fastgw.errors import StoreError
from fastgw.ids import ReplyTopic
from fastgw.kafka import client_log
from fastgw.kafka.properties import client_properties
from fastgw.messages import Reply

TIMEOUT_S = 5.0


class SplitReplies:
    """Finds such replies, and sends them home.

    Attributes:
        count: replies sent home so far.
    """

    def __init__(self, config: Config, table: Table, topic: str, kind: ReplyTopic) -> None:
        """
        Args:
            topic: where the replies arrive.
            kind: how ids name this topic.
        """
        self.count = 0
        self._topic = topic
        self._kind = kind
        self._config = config
        self._table = table
        self._producer: Producer | None = None  # most stores never need one

    def send_home(self, replies: Sequence[Reply]) -> None:
        """Send those of these replies home that this node has to care for; wait until Kafka has them.

        Raises:
            StoreError: Kafka does not confirm them; the batch must be read again.
        """
        split = [reply for reply in replies if self._is_split(reply)]
        if not split:
            return
        producer = self._producer = self._producer or Producer(self._settings())
        failed: list[Any] = []
        for reply in split:
            cid = ids.parse(reply.correlation_id)
            assert cid is not None, "`_is_split` has parsed it"
            try:
                producer.produce(
                    self._topic,
                    reply.value,
                    reply.correlation_id,
                    cid.home,
                    headers=plain.sent_on(reply),
                    on_delivery=lambda error, _message: failed.append(error) if error is not None else None,
                )
            except (KafkaException, BufferError) as error:
                raise StoreError(f"a record of {self._topic} could not be sent to its partition: {error}") from error
        left = producer.flush(TIMEOUT_S)
        if left or failed:
            why = failed[0] if failed else f"no confirmation within {TIMEOUT_S:g} s"
            raise StoreError(f"{left + len(failed)} records of {self._topic} did not reach their partition: {why}")
        self.count += len(split)

    def _is_split(self, reply: Reply) -> bool:
        cid = ids.parse(reply.correlation_id)
        if cid is None or cid.topic != self._kind or cid.home == reply.partition or plain.has_hopped(reply):
            return False
        return self._is_ours(reply.partition)

    def _is_ours(self, partition: int) -> bool:
        """Whether this node cares for the partition: it owns the partition of the response topic that goes with it."""
        _, owners = self._table.read_map()
        return bool(owners) and owners[partition % len(owners)] != UNOWNED

    def _settings(self) -> dict[str, Any]:
        kafka = self._config.kafka
        return {
            **client_properties(kafka.bootstrap, {"client.id": "fastgw-store-split", **kafka.client}),
            "enable.idempotence": True,
            "linger.ms": 0,
            "delivery.timeout.ms": int(TIMEOUT_S * 1000),
            **client_log.listening(),
        }
