"""One id names a request: on its record, its answer, in its problem, in both logs. Through a real gateway."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from types import SimpleNamespace

import pytest

from tests.actors.hand_service import hand_service
from tests.actors.raw_http import RawConnection
from tests.gateway.gateways import Gateway
from tests.ports import free_port
from tests.waiting import eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"
MORE = """
[[route]]
method = "POST"
path = "/orders"
topic = "{orders}"
timeout = "20s"
[[route]]
method = "POST"
path = "/short"
topic = "{orders}"
timeout = "300ms"
[[listen]]
bind = "127.0.0.1:{express}"
front = "express"
[[listen]]
bind = "127.0.0.1:{granian}"
front = "granian"
[log]
access = "all"
access_file = "{access}"
[cors]
origins = ["https://app.example"]
"""


@pytest.fixture(scope="module", params=["native", "public"])
def shop(request, tmp_path_factory, kafka_bootstrap, make_module_topics):
    """A gateway on each Kafka link; `failed` has the ids of the requests that somebody must act on, by ending."""
    topics = make_module_topics({"replies": 4, "orders": 1})
    ports = {"express": free_port(), "granian": free_port()}
    folder = tmp_path_factory.mktemp("log")
    access = folder / "access.log"
    more = MORE.format(access=access, **topics, **ports)
    kafka = f'link = "{request.param}"'
    gateway = Gateway(folder, kafka_bootstrap, topics["replies"], [], workers=1, more=more, kafka=kafka)
    with gateway, hand_service(kafka_bootstrap, [topics["orders"]]) as service:
        yield SimpleNamespace(gateway=gateway, service=service, access=access, failed=defaultdict(set), **ports)


@pytest.fixture(params=["express", "granian"])
def client(request, shop):
    with RawConnection(getattr(shop, request.param)) as connection:
        yield connection


def line_of(shop, request_id: str):
    """The line of a request in the access log, once it is there."""

    def found():
        lines = [json.loads(line) for line in shop.access.read_bytes().splitlines()] if shop.access.exists() else []
        return [line for line in lines if line["request_id"] == request_id]

    eventually(found, message=f"a line for {request_id}")
    [line] = found()
    return line


def taken_and_recorded(shop):
    """The one request that waits, once the gateway knows that its record is written: its service may know it sooner."""
    taken = shop.service.take()
    phases = lambda: [one["phase"] for one in shop.gateway.status()["waiting"]["oldest"]]  # noqa: E731
    eventually(lambda: phases() == ["recorded"], message="the request that waits is recorded")
    return taken


def test_an_answered_request_has_one_id_everywhere_and_its_clients_beside_it(shop, client):
    headers = ["X-Request-Id: from-the-client", f"traceparent: 00-{TRACE}-b7ad6b7169203331-01"]
    client.ask("POST", "/orders?token=secret", b"hello", headers)
    taken = taken_and_recorded(shop)
    shop.service.reply(taken, b"well", [("x-request-id", b"from-the-service")])
    answer = client.answer()
    request_id = taken.correlation_id.decode()
    assert answer.headers["x-request-id"] == request_id
    assert taken.headers["http_header_x-request-id"] == b"from-the-client"
    line = line_of(shop, request_id)
    assert line.pop("time").endswith("Z")
    assert line.pop("queue_ms") >= 0
    assert 0 <= line.pop("ack_to_reply_ms") <= line.pop("total_ms")
    assert line == {
        "request_id": request_id, "client_request_id": "from-the-client", "trace_id": TRACE, "route": "POST /orders",
        "method": "POST", "path": "/orders", "status": 200, "ending": "answered", "outcome": "recorded",
        "bytes_in": 5, "bytes_out": 4, "client": "127.0.0.1", "worker": 0,
    }  # fmt: skip


@pytest.mark.parametrize("own", ['a"b', "x" * 129, "two words", "", "a, b"])
def test_a_clients_id_that_could_be_mistaken_in_a_log_is_on_the_record_and_stays_out_of_the_log(shop, client, own):
    client.ask("POST", "/orders", b"", [f"X-Request-Id: {own}"])
    taken = shop.service.take()
    assert taken.headers["http_header_x-request-id"] == own.encode()
    shop.service.reply(taken, b"well")
    assert client.answer().headers["x-request-id"] == taken.correlation_id.decode()
    assert "client_request_id" not in line_of(shop, taken.correlation_id.decode())


def test_an_ending_to_act_on_is_in_the_gateways_log_with_the_id(shop, client):
    client.ask("POST", "/short", b"")
    answer = client.answer()
    request_id = shop.service.take().correlation_id.decode()
    assert (answer.status, answer.problem["request_id"], answer.headers["x-request-id"]) == (
        504,
        request_id,
        request_id,
    )
    line = line_of(shop, request_id)
    assert (line["ending"], line["outcome"], line["status"]) == ("expired", "recorded", 504)
    is_told_with_an_id(shop, "expired", request_id)


def is_told_with_an_id(shop, ending: str, request_id: str) -> None:
    """The first such request has a line in the gateway's log at once; those of the next seconds are only counted."""
    shop.failed[ending].add(request_id)

    def told():
        lines = [json.loads(line) for line in shop.gateway.log_text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["event"] == "request failed" and line["ending"] == ending]

    eventually(told, message=f"the log has a line for {ending}")
    assert {line["request_id"] for line in told()} <= shop.failed[ending]


