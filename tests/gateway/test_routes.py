"""What of a request reaches the service, and what of its reply reaches the client: through a real gateway and Kafka."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from tests.actors.hand_service import hand_service
from tests.actors.raw_http import RawConnection
from tests.gateway.gateways import Gateway

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]

ROUTES = """
[[route]]
method = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
path = "/shops/{{shop}}/items/{{item}}"
topic = "{orders}"
timeout = "20s"
[[route]]
method = "POST"
path = "/by-path/{{id}}"
topic = "{orders}"
key = "path.id"
[[route]]
method = "POST"
path = "/by-header"
topic = "{orders}"
key = "header.x-customer"
[[route]]
method = "POST"
path = "/by-body"
topic = "{orders}"
key = "body./customer/ids/1"
[[route]]
method = "POST"
path = "/joined/{{id}}"
topic = "{joined}"
key = "path.id"
key_partitioner = "murmur2"
[[route]]
method = "POST"
path = "/open"
topic = "{orders}"
request_headers = ["Authorization", "Cookie", "X-Tenant"]
response_headers = ["Set-Cookie", "X-Note"]
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory, kafka_bootstrap, make_module_topics):
    """A gateway with a route of each kind, and a service whose replies are written by the tests."""
    topics = make_module_topics({"replies": 4, "orders": 4, "joined": 12})
    gateway = Gateway(
        tmp_path_factory.mktemp("routes"), kafka_bootstrap, topics["replies"], [], workers=1,
        more=ROUTES.format(**topics),
    )  # fmt: skip
    with gateway, hand_service(kafka_bootstrap, [topics["orders"], topics["joined"]]) as service:
        yield SimpleNamespace(gateway=gateway, replies=topics["replies"], service=service)


@pytest.fixture
def client(shop):
    with RawConnection(shop.gateway.port) as connection:
        yield connection


def exchange(shop, client, method, path, body=b"", headers=(), reply=b"well", reply_headers=()):
    """One request and its reply; returns the request as the service had it, and the answer as the client had it."""
    client.ask(method, path, body, headers)
    taken = shop.service.take()
    shop.service.reply(taken, reply, reply_headers)
    return taken, client.answer(bodiless=method == "HEAD")


@pytest.fixture(scope="module")
def public_shop(tmp_path_factory, kafka_bootstrap, make_module_topics):
    """The same on the public link, with its own service."""
    topics = make_module_topics({"replies": 4, "orders": 4, "joined": 12})
    gateway = Gateway(
        tmp_path_factory.mktemp("public"), kafka_bootstrap, topics["replies"], [], workers=1,
        more=ROUTES.format(**topics), kafka='link = "public"',
    )  # fmt: skip
    with gateway, hand_service(kafka_bootstrap, [topics["orders"]]) as service:
        yield SimpleNamespace(gateway=gateway, replies=topics["replies"], service=service)


