"""Streamed answers of a whole gateway on a real Kafka: what clients get, and what faults leave of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from fastgw.dialects import streams
from tests.actors.commands import fastgw
from tests.actors.hand_service import HandService, RecordHeaders, Taken, hand_service
from tests.actors.raw_http import Answer, RawConnection, head
from tests.actors.stream_client import StreamClient
from tests.clients import fleet
from tests.conftest import MakeTopics
from tests.gateway.gateways import Gateway
from tests.gateway.outcome_table import assert_told, counted
from tests.places import REPOSITORY
from tests.ports import free_port
from tests.waiting import eventually

LINES = {"Accept": "application/x-ndjson"}
EVENTS = {"Accept": "text/event-stream"}
ARRAY = {"Accept": "application/json"}
BUFFER_BYTES = 64 << 10
SECRETS = 'secrets = ["the secret of all tests about streams"]'
ROUTES = """
[[route]]
name = "orders"
method = ["GET", "QUERY"]
path = "/orders"
topic = "{orders}"
reply = "stream"
head_wait = "10s"
timeout = "10s"
idle_timeout = "20s"
cancel = true
end_line = true
stream_buffer = "64KiB"
response_headers = ["x-note"]
[[route]]
name = "soon"
method = "GET"
path = "/soon"
topic = "{orders}"
reply = "stream"
head_wait = "100ms"
timeout = "1s"
idle_timeout = "300ms"
max_duration = "2s"
[[route]]
name = "file"
method = "GET"
path = "/file"
topic = "{orders}"
reply = "stream"
items = "bytes"
[[route]]
name = "lasting"
method = "GET"
path = "/lasting"
topic = "{orders}"
reply = "stream"
resume = true
cancel = true
[[route]]
name = "plain"
method = "POST"
path = "/plain"
topic = "{orders}"
[streams]
topic = "{streams}"
[[listen]]
bind = "127.0.0.1:{express}"
[[listen]]
bind = "127.0.0.1:{granian}"
front = "granian"
"""


class Shop:
    """A gateway with routes that stream, and the service behind it, played by hand."""

    def __init__(
        self,
        folder: Path,
        bootstrap: str,
        topics: dict[str, str],
        service: HandService,
        more: str = "",
        workers: int = 2,
    ) -> None:
        self.topics, self.service, self.bootstrap = topics, service, bootstrap
        self.port, self.granian = free_port(), free_port()
        routes = ROUTES.format(**topics, express=self.port, granian=self.granian)
        self.gateway = Gateway(
            folder, bootstrap, topics["replies"], [], workers=workers, more=routes + more, drain_timeout="5s",
            settings=SECRETS,
        )  # fmt: skip

    def ask(self, path: str = "/orders", headers: dict[str, str] | None = None, **options: int) -> StreamClient:
        return StreamClient(self.port, path, headers=LINES if headers is None else headers, **options)

    def items(
        self, request: Taken, seq: int, *values: bytes, attempt: bytes = b"a", partition: int = -1,
        headers: RecordHeaders = (),
    ) -> None:  # fmt: skip
        """One record with these items."""
        told = [*streams.items_headers(attempt, seq, len(values)), *headers]
        self._post(request, b"\n".join(values), told, partition)

    def end(self, request: Taken, total: int, attempt: bytes = b"a", partition: int = -1) -> None:
        self._post(request, b"", streams.end_headers(attempt, True, total), partition)

    def fail(self, request: Taken, total: int, status: bytes = b"503", attempt: bytes = b"a") -> None:
        """An end with a problem document."""
        told = [*streams.end_headers(attempt, False, total), ("status", status)]
        self._post(request, b'{"title": "out of tea"}', [*told, ("content-type", b"application/problem+json")], -1)

    def beat(self, request: Taken, interval_ms: int, attempt: bytes = b"a") -> None:
        self._post(request, b"", streams.beat_headers(attempt, interval_ms), -1)

    def _post(self, request: Taken, value: bytes, headers: RecordHeaders, partition: int) -> None:
        home = int(request.headers["reply_partition"])
        topic = request.headers["reply_to"].decode()
        self.service.post(topic, home if partition < 0 else partition, request.correlation_id, value, headers)

    def pid(self, title: str) -> int:
        return next(pid for pid, named in self.gateway.children().items() if named.endswith(title))


@pytest.fixture(scope="module")
def topics(make_module_topics: MakeTopics) -> dict[str, str]:
    return make_module_topics({"replies": 8, "orders": 2, "streams": 8})


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, kafka_bootstrap: str, topics: dict[str, str]) -> Iterator[Shop]:
    with hand_service(kafka_bootstrap, [topics["orders"]]) as service:
        one = Shop(tmp_path_factory.mktemp("streams"), kafka_bootstrap, topics, service)
        with one.gateway:
            yield one


@pytest.fixture(autouse=True)
def store_is_there(request: pytest.FixtureRequest) -> None:
    """A test before this one may have killed the store."""
    if "shop" in request.fixturenames:
        shop = request.getfixturevalue("shop")
        eventually(lambda: shop.gateway.status()["store"]["trouble"] is None, 30, "the store reads the topic")


# ---- what clients get


def test_each_item_reaches_the_client_as_it_comes(shop: Shop) -> None:
    with counted(shop.gateway, "answered", route="orders"), shop.ask() as client:
        request = shop.service.take()
        assert request.headers["reply_kind"] == b"stream"
        assert request.headers["reply_to"].decode() == shop.topics["streams"]
        assert int(request.headers["stream_until"]) > int(request.headers["deadline"])
        for number in range(3):
            shop.items(request, number, b'{"n": %d}' % number, headers=[("x-note", b"fresh")])
            assert client.value() == {"n": number}
        assert client.answer.headers["content-type"] == "application/x-ndjson"
        assert client.answer.headers["x-note"] == "fresh"
        assert client.answer.headers["fastgw-outcome"] == "recorded"
        assert client.answer.headers["incremental"] == "?1"
        assert client.answer.headers["x-request-id"] == request.correlation_id.decode()
        shop.end(request, 3)
        assert client.value() == {"fastgw": {"end": True, "items": 3, "outcome": "recorded"}}
        assert client.rest() == b""
    assert shop.gateway.metric("fastgw_stream_items_total") >= 3


def test_events_come_to_a_client_that_prefers_them(shop: Shop) -> None:
    with shop.ask(headers=EVENTS) as client:
        request = shop.service.take()
        shop.items(request, 0, b"1", b"2")
        assert [client.event(), client.event()] == [{"data": "1"}, {"data": "2"}]
        assert client.answer.headers["content-type"] == "text/event-stream"
        shop.end(request, 2)
        last = client.event()
        assert (last["event"], json.loads(last["data"])["items"]) == ("end", 2)
        assert client.event() == {}


def test_an_array_is_a_json_document(shop: Shop) -> None:
    with shop.ask(headers=ARRAY) as client:
        request = shop.service.take()
        shop.items(request, 0, b"1", b"2")
        shop.items(request, 2, b"3")
        shop.end(request, 3)
        assert json.loads(client.rest()) == [1, 2, 3]


def test_bytes_are_passed_on_with_the_content_type_of_the_service(shop: Shop) -> None:
    with shop.ask("/file", headers={}) as client:
        request = shop.service.take()
        shop.items(request, 0, b"\x00\n\n", headers=[("content-type", b"image/png")])
        shop.items(request, 1, b"\xff")
        shop.end(request, 2)
        assert client.rest() == b"\x00\n\n\xff"
        assert client.answer.headers["content-type"] == "image/png"


def test_a_stream_without_items_is_complete(shop: Shop) -> None:
    with shop.ask(headers=ARRAY) as client:
        shop.end(shop.service.take(), 0)
        assert json.loads(client.rest()) == []


def test_a_query_streams(shop: Shop) -> None:
    with StreamClient(shop.port, "/orders", "QUERY", b"{}", {"Content-Type": "application/json", **ARRAY}) as client:
        request = shop.service.take(b"{}")
        shop.items(request, 0, b"1")
        shop.end(request, 1)
        assert json.loads(client.rest()) == [1]


def test_the_head_does_not_wait_for_ever(shop: Shop) -> None:
    with shop.ask("/soon") as client:
        request = shop.service.take()
        assert client.status == 200
        shop.items(request, 0, b"1")
        shop.end(request, 1)
        assert client.rest().split() == [b"1"]


@pytest.mark.ending("not_acceptable")
def test_who_accepts_no_format_is_told_which_there_are(shop: Shop) -> None:
    with counted(shop.gateway, "not_acceptable"), RawConnection(shop.port) as client:
        answer = client.request("GET", "/orders", headers=["Accept: image/png"])
        assert_told(answer, "not_acceptable")
        assert "application/x-ndjson" in answer.problem["detail"]
        assert answer.headers["vary"] == "accept"


@pytest.mark.ending("http_version")
def test_http_1_0_is_refused(shop: Shop) -> None:
    with counted(shop.gateway, "http_version"), RawConnection(shop.port) as client:
        client.send(head("GET", "/orders").replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert_told(client.answer(), "http_version", closes=True)


@pytest.mark.ending("wrong_listener")
def test_granian_names_the_listener_that_streams(shop: Shop) -> None:
    with counted(shop.gateway, "wrong_listener"), RawConnection(shop.granian) as client:
        answer = client.request("GET", "/orders")
        assert_told(answer, "wrong_listener")
        assert str(shop.port) in answer.problem["detail"]


def told_of(shop: Shop, request: Taken) -> dict[str, object] | None:
    """What /status says about the stream of this request."""
    told = shop.gateway.status()["store"]["streams"]
    assert told["silent_workers"] == []
    return next((one for one in told["oldest"] if one["id"] == request.correlation_id.decode()), None)


def test_status_shows_the_streams_that_are_open(shop: Shop) -> None:
    with shop.ask() as client:
        request = shop.service.take()
        shop.items(request, 0, b"1", b"2")
        assert (client.value(), client.value()) == (1, 2)
        told = told_of(shop, request)
        assert told is not None
        assert (told["route"], told["phase"], told["items"], told["resumed"]) == ("orders", "flows", 2, False)
        assert told["partition"] == int(request.headers["reply_partition"])
        assert told["position"] is not None
        shop.end(request, 2)
        client.rest()
    eventually(lambda: told_of(shop, request) is None, 10, "it is over")


def test_records_without_an_id_are_counted_and_harm_nobody(shop: Shop) -> None:
    garbage = shop.gateway.metric("fastgw_store_garbage_total", topic="streams")
    with shop.ask(headers=ARRAY) as client:
        request = shop.service.take()
        home = int(request.headers["reply_partition"])
        for key in (None, b"", b"x" * 5000):
            shop.service.post(shop.topics["streams"], home, key, b"1", streams.items_headers(b"a", 0, 1))
        shop.items(request, 0, b"2")
        shop.end(request, 1)
        assert json.loads(client.rest()) == [2]
    eventually(
        lambda: shop.gateway.metric("fastgw_store_garbage_total", topic="streams") == garbage + 3, 10, "all are counted"
    )


# ---- what services do


def test_an_ordinary_reply_is_an_ordinary_answer(shop: Shop) -> None:
    with shop.ask() as client:
        request = shop.service.take()
        shop.service.reply(request, b"[]", [("status", b"404")])
        assert (client.status, client.rest()) == (404, b"[]")
        assert client.answer.headers["vary"] == "accept"


def test_an_error_before_the_first_item_has_its_own_status(shop: Shop) -> None:
    with shop.ask() as client:
        shop.fail(shop.service.take(), 0, b"503")
        assert (client.status, json.loads(client.rest())) == (503, {"title": "out of tea"})
        assert client.answer.headers["content-type"] == "application/problem+json"


def test_an_error_after_it_is_told_within_the_stream(shop: Shop) -> None:
    with shop.ask() as client, shop.ask(headers=EVENTS) as listener, shop.ask(headers=ARRAY) as reader:
        for _ in range(3):
            request = shop.service.take()
            shop.items(request, 0, b"1")
            shop.fail(request, 1)
        assert client.value() == 1
        end = client.value()["fastgw"]
        assert (end["end"], end["items"], end["problem"]) == (True, 1, {"title": "out of tea"})
        assert listener.event() == {"data": "1"}
        assert listener.event() == {"event": "error", "data": '{"title": "out of tea"}'}
        with pytest.raises(http.client.IncompleteRead):
            reader.rest()


@pytest.mark.ending("bad_item")
def test_a_record_that_breaks_the_rules_fails_the_stream(shop: Shop) -> None:
    with counted(shop.gateway, "bad_item"), shop.ask() as client:
        request = shop.service.take()
        shop.items(request, 0, b"1")
        shop.items(request, 1, b"this is no JSON")
        assert client.value() == 1
        problem = client.value()["fastgw"]["problem"]
        assert problem["type"] == "urn:fastgw:problem:bad_item"
    with counted(shop.gateway, "bad_item"), RawConnection(shop.port) as raw:
        raw.ask("GET", "/orders")
        shop.items(shop.service.take(), 0, b"{")
        assert_told(raw.answer(), "bad_item")


@pytest.mark.parametrize(
    ("headers", "value", "ending"),
    [
        ({"stream_seq": b"9007199254740992"}, b"2", "bad_item"),
        ({"stream_seq": b"9007199254740991"}, b"2", "bad_item"),  # there is no number for the item after it
        ({"stream_seq": b"99999999999999999999999999"}, b"2", "bad_item"),
        ({"stream_seq": b"-1"}, b"2", "bad_item"),
        ({"stream_seq": b"1", "stream_count": b"0"}, b"", "bad_item"),
        ({"stream_seq": b"1", "stream_count": b"2"}, b"2", "bad_item"),
        ({"stream_seq": b"1"}, b"2\n3", "bad_item"),
        ({"stream_seq": b"1"}, b"", "bad_item"),
        ({"stream_seq": b"1"}, b"\xff", "bad_item"),
        ({"stream_seq": b"1", "stream_end": b"perhaps"}, b"2", "bad_item"),
        ({"stream_end": b"ok", "stream_total": b"0"}, b"", "bad_item"),  # one item has come
        ({"stream_end": b"ok"}, b"", "bad_item"),
        ({"stream_beat": b"0"}, b"", "bad_item"),
        ({"stream_attempt": b"x" * 65, "stream_seq": b"1"}, b"2", "bad_item"),
        ({"stream_seq": b"9007199254740990"}, b"2", "stream_broken"),
        ({"stream_end": b"ok", "stream_total": b"9007199254740991"}, b"", "stream_broken"),
    ],
)
def test_a_record_that_breaks_the_rules_ends_its_own_stream_and_no_other(
    shop: Shop, headers: dict[str, bytes], value: bytes, ending: str
) -> None:
    with counted(shop.gateway, ending, route="orders"), shop.ask("/lasting", ARRAY) as other:
        good = shop.service.take()
        shop.items(good, 0, b"1")
        with shop.ask() as client:
            request = shop.service.take()
            shop.items(request, 0, b"1")
            assert client.value() == 1
            shop.service.reply(request, value, list(({"stream_attempt": b"a"} | headers).items()))
            assert client.value()["fastgw"]["problem"]["type"] == f"urn:fastgw:problem:{ending}"
        shop.items(good, 1, b"2")
        shop.end(good, 2)
        assert json.loads(other.rest()) == [1, 2]


def test_what_comes_after_the_end_does_not_count(shop: Shop) -> None:
    with counted(shop.gateway, "answered", route="orders"), shop.ask(headers=ARRAY) as client:
        request = shop.service.take()
        shop.items(request, 0, b"1")
        shop.end(request, 1)
        shop.fail(request, 1)
        shop.items(request, 1, b"2")
        shop.end(request, 2)
        assert json.loads(client.rest()) == [1]


def test_what_is_written_twice_or_by_another_attempt_is_read_once(shop: Shop) -> None:
    with shop.ask(headers=ARRAY) as client:
        request = shop.service.take()
        shop.items(request, 0, b"1", b"2")
        shop.items(request, 0, b"1", b"2", attempt=b"second")
        shop.items(request, 0, b"1", b"2")
        shop.items(request, 1, b"2", b"3")
        shop.end(request, 2, attempt=b"second")
        shop.end(request, 3)
        shop.end(request, 3)
        assert json.loads(client.rest()) == [1, 2, 3]


@pytest.mark.ending("stream_broken")
def test_a_missing_item_breaks_the_stream(shop: Shop) -> None:
    with counted(shop.gateway, "stream_broken"), shop.ask() as client:
        request = shop.service.take()
        shop.items(request, 0, b"1")
        shop.items(request, 2, b"3")
        assert client.value() == 1
        assert client.value()["fastgw"]["problem"]["type"] == "urn:fastgw:problem:stream_broken"


def test_a_service_whose_signs_of_life_stop_has_broken_its_stream(shop: Shop) -> None:
    with counted(shop.gateway, "stream_broken"), shop.ask() as client:
        request = shop.service.take()
        shop.items(request, 0, b"1")
        shop.beat(request, 100)
        assert client.value() == 1
        assert "signs of life" in client.value()["fastgw"]["problem"]["detail"]


def test_items_elsewhere_are_sent_home_in_order(shop: Shop) -> None:
    with shop.ask(headers=ARRAY) as client:
        request = shop.service.take()
        elsewhere = (int(request.headers["reply_partition"]) + 3) % 8
        for number in range(5):
            shop.items(request, number, b"%d" % number, partition=elsewhere)
        shop.end(request, 5, partition=elsewhere)
        assert json.loads(client.rest()) == [0, 1, 2, 3, 4]


def test_a_service_that_always_replies_to_the_response_topic_is_understood(shop: Shop) -> None:
    with shop.ask() as client:
        request = shop.service.take()
        shop.service.post(shop.topics["replies"], 0, request.correlation_id, b"[1]")
        assert client.rest() == b"[1]"


# ---- deadlines


@pytest.mark.ending("expired")
def test_without_a_first_item_the_stream_expires(shop: Shop) -> None:
    with counted(shop.gateway, "expired", route="soon"), shop.ask("/soon") as client:
        shop.service.take()
        assert client.status == 200
        assert client.value()["fastgw"]["problem"]["type"] == "urn:fastgw:problem:expired"


@pytest.mark.ending("stream_idle")
def test_a_stream_that_stands_still_ends(shop: Shop) -> None:
    with counted(shop.gateway, "stream_idle"), shop.ask("/soon") as client:
        shop.items(shop.service.take(), 0, b"1")
        assert client.value() == 1
        assert client.value()["fastgw"]["problem"]["type"] == "urn:fastgw:problem:stream_idle"


@pytest.mark.ending("stream_max")
def test_a_stream_that_goes_on_for_too_long_ends(shop: Shop) -> None:
    with counted(shop.gateway, "stream_max"), shop.ask("/soon") as client:
        request, number = shop.service.take(), 0
        problem = None
        while problem is None:
            shop.items(request, number, b"%d" % number)
            number += 1
            value = client.value()
            problem = value["fastgw"]["problem"] if isinstance(value, dict) else None
        assert problem["type"] == "urn:fastgw:problem:stream_max"


# ---- clients that leave, and clients that are slow


def test_the_service_hears_of_a_client_that_has_left(shop: Shop) -> None:
    with counted(shop.gateway, "cancelled", route="orders"):
        with shop.ask() as client:
            request = shop.service.take()
            shop.items(request, 0, b"1")
            assert client.value() == 1
        cancel = shop.service.take()
        assert cancel.headers == {"cancel": request.correlation_id}
        assert (cancel.partition, cancel.value) == (request.partition, b"cancel")


def test_a_route_without_cancel_tells_nobody(shop: Shop) -> None:
    with counted(shop.gateway, "cancelled", route="file"), shop.ask("/file") as client:
        shop.items(shop.service.take(), 0, b"1")
        assert client.status == 200
    with shop.ask(headers=ARRAY) as client:
        shop.end(shop.service.take(), 0)
        assert client.rest() == b"[]\n"


def large(shop: Shop, request: Taken, records: int, record_bytes: int = 50_000) -> list[bytes]:
    """Writes a stream that is much larger than all buffers on its way."""
    values = [b'"%d-%b"' % (number, b"x" * record_bytes) for number in range(records)]
    for number, value in enumerate(values):
        shop.items(request, number, value)
    shop.end(request, records)
    return values


def test_a_client_that_falls_behind_and_catches_up_gets_everything_and_costs_little_memory(shop: Shop) -> None:
    with shop.ask(receive_buffer_bytes=16_384) as client:
        request = shop.service.take()
        values = large(shop, request, 200)
        eventually(lambda: shop.gateway.metric("fastgw_store_follows_behind") == 1, 10, "the log is its buffer")
        held = sum(worker["answer_bytes"] for worker in shop.gateway.status()["workers"])
        assert held <= 2 * BUFFER_BYTES + 50_000
        for value in values:
            assert client.line().strip() == value
        assert client.value()["fastgw"]["items"] == 200


@pytest.mark.ending("slow_reader")
@pytest.mark.slow
def test_a_client_that_stays_behind_is_cut_off_and_nobody_else_notices(shop: Shop) -> None:
    with counted(shop.gateway, "slow_reader"), shop.ask(receive_buffer_bytes=16_384) as client:
        large(shop, shop.service.take(), 200)
        with shop.ask(headers=ARRAY) as other:
            request = shop.service.take()
            shop.items(request, 0, b"1")
            shop.end(request, 1)
            assert json.loads(other.rest()) == [1]
        eventually(lambda: shop.gateway.metric("fastgw_streams") == 0, 20, "it is cut off")
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            client.rest()


@pytest.mark.ending("overtaken")
def test_a_client_that_is_slower_than_the_retention_is_told(shop: Shop, kafka_admin: AdminClient) -> None:
    with counted(shop.gateway, "overtaken"), shop.ask(receive_buffer_bytes=16_384) as client:
        request = shop.service.take()
        large(shop, request, 200)
        eventually(lambda: shop.gateway.metric("fastgw_store_follows_behind") == 1, 10, "the log is its buffer")
        home = int(request.headers["reply_partition"])
        deleted = kafka_admin.delete_records([TopicPartition(shop.topics["streams"], home, OFFSET_END)])
        for future in deleted.values():
            future.result()
        while isinstance(value := client.value(), str):
            pass
        assert value["fastgw"]["problem"]["type"] == "urn:fastgw:problem:overtaken"


# ---- faults


def test_a_stream_survives_the_death_of_the_store(shop: Shop) -> None:
    with shop.ask(headers=ARRAY) as client:
        request = shop.service.take()
        shop.items(request, 0, b"0")
        eventually(lambda: shop.gateway.metric("fastgw_store_follows") == 1, 10, "the store follows it")
        dead = shop.pid("store")
        os.kill(dead, signal.SIGKILL)
        for number in range(1, 20):
            shop.items(request, number, b"%d" % number)
        eventually(lambda: dead not in shop.gateway.children(), 10, "the store has ended")
        shop.end(request, 20)
        assert json.loads(client.rest()) == list(range(20))


def write_elsewhere_while_the_store_dies(shop: Shop, killed: Shop, request: Taken, home_distance: int) -> None:
    """Items 0 to 19 on another partition than the stream's home, of which `killed` owns the partition."""
    elsewhere = (int(request.headers["reply_partition"]) + home_distance) % 8
    for number in range(5):
        shop.items(request, number, b"%d" % number, partition=elsewhere)
    dead = killed.pid("store")
    os.kill(dead, signal.SIGKILL)
    for number in range(5, 20):
        shop.items(request, number, b"%d" % number, partition=elsewhere)
    eventually(lambda: dead not in killed.gateway.children(), 10, "the store has ended")
    shop.end(request, 20, partition=elsewhere)


