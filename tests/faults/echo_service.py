"""The service of the scenarios: echoes, unless the first word of a body asks for worse.

Run as `python -m tests.faults.echo_service BOOTSTRAP TOPIC [MANNER ...]`; prints "ready" when it reads. Manners:

    astray      it answers to any partition, whatever the request and its key say
    own         each record gets an answer of its own instead of its echo, and one of nine fails
    hard-coded  it answers to the response topic, also when the request names the topic of kept replies
    transacts   it answers some requests in transactions that stay open for a while

It reads by assigned partitions and not in a group, so that after an outage of the brokers it is back as soon as they
are.
"""

from __future__ import annotations

import heapq
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.actors.running import running

LIFE_S = 7200  # one that its test has forgotten ends by itself
ASK_S = 30.0
LATE_S = 0.2  # after the deadline
SLOW_S = 2.0
AGAIN_S = 0.1
HUGE_BYTES = 10 << 20

FAILS_EACH = 9
FAILURE: list[tuple[str, bytes | None]] = [("status", b"500")]
LATE, SLOW, TWICE, SILENT, HUGE, CUT_ID = b"late", b"slow", b"twice", b"silent", b"huge", b"cut-id"
COMMITS, ABORTS = b"commits", b"aborts"  # with `transacts`: how the transaction with the reply ends
# After its last reply. A store notices after 2 to 3 s that it is behind, and then waits for 2 s before it says so of a
# request. A key is held for 7 s only.
OPEN_S, OPEN_OWN_S = 7.0, 3.5
OPENS_EACH = 60  # with `own`, which has no such words: so many replies, and one is sent in a transaction
TAKEN_BACK = b"an answer that is taken back"
ASTRAY, OWN, HARD_CODED, TRANSACTS = "astray", "own", "hard-coded", "transacts"
LATER = ".later"  # how the topic of kept replies ends, and the response topic does not

# Replies that cannot become an HTTP answer: status and headers that would end a process or inject a header.
POISON: dict[bytes, list[tuple[str, bytes | None]]] = {
    b"status-99": [("status", b"99")],
    b"status-1000": [("status", b"1000")],
    b"status-text": [("status", b"two hundred")],
    b"status-quotes": [("status", b'"two"')],
    b"status-bytes": [("status", b"\xff\xfe\x00")],
    b"inject": [("content-type", b"text/plain\r\nset-cookie: a=b")],
    b"inject-nul": [("content-type", b"text/plain\x00")],
}


class Due(NamedTuple):
    """A reply that waits for its time."""

    at_s: float
    number: int
    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes | None]]


class Transaction:
    """Replies that Kafka shows to nobody yet. Those of an aborted one are sent again, without any transaction."""

    def __init__(self, settings: dict[str, object], way: bytes, open_s: float) -> None:
        self._producer = Producer({**settings, "transactional.id": f"echo-{way.decode()}-{secrets.token_hex(4)}"})
        self._producer.init_transactions(ASK_S)
        self._aborts = way == ABORTS
        self._open_s = open_s
        self._replies: list[Due] = []
        self.ends_s = 0.0

    def add(self, reply: Due) -> None:
        """Sends a reply inside the transaction, which stays open for longer then."""
        if not self._replies:
            self._producer.begin_transaction()
        value = TAKEN_BACK if self._aborts else reply.value
        self._producer.produce(reply.topic, value, reply.key, reply.partition, headers=reply.headers)
        self._producer.poll(0)
        self._replies.append(reply)
        self.ends_s = time.time() + self._open_s

    def end(self) -> list[Due]:
        """Ends it if its time has come. Returns the replies that are still to be sent."""
        if not self._replies or time.time() < self.ends_s:
            return []
        replies, self._replies = self._replies, []
        if not self._aborts:
            self._producer.commit_transaction(ASK_S)
            return []
        self._producer.abort_transaction(ASK_S)
        return replies


