"""Who the client is, on the record: the peer, or whom a trusted proxy names; never what a client says of itself."""

from __future__ import annotations

import pytest

from tests.fronts.http2_client import Http2Client
from tests.fronts.kinds import FRONTS, HTTP2, TLS, UNIX, fronts
from tests.fronts.test_answers import get
from tests.fronts.test_tls import Authority

PROXIED = """
[[route]]
method = "GET"
path = "/proxied"
topic = "held"
request_headers = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-prefix", "x-real-ip",
    "forwarded", "http_client_address"]
"""
LIES = (
    "X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 7.7.7.7, 8.8.8.8", "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.test", "X-Forwarded-Prefix: /evil", "X-Real-IP: 6.6.6.6",
    "Forwarded: for=6.6.6.6;proto=https", "Http_Client_Address: 6.6.6.6", "Http-Scheme: https", "Http_Scheme: https",
)  # fmt: skip
TRUSTED = {"trusted_proxies": ("127.0.0.0/8", "unix", "10.0.0.0/8")}
express = pytest.mark.parametrize("kind", [kind for kind in FRONTS if kind.name == "express"], ids=["express"])


def recorded(house, *lines, before=b""):
    """The record of a request with these header lines."""
    client = house.client()
    client.send(before + get("/proxied", *lines))
    (record,) = house.held()
    house.reply(record)
    assert client.answer().status == 200
    return {name: value.decode() for name, value in record.headers}


def about_client(record):
    return {name: value for name, value in record.items() if name.startswith("http_header_")}


@fronts()
def test_the_client_is_the_peer_and_nothing_it_says_of_itself_is_on_the_record(serve):
    house = serve(more_routes=PROXIED)
    record = recorded(house, *LIES)
    assert (record["http_client_address"], record["http_scheme"]) == ("127.0.0.1", "http")
    assert about_client(record) == {
        "http_header_x-forwarded-for": "127.0.0.1",
        "http_header_x-forwarded-proto": "http",
        "http_header_x-forwarded-host": "shop.test",
        "http_header_x-real-ip": "127.0.0.1",
        "http_header_forwarded": 'for=127.0.0.1;host="shop.test";proto=http',
        "http_header_http_client_address": "6.6.6.6",
    }


@fronts()
def test_each_gateway_header_stands_once_on_the_record(serve):
    house = serve(more_routes=PROXIED)
    client = house.client()
    client.send(get("/proxied", *LIES, *LIES))
    (record,) = house.held()
    names = [name for name, _ in record.headers]
    assert len(names) == len(set(names))
    house.reply(record)
    client.answer()


@fronts()
def test_a_trusted_proxy_names_the_client_and_is_appended(serve):
    house = serve(more_routes=PROXIED, gateway=TRUSTED)
    record = recorded(house, *LIES)
    assert (record["http_client_address"], record["http_scheme"]) == ("8.8.8.8", "https")
    assert about_client(record) == {
        "http_header_x-forwarded-for": "6.6.6.6, 7.7.7.7, 8.8.8.8, 127.0.0.1",
        "http_header_x-forwarded-proto": "https",
        "http_header_x-forwarded-host": "evil.test",
        "http_header_x-forwarded-prefix": "/evil",
        "http_header_x-real-ip": "8.8.8.8",
        "http_header_forwarded": 'for=8.8.8.8;host="shop.test";proto=https',
        "http_header_http_client_address": "6.6.6.6",
    }


@fronts()
@pytest.mark.parametrize("named", ["X-Forwarded-For, X-Forwarded-Proto", "keep-alive, forwarded, x-forwarded-for"])
def test_a_client_cannot_have_its_proxy_s_word_taken_away_by_naming_it_in_connection(serve, named):
    """RFC 9110, 7.6.1, has intermediaries remove what Connection names; a proxy that passes it on all the same gives
    its clients a way to remove what it has written."""
    house = serve(more_routes=PROXIED, gateway=TRUSTED)
    record = recorded(house, f"Connection: {named}", *LIES)
    assert (record["http_client_address"], record["http_scheme"]) == ("8.8.8.8", "https")
    assert record["http_header_x-forwarded-for"] == "6.6.6.6, 7.7.7.7, 8.8.8.8, 127.0.0.1"


