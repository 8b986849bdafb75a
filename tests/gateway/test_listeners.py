"""Several addresses of one gateway at once: HTTP/1.1, HTTP/2, TLS, a Unix socket, all in front of the same routes."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import ssl
import stat
from types import SimpleNamespace

import httpx
import pytest
import trustme

from tests.actors.raw_http import RawConnection
from tests.actors.repliers import replier
from tests.gateway.gateways import Gateway
from tests.ports import free_port
from tests.supervisor.test_listeners import has_ipv6
from tests.waiting import eventually

CONFIG = """
[limits]
max_body = "16KiB"
[[listen]]
bind = "127.0.0.1:{plain}"
[[listen]]
bind = "127.0.0.1:{h2c}"
http = "2"
[[listen]]
bind = "127.0.0.1:{tls}"
tls_cert = "{folder}/cert.pem"
tls_key = "{folder}/key.pem"
tls_min = "1.3"
[[listen]]
bind = "127.0.0.1:{old}"
http = "1"
tls_cert = "{folder}/cert.pem"
tls_key = "{folder}/key.pem"
[[listen]]
bind = "unix:{folder}/gateway.sock"
mode = "0660"
[[listen]]
bind = "localhost:{local}"
[[listen]]
bind = "[::]:{everywhere}"
front = "granian"
"""
CONFIG_WITHOUT_IPV6 = CONFIG.replace("[::]", "0.0.0.0")


def write_certificate(folder, authority):
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    (folder / "cert.pem").write_bytes(chain)


@pytest.fixture(scope="module")
def house(tmp_path_factory, kafka_bootstrap, make_module_topics):
    """A gateway with seven addresses and two workers; its service echoes."""
    topics = make_module_topics({"replies": 8, "orders": 2})
    folder, authority = tmp_path_factory.mktemp("listen"), trustme.CA()
    write_certificate(folder, authority)
    ports = {name: free_port() for name in ("plain", "h2c", "tls", "old", "local", "everywhere")}
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with (
        replier(kafka_bootstrap, "header", [topics["orders"]]),
        Gateway(
            folder, kafka_bootstrap, topics["replies"], [topics["orders"]],
            more=(CONFIG if has_ipv6() else CONFIG_WITHOUT_IPV6).format(folder=folder, **ports),
        ) as gateway,
    ):  # fmt: skip
        yield SimpleNamespace(
            gateway=gateway, path=f"/{topics['orders']}", folder=folder, authority=authority, trusting=trusting, **ports
        )


def post(client, url):
    """One echo through `client`; its answer, checked."""
    body = secrets.token_hex(8).encode()
    answer = client.post(url, content=body)
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["fastgw-outcome"] == "recorded"
    return answer


def test_http_1_over_plain_tcp(house):
    with httpx.Client() as client:
        assert post(client, f"http://127.0.0.1:{house.plain}{house.path}").http_version == "HTTP/1.1"


def test_http_2_over_plain_tcp_for_clients_that_know_before(house):
    with httpx.Client(http1=False, http2=True) as client:
        assert post(client, f"http://127.0.0.1:{house.h2c}{house.path}").http_version == "HTTP/2"


def test_http_2_is_refused_where_only_http_1_is_spoken(house):
    with httpx.Client(http1=False, http2=True) as client, pytest.raises(httpx.RemoteProtocolError):
        client.post(f"http://127.0.0.1:{house.plain}{house.path}", content=b"x")


def test_http_1_is_not_spoken_where_only_http_2_is_wanted(house):
    with RawConnection(house.h2c) as client:
        client.ask("POST", house.path, b"x")
        with pytest.raises(ConnectionError):
            client.answer()


@pytest.mark.parametrize(("http2", "version"), [(True, "HTTP/2"), (False, "HTTP/1.1")])
def test_tls_with_the_version_that_the_client_prefers(house, http2, version):
    with httpx.Client(http2=http2, verify=house.trusting) as client:
        assert post(client, f"https://localhost:{house.tls}{house.path}").http_version == version


def test_tls_keeps_to_http_1_where_only_that_is_wanted(house):
    with httpx.Client(http2=True, verify=house.trusting) as client:
        assert post(client, f"https://localhost:{house.old}{house.path}").http_version == "HTTP/1.1"


def test_many_requests_on_one_http_2_connection_get_their_own_answers(house):
    async def ask_all():
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(http2=True, verify=house.trusting, limits=limits, timeout=20) as client:
            url = f"https://localhost:{house.tls}{house.path}"
            return await asyncio.gather(*(client.post(url, content=b"%d" % number) for number in range(100)))

    answers = asyncio.run(ask_all())
    assert [answer.content for answer in answers] == [b"%d" % number for number in range(100)]
    assert {answer.http_version for answer in answers} == {"HTTP/2"}


def test_a_refusal_over_http_2_says_the_same_as_over_http_1(house):
    url = f"https://localhost:{house.tls}{house.path}"
    with httpx.Client(http2=True, verify=house.trusting) as client:
        answer = client.delete(url)
        assert (answer.status_code, answer.json()["outcome"], answer.headers["allow"]) == (405, "not_recorded", "POST")
        answer = client.post(url, content=b"x" * 20_000)
        assert (answer.status_code, answer.json()["outcome"]) == (413, "not_recorded")
        assert "connection" not in answer.headers
        assert post(client, url).http_version == "HTTP/2"


def test_an_older_tls_than_the_least_is_refused(house):
    older = ssl.create_default_context()
    house.authority.configure_trust(older)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        RawConnection(house.tls, older)
    with RawConnection(house.old, older) as client:
        assert client.request("POST", house.path, b"x").body == b"x"


def test_plain_http_at_a_tls_address_ends_that_connection_alone(house):
    with RawConnection(house.tls, house.trusting) as other, RawConnection(house.tls) as client:
        client.ask("POST", house.path, b"x")
        with pytest.raises(ConnectionError):
            client.answer()
        assert other.request("POST", house.path, b"x").body == b"x"


def test_a_unix_socket(house):
    with httpx.Client(transport=httpx.HTTPTransport(uds=f"{house.folder}/gateway.sock")) as client:
        assert post(client, f"http://any.host{house.path}").http_version == "HTTP/1.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"] if has_ipv6() else ["127.0.0.1"])
def test_localhost_and_every_address_of_this_machine_are_served_on_both_families(house, host):
    with httpx.Client() as client:
        for port in (house.local, house.everywhere):
            post(client, f"http://{host}:{port}{house.path}")


def test_a_reload_serves_the_new_certificate_and_a_missing_one_is_refused(house):
    def subject_serial():
        with (
            socket.create_connection(("127.0.0.1", house.tls), 10) as plain,
            house.trusting.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            return tls.getpeercert()["serialNumber"]

    def mode():
        return stat.S_IMODE((house.folder / "gateway.sock").stat().st_mode)

    assert mode() == 0o660
    before, key = subject_serial(), (house.folder / "key.pem").read_bytes()
    (house.folder / "key.pem").unlink()
    house.gateway.signal(signal.SIGHUP)
    eventually(lambda: "reload refused" in house.gateway.log_text, 10, "the missing key is told")
    assert subject_serial() == before
    (house.folder / "key.pem").write_bytes(key)

    write_certificate(house.folder, house.authority)
    house.gateway.signal(signal.SIGHUP)
    eventually(lambda: '"reloaded"' in house.gateway.log_text, 30, "reloaded")
    eventually(lambda: subject_serial() != before, 10, "the new certificate is served")
    with httpx.Client(http2=True, verify=house.trusting) as client:
        post(client, f"https://localhost:{house.tls}{house.path}")
    assert mode() == 0o660