def begun(shop: Shop) -> StreamClient:
    """A stream that has begun. A worker may still look for the store that a test before this one has killed."""

    def ask() -> StreamClient | None:
        client = shop.ask("/lasting", ARRAY)
        if client.status == 200:  # after head_wait
            return client
        client.close()
        return None

    found = eventually(ask, 20, "a worker has found the store")
    assert found is not None
    return found


def test_items_elsewhere_survive_the_death_of_the_store(shop: Shop) -> None:
    with begun(shop) as client:
        write_elsewhere_while_the_store_dies(shop, shop, shop.service.take(), 3)
        assert json.loads(client.rest()) == list(range(20))


@pytest.mark.ending("store_down")
def test_without_its_store_a_node_does_not_begin_a_stream(shop: Shop) -> None:
    os.kill(shop.pid("store"), signal.SIGSTOP)
    try:
        with RawConnection(shop.port) as client:
            client.ask("GET", "/soon")
            assert_told(client.answer(), "store_down")
    finally:
        os.kill(shop.pid("store"), signal.SIGCONT)


def test_a_worker_that_dies_breaks_its_streams_off(shop: Shop) -> None:
    with shop.ask() as client:
        request = shop.service.take()
        shop.items(request, 0, b"1")
        assert client.value() == 1
        for worker in shop.gateway.status()["workers"]:
            os.kill(worker["pid"], signal.SIGKILL)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            client.rest()
    eventually(lambda: shop.gateway.ready, 30, "other workers are there")


