"""Idempotency keys under faults: two nodes are asked for the same keys at once while their processes are killed.

The service gives each record an answer of its own, so two answers to one key would show. Evidence are the lanes, the
request topic, and what every client was told; `key_oracle` judges.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from fastgw.core import idempotency
from fastgw.dialects import control, plain
from fastgw.dialects.control import BadControl, Claim, Released
from fastgw.store.lane import Grade, GradedReply
from fastgw.tokens import Secrets
from tests.actors.commands import fastgw
from tests.actors.load import Connection
from tests.conftest import MakeTopics
from tests.faults.key_oracle import Heard, Sent, Written, judge_keys
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

SECRET = "the secret of the faults of idempotency keys"
LANES = 8
KEYS_AT_ONCE = 12
KEYS = 240
FAULTS = 6
FAILS_EACH = 9  # one of so many records gets a 500, which frees its key
TRIES = 400  # of one client for one key: 20 s and more
PAUSE_S = 0.05
ROUTE = """
[[route]]
name = "pay"
method = "POST"
path = "/pay"
topic = "{orders}"
idempotency = "require"
timeout = "1s"
[store]
dir = "{store}"
[later]
topic = "{later}"
[cluster]
mode = "static"
node_index = {index}
node_count = 2
"""


class Service:
    """Answers each record with its own correlation id; now and then it fails. Runs on a thread."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": f"keys-{secrets.token_hex(4)}", "fetch.wait.max.ms": 5}
        )
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        self._consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        self._numbers = itertools.count(1)
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)

    def __enter__(self) -> Service:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()
        self._producer.flush(10)
        self._consumer.close()

    def _run(self) -> None:
        while not self._enough.is_set():
            for message in self._consumer.consume(100, 0.02):
                headers = dict(message.headers())
                status = b"500" if next(self._numbers) % FAILS_EACH == 0 else b"200"
                key = headers["correlation_id"]
                partition = int(headers["reply_partition"])
                self._producer.produce(headers["reply_to"].decode(), key, key, partition, headers=[("status", status)])
            self._producer.poll(0)


@contextmanager
def two_nodes(folder: Path, bootstrap: str, topics: dict[str, str], later: str) -> Iterator[list[Gateway]]:
    """Two nodes of one gateway; their topic of kept replies is made on the way."""
    with ExitStack() as opened:
        nodes = []
        for index in range(2):
            home = folder / str(index)
            home.mkdir()
            more = ROUTE.format(**topics, later=later, store=home / "store", index=index)
            settings = f'secrets = ["{SECRET}"]'
            nodes.append(Gateway(home, bootstrap, topics["replies"], [], more=more, settings=settings))
        code, _, err = fastgw("topics", nodes[0].config)
        assert code == 0, err
        for node in nodes:
            node.launch()
            opened.push(node)
        for node in nodes:
            node.await_ready()
        yield nodes


class Clients:
    """Ask for each key on both nodes at the same moment, and go on until both have an answer. On a thread."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.heard: list[Heard] = []
        self.unanswered: list[str] = []
        self.done = 0
        self._ports = ports
        self._keys = iter([secrets.token_hex(8) for _ in range(KEYS)])
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="clients", daemon=True)

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    @property
    def are_done(self) -> bool:
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as failure:
            self._failure = failure

    async def _all(self) -> None:
        await asyncio.gather(*(self._pairs() for _ in range(KEYS_AT_ONCE)))

    async def _pairs(self) -> None:
        for key in self._keys:
            await asyncio.gather(*(self._one(port, key) for port in self._ports))
            self.done += 1

    async def _one(self, port: int, key: str) -> None:
        """Ask until the service has answered with success."""
        connection = Connection(port)
        hash_ = idempotency.key_hash("pay", "", key)
        for _ in range(TRIES):
            try:
                headers = [f"Idempotency-Key: {key}"]
                status, answered, body = await connection.request("POST", "/pay", key.encode(), headers)
            except (OSError, asyncio.IncompleteReadError):
                connection.close()
                await asyncio.sleep(PAUSE_S)
                continue
            is_of_service = answered.get("content-type") != "application/problem+json"
            self.heard.append(Heard(hash_, status, is_of_service, body))
            if is_of_service and status == 200:
                connection.close()
                return
            await asyncio.sleep(PAUSE_S)
        self.unanswered.append(key)


def read_all(bootstrap: str, topic: str) -> list[Message]:
    """Every record of a topic, those of one partition in order."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"oracle-{secrets.token_hex(4)}", "enable.partition.eof": True}
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found: list[Message] = []
        ended: set[int] = set()
        while len(ended) < len(partitions):
            for message in consumer.consume(1000, 5):
                if message.error() is None:
                    found.append(message)
                else:
                    ended.add(message.partition())
        return found
    finally:
        consumer.close()