@fronts()
def test_forwarded_is_believed_where_it_is_chosen(serve):
    house = serve(more_routes=PROXIED, gateway=TRUSTED | {"forwarded": "forwarded"})
    record = recorded(house, *LIES, "Forwarded: for=192.0.2.7", "Forwarded: for=10.1.1.1;proto=http")
    assert (record["http_client_address"], record["http_scheme"]) == ("192.0.2.7", "http")
    assert record["http_header_forwarded"] == (
        "for=6.6.6.6;proto=https, for=192.0.2.7, for=10.1.1.1;proto=http, for=127.0.0.1"
    )
    assert record["http_header_x-forwarded-for"] == "192.0.2.7"


@fronts(HTTP2)
@pytest.mark.parametrize(("gateway", "client", "scheme"), [({}, "127.0.0.1", "http"), (TRUSTED, "8.8.8.8", "https")])
def test_over_http2_it_is_the_same_whatever_scheme_the_client_names(serve, gateway, client, scheme):
    house = serve(more_routes=PROXIED, http="2", gateway=gateway)
    lies = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in LIES)]
    with Http2Client(house.address) as http2:
        stream = http2.request("/proxied", headers=lies, scheme="https")
        (record,) = house.held()
        house.reply(record)
        assert http2.answer(stream).status == 200
    headers = {name: value.decode() for name, value in record.headers}
    assert (headers["http_client_address"], headers["http_scheme"]) == (client, scheme)


@fronts(TLS)
@pytest.mark.parametrize(("gateway", "scheme"), [({}, "https"), (TRUSTED, "http")])
def test_over_tls_the_scheme_is_https_unless_a_trusted_proxy_says_otherwise(serve, tmp_path, gateway, scheme):
    authority = Authority(tmp_path)
    house = serve(more_routes=PROXIED, gateway=gateway, **authority.files)
    client = house.client(tls=authority.client("http/1.1"))
    client.send(get("/proxied", "X-Forwarded-Proto: http"))
    (record,) = house.held()
    house.reply(record)
    assert client.answer().status == 200
    assert dict(record.headers)["http_scheme"] == scheme.encode()


@fronts(UNIX)
def test_who_comes_over_a_unix_socket_has_no_address_of_its_own(serve, tmp_path):
    house = serve(more_routes=PROXIED, bind=f"unix:{tmp_path}/shop.sock")
    record = recorded(house, *LIES)
    assert (record["http_client_address"], record["http_scheme"]) == ("unix:", "http")
    assert "http_header_x-forwarded-for" not in record


@fronts(UNIX)
def test_a_proxy_on_a_unix_socket_can_be_trusted(serve, tmp_path):
    house = serve(more_routes=PROXIED, bind=f"unix:{tmp_path}/shop.sock", gateway=TRUSTED)
    record = recorded(house, *LIES)
    assert (record["http_client_address"], record["http_scheme"]) == ("8.8.8.8", "https")
    assert record["http_header_x-forwarded-for"] == "6.6.6.6, 7.7.7.7, 8.8.8.8"


@fronts()
def test_a_request_without_a_record_knows_its_client_too(serve):
    house = serve(gateway=TRUSTED)
    client = house.client()
    client.send(get("/nowhere", "X-Forwarded-For: 192.0.2.7"))
    assert client.answer().status == 404
    assert house.door.heads[0].client_address == "192.0.2.7"


V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"


@express
def test_the_proxy_protocol_names_the_client_whose_headers_are_its_own(serve):
    house = serve(more_routes=PROXIED, gateway=TRUSTED, proxy_protocol=True)
    record = recorded(house, *LIES, before=V1)
    assert (record["http_client_address"], record["http_scheme"]) == ("192.0.2.1", "http")
    assert record["http_header_x-forwarded-for"] == "192.0.2.1"