class EchoService:
    """Reads one topic from its present end, replies to the partition that each request names, or to any."""

    def __init__(self, bootstrap: str, topic: str, *manners: str) -> None:
        self._manners = manners
        self._partition_counts: dict[str, int] = {}  # of the topics that it has answered to
        common = {"bootstrap.servers": bootstrap, "reconnect.backoff.max.ms": 500, "log_level": 0}
        self._consumer = Consumer(
            {
                **common,
                "group.id": "no-group",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 5,  # the mock cluster waits for as long, whatever comes
                "fetch.error.backoff.ms": 50,
            }
        )
        settings = {
            **common,
            "enable.idempotence": True,
            "linger.ms": 1,
            "message.max.bytes": 2 * HUGE_BYTES,
            "queue.buffering.max.messages": 1_000_000,
        }
        self._producer = Producer(settings)
        ways = (COMMITS, ABORTS) if TRANSACTS in manners else ()
        open_s = OPEN_OWN_S if OWN in manners else OPEN_S
        self._transactions = {way: Transaction(settings, way, open_s) for way in ways}
        partitions = self._consumer.list_topics(topic, timeout=ASK_S).topics[topic].partitions
        self._consumer.assign([TopicPartition(topic, number, self._end(topic, number)) for number in partitions])
        self._due: list[Due] = []
        self._numbers = count()

    def _end(self, topic: str, number: int) -> int:
        return self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=ASK_S)[1]

    def run(self) -> None:
        while True:
            first = self._consumer.poll(0.02)
            self._producer.poll(0)
            for message in [first, *self._consumer.consume(500, 0)] if first is not None else []:
                self._take(message)
            while self._due and self._due[0].at_s <= time.time():
                self._send(heapq.heappop(self._due))
            for transaction in self._transactions.values():
                for reply in transaction.end():
                    self._send(reply)

    def _take(self, message: Message | None) -> None:
        if message is None or message.error() is not None:
            return
        headers = dict(message.headers())
        body: bytes = message.value()
        manner = body.partition(b" ")[0]
        where = headers["reply_to"].decode(), int(headers["reply_partition"])
        if HARD_CODED in self._manners:
            where = where[0].removesuffix(LATER), where[1]
        if ASTRAY in self._manners:
            where = where[0], random.randrange(self._count_of(where[0]))
        key = headers["correlation_id"]
        reply = Due(0.0, next(self._numbers), *where, key, body, POISON.get(manner, []))
        if OWN in self._manners:
            reply = reply._replace(value=key, headers=FAILURE if reply.number % FAILS_EACH == 0 else [])
            if reply.number % OPENS_EACH < 2:
                manner = (COMMITS, ABORTS)[reply.number % OPENS_EACH]
        if manner == SILENT:
            return
        if manner == LATE:
            heapq.heappush(self._due, reply._replace(at_s=int(headers["deadline"]) / 1000 + LATE_S))
            return
        if manner == SLOW:
            heapq.heappush(self._due, reply._replace(at_s=message.timestamp()[1] / 1000 + SLOW_S))
            return
        if manner in self._transactions:
            self._transactions[manner].add(reply)
            return
        if manner == HUGE:
            reply = reply._replace(value=body.ljust(HUGE_BYTES, b"."))
        if manner == CUT_ID:
            reply = reply._replace(key=key[: len(key) // 2])
        self._send(reply)
        if manner == TWICE:
            self._send(reply._replace(value=b"a second answer"))

    def _count_of(self, topic: str) -> int:
        if topic not in self._partition_counts:
            found = self._consumer.list_topics(topic, timeout=ASK_S).topics[topic]
            self._partition_counts[topic] = len(found.partitions)
        return self._partition_counts[topic]

    def _send(self, reply: Due) -> None:
        """A reply whose topic is not there just now is lost: the service must outlive that. A partition that it has
        not heard of yet is waited for."""
        try:
            self._producer.produce(reply.topic, reply.value, reply.key, reply.partition, headers=reply.headers)
        except KafkaException as refused:
            if refused.args[0].code() == KafkaError._UNKNOWN_PARTITION:
                self._producer.list_topics(reply.topic, timeout=ASK_S)
                heapq.heappush(self._due, reply._replace(at_s=time.time() + AGAIN_S))
            elif refused.args[0].code() != KafkaError._UNKNOWN_TOPIC:
                raise


@contextmanager
def echo_service(bootstrap: str, topic: str, *manners: str) -> Iterator[subprocess.Popen]:
    """The service in a process of its own, ready; ended on the way out."""
    command = [sys.executable, "-m", "tests.faults.echo_service", bootstrap, topic, *manners]
    with running(command, "the service did not start") as process:
        yield process


if __name__ == "__main__":
    signal.alarm(LIFE_S)
    service = EchoService(*sys.argv[1:])
    print("ready", flush=True)
    service.run()
