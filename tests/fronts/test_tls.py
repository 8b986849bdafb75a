"""TLS: who may speak it how, and that requests over it are requests like any other."""

from __future__ import annotations

import socket
import ssl

import pytest
import trustme

from tests.fronts.http2_client import Http2Client
from tests.fronts.kinds import HTTP2, TLS, fronts
from tests.fronts.test_answers import get
from tests.waiting import eventually

tls = fronts(TLS)
tls_and_http2 = fronts(TLS, HTTP2)


class Authority:
    """A certificate for localhost as files, and clients that trust it."""

    def __init__(self, directory) -> None:
        self._ca = trustme.CA()
        issued = self._ca.issue_cert("localhost")
        self.files = {"tls_cert": str(directory / "chain.pem"), "tls_key": str(directory / "key.pem")}
        issued.private_key_pem.write_to_path(self.files["tls_key"])
        for pem in issued.cert_chain_pems:
            pem.write_to_path(self.files["tls_cert"], append=True)

    def client(self, *protocols: str, oldest=ssl.TLSVersion.TLSv1_2, newest=ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        """How a client connects that speaks `protocols` (ALPN) over TLS versions `oldest` to `newest`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ca.configure_trust(context)
        context.minimum_version, context.maximum_version = oldest, newest
        if oldest < ssl.TLSVersion.TLSv1_2:
            context.set_ciphers("ALL:@SECLEVEL=0")  # OpenSSL itself refuses to speak it otherwise
        context.set_alpn_protocols(list(protocols))
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@tls
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_requests_are_answered_over_both_versions(serve, authority, version):
    house = serve(**authority.files)
    client = house.client(tls=authority.client("http/1.1", oldest=version, newest=version))
    client.send(get("/echo", "Content-Length: 5", method="POST") + b"hello")
    assert client.answer().body == b"hello"
    assert client.sock.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]


@tls
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize(
    ("least", "spoken"),
    [("1.2", ssl.TLSVersion.TLSv1), ("1.2", ssl.TLSVersion.TLSv1_1), ("1.3", ssl.TLSVersion.TLSv1_2)],
)
def test_versions_below_the_least_are_refused(serve, authority, least, spoken):
    house = serve(tls_min=least, **authority.files)
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol[ _]version|unsupported[ _]protocol|handshake[ _]failure"):
        house.client(tls=authority.client("http/1.1", oldest=spoken, newest=spoken))
    assert house.door.heads == []


@tls_and_http2
@pytest.mark.parametrize(
    ("http", "offered", "chosen"), [("auto", ("h2", "http/1.1"), "h2"), ("auto", ("http/1.1",), "http/1.1")]
)
def test_the_client_and_the_front_agree_on_the_best_version(serve, authority, http, offered, chosen):
    house = serve(http=http, **authority.files)
    context = authority.client(*offered)
    if chosen == "h2":
        with Http2Client(house.address, tls=context) as http2:
            assert http2.sock.selected_alpn_protocol() == "h2"
            assert http2.answer(http2.post("/echo", b"hello")).body == b"hello"
    else:
        http1 = house.client(tls=context)
        assert http1.sock.selected_alpn_protocol() == "http/1.1"
        http1.send(get("/echo"))
        assert http1.answer().status == 200


@tls
def test_a_client_without_alpn_is_served(serve, authority):
    house = serve(http="auto", **authority.files)
    client = house.client(tls=authority.client())
    client.send(get("/echo"))
    assert client.answer().status == 200


@tls
def test_plain_http_to_a_tls_port_is_not_served(serve, authority):
    house = serve(**authority.files)
    client = house.client()
    client.send(get("/echo"))
    client.rest()
    assert house.door.heads == []


@tls
def test_a_client_that_leaves_while_it_waits_frees_its_place(serve, authority):
    house = serve(**authority.files)
    client = house.client(tls=authority.client("http/1.1"))
    client.send(get("/held"))
    house.held()
    client.sock.close()
    eventually(lambda: len(house.door.gone_tokens) == 1)
    assert house.empty()


@tls
def test_draining_answers_what_waits(serve, authority):
    house = serve(http="auto", **authority.files)
    client = house.client(tls=authority.client("http/1.1"))
    client.send(get("/held"))
    record = house.held()[0]
    house.drain()
    house.reply(record, b"answered")
    answer = client.answer()
    assert (answer.body, answer.closes) == (b"answered", True)
    house.closed()


@tls
def test_a_handshake_that_does_not_come_does_not_hold_up_others(serve, authority):
    house = serve(**authority.files)
    host, _, port = house.address.rpartition(":")
    with socket.create_connection((host, int(port))) as half_open:
        half_open.sendall(b"\x16\x03\x01\x02\x00")  # the beginning of a ClientHello
        client = house.client(tls=authority.client("http/1.1"))
        client.send(get("/echo"))
        assert client.answer().status == 200