def lanes_of(bootstrap: str, admin: AdminClient, later: str) -> dict[int, list[Written]]:
    """The lanes as a store reads them."""
    found = admin.describe_topics(TopicCollection([later]))[later].result().topic_id
    halves = found.get_most_significant_bits(), found.get_least_significant_bits()
    topic_id = b"".join((half % (1 << 64)).to_bytes(8, "big") for half in halves)
    lanes: dict[int, list[Written]] = {number: [] for number in range(LANES)}
    for message in read_all(bootstrap, later):
        reply, appended_ms = plain.decode_reply(message), message.timestamp()[1]
        if not control.is_control(reply):
            grade = Grade.FROM_500 if plain.status_of(reply.headers) >= 500 else Grade.BELOW_500
            graded = GradedReply(reply.correlation_id, grade)
            lanes[reply.partition].append(Written(appended_ms, reply.offset, graded, reply.value))
            continue
        try:
            content = control.decode(reply, Secrets([SECRET.encode()]), topic_id)
        except BadControl as bad:
            raise AssertionError(f"a record that no gateway may have written: {reply}") from bad
        if isinstance(content, Claim | Released):
            lanes[reply.partition].append(Written(appended_ms, reply.offset, content))
    return lanes


def sent_in(bootstrap: str, topic: str) -> list[Sent]:
    records = []
    for message in read_all(bootstrap, topic):
        headers = dict(message.headers())
        hash_ = idempotency.key_hash("pay", "", headers["idempotency_key"].decode())
        records.append(Sent(hash_, int(headers["idempotency_attempt"]), headers["correlation_id"]))
    return records


def kill_one_after_the_other(nodes: Sequence[Gateway], clients: Clients) -> int:
    """SIGKILL for a worker and for a store of the nodes in turn, in the middle of the work; gives their number."""
    killed = 0
    for number in range(FAULTS):
        node = nodes[number % 2]
        eventually(lambda number=number: clients.are_done or clients.done > number * KEYS // (FAULTS + 1), 120)
        title = "store" if number % 3 == 1 else f"worker {number // 2 % 2}"
        pids = [pid for pid, named in node.children().items() if named.endswith(title)]
        if clients.are_done or not pids:
            break
        os.kill(pids[0], signal.SIGKILL)
        killed += 1
        eventually(lambda node=node, dead=pids[0]: dead not in node.children(), 30, "it has ended")
    return killed


@pytest.mark.real_kafka
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_key_has_one_answer_and_one_record_for_each_attempt(
    tmp_path: Path, kafka_bootstrap: str, kafka_admin: AdminClient, make_topics: MakeTopics
) -> None:
    topics = make_topics({"replies": 8, "orders": 4})
    later = topics["replies"] + ".later"
    with Service(kafka_bootstrap, topics["orders"]):
        try:
            with (
                two_nodes(tmp_path, kafka_bootstrap, topics, later) as nodes,
                Clients([node.port for node in nodes]) as clients,
            ):
                killed = kill_one_after_the_other(nodes, clients)
            lanes = lanes_of(kafka_bootstrap, kafka_admin, later)
            sent = sent_in(kafka_bootstrap, topics["orders"])
        finally:
            for future in kafka_admin.delete_topics([later]).values():
                future.result()
    claims = sum(isinstance(one.content, Claim) for lane in lanes.values() for one in lane)
    statuses = dict(Counter(one.status for one in clients.heard))
    attempts = dict(Counter(one.attempt for one in sent))
    print(f"{KEYS} keys, {killed} killed: told {statuses}, {claims} claims, records by attempt {attempts}")
    assert judge_keys(clients.heard, sent, lanes) == []
    assert clients.unanswered == []
    assert killed >= FAULTS - 1
    assert len(sent) > KEYS // 2, "otherwise this was about nothing"