def test_a_service_that_puts_every_header_in_json_quotes_is_understood(shop: Shop) -> None:
    """Spring's `JsonKafkaHeaderMapper` does, with `encodeStrings`."""
    attempt, kind = ("stream_attempt", b'"a"'), ("content-type", b'"application/json"')
    with shop.ask(headers=ARRAY) as client:
        request = shop.service.take()
        shop.service.reply(request, b"1\n2", [attempt, ("stream_seq", b'"0"'), ("stream_count", b'"2"'), kind])
        shop.service.reply(request, b"", [attempt, ("stream_beat", b'"5000"')])
        shop.service.reply(request, b"", [attempt, ("stream_end", b'"ok"'), ("stream_total", b'"2"')])
        assert json.loads(client.rest()) == [1, 2]


def test_a_reload_lets_streams_end(shop: Shop) -> None:
    with shop.ask(headers=ARRAY) as client:
        request = shop.service.take()
        shop.items(request, 0, b"1")
        eventually(lambda: shop.gateway.metric("fastgw_streams") == 1, 10, "the stream is under way")
        shop.gateway.signal(signal.SIGHUP)
        eventually(lambda: any(one["draining"] for one in shop.gateway.status()["workers"]), 20, "it drains")
        shop.items(request, 1, b"2")
        shop.end(request, 2)
        assert json.loads(client.rest()) == [1, 2]
    eventually(lambda: shop.gateway.status()["reload"]["result"] == "ok", 30, "the reload is over")


