"""What the client is told and what became of its record, row by row, through a real gateway on a real Kafka.

Rows that need a broken Kafka are in test_kafka_faults.py, those of a node that goes in test_drain.py,
those of a service that is away in test_services.py.
"""

from __future__ import annotations

import json
import secrets
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from fastgw import errors
from tests.actors.hand_service import hand_service, values_in
from tests.actors.raw_http import RawConnection, head
from tests.fronts.http2_client import Http2Client
from tests.gateway import (
    test_drain,
    test_idempotency,
    test_kafka_faults,
    test_later,
    test_newer_node,
    test_services,
    test_streams,
)
from tests.gateway.gateways import Gateway
from tests.gateway.outcome_table import TABLE, assert_told, counted
from tests.ports import free_port
from tests.waiting import eventually

SLOTS = 16
CONNECTIONS = 40
LONG = "x" * 2000
MANY = [f"X-{number}: {'y' * 80}" for number in range(50)]
CHUNKS = b"1\r\nx\r\n0\r\n\r\n"

ROUTES = """
[[route]]
method = ["POST", "PUT"]
path = "/orders"
topic = "{orders}"
timeout = "20s"
max_in_flight = 1000
response_headers = ["x-note"]
[[route]]
method = "GET"
path = "/orders/{{id}}"
topic = "{orders}"
timeout = "20s"
[[route]]
method = "POST"
path = "/keyed"
topic = "{orders}"
key = "body./id"
[[route]]
method = "POST"
path = "/capped"
topic = "{orders}"
timeout = "20s"
max_in_flight = 1
[[route]]
method = "POST"
path = "/short"
topic = "{orders}"
timeout = "500ms"
[[route]]
method = "POST"
path = "/small"
topic = "{small}"
[[route]]
method = "POST"
path = "/compacted"
topic = "{compacted}"
[[route]]
method = "POST"
path = "/gone"
topic = "{gone}"
[limits]
body_timeout = "300ms"
max_body = "8KiB"
max_target = "1KiB"
max_header = "4KiB"
max_reply = "100KiB"
body_memory = "64KiB"
answer_memory = "128KiB"
connection_answer_memory = "100KiB"
header_timeout = "1s"
max_connections = {connections}
[[listen]]
bind = "127.0.0.1:{express}"
front = "express"
[[listen]]
bind = "127.0.0.1:{granian}"
front = "granian"
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory, kafka_bootstrap, make_module_topics):
    """One gateway with one worker of 16 slots and both fronts; a service whose replies are written by the tests."""
    topics = make_module_topics({"replies": 4, "orders": 1, "gone": 1})
    topics |= make_module_topics({"small": 1}, {"max.message.bytes": "2000"})
    topics |= make_module_topics({"compacted": 1}, {"cleanup.policy": "compact"})
    ports = {"express": free_port(), "granian": free_port()}
    gateway = Gateway(
        tmp_path_factory.mktemp("outcomes"), kafka_bootstrap, topics["replies"], [], workers=1,
        settings=f'slots = {SLOTS}\nhosts = ["test"]\n', more=ROUTES.format(connections=CONNECTIONS, **topics, **ports),
    )  # fmt: skip
    with gateway, hand_service(kafka_bootstrap, [topics["orders"]]) as service:
        yield SimpleNamespace(gateway=gateway, topics=topics, service=service, bootstrap=kafka_bootstrap, **ports)


@pytest.fixture
def client(shop):
    """A connection to the front that a listener gets by default."""
    with RawConnection(shop.express) as connection:
        yield connection


@pytest.fixture(params=["express", "granian"])
def either(request, shop):
    """A connection to each front in turn."""
    with RawConnection(getattr(shop, request.param)) as connection:
        yield connection


@pytest.fixture
def body():
    """A body that no other request has, so that its record can be told in a topic."""
    return secrets.token_hex(8).encode()


def is_recorded(shop, body, topic="orders"):
    return body in values_in(shop.bootstrap, shop.topics[topic])


# Before anything is sent to Kafka.

REFUSED_HEADS = {
    "no host": ("malformed", b"PUT /orders HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
    "two hosts": ("malformed", head("PUT", "/orders", "Host: test", "Content-Length: 0")),
    "another host": ("misdirected", b"PUT /orders HTTP/1.1\r\nHost: elsewhere\r\nContent-Length: 0\r\n\r\n"),
    "dots in the path": ("malformed", head("GET", "/orders/../../etc", "Content-Length: 0")),
    "NUL in the path": ("malformed", head("GET", "/orders/%00", "Content-Length: 0")),
    "an escape that is none": ("malformed", head("GET", "/orders/%zz", "Content-Length: 0")),
    "a wait for nothing": ("malformed", head("GET", "/orders/7", "Prefer: wait=0")),
    "no such path": ("no_route", head("GET", "/nothing")),
    "no such depth": ("no_route", head("GET", "/orders/1/2")),
    "an empty segment": ("no_route", head("GET", "/orders/")),
    "another method": ("wrong_method", head("DELETE", "/orders")),
    "a method of nobody": ("wrong_method", head("BREW", "/orders")),
    "a large body": ("body_too_large", head("POST", "/orders", "Content-Length: 8193")),
    "a long path": ("target_too_long", head("GET", f"/orders/{LONG}")),
    "a long header": ("headers_too_large", head("GET", "/orders/1", "X-Long: " + 2 * LONG + LONG)),
    "many headers": ("headers_too_large", head("GET", "/orders/1", *MANY)),
    "a long query": ("target_too_long", head("GET", f"/orders/1?{LONG}")),
}  # fmt: skip


# Although the row does not say so. A strange method may be the rest of a body that was longer than its length. express
# refuses a large head before it has read all of it; hyper has read it by then.
ENDS_ITS_CONNECTION = {
    "express": {"a method of nobody", "a long header", "many headers"},
    "granian": {"a method of nobody"},
}


@pytest.mark.ending(*{name for name, _ in REFUSED_HEADS.values()})
@pytest.mark.parametrize("head", REFUSED_HEADS)
@pytest.mark.parametrize("front", ["express", "granian"])
def test_a_head_that_may_not_enter_is_told_why(shop, front, head):
    name, request_bytes = REFUSED_HEADS[head]
    before = len(values_in(shop.bootstrap, shop.topics["orders"]))
    # Nothing that takes time while the connection is open: a silent one is closed.
    with RawConnection(getattr(shop, front)) as client:
        with counted(shop.gateway, name):
            client.send(request_bytes)
            answer = client.answer()
        assert_told(answer, name, closes=head in ENDS_ITS_CONNECTION[front])
        if answer.headers.get("connection") == "close":
            assert client.is_closed()
        else:
            assert client.request("GET", "/nothing").status == 404, "the connection goes on"
    assert answer.headers.get("allow") == ("POST, PUT" if name == "wrong_method" else None)
    assert len(values_in(shop.bootstrap, shop.topics["orders"])) == before


@pytest.mark.ending("expectation_failed")
def test_an_expectation_that_cannot_be_met_is_417(shop, client):
    with counted(shop.gateway, "expectation_failed"):
        client.ask("POST", "/orders", b"", ["Expect: the-impossible"])
        assert_told(client.answer(), "expectation_failed")


@pytest.mark.ending("header_timeout")
def test_a_head_that_comes_too_slowly_is_408(shop, client):
    with counted(shop.gateway, "header_timeout"):
        client.send(b"POST /orders HTTP/1.1\r\n")
        assert_told(client.answer(), "header_timeout")
        assert client.is_closed()


@pytest.mark.ending("connection_cap")
def test_a_connection_above_the_cap_is_told_so_and_there_is_room_again_when_one_has_left(shop):
    with ExitStack() as opened, counted(shop.gateway, "connection_cap"):
        inside = [opened.enter_context(RawConnection(shop.express)) for _ in range(CONNECTIONS)]
        assert {connection.request("GET", "/nothing").status for connection in inside} == {404}
        with RawConnection(shop.express) as above:
            above.send(b"GET")  # some systems hand a connection on only when something comes
            assert_told(above.answer(), "connection_cap")
            assert above.is_closed()
        inside[0].close()
        eventually(lambda: ask_once(shop.express) == 404, 5, "there is room again")


def ask_once(port):
    with RawConnection(port) as connection:
        return connection.request("GET", "/nothing").status


@pytest.mark.ending("malformed")
@pytest.mark.parametrize("value", [b"", b"{", b"[1]", b'{"id": null}', b'{"id": {}}', b'{"other": 1}'])
def test_a_request_without_the_key_of_its_route_is_malformed(shop, client, value):
    with counted(shop.gateway, "malformed", route="POST /keyed"):
        assert_told(client.request("POST", "/keyed", value), "malformed")
    assert not is_recorded(shop, value)


@pytest.mark.ending("body_timeout")
def test_a_body_that_comes_too_slowly_is_408(shop, either, body):
    with counted(shop.gateway, "body_timeout"):
        either.send(head("POST", "/orders", "Content-Length: 100") + body)
        assert_told(either.answer(), "body_timeout")
        assert either.is_closed()


@pytest.mark.ending("bodies_full")
@pytest.mark.parametrize("front", ["express", "granian"])
def test_a_body_that_does_not_fit_beside_those_that_are_coming_in_is_503(shop, front, body):
    fitting = 8  # bodies of 8 KiB in 64 KiB; a byte of each is still to come
    part = body + bytes(8191 - len(body))
    with ExitStack() as stack:
        clients = [stack.enter_context(RawConnection(getattr(shop, front))) for _ in range(fitting + 1)]
        with counted(shop.gateway, "bodies_full"):
            for client in clients[:fitting]:
                client.send(head("POST", "/orders", "Content-Length: 8192") + part)
            eventually(lambda: shop.gateway.status()["workers"][0]["body_bytes"] == fitting * 8191, 5)
            assert shop.gateway.metric("fastgw_request_body_bytes", worker="0") == fitting * 8191
            clients[-1].send(head("POST", "/orders", "Content-Length: 8192") + part)
            answers = [client.answer() for client in clients]
        (too_many,) = [answer for answer in answers if answer.status == 503]
        # hyper closes the connection if it gives up the rest of the body before it writes the head of the answer.
        assert_told(too_many, "bodies_full", closes=True if front == "express" else None)
        assert [answer.status for answer in answers].count(408) == fitting, "they had room, and did not come"
    assert not is_recorded(shop, body)


@pytest.mark.ending("answers_full")
@pytest.mark.parametrize("is_other", [False, True])
def test_a_large_reply_that_does_not_fit_beside_answers_that_nobody_reads_is_502(shop, body, is_other):
    """In the connection's share, or, from another connection, in the worker's."""
    address, size = f"127.0.0.1:{shop.granian}", 60_000

    def ask(client, size):
        stream = client.request("/orders", "POST", body=body, authority="test")
        shop.service.reply(shop.service.take(body), bytes(size))
        return stream

    def held_bytes():
        (worker,) = shop.gateway.status()["workers"]
        return worker["answer_bytes"]

    with Http2Client(address, window_bytes=0) as shut, Http2Client(address) as other:
        unread = ask(shut, size)
        eventually(lambda: held_bytes() == size, 5, "it is shown")
        assert shop.gateway.metric("fastgw_answer_bytes", process="worker 0.0") == size
        client, more = (other, 90_000) if is_other else (shut, size)
        with counted(shop.gateway, "answers_full"):
            stream = ask(client, more)
            client.open_windows([stream])
            refused = client.answer(stream)
        problem = json.loads(refused.body)
        row = TABLE["answers_full"]
        assert (refused.status, problem["type"]) == (row.status, "urn:fastgw:problem:answers_full")
        assert dict(refused.headers)["fastgw-outcome"] == problem["outcome"] == row.outcome
        assert problem["retryable"] is row.retryable
        assert ("this worker" if is_other else "one connection") in problem["detail"]
        shut.open_windows([unread])
        assert shut.answer(unread).body == bytes(size)
    eventually(lambda: held_bytes() == 0, 5, "nothing is held")
    assert is_recorded(shop, body)


@pytest.mark.ending("cancelled_early")
def test_a_client_that_leaves_in_the_middle_of_its_body_is_counted(shop, either):
    with counted(shop.gateway, "cancelled_early"):
        either.send(head("POST", "/orders", "Content-Length: 100") + b"half")
        either.close()


@pytest.mark.ending("table_full")
def test_with_all_slots_that_it_may_have_taken_a_route_is_503_and_another_one_goes_on(shop, client, body):
    parked = [RawConnection(shop.express) for _ in range(SLOTS // 2 + 1)]  # the shared half, and its own
    for connection in parked:
        connection.ask("POST", "/orders", b"parked")
    records = [shop.service.take(b"parked") for _ in parked]
    with counted(shop.gateway, "table_full"):
        assert_told(client.request("POST", "/orders", body), "table_full")
        client.ask("POST", "/capped", b"other route")
        shop.service.reply(shop.service.take(b"other route"), b"well")
        assert client.answer().body == b"well"
        for record in records:
            shop.service.reply(record)
        assert {connection.answer().status for connection in parked} == {200}
    assert not is_recorded(shop, body)
    for connection in parked:
        connection.close()


@pytest.mark.ending("in_flight_cap")
def test_above_the_cap_of_its_route_a_request_is_503_and_other_routes_go_on(shop, client, body):
    with RawConnection(shop.express) as parked, counted(shop.gateway, "in_flight_cap", route="POST /capped"):
        parked.ask("POST", "/capped", b"parked")
        first = shop.service.take(b"parked")
        assert_told(client.request("POST", "/capped", body), "in_flight_cap")
        client.ask("POST", "/orders", b"other route")
        shop.service.reply(shop.service.take(b"other route"), b"well")
        assert client.answer().body == b"well"
        shop.service.reply(first)
        assert parked.answer().status == 200
    assert not is_recorded(shop, body)


# What Kafka says of the record.


@pytest.mark.ending("topic_unknown")
def test_a_request_whose_topic_is_gone_is_502(shop, client, kafka_admin, body):
    gone = shop.topics["gone"]
    kafka_admin.delete_topics([gone])[gone].result(10)
    eventually(lambda: gone not in kafka_admin.list_topics(timeout=10).topics, 10, "the topic is gone")
    with counted(shop.gateway, "topic_unknown", route="POST /gone"):
        assert_told(client.request("POST", "/gone", body), "topic_unknown")


@pytest.mark.ending("record_too_large")
def test_a_record_above_the_limit_of_its_topic_is_413_and_a_smaller_one_goes_through(shop, client, body):
    with counted(shop.gateway, "record_too_large", route="POST /small"):
        assert_told(client.request("POST", "/small", body * 200), "record_too_large")
    assert client.request("POST", "/small", body, ["Prefer: wait=1"]).status == 504
    assert values_in(shop.bootstrap, shop.topics["small"]) == [body]


@pytest.mark.ending("refused_send")
def test_a_record_that_its_topic_does_not_take_is_502(shop, client, body):
    with counted(shop.gateway, "refused_send", route="POST /compacted"):
        # A compacted topic takes no record without key, and the route has none.
        assert_told(client.request("POST", "/compacted", body), "refused_send")
    assert not is_recorded(shop, body, "compacted")


# After the record is in its topic.


@pytest.mark.ending("answered")
def test_the_services_own_answer_is_its_own_with_the_outcome_recorded(shop, client, body):
    with counted(shop.gateway, "answered"):
        client.ask("POST", "/orders", body)
        shop.service.reply(shop.service.take(body), b"made", [("status", b"201"), ("content-type", b"text/plain")])
        answer = client.answer()
    assert (answer.status, answer.body) == (201, b"made")
    assert answer.headers["fastgw-outcome"] == TABLE["answered"].outcome
    assert answer.headers["content-type"] == "text/plain"
    assert is_recorded(shop, body)


@pytest.mark.ending("expired")
@pytest.mark.parametrize("prefer", [[], ["Prefer: wait=30"]], ids=["", "a longer wait is not granted"])
def test_a_request_that_nobody_answers_is_504_recorded(shop, client, body, prefer):
    with counted(shop.gateway, "expired", route="POST /short"):
        answer = client.request("POST", "/short", body, prefer)
        assert_told(answer, "expired")
    taken = shop.service.take(body)
    assert answer.problem["request_id"] == taken.correlation_id.decode()
    assert answer.problem["instance"] == f"urn:uuid:{taken.correlation_id.decode()}"
    assert taken.value == body


@pytest.mark.ending("expired")
def test_the_client_may_ask_for_a_shorter_wait(shop, client, body):
    with counted(shop.gateway, "expired", route="POST,PUT /orders"):
        assert_told(client.request("POST", "/orders", body, ["Prefer: respond-async, wait=1"]), "expired")
    taken = shop.service.take(body)
    assert taken.value == body


BAD_REPLIES = {
    "status 99": [("status", b"99")],
    "status 100": [("status", b"100")],
    "status 101": [("status", b"101")],
    "status 600": [("status", b"600")],
    "status 1000": [("status", b"1000")],
    "status in words": [("status", b"okay")],
    "status in other digits": [("status", "٢٠٠".encode())],
    "an injected header": [("x-note", b"a\r\nset-cookie: b")],
    "an injected header in the content type": [("content-type", b"text/plain\r\nset-cookie: b")],
    "a control character in a header": [("x-note", b"a\x01b")],
    "a header with NUL": [("x-note", b"a\0b")],
}


@pytest.mark.ending("bad_reply")
@pytest.mark.parametrize("headers", BAD_REPLIES.values(), ids=BAD_REPLIES)
def test_a_reply_that_cannot_be_an_answer_is_502(shop, client, body, headers):
    with counted(shop.gateway, "bad_reply"):
        client.ask("POST", "/orders", body)
        shop.service.reply(shop.service.take(body), b"evil", headers)
        answer = client.answer()
        assert_told(answer, "bad_reply")
    assert "set-cookie" not in answer.headers
    assert is_recorded(shop, body)


@pytest.mark.ending("bad_reply")
@pytest.mark.parametrize(("size", "name"), [(100 << 10, None), ((100 << 10) + 1, "bad_reply")])
def test_a_reply_above_the_limit_is_502(shop, client, body, size, name):
    with counted(shop.gateway, name or "answered"):
        client.ask("POST", "/orders", body)
        shop.service.reply(shop.service.take(body), b"x" * size)
        answer = client.answer()
    if name is None:
        assert (answer.status, len(answer.body)) == (200, size)
    else:
        assert_told(answer, name)


@pytest.mark.ending("cancelled")
def test_a_client_that_leaves_before_the_answer_is_counted_and_the_reply_is_late(shop, either, body):
    late = shop.gateway.replies("late")
    with counted(shop.gateway, "cancelled"):
        either.ask("POST", "/orders", body)
        taken = shop.service.take(body)
        phases = lambda: [waiting["phase"] for waiting in shop.gateway.status()["waiting"]["oldest"]]  # noqa: E731
        eventually(lambda: phases() == ["recorded"], 5, "Kafka has confirmed the record")
        either.close()
    shop.service.reply(taken)
    eventually(lambda: shop.gateway.replies("late") == late + 1, 5, "the reply is late")


# The table as a whole.


def test_the_table_in_the_source_is_the_one_that_answers_are_held_to():
    assert {row.name: (row.status, row.outcome.value, row.retryable) for row in errors.ENDINGS} == {
        name: (row.status, row.outcome, row.retryable) for name, row in TABLE.items()
    }


# These are shown by tests/core/test_later.py alone: they need a full disk, an open transaction, or hours. Nobody gets
# `replay_cap` as an answer: tests/core/test_streams.py shows who is counted under it.
BY_UNITS = {"work_expired", "store_restoring", "store_full", "watch_cap", "replay_cap"}


@pytest.mark.real_kafka  # where tests with a broker are left out, it cannot know
def test_every_row_of_the_table_is_shown_by_a_test_on_a_real_gateway(request):
    others = [test_drain, test_idempotency, test_kafka_faults, test_later, test_newer_node, test_services, test_streams]
    modules = [request.module, *others]
    marks = [mark for module in modules for test in vars(module).values() for mark in getattr(test, "pytestmark", [])]
    shown = {name for mark in marks if mark.name == "ending" for name in mark.args}
    assert shown | BY_UNITS == {row.name for row in errors.ENDINGS}
