"""A gateway behind proxies: what it is told of its clients, by bytes of the test's and by a real HAProxy."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
from types import SimpleNamespace

import pytest
import trustme

from tests.actors.hand_service import hand_service
from tests.actors.raw_http import RawConnection
from tests.gateway.gateways import Gateway
from tests.ports import free_port
from tests.surroundings import HAPROXY
from tests.waiting import eventually

CLIENT = "127.0.0.9"  # HAProxy connects from 127.0.0.1, which alone is trusted

GATEWAY = """
[log]
access = "all"
access_file = "{folder}/access.log"
[[listen]]
bind = "127.0.0.1:{plain}"
[[listen]]
bind = "127.0.0.1:{granian}"
front = "granian"
[[listen]]
bind = "127.0.0.1:{proxied}"
proxy_protocol = true
[[route]]
method = "GET"
path = "/who"
topic = "{topic}"
request_headers = ["x-forwarded-for", "x-forwarded-proto"]
"""

PROXY = """
defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend version1
    mode tcp
    bind 127.0.0.1:{version1}
    default_backend version1
backend version1
    mode tcp
    server gateway 127.0.0.1:{proxied} send-proxy
frontend version2
    mode tcp
    bind 127.0.0.1:{version2}
    default_backend version2
backend version2
    mode tcp
    option httpchk
    http-check send meth GET uri /health ver HTTP/1.1 hdr Host shop.test
    http-check expect status 404
    server gateway 127.0.0.1:{proxied} send-proxy-v2 check check-send-proxy inter 100ms
frontend over_tls
    mode tcp
    bind 127.0.0.1:{over_tls} ssl crt {folder}/proxy.pem
    default_backend over_tls
backend over_tls
    mode tcp
    server gateway 127.0.0.1:{proxied} send-proxy-v2-ssl
frontend headers
    mode http
    option forwardfor
    http-request set-header X-Forwarded-Proto https
    bind 127.0.0.1:{headers}
    default_backend headers
backend headers
    mode http
    server gateway 127.0.0.1:{plain}
frontend headers_granian
    mode http
    option forwardfor
    http-request set-header X-Forwarded-Proto https
    bind 127.0.0.1:{headers_granian}
    default_backend headers_granian
backend headers_granian
    mode http
    server gateway 127.0.0.1:{granian}
"""
FRONTENDS = ("version1", "version2", "over_tls", "headers", "headers_granian")


@pytest.fixture(scope="module")
def shop(tmp_path_factory, kafka_bootstrap, make_module_topics):
    topics = make_module_topics({"replies": 4, "who": 1})
    folder = tmp_path_factory.mktemp("proxies")
    ports = {name: free_port() for name in ("plain", "granian", "proxied")}
    more = GATEWAY.format(folder=folder, topic=topics["who"], **ports)
    trusts = 'trusted_proxies = ["127.0.0.1"]'
    with (
        Gateway(folder, kafka_bootstrap, topics["replies"], [], workers=1, more=more, settings=trusts) as gateway,
        hand_service(kafka_bootstrap, [topics["who"]]) as service,
    ):
        yield SimpleNamespace(gateway=gateway, service=service, folder=folder, **ports)


@pytest.fixture(scope="module")
def haproxy(shop):
    authority = trustme.CA()
    shop.tls = ssl.create_default_context()
    authority.configure_trust(shop.tls)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(shop.folder / "proxy.pem")
    ports = {name: free_port() for name in FRONTENDS}
    file = shop.folder / "haproxy.cfg"
    file.write_text(
        PROXY.format(folder=shop.folder, plain=shop.plain, granian=shop.granian, proxied=shop.proxied, **ports)
    )
    process = subprocess.Popen([str(HAPROXY), "-db", "-f", str(file)], stderr=subprocess.PIPE)
    try:
        eventually(lambda: process.poll() is not None or is_open(ports["headers_granian"]), message="HAProxy listens")
        assert process.poll() is None, process.stderr.read().decode()
        yield SimpleNamespace(**ports)
    finally:
        process.terminate()
        process.wait()


def is_open(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def ask(shop, connection, **headers):
    """What stands on the record of one request."""
    connection.request("GET", "/who", headers={"Host": "shop.test", **headers})
    taken = shop.service.take()
    shop.service.reply(taken, b"you")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"you")
    record = {name: value.decode() for name, value in taken.headers.items()}
    assert logged_client(shop, record["correlation_id"]) == record["http_client_address"]
    return record


def logged_client(shop, request_id):
    """Whom the access log calls the client of this request."""

    def look():
        file = shop.folder / "access.log"  # made with the first line
        lines = map(json.loads, file.read_text().splitlines() if file.exists() else [])
        return [line["client"] for line in lines if line["request_id"] == request_id]

    return eventually(look, message="a line in the access log")[0]


@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("frontend", ["version1", "version2"])
def test_haproxy_tells_of_its_client_by_the_proxy_protocol(shop, haproxy, frontend):
    connection = http.client.HTTPConnection("127.0.0.1", getattr(haproxy, frontend), source_address=(CLIENT, 0))
    for _ in range(2):
        record = ask(shop, connection, **{"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https"})
        assert (record["http_client_address"], record["http_scheme"]) == (CLIENT, "http")
        assert record["http_header_x-forwarded-for"] == CLIENT
        assert record["http_header_x-forwarded-proto"] == "http"
    connection.close()


@pytest.mark.needs("haproxy")
def test_haproxy_tells_that_its_client_speaks_tls(shop, haproxy):
    connection = http.client.HTTPSConnection(
        "127.0.0.1", haproxy.over_tls, source_address=(CLIENT, 0), context=shop.tls
    )
    connection._create_connection = lambda address, *more: socket.create_connection(address, *more)
    record = ask(shop, connection)
    assert (record["http_client_address"], record["http_scheme"]) == (CLIENT, "https")
    connection.close()


@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("frontend", ["headers", "headers_granian"])
def test_haproxy_tells_of_its_client_by_headers(shop, haproxy, frontend):
    connection = http.client.HTTPConnection("127.0.0.1", getattr(haproxy, frontend), source_address=(CLIENT, 0))
    for _ in range(2):
        record = ask(shop, connection, **{"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "http"})
        assert (record["http_client_address"], record["http_scheme"]) == (CLIENT, "https")
        assert record["http_header_x-forwarded-for"] == f"6.6.6.6, {CLIENT}, 127.0.0.1"
    connection.close()


@pytest.mark.parametrize("listener", ["plain", "granian"])
def test_a_client_without_a_proxy_speaks_for_itself(shop, listener):
    connection = http.client.HTTPConnection("127.0.0.1", getattr(shop, listener), source_address=(CLIENT, 0))
    record = ask(shop, connection, **{"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https"})
    assert (record["http_client_address"], record["http_scheme"]) == (CLIENT, "http")
    assert record["http_header_x-forwarded-for"] == CLIENT
    connection.close()


def test_a_client_that_goes_past_the_proxy_is_refused(shop):
    with RawConnection(shop.proxied) as client:
        client.send(b"GET /who HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        assert client.answer().status == 400