SERVICE = """
import sys, time
from fastgw.service import Problem, Service
bootstrap, topic, first = sys.argv[1:]
service = Service(topic, bootstrap=bootstrap, client={"fetch.wait.max.ms": 20, "session.timeout.ms": 6000})
@service.handle("GET /orders")
async def count(request):
    import asyncio
    for number in range(int(request.query["to"])):
        if number == int(request.query.get("fail", "-1")):
            raise Problem(409, "that one is missing")
        yield {"n": number, "by": first}
        if "slow" in request.query:
            await asyncio.sleep(0.2)
@service.handle("GET /file")
def file(request):
    for number in range(100):
        yield b"%d\\n" % number
@service.handle("GET /soon")
def soon(request):
    return {"whole": True}
service.run()
"""


@contextmanager
def sdk_service(bootstrap: str, topic: str, name: str = "first") -> Iterator[subprocess.Popen[bytes]]:
    """A service that uses `yield`; killed on the way out."""
    started = subprocess.Popen([sys.executable, "-c", SERVICE.replace("\\\\", "\\"), bootstrap, topic, name])
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def test_a_service_that_uses_yield_streams(tmp_path: Path, kafka_bootstrap: str, make_topics: MakeTopics) -> None:
    topics = make_topics({"replies": 8, "orders": 2, "streams": 8})
    with hand_service(kafka_bootstrap, [topics["orders"]]) as by_hand:
        shop = Shop(tmp_path, kafka_bootstrap, topics, by_hand)
    with shop.gateway, sdk_service(kafka_bootstrap, topics["orders"]):
        with shop.ask("/orders?to=5000") as client:
            lines = [json.loads(line) for line in client.rest().splitlines()]
            assert [line["n"] for line in lines[:-1]] == list(range(5000))
            assert lines[-1] == {"fastgw": {"end": True, "items": 5000, "outcome": "recorded"}}
        with shop.ask("/orders?to=9&fail=3", headers=EVENTS) as client:
            assert [json.loads(client.event()["data"])["n"] for _ in range(3)] == [0, 1, 2]
            last = client.event()
            assert (last["event"], json.loads(last["data"])["status"]) == ("error", 409)
        with shop.ask("/orders?to=9&fail=0") as client:
            assert (client.status, json.loads(client.rest())["detail"]) == (409, "that one is missing")
        with shop.ask("/file", headers={}) as client:
            assert client.rest() == b"".join(b"%d\n" % number for number in range(100))
        with shop.ask("/soon") as client:
            assert client.value() == {"whole": True}