@pytest.mark.real_kafka  # it chooses its fixture itself
@pytest.mark.parametrize("link", ["native", "public"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_passes_both_ways(request, link, method):
    shop = request.getfixturevalue({"native": "shop", "public": "public_shop"}[link])
    with RawConnection(shop.gateway.port) as client:
        passes_both_ways(shop, client, method)


def passes_both_ways(shop, client, method):
    """An empty body is an empty value, not none: with none, a compacted topic would forget the key."""
    for body in (b"", b"with a body"):
        taken, answer = exchange(shop, client, method, "/shops/1/items/2", body)
        assert (taken.headers["http_method"], taken.value) == (method.encode(), body)
        assert answer.status == 200
        assert answer.headers["content-length"] == "4"
        assert answer.body == (b"" if method == "HEAD" else b"well")


def test_path_query_and_parameters_travel_as_record_headers(shop, client):
    before_ms = time.time() * 1000
    taken, _ = exchange(shop, client, "GET", "/shops/M%C3%BCnchen/items/7%20x?sort=a%26b&x=%C3%BC")
    headers = dict(taken.headers)
    assert headers.pop("correlation_id").decode().count("-") == 4
    assert 0 <= int(headers.pop("reply_partition")) < 4
    assert 19_000 <= int(headers.pop("deadline")) - before_ms <= 25_000
    assert headers == {
        "reply_to": shop.replies.encode(),
        "http_method": b"GET",
        "http_path": b"/shops/M%C3%BCnchen/items/7%20x",
        "http_query": b"sort=a%26b&x=%C3%BC",
        "http_route": b"/shops/{shop}/items/{item}",
        "http_param_shop": b"M%C3%BCnchen",
        "http_param_item": b"7%20x",
        "http_client_address": b"127.0.0.1",
        "http_scheme": b"http",
    }
    assert taken.key is None


@pytest.mark.parametrize(
    ("path", "body", "headers", "key"),
    [
        ("/by-path/k-1", b"", [], b"k-1"),
        ("/by-path/%C3%BC", b"", [], "ü".encode()),
        ("/by-header", b"", ["X-Customer: c 7"], b"c 7"),
        ("/by-body", b'{"customer": {"ids": [1, "second"]}}', [], b"second"),
        ("/by-body", b'{"customer": {"ids": [1, 2]}}', [], b"2"),
    ],
)
def test_the_record_key_comes_from_where_the_route_says(shop, client, path, body, headers, key):
    taken, answer = exchange(shop, client, "POST", path, body, headers)
    assert taken.key == key
    assert answer.status == 200


@pytest.mark.parametrize(("key", "partition"), [("k", 8), ("21", 0), ("abc", 3), ("kafka", 4), ("1234", 0)])
def test_a_key_goes_where_java_would_send_it_if_its_route_says_so(shop, client, key, partition):
    taken, answer = exchange(shop, client, "POST", f"/joined/{key}", b"", [])
    assert (taken.key, taken.partition) == (key.encode(), partition), "of twelve; crc32 would choose another one"
    assert answer.status == 200


@pytest.mark.parametrize(
    ("literal", "key"),
    [("18446744073709551617", b"18446744073709551617"), ("18446744073709551618", b"18446744073709551618"),
     ("1.0", b"1.0"), ("-0", b"-0"), ("1e3", b"1e3")],
)  # fmt: skip
def test_a_number_is_a_record_key_as_it_was_written(shop, client, literal, key):
    body = b'{"customer": {"ids": [1, %s]}}' % literal.encode()
    assert exchange(shop, client, "POST", "/by-body", body, [])[0].key == key


@pytest.mark.parametrize("written", [b'""', b"null", b"true", b"{}", b"NaN"])
def test_what_is_no_key_is_400(shop, client, written):
    answer = client.request("POST", "/by-body", b'{"customer": {"ids": [1, %s]}}' % written)
    assert (answer.status, answer.headers["fastgw-outcome"]) == (400, "not_recorded")
    assert "expected a string or number" in answer.problem["detail"]


SENT = ["Authorization: Bearer secret", "Cookie: session=secret", "X-Tenant: acme", "X-Other: 1",
        "Content-Type: text/csv", "traceparent: 00-1-2-01", "tracestate: a=b"]  # fmt: skip
ALWAYS = {"content-type": b"text/csv", "traceparent": b"00-1-2-01", "tracestate": b"a=b"}


def test_without_a_list_no_header_of_the_client_reaches_the_service_but_type_and_trace(shop, client):
    taken, _ = exchange(shop, client, "POST", "/shops/1/items/2", b"a,b", SENT)
    assert ALWAYS.items() <= taken.headers.items()
    assert not [name for name in taken.headers if name.startswith("http_header")]
    assert b"secret" not in b"".join(taken.headers.values())


def test_the_request_headers_of_the_list_and_no_others_reach_the_service(shop, client):
    taken, _ = exchange(shop, client, "POST", "/open", b"a,b", SENT)
    assert ALWAYS.items() <= taken.headers.items()
    assert {name: value for name, value in taken.headers.items() if name.startswith("http_header")} == {
        "http_header_authorization": b"Bearer secret",
        "http_header_cookie": b"session=secret",
        "http_header_x-tenant": b"acme",
    }


REPLIED = [("set-cookie", b"a=b"), ("X-Note", b"hello"), ("x-other", b"1"), ("content-type", b"text/html"),
           ("content-length", b"1"), ("transfer-encoding", b"chunked"), ("connection", b"close")]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "passed"),
    [("/open", {"set-cookie": "a=b", "x-note": "hello"}), ("/shops/1/items/2", {})],
    ids=["a list", "no list"],
)
def test_the_response_headers_of_the_list_and_no_others_reach_the_client(shop, client, path, passed):
    _, answer = exchange(shop, client, "POST", path, reply=b"<p>", reply_headers=REPLIED)
    own = {"content-type", "content-length", "fastgw-outcome", "x-request-id", "server", "date"}
    assert {name: value for name, value in answer.headers.items() if name not in own} == passed
    assert (answer.headers["content-type"], answer.body) == ("text/html", b"<p>")
    assert exchange(shop, client, "POST", path)[1].status == 200, "the connection goes on"


@pytest.mark.parametrize("status", [200, 201, 202, 204, 301, 304, 404, 429, 500, 599])
def test_the_services_status_is_the_answers(shop, client, status):
    _, answer = exchange(shop, client, "POST", "/open", reply_headers=[("status", b"%d" % status)])
    assert answer.status == status
    assert answer.body == (b"" if status in (204, 304) else b"well")
    assert exchange(shop, client, "POST", "/open")[1].status == 200, "the connection goes on"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda raw: (raw, []),
        lambda raw: (b'"' + raw + b'"', []),
        lambda raw: (b"\0\0\0\0\7" + raw, []),
        lambda raw: (b"a key of the service's own", [("correlation_id", raw)]),
        lambda raw: (None, [("correlation_id", raw)]),
    ],
    ids=["key", "JSON key", "schema registry key", "header beside a key", "header alone"],
)
def test_the_correlation_id_is_found_where_services_put_it(shop, client, wrap):
    client.ask("POST", "/open")
    taken = shop.service.take()
    key, headers = wrap(taken.correlation_id)
    shop.service.post(shop.replies, int(taken.headers["reply_partition"]), key, b"found", headers)
    assert client.answer().body == b"found"
