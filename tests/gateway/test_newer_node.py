"""A gateway among nodes of a newer version: what they write, and what becomes of its requests."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from fastgw import config
from fastgw.dialects import control
from fastgw.dialects.control import Layout, Place
from fastgw.store.topic import look_up
from fastgw.tokens import Purpose, Secrets
from tests.actors.commands import fastgw
from tests.actors.hand_service import HandService, hand_service
from tests.actors.raw_http import Answer, RawConnection
from tests.conftest import MakeTopics
from tests.gateway.gateways import Gateway
from tests.gateway.outcome_table import assert_told, counted
from tests.waiting import eventually

LANES = 8
SECRET = "the secret of all tests about newer nodes"
ROUTES = """
[[route]]
name = "report"
method = "POST"
path = "/report"
topic = "{orders}"
later = true
[[route]]
name = "pay"
method = "POST"
path = "/pay"
topic = "{orders}"
idempotency = "accept"
[store]
dir = "{store}"
[later]
topic = "{later}"
"""


class Place1:
    """A gateway, its service, and its topic of kept replies."""

    def __init__(self, folder: Path, bootstrap: str, topics: dict[str, str], service: HandService) -> None:
        self.bootstrap, self.service = bootstrap, service
        self.later = topics["replies"] + ".later"
        more = ROUTES.format(**topics, later=self.later, store=folder / "store")
        settings = f'secrets = ["{SECRET}"]'
        self.gateway = Gateway(folder, bootstrap, topics["replies"], [], more=more, settings=settings)

    def ask(self, method: str, path: str, body: bytes = b"", *headers: str) -> Answer:
        with RawConnection(self.gateway.port) as client:
            return client.request(method, path, body, list(headers))

    def formats(self) -> dict[int, list[int]]:
        """The formats that the records without key in each partition announce."""
        settings = {"bootstrap.servers": self.bootstrap, "group.id": f"layouts-{secrets.token_hex(4)}"}
        consumer = Consumer({**settings, "enable.partition.eof": True})
        found: dict[int, list[int]] = {partition: [] for partition in range(LANES)}
        try:
            for partition in found:
                consumer.assign([TopicPartition(self.later, partition, 0)])
                while (message := consumer.poll(10)) is not None and message.error() is None:
                    headers = dict(message.headers() or [])
                    if headers.get("fastgw_kind") == b"layout":
                        found[partition].append(int(headers["fastgw_layout"]))
        finally:
            consumer.close()
        return found

    def a_newer_node_starts(self, partition: int, layout: int) -> None:
        """It writes its record to one of the partitions; the others come a moment later."""
        topic_id = self.topic_id()
        record = control.encode(Layout(layout), Secrets([SECRET]), Place(self.later, topic_id, partition))
        self.write(record.headers, partition)

    def an_unknown_kind_comes(self) -> None:
        own = [("fastgw_kind", b"postponed"), ("fastgw_layout", b"%d" % control.LAYOUT)]
        covered = control._covered(self.topic_id(), 0, b"", b"", own)
        mac = Secrets([SECRET]).mac(Purpose.RECORD, *covered).hex().encode()
        self.write([*own, ("fastgw_mac", mac)], 0)

    def topic_id(self) -> bytes:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "topic-id"})
        try:
            return look_up(consumer, config.load(self.gateway.config), self.later)[0]
        finally:
            consumer.close()

    def write(self, headers: list[tuple[str, bytes]], partition: int) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        producer.produce(self.later, b"", None, partition, headers=headers)
        assert producer.flush(10) == 0


@pytest.fixture
def place(tmp_path: Path, kafka_bootstrap: str, kafka_admin: AdminClient, make_topics: MakeTopics) -> Iterator[Place1]:
    topics = make_topics({"replies": 8, "orders": 2})
    with hand_service(kafka_bootstrap, [topics["orders"]]) as service:
        one = Place1(tmp_path, kafka_bootstrap, topics, service)
        code, _, err = fastgw("topics", one.gateway.config)
        assert code == 0, err
        try:
            with one.gateway:
                yield one
        finally:
            for future in kafka_admin.delete_topics([one.later]).values():
                future.result()


@pytest.mark.ending("newer_layout")
def test_requests_whose_replies_are_kept_are_refused_while_a_newer_node_is_at_work(place: Place1) -> None:
    eventually(lambda: set(map(tuple, place.formats().values())) == {(control.LAYOUT,)}, 20, "each has one record")
    location = place.ask("POST", "/report", b"before", "Prefer: respond-async").headers["location"]
    place.service.reply(place.service.take(b"before"), b"kept", [("status", b"200")])
    assert place.ask("GET", location, b"", "Prefer: wait=10").body == b"kept"

    place.an_unknown_kind_comes()
    eventually(lambda: place.gateway.status()["store"]["unknown"] == 1, 10, "it is counted")
    assert place.gateway.metric("fastgw_store_unknown_total") == 1

    place.a_newer_node_starts(partition=5, layout=control.LAYOUT + 1)
    eventually(lambda: place.gateway.status()["store"]["newer_layout"] == control.LAYOUT + 1, 10, "it is seen")
    with counted(place.gateway, "newer_layout"):
        refused = place.ask("POST", "/report", b"after", "Prefer: respond-async")
    assert_told(refused, "newer_layout")
    for answer in (place.ask("POST", "/pay", b"", 'Idempotency-Key: "1"'), place.ask("GET", location)):
        assert_told(answer, "newer_layout")

    assert place.gateway.metric("fastgw_store_newer_layout") == control.LAYOUT + 1
    assert place.gateway.ready, "other routes are served"
    with RawConnection(place.gateway.port) as client:
        client.ask("POST", "/pay", b"plain", [])
        place.service.reply(place.service.take(b"plain"), b"paid", [("status", b"200")])
        assert client.answer().body == b"paid"
    code, out, _ = fastgw("doctor", place.gateway.config)
    assert code != 0
    assert f"another node writes records of layout {control.LAYOUT + 1}" in out