def test_a_service_that_is_killed_breaks_its_streams_and_its_successor_serves_what_had_not_begun(
    tmp_path: Path, kafka_bootstrap: str, make_topics: MakeTopics
) -> None:
    topics = make_topics({"replies": 8, "orders": 1, "streams": 8})
    with hand_service(kafka_bootstrap, [topics["orders"]]) as by_hand:
        shop = Shop(tmp_path, kafka_bootstrap, topics, by_hand)
    service = sdk_service(kafka_bootstrap, topics["orders"])
    with shop.gateway, service as first, shop.ask("/orders?to=1000&slow=1") as begun:
        assert begun.value() == {"n": 0, "by": "first"}
        first.kill()
        first.wait()
        with shop.ask("/orders?to=3") as waiting, sdk_service(kafka_bootstrap, topics["orders"], "second"):
            lines = [json.loads(line) for line in waiting.rest().splitlines()]
            assert lines[:-1] == [{"n": number, "by": "second"} for number in range(3)]
            while "fastgw" not in (value := begun.value()):
                assert value["by"] == "first", "a stream belongs to one attempt"
        problem = value["fastgw"]["problem"]["type"].rpartition(":")[2]
        assert problem in ("stream_idle", "stream_broken")


@pytest.mark.needs("node-clients")
def test_an_event_source_hears_each_event(shop: Shop) -> None:
    environ = {**os.environ, "NO_PROXY": "*", "CLIENTS_NODE_MODULES": str(fleet.node_modules())}
    script = REPOSITORY / "tests/clients/event_source.mjs"
    command = ["node", str(script), f"http://127.0.0.1:{shop.port}/orders"]
    node = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None
    try:
        request = shop.service.take()
        shop.items(request, 0, b"1", b"2")
        assert [json.loads(node.stdout.readline()) for _ in range(2)] == [["message", "1", ""], ["message", "2", ""]]
        shop.end(request, 2)
        assert json.loads(node.stdout.readline())[0] == "end"
        shop.service.reply(shop.service.take(), b"", [("status", b"204")])
        assert json.loads(node.stdout.readline()) == "closed"
    finally:
        node.kill()
        node.communicate()


