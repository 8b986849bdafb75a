"""CORS on every front: a page can ask, send, and read what became of its request, whoever answers."""

from __future__ import annotations

import orjson
import pytest

from tests.fronts.kinds import fronts
from tests.fronts.test_answers import get

pytestmark = fronts()

PAGE, OTHER = "https://app.example", "https://evil.example"
ORIGIN = f"Origin: {PAGE}"
ALLOWED = "content-type, prefer, idempotency-key, last-event-id, traceparent, tracestate, x-request-id"
EXPOSED = "fastgw-outcome, retry-after, location, preference-applied, idempotency-replayed, x-request-id"
CORS = f"""
[cors]
origins = ["{PAGE}"]
expose = ["x-total"]
"""
ROUTES = """
[[route]]
method = "POST"
path = "/only/post"
topic = "held"
max_in_flight = 1
response_headers = ["x-told", "access-control-allow-origin", "vary"]
[[route]]
method = "POST"
path = "/closed"
topic = "echo"
cors = "off"
[[route]]
method = "DELETE"
path = "/closed"
topic = "echo"
[[route]]
method = ["POST", "OPTIONS"]
path = "/public"
topic = "echo"
request_headers = ["x-tenant"]
[route.cors]
origins = "*"
max_age = "5s"
"""


@pytest.fixture
def house(serve):
    return serve(more_routes=ROUTES + CORS)


def ask(house, *lines, path="/only/post", wants="POST", origin=PAGE):
    """The answer to a preflight."""
    client = house.client()
    client.send(get(path, f"Origin: {origin}", f"Access-Control-Request-Method: {wants}", *lines, method="OPTIONS"))
    return client.answer()


def told(answer):
    """What an answer says about CORS."""
    return {name: value for name, value in answer.headers if name.startswith("access-control-")}


def vary(answer):
    return ", ".join(answer.values("vary")).replace(" ", "").split(",")


def test_a_preflight_is_answered_without_a_record(house):
    answer = ask(house, "Access-Control-Request-Headers: content-type,x-whatever")
    assert (answer.status, answer.body) == (204, b"")
    assert told(answer) == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": ALLOWED,
        "access-control-max-age": "600",
    }
    assert "origin" in vary(answer)
    assert house.door.opened == []
    assert house.empty()


def test_a_preflight_may_ask_for_query(house):
    """No page may send it without asking: the Fetch standard lists GET, HEAD and POST alone."""
    answer = ask(house, path="/echo", wants="QUERY")
    assert "QUERY" in told(answer)["access-control-allow-methods"].split(", ")


def test_a_connection_goes_on_behind_a_preflight(house):
    client = house.client()
    preflight = get("/echo", ORIGIN, "Access-Control-Request-Method: GET", method="OPTIONS")
    client.send(preflight + get("/echo", ORIGIN))
    assert [client.answer("OPTIONS").status, client.answer().status] == [204, 200]


def test_a_page_that_may_not_is_told_nothing(house):
    answer = ask(house, origin=OTHER)
    assert (answer.status, told(answer)) == (204, {})
    assert "origin" in vary(answer), "or a cache gives the answer to a page that may"


@pytest.mark.parametrize("lines", [(), (ORIGIN,), ("Access-Control-Request-Method: POST",)])
def test_options_that_is_no_preflight_is_a_request_like_others(house, lines):
    client = house.client()
    client.send(get("/only/post", *lines, method="OPTIONS"))
    assert client.answer().status == 405
    client = house.client()
    client.send(get("/public", *lines, method="OPTIONS"))
    assert client.answer().status == 200
    assert len(house.door.opened) == 1


def test_a_route_has_rules_of_its_own(house):
    assert told(ask(house, path="/public", origin=OTHER)) == {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "OPTIONS, POST",
        "access-control-allow-headers": f"{ALLOWED}, x-tenant",
        "access-control-max-age": "5",
    }
    assert ask(house, path="/closed").status == 405
    assert told(ask(house, path="/closed", wants="DELETE"))["access-control-allow-methods"] == "DELETE, POST"


def test_a_page_reads_what_the_service_answered_and_the_service_has_no_say_in_it(house):
    client = house.client()
    client.send(get("/only/post", ORIGIN, "Content-Length: 0", method="POST"))
    record = house.held()[0]
    house.reply(record, b"x", (("Access-Control-Allow-Origin", b"*"), ("x-told", b"1"), ("vary", b"accept")))
    answer = client.answer()
    assert (answer.status, answer.values("x-told")) == (200, ["1"])
    assert answer.values("access-control-allow-origin") == [PAGE]
    assert answer.values("access-control-expose-headers") == [f"{EXPOSED}, x-told, vary, x-total"]
    assert vary(answer) == ["accept", "origin"]


def refused(house, line):
    """Requests that the gateway refuses by itself, and their statuses."""
    yield get("/nowhere", line), 404
    yield get("/only/post", line), 405
    yield get("/small", line, "Content-Length: 17", method="POST") + bytes(17), 413
    yield get("/echo?" + "x" * 9000, line), 414
    waiting = house.client()
    waiting.send(get("/only/post", line, "Content-Length: 0", method="POST"))
    house.held()
    yield get("/only/post", line, "Content-Length: 0", method="POST"), 503


def test_a_page_reads_the_outcome_of_what_the_gateway_refuses(house):
    for request, status in refused(house, ORIGIN):
        client = house.client()
        client.send(request)
        answer = client.answer()
        assert answer.status == status
        assert answer.values("access-control-allow-origin") == [PAGE], status
        assert "fastgw-outcome" in answer.values("access-control-expose-headers")[0]
        assert vary(answer) == ["origin"]
        assert orjson.loads(answer.body)["outcome"] == answer.values("fastgw-outcome")[0] == "not_recorded"


def test_answers_to_others_say_only_that_they_vary(house):
    for request, status in refused(house, f"Origin: {OTHER}"):
        client = house.client()
        client.send(request)
        answer = client.answer()
        assert (answer.status, told(answer), vary(answer)) == (status, {}, ["origin"])


def test_a_body_that_does_not_come_is_told_of_as_well(serve):
    house = serve(more_routes=ROUTES + CORS, body_timeout="100ms")
    client = house.client()
    client.send(get("/echo", ORIGIN, "Content-Length: 5", method="POST") + b"x")
    answer = client.answer()
    assert (answer.status, answer.values("access-control-allow-origin")) == (408, [PAGE])


def test_without_cors_nothing_is_added_and_preflights_are_the_services(serve):
    house = serve(more_routes="")
    answer = ask(house, path="/echo", wants="GET")
    assert (answer.status, told(answer), answer.values("vary")) == (200, {}, [])
    assert len(house.door.opened) == 1