@express
def test_a_client_behind_two_proxies_is_found_by_both_ways(serve):
    house = serve(more_routes=PROXIED, gateway=TRUSTED, proxy_protocol=True)
    record = recorded(house, *LIES, before=V1.replace(b"192.0.2.1", b"10.0.0.5"))
    assert record["http_client_address"] == "8.8.8.8"
    assert record["http_header_x-forwarded-for"] == "6.6.6.6, 7.7.7.7, 8.8.8.8, 10.0.0.5"


@express
def test_a_proxied_connection_is_kept_alive_and_pipelines_like_any_other(serve):
    house = serve(gateway=TRUSTED, proxy_protocol=True)
    client = house.client()
    client.send(V1 + get("/echo") * 3)
    assert [client.answer().status for _ in range(3)] == [200] * 3
    client.send(get("/echo", "Content-Length: 3", method="POST") + b"one")
    assert client.answer().body == b"one"
    assert {head.client_address for head in house.door.heads} == {"192.0.2.1"}


@express
def test_a_header_that_comes_byte_by_byte_is_waited_for(serve):
    house = serve(gateway=TRUSTED, proxy_protocol=True)
    client = house.client()
    for byte in V1 + get("/echo"):
        client.send(bytes([byte]))
    assert client.answer().status == 200
    assert house.door.heads[0].client_address == "192.0.2.1"


@express
@pytest.mark.parametrize("start", [b"", b"PROXY TCP4 nonsense\r\n"])
def test_a_request_without_a_proper_header_is_refused_and_the_connection_ends(serve, start):
    house = serve(gateway=TRUSTED, proxy_protocol=True)
    client = house.client()
    client.send(start + get("/echo"))
    (answer,) = client.answers_until_end()
    assert answer.status == 400
    assert answer.closes
    assert b"expected" in answer.body
    assert b"PROXY" in answer.body
    assert not house.door.heads


@express
def test_a_header_from_outside_the_trusted_networks_is_refused(serve):
    house = serve(gateway={"trusted_proxies": ("10.0.0.0/8",)}, proxy_protocol=True)
    client = house.client()
    client.send(V1 + get("/echo"))
    (answer,) = client.answers_until_end()
    assert answer.status == 400
    assert b"trusted_proxies, got one from 127.0.0.1" in answer.body
    assert not house.door.heads


@express
def test_a_proxy_that_says_nothing_or_half_of_its_header_is_ended_in_time(serve):
    house = serve(gateway=TRUSTED, proxy_protocol=True, header_timeout="200ms")
    half = house.client()
    half.send(V1[:20])
    assert [answer.status for answer in half.answers_until_end()] == [408]
    whole = house.client()
    whole.send(V1)
    assert whole.rest() == b""


@express
def test_a_drain_ends_connections_whose_header_has_come_and_those_that_wait_for_it(serve):
    house = serve(gateway=TRUSTED, proxy_protocol=True, header_timeout="1s")
    parked, idle, half = house.client(), house.client(), house.client()
    parked.send(V1 + get("/held"))
    (record,) = house.held()
    idle.send(V1 + get("/echo"))
    assert idle.answer().status == 200
    half.send(V1[:20])
    house.drain()
    assert idle.rest() == b""
    house.reply(record, b"answered")
    answer = parked.answer()
    assert (answer.body, answer.closes) == (b"answered", True)
    assert [answer.status for answer in half.answers_until_end()] == [408]
    house.closed()


@express
def test_the_proxy_protocol_works_on_a_unix_socket(serve, tmp_path):
    house = serve(gateway=TRUSTED, proxy_protocol=True, bind=f"unix:{tmp_path}/shop.sock")
    client = house.client()
    client.send(V1 + get("/echo"))
    assert client.answer().status == 200
    assert house.door.heads[0].client_address == "192.0.2.1"