LATER = """
[[route]]
method = "POST"
path = "/reports"
topic = "{orders}"
later = true
[store]
dir = "{store}"
[later]
topic = "{later}"
[streams]
topic = "{streams}"
"""
STREAM = """
[[route]]
method = "GET"
path = "/orders"
topic = "{orders}"
reply = "stream"
"""


def test_a_reload_may_bring_the_first_stream(tmp_path: Path, kafka_bootstrap: str, make_topics: MakeTopics) -> None:
    """The store runs already, for kept replies; its successor reads streams as well."""
    topics = make_topics({"replies": 4, "orders": 1, "streams": 4})
    topics |= make_topics({"later": 8}, {"message.timestamp.type": "LogAppendTime"})
    more = LATER.format(**topics, store=tmp_path / "store")
    gateway = Gateway(tmp_path, kafka_bootstrap, topics["replies"], [], more=more, settings=SECRETS)
    with hand_service(kafka_bootstrap, [topics["orders"]]) as service, gateway:
        gateway.config.write_text(gateway.config.read_text() + STREAM.format(**topics))
        code, _, err = fastgw("reload", gateway.config)
        assert code == 0, err
        eventually(lambda: gateway.status()["store"]["streams"]["partitions"] == 4, 20, "the store reads streams")
        with RawConnection(gateway.port) as client:

            def deferred() -> Answer | None:
                answer = client.request("POST", "/reports", b"1", ["Prefer: respond-async"])
                return answer if answer.status == 202 else None

            answer = eventually(deferred, 20, "the store has read its topic again")
            assert answer is not None
            service.reply(service.take(b"1"), b"done")
            location = answer.headers["location"]
            assert client.request("GET", location, headers=["Prefer: wait=10"]).body == b"done"
        with StreamClient(gateway.port, "/orders", headers=LINES) as stream:
            request = service.take()
            service.reply(request, b"7", streams.items_headers(b"a", 0, 1))
            assert stream.value() == 7
            service.reply(request, b"", streams.end_headers(b"a", True, 1))
            assert stream.rest() == b""


