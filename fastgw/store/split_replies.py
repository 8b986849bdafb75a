"""Records of kept replies and of streams on another partition than their home: they are sent there, once.

Only a request's home partition decides, because only one log gives all readers the same order. A service whose client
chose another partition would leave its request undecided. The node that owns the partition of arrival sends the reply
on, before the store goes on: otherwise a store that is killed at that moment would have passed it by. Only what Kafka
will never take, such as a reply that is too large for the topic, is passed by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from fastgw import ids
from fastgw._ctable import UNOWNED, Table
from fastgw.config import Config
from fastgw.dialects import plain
from fastgw.ids import ReplyTopic
from fastgw.kafka import client_log
from fastgw.kafka.properties import store_producer_properties
from fastgw.kafka.topics import BROKER_RECORD_BYTES, RECORD_HEADS_BYTES
from fastgw.messages import Reply
from fastgw.throttle import Throttle

TIMEOUT_S = 5.0
# Of a record. Another try would end in the same way.
REFUSED: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError._UNKNOWN_PARTITION,  # a service has made up an id
    }
)

log = structlog.get_logger("fastgw.store")


class SplitReplies:
    """Finds such replies, and sends them home.

    Attributes:
        count: replies sent home so far.
        lost: replies so far that Kafka will never take.
        garbage: records so far that have no id of a gateway.
    """

    def __init__(self, config: Config, table: Table, topic: str, kind: ReplyTopic) -> None:
        """
        Args:
            topic: where the replies arrive.
            kind: how ids name this topic.
        """
        self.count = self.lost = self.garbage = 0
        self._topic = topic
        self._kind = kind
        self._config = config
        self._table = table
        self._producer: Producer | None = None  # most stores never need one
        self._said = Throttle()

    def send_home(self, replies: Sequence[Reply]) -> list[Reply]:
        """Send those of these replies home that this node has to care for; wait until Kafka has them.

        What Kafka will never take is logged, counted and passed by.

        Returns:
            Those that Kafka has not confirmed in time: send them again.
        """
        left = {number: reply for number, reply in enumerate(replies) if self._is_split(reply)}
        if not left:
            return []
        producer = self._producer = self._producer or Producer(self._settings())
        for number, reply in list(left.items()):
            self._produce(producer, reply, partial(self._delivered, left, number))
        producer.flush(TIMEOUT_S + 1)  # after its own timeout each has been reported
        return list(left.values())

    def _produce(self, producer: Producer, reply: Reply, on_delivery: Callable[[KafkaError | None, Any], None]) -> None:
        cid = ids.parse(reply.correlation_id)
        assert cid is not None, "`_is_split` has parsed it"
        headers = plain.sent_on(reply)
        try:
            producer.produce(
                self._topic, reply.value, reply.correlation_id, cid.home, headers=headers, on_delivery=on_delivery
            )
        except KafkaException as error:
            on_delivery(error.args[0], None)
        except BufferError as error:  # its queue is full; the next try finds room
            log.warning("reply not sent home", topic=self._topic, error=str(error))

    def _delivered(self, left: dict[int, Reply], number: int, error: KafkaError | None, _message: Any) -> None:
        if error is None:
            self.count += left.pop(number, None) is not None
        elif error.code() in REFUSED:
            self._pass_by(left.pop(number), error)
        else:
            if error.fatal():
                self._producer = None
            if (told := self._told("not sent", left[number], error)) is not None:
                log.warning("reply not sent home", **told)

    def _pass_by(self, reply: Reply, error: KafkaError) -> None:
        self.lost += 1
        if (told := self._told("lost", reply, error)) is not None:
            log.error("reply lost: Kafka refuses it on its partition", **told)

    def _told(self, what: str, reply: Reply, error: KafkaError) -> dict[str, Any] | None:
        """The fields of a log line; None: there were enough of them."""
        held_back = self._said.admit((what,), time.monotonic_ns())
        if held_back < 0:
            return None
        place = {"topic": self._topic, "partition": reply.partition, "offset": reply.offset}
        request_id = reply.correlation_id.decode()
        return {
            "request_id": request_id, **place, "bytes": len(reply.value), "error": error.str(), "held_back": held_back,
        }  # fmt: skip

    def _is_split(self, reply: Reply) -> bool:
        cid = ids.parse(reply.correlation_id)
        if cid is None:
            self.garbage += 1
            return False
        if cid.topic != self._kind or cid.home == reply.partition or plain.has_hopped(reply):
            return False
        return self._is_ours(reply.partition)

    def _is_ours(self, partition: int) -> bool:
        """Whether this node cares for the partition: it owns the partition of the response topic that goes with it."""
        _, owners = self._table.read_map()
        return bool(owners) and owners[partition % len(owners)] != UNOWNED

    def use(self, config: Config) -> None:
        """Go on with another configuration; any thread may call it."""
        self._config = config
        self._producer = None  # the next reply makes another one

    def _settings(self) -> dict[str, Any]:
        return {
            **store_producer_properties(self._config, "fastgw-store-split", TIMEOUT_S),
            # As large as the gateway's own topics take. By default librdkafka refuses what is above 1 MB.
            "message.max.bytes": max(BROKER_RECORD_BYTES, self._config.limits.max_reply_bytes + RECORD_HEADS_BYTES),
            **client_log.listening(),
        }