def test_a_reply_that_is_none_is_in_the_gateways_log_with_the_id(shop, client):
    client.ask("POST", "/orders", b"")
    taken = shop.service.take()
    request_id = taken.correlation_id.decode()
    shop.service.reply(taken, b"well", [("status", b"1000")])
    answer = client.answer()
    assert (answer.status, answer.problem["request_id"]) == (502, request_id)
    assert (line_of(shop, request_id)["ending"], line_of(shop, request_id)["status"]) == ("bad_reply", 502)
    is_told_with_an_id(shop, "bad_reply", request_id)


def test_a_refused_request_has_a_line_as_well(shop, client):
    client.ask("GET", "/nowhere", b"", ["X-Request-Id: mine"])
    answer = client.answer()
    line = line_of(shop, answer.headers["x-request-id"])
    assert (line["status"], line["ending"], line["path"]) == (404, "no_route", "/nowhere")
    assert (line["client_request_id"], line["client"]) == ("mine", "127.0.0.1")
    assert "route" not in line


def test_what_is_no_request_has_a_line_as_well(shop):
    with RawConnection(shop.express) as client:
        client.send(b"NONSENSE\r\n\r\n")
        line = line_of(shop, client.answer().headers["x-request-id"])
    assert (line["status"], line["ending"], line["client"]) == (400, "malformed", "127.0.0.1")


def test_a_client_that_leaves_has_the_line_of_499(shop):
    with RawConnection(shop.express) as client:
        client.ask("POST", "/orders", b"")
        taken = taken_and_recorded(shop)
    line = line_of(shop, taken.correlation_id.decode())
    assert (line["status"], line["ending"], line["outcome"]) == (499, "cancelled", "recorded")


def test_a_preflight_is_answered_and_counted_without_a_record(shop, client):
    before = shop.gateway.metric("fastgw_options_answered_total")
    headers = ["Origin: https://app.example", "Access-Control-Request-Method: POST"]
    client.ask("OPTIONS", "/orders", b"", headers)
    answer = client.answer()
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, "https://app.example")
    line = line_of(shop, answer.headers["x-request-id"])
    assert (line["ending"], line["route"]) == ("options", "POST /orders")
    assert shop.gateway.metric("fastgw_options_answered_total") == before + 1


def test_a_reload_switches_the_access_log_and_cors_on_and_off(shop):
    def asked(with_cors):
        """The headers of an answer, once it is from a worker with the new settings: for a moment, both serve."""

        def headers():
            with RawConnection(shop.express) as client:
                client.ask("GET", "/nowhere", b"", ["Origin: https://app.example"])
                answered = client.answer().headers
            return answered if ("vary" in answered) == with_cors else None

        return eventually(headers, 20, f"the new workers serve, CORS is {with_cors}")

    with_both = shop.gateway.config.read_text()
    asked(with_cors=True)
    shop.gateway.config.write_text(
        with_both.replace('access = "all"', 'access = "off"').replace("[cors]", "#").replace("origins =", "#")
    )
    shop.gateway.signal(signal.SIGHUP)
    silent = asked(with_cors=False)["x-request-id"]
    shop.gateway.config.write_text(with_both)
    shop.gateway.signal(signal.SIGHUP)
    line_of(shop, asked(with_cors=True)["x-request-id"])
    assert silent.encode() not in shop.access.read_bytes()