def two_nodes(folder: Path, bootstrap: str, topics: dict[str, str], service: HandService) -> Sequence[Shop]:
    shops = []
    for index in range(2):
        more = f'[cluster]\nmode = "static"\nnode_index = {index}\nnode_count = 2\n'
        place = folder / str(index)
        place.mkdir()
        shops.append(Shop(place, bootstrap, topics, service, more, workers=1))
    return shops


def test_items_that_arrive_at_another_node_are_sent_home(
    tmp_path: Path, kafka_bootstrap: str, make_topics: MakeTopics
) -> None:
    topics = make_topics({"replies": 8, "orders": 1, "streams": 8})
    with hand_service(kafka_bootstrap, [topics["orders"]]) as service, ExitStack() as stack:
        shops = two_nodes(tmp_path, kafka_bootstrap, topics, service)
        for shop in shops:
            stack.enter_context(shop.gateway)
        for shop in shops:
            with shop.ask(headers=ARRAY) as client:
                request = service.take()
                others = (int(request.headers["reply_partition"]) + 1) % 8
                for number in range(5):
                    shop.items(request, number, b"%d" % number, partition=others)
                shop.end(request, 5, partition=others)
                assert json.loads(client.rest()) == [0, 1, 2, 3, 4]


def test_items_at_another_node_survive_the_death_of_its_store(
    tmp_path: Path, kafka_bootstrap: str, make_topics: MakeTopics
) -> None:
    topics = make_topics({"replies": 8, "orders": 1, "streams": 8})
    with hand_service(kafka_bootstrap, [topics["orders"]]) as service, ExitStack() as stack:
        here, there = two_nodes(tmp_path, kafka_bootstrap, topics, service)
        for shop in (here, there):
            stack.enter_context(shop.gateway)
        with here.ask(headers=ARRAY) as client:
            write_elsewhere_while_the_store_dies(here, there, service.take(), 1)
            assert json.loads(client.rest()) == list(range(20))
        eventually(lambda: there.gateway.metric("fastgw_store_split_total", topic="streams") >= 21, 10, "it counts")


def test_a_drain_waits_for_streams_and_then_says_that_they_are_not_complete(
    tmp_path: Path, kafka_bootstrap: str, make_topics: MakeTopics
) -> None:
    topics = make_topics({"replies": 4, "orders": 1, "streams": 4})
    with hand_service(kafka_bootstrap, [topics["orders"]]) as service:
        shop = Shop(tmp_path, kafka_bootstrap, topics, service, workers=1)
        with shop.gateway, shop.ask() as first, shop.ask() as second:
            requests = [service.take(), service.take()]
            for request in requests:
                shop.items(request, 0, b"1")
            assert (first.value(), second.value()) == (1, 1)
            shop.gateway.signal(signal.SIGTERM)
            eventually(lambda: shop.gateway.status()["draining"], 10, "it drains")
            shop.items(requests[0], 1, b"2")
            shop.end(requests[0], 2)
            ends = sorted((stream.rest() for stream in (first, second)), key=len)
            assert ends[0].split(b"\n", 1)[0] == b"2"
            assert json.loads(ends[1])["fastgw"]["problem"]["type"] == "urn:fastgw:problem:stream_broken"


# ---- clients that come back


def test_a_client_that_comes_back_gets_the_rest_once_and_the_service_hears_nothing_of_it(shop: Shop) -> None:
    with shop.ask("/lasting", EVENTS) as client:
        request = shop.service.take()
        shop.items(request, 0, b"0", b"1")
        first, _ = client.event(), client.event()
    shop.items(request, 2, b"2")
    resumed, replays = (shop.gateway.metric(f"fastgw_{name}_total") for name in ("streams_resumed", "stream_replays"))
    with shop.ask("/lasting", EVENTS | {"Last-Event-ID": first["id"]}) as client:
        assert [client.event()["data"], client.event()["data"]] == ["1", "2"]
        shop.items(request, 3, b"3")
        shop.end(request, 4)
        assert client.event()["data"] == "3"
        last = client.event()
        assert (last["event"], client.event()) == ("end", {})
    with shop.ask(f"/lasting?n=1&last_event_id={last['id']}", EVENTS) as client:
        assert (client.status, client.rest()) == (204, b"")
    eventually(lambda: shop.gateway.metric("fastgw_streams_resumed_total") == resumed + 2, 10, "both are counted")
    eventually(lambda: shop.gateway.metric("fastgw_stream_replays_total") >= replays + 1, 10, "the log was read")
    with shop.ask(headers=ARRAY) as client:  # the next record of the request topic is this one
        shop.end(shop.service.take(), 0)
        assert client.rest() == b"[]\n"


def test_a_stream_that_can_be_resumed_is_stopped_by_delete(shop: Shop) -> None:
    with shop.ask("/lasting", EVENTS) as client, RawConnection(shop.granian) as other:
        request = shop.service.take()
        shop.items(request, 0, b"0")
        event = client.event()
        answer = other.request("DELETE", "/lasting", headers=[f"Last-Event-ID: {event['id']}"])
        assert (answer.status, answer.body) == (204, b"")
        cancel = shop.service.take()
        assert cancel.headers == {"cancel": request.correlation_id}
        assert (cancel.partition, cancel.value) == (request.partition, b"cancel")
        shop.fail(request, 1, b"499")
        assert client.event()["event"] == "error"


def test_delete_without_a_position_or_on_another_route_stops_nothing(shop: Shop) -> None:
    with shop.ask("/lasting", EVENTS) as client:
        request = shop.service.take()
        shop.items(request, 0, b"0")
        event = client.event()
        shop.end(request, 1)
    for headers in ([], ["Last-Event-ID: x"], [f"Last-Event-ID: {event['id'][:-6]}.0.0"]):
        with counted(shop.gateway, "malformed", route="lasting"), RawConnection(shop.port) as other:
            assert_told(other.request("DELETE", "/lasting", headers=headers), "malformed")
    with RawConnection(shop.port) as other:
        answer = other.request("DELETE", "/soon", headers=[f"Last-Event-ID: {event['id']}"])
        assert_told(answer, "wrong_method")
    with shop.ask(headers=ARRAY) as client:  # the next record of the request topic is this one
        shop.end(shop.service.take(), 0)
        assert client.rest() == b"[]\n"


def test_a_stream_survives_the_death_of_every_process(shop: Shop) -> None:
    with shop.ask("/lasting", EVENTS) as client:
        request = shop.service.take()
        shop.items(request, 0, b"0", b"1")
        position = client.event()["id"]
        shop.gateway.signal_all(signal.SIGKILL)
        assert shop.gateway.process is not None
        shop.gateway.process.wait(10)
    shop.items(request, 2, b"2")
    shop.end(request, 3)
    shop.gateway.start()
    with shop.ask("/lasting", EVENTS | {"Last-Event-ID": position}) as client:
        assert [client.event().get("data") for _ in range(2)] == ["1", "2"]
        assert client.event()["event"] == "end"


def test_a_position_that_is_none_is_forgotten(shop: Shop) -> None:
    for position in ("x", "x.1.2", "A" * 5000, "A" * 10_000, "x.-1.2", "x.1.99999999999999999999"):
        with shop.ask("/lasting", EVENTS | {"Last-Event-ID": position}) as client:
            event = client.event()
            assert (event["event"], event["id"]) == ("resync", "")
            assert client.event() == {}


def test_a_position_with_nul_is_no_header(shop: Shop) -> None:
    with counted(shop.gateway, "malformed"), RawConnection(shop.port) as client:
        client.send(head("GET", "/lasting", "Accept: text/event-stream", "Last-Event-ID: x.1\0.2"))
        assert_told(client.answer(), "malformed")
    with shop.ask("/lasting?last_event_id=x%00.1.2", EVENTS) as client:
        assert client.event()["event"] == "resync"


@pytest.mark.needs("node-clients")
def test_an_event_source_comes_back_through_reloads_and_gets_every_event_once(shop: Shop) -> None:
    environ = {**os.environ, "NO_PROXY": "*", "CLIENTS_NODE_MODULES": str(fleet.node_modules())}
    script = REPOSITORY / "tests/clients/event_source.mjs"
    command = ["node", str(script), f"http://127.0.0.1:{shop.port}/lasting"]
    node = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None
    try:
        request, number = shop.service.take(), 0
        for reload in range(2):
            for _ in range(5):
                shop.items(request, number, b"%d" % number)
                assert json.loads(node.stdout.readline())[:2] == ["message", str(number)]
                number += 1
            ended = len(shop.gateway.log_text.split('"drained"'))
            shop.gateway.signal(signal.SIGHUP)
            eventually(lambda ended=ended: len(shop.gateway.log_text.split('"drained"')) == ended + 2, 30, f"{reload}")
        shop.items(request, number, b'"last"')
        assert json.loads(node.stdout.readline())[:2] == ["message", '"last"']
        shop.end(request, number + 1)
        assert json.loads(node.stdout.readline())[0] == "end"
        assert json.loads(node.stdout.readline()) == "closed"
    finally:
        node.kill()
        node.communicate()


def test_a_stream_is_resumed_on_another_node(tmp_path: Path, kafka_bootstrap: str, make_topics: MakeTopics) -> None:
    topics = make_topics({"replies": 8, "orders": 1, "streams": 8})
    with hand_service(kafka_bootstrap, [topics["orders"]]) as service, ExitStack() as stack:
        here, there = two_nodes(tmp_path, kafka_bootstrap, topics, service)
        for shop in (here, there):
            stack.enter_context(shop.gateway)
        with here.ask("/lasting", EVENTS) as client:
            request = service.take()
            here.items(request, 0, b"0", b"1")
            position = client.event()["id"]
        with there.ask("/lasting", EVENTS | {"Last-Event-ID": position}) as client:
            assert client.event()["data"] == "1"
            here.items(request, 2, b"2")
            assert client.event()["data"] == "2"
            here.end(request, 3)
            assert client.event()["event"] == "end"


# ---- commands


def test_topics_makes_the_topic_of_streams_and_check_knows_it(
    tmp_path: Path, kafka_bootstrap: str, kafka_admin: AdminClient, make_topics: MakeTopics
) -> None:
    topics = make_topics({"replies": 8, "orders": 1})
    topics["streams"] = topics["replies"] + ".streams"
    with hand_service(kafka_bootstrap, [topics["orders"]]) as service:
        shop = Shop(tmp_path, kafka_bootstrap, topics, service)
    code, out, err = fastgw("check", "--live", shop.gateway.config)
    assert code != 0
    assert "the topic of streams" in out + err
    try:
        code, out, err = fastgw("topics", shop.gateway.config)
        assert code == 0, err
        assert f"created {topics['streams']}: 8 partitions" in out
        resource = ConfigResource(ResourceType.TOPIC, topics["streams"])
        found = kafka_admin.describe_configs([resource])[resource].result()
        assert found["retention.ms"].value == "3600000"
        assert int(found["max.message.bytes"].value) >= 8 << 20
        assert fastgw("check", "--live", shop.gateway.config)[0] == 0
    finally:
        for future in kafka_admin.delete_topics([topics["streams"]]).values():
            future.result()
