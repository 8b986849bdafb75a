"""Who the client is: whatever anybody writes, nobody who is not trusted can make it somebody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw import forwarding
from fastgw.forwarding import HOPS_MAX, REMEMBERED_MAX, Forwarding, told
from fastgw.messages import Head, Peer

TRUSTED = ("10.0.0.0/8", "2001:db8:1::/48", "unix")
X = Forwarding(TRUSTED, "x-forwarded")
F = Forwarding(TRUSTED, "forwarded")
PROXY = Peer("10.0.0.1", 40_000, "http")
STRANGER = Peer("203.0.113.9", 40_000, "http")


class Lines:
    """Header lines as a front has them."""

    def __init__(self, *lines: tuple[str, str]) -> None:
        self._lines = lines

    def get_all(self, key: str) -> list[str]:
        return [value for name, value in self._lines if name == key]


def head_of(*headers: tuple[str, str], peer: Peer, hosts: tuple[str, ...] = ("shop.test",)) -> Head:
    return Head("GET", "/orders", "", Lines(*headers), hosts, None, False, peer)


def seen(by: Forwarding, peer: Peer = PROXY, *headers: tuple[str, str]) -> Head:
    """A request with these headers from this peer, let in."""
    head = head_of(*headers, peer=peer)
    head.client = by.client_of(head)
    return head


def client_in(by: Forwarding, *headers: tuple[str, str], peer: Peer = PROXY) -> tuple[str, str]:
    head = seen(by, peer, *headers)
    return head.client.address, head.client.scheme


@pytest.mark.parametrize(
    ("list_of_addresses", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7,10.0.0.9", "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7, 10.0.0.9", "192.0.2.7"),
        ("6.6.6.6, 10.6.6.6, 192.0.2.7", "192.0.2.7"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (" \t192.0.2.7 ,, 10.0.0.9 , ", "192.0.2.7"),
        ("192.0.2.7:56324", "192.0.2.7"),
        ("192.0.2.7, 10.0.0.9:1", "192.0.2.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443, 2001:db8:1::5", "2001:db8::7"),
        ("::ffff:192.0.2.7, ::ffff:10.0.0.2", "192.0.2.7"),
        ("6.6.6.6, unknown", "10.0.0.1"),
        ("6.6.6.6, _hidden, 10.0.0.9", "10.0.0.9"),
        ("6.6.6.6, garbage", "10.0.0.1"),
        ("6.6.6.6, 192.0.2", "10.0.0.1"),
        ("6.6.6.6, 192.0.2.07", "10.0.0.1"),
        ("6.6.6.6, 192.0.2.7:port", "10.0.0.1"),
        ("6.6.6.6, 192.0.2.7:123456", "10.0.0.1"),
        ("6.6.6.6, [192.0.2.7]", "10.0.0.1"),
        ("6.6.6.6, [2001:db8::7", "10.0.0.1"),
        ("6.6.6.6, fe80::1%eth0", "10.0.0.1"),
        ('6.6.6.6, "192.0.2.7"', "10.0.0.1"),
        ('"6.6.6.6, 192.0.2.7', "192.0.2.7"),
        ("6.6.6.6 192.0.2.7", "10.0.0.1"),
        ("6.6.6.6, 192.0.2.7\xa0", "10.0.0.1"),
        ("6.6.6.6, \u0661\u0662.0.2.7", "10.0.0.1"),
        ("", "10.0.0.1"),
        (",", "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_address_that_no_trusted_proxy_has(list_of_addresses, client):
    assert client_in(X, ("x-forwarded-for", list_of_addresses)) == (client, "http")


def test_the_lines_of_a_list_are_one_list_whatever_their_number():
    lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7"), ("x-forwarded-for", "10.0.0.9")]
    assert client_in(X, *lines) == ("192.0.2.7", "http")


@pytest.mark.parametrize("by", [X, F, Forwarding((), "x-forwarded"), Forwarding((), "forwarded")])
def test_a_stranger_speaks_for_itself_alone(by):
    lies = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https"), ("forwarded", "for=6.6.6.6;proto=https")]
    assert client_in(by, *lies, peer=STRANGER) == ("203.0.113.9", "http")


@pytest.mark.parametrize("peer", [STRANGER, PROXY, Peer("", 0, "http")])
def test_nobody_is_believed_where_headers_are_switched_off(peer):
    off = Forwarding(TRUSTED, "off")
    lies = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6;proto=https"), ("x-forwarded-proto", "https")]
    assert client_in(off, *lies, peer=peer) == (peer.address, "http")


@pytest.mark.parametrize(
    ("by", "header"), [(X, ("forwarded", "for=6.6.6.6;proto=https")), (F, ("x-forwarded-for", "6.6.6.6"))]
)
def test_only_one_family_of_headers_is_believed(by, header):
    """A proxy that writes the one passes the other on as its client sent it."""
    assert client_in(by, header) == ("10.0.0.1", "http")


@pytest.mark.parametrize(
    ("peer", "is_trusted"),
    [
        ("10.255.0.1", True), ("::ffff:10.0.0.1", True), ("2001:db8:1::2%eth0", True), ("", True),
        ("11.0.0.1", False), ("2001:db8:2::2", False), ("unknown", False), ("unix", False), ("10.0.0.1.example", False),
    ],
)  # fmt: skip
def test_a_proxy_is_trusted_by_its_network_however_its_address_is_written(peer, is_trusted):
    assert X.is_trusted(peer) is is_trusted
    assert (client_in(X, ("x-forwarded-for", "192.0.2.7"), peer=Peer(peer, 1, "http"))[0] == "192.0.2.7") is is_trusted


def test_nobody_on_a_unix_socket_is_trusted_unless_it_is_said():
    assert client_in(
        Forwarding(("0.0.0.0/0", "::/0"), "x-forwarded"), ("x-forwarded-for", "6.6.6.6"), peer=Peer("", 0, "http")
    ) == ("", "http")


@pytest.mark.parametrize(
    ("addresses", "schemes", "scheme"),
    [
        ("192.0.2.7", "https", "https"),
        ("192.0.2.7", "HTTPS", "https"),
        (None, "https", "https"),
        ("192.0.2.7, 10.0.0.9", "https", "https"),
        ("192.0.2.7, 10.0.0.9", "https, http", "https"),
        ("192.0.2.7, 10.0.0.9", "http, https", "http"),
        ("6.6.6.6, 192.0.2.7", "https, http", "http"),
        ("6.6.6.6, 192.0.2.7, 10.0.0.9", "https, http, https", "http"),
        ("192.0.2.7, 10.0.0.9, 10.0.0.8", "https, http", "https"),
        ("unknown", "https", "https"),
        ("192.0.2.7", "ftp", "http"),
        ("192.0.2.7", "", "http"),
        ("192.0.2.7", None, "http"),
    ],
)
def test_the_scheme_is_what_the_farthest_trusted_proxy_has_seen(addresses, schemes, scheme):
    said = [("x-forwarded-for", addresses), ("x-forwarded-proto", schemes)]
    assert client_in(X, *((name, value) for name, value in said if value is not None))[1] == scheme


def test_without_a_word_of_its_proxy_the_scheme_is_that_of_the_connection():
    assert client_in(X, ("x-forwarded-for", "192.0.2.7"), peer=Peer("10.0.0.1", 1, "https")) == ("192.0.2.7", "https")


@pytest.mark.parametrize(
    ("elements", "client"),
    [
        ("for=192.0.2.7", ("192.0.2.7", "http")),
        ("For=192.0.2.7;Proto=HTTPS;by=10.0.0.1", ("192.0.2.7", "https")),
        ('for="192.0.2.7:4711";proto=https', ("192.0.2.7", "https")),
        ('for="192.0.2.7:_port"', ("192.0.2.7", "http")),
        ('for="[2001:db8::7]:4711"', ("2001:db8::7", "http")),
        ('for="[2001:db8::7]"', ("2001:db8::7", "http")),
        ("for=6.6.6.6, for=192.0.2.7;proto=https, for=10.0.0.9;proto=http", ("192.0.2.7", "https")),
        ("for=192.0.2.7;host=a, for=10.0.0.9;proto=https", ("192.0.2.7", "https")),
        (" ; for = 1 ", ("10.0.0.1", "http")),
        (";for=192.0.2.7; proto=https ;", ("192.0.2.7", "https")),
        ("for=6.6.6.6, for=unknown;proto=https", ("10.0.0.1", "https")),
        ("for=6.6.6.6, for=_hidden, for=10.0.0.9", ("10.0.0.9", "http")),
        ("for=6.6.6.6, proto=https", ("10.0.0.1", "https")),
        ("for=6.6.6.6, for=192.0.2.7;for=192.0.2.8", ("10.0.0.1", "http")),
        ("for=6.6.6.6, for=192.0.2.7:80", ("10.0.0.1", "http")),
        ("for=6.6.6.6, for=2001:db8::7", ("10.0.0.1", "http")),
        ("for=6.6.6.6, for=[2001:db8::7]", ("10.0.0.1", "http")),
        ("for=6.6.6.6, for=192.0.2.7;proto=https garbage", ("10.0.0.1", "http")),
        ('for=6.6.6.6, for="192.0.2.7', ("10.0.0.1", "http")),
        ('for=6.6.6.6, for="192.0.2\\.7"', ("192.0.2.7", "http")),
        ('for=192.0.2.7;host="a\\", for=6.6.6.6;x=\\""', ("192.0.2.7", "http")),
        ('for=192.0.2.7;host="a\\\\", for=10.0.0.9', ("192.0.2.7", "http")),
        ('for="6.6.6.6, for=192.0.2.7', ("192.0.2.7", "http")),
        ('host="a, for=6.6.6.6", for=192.0.2.7', ("192.0.2.7", "http")),
        ('for=192.0.2.7;host="a, for=6.6.6.6;x=\'"', ("192.0.2.7", "http")),
        ("192.0.2.7", ("10.0.0.1", "http")),
        ("", ("10.0.0.1", "http")),
    ],
)
def test_forwarded_is_read_as_rfc_7239_writes_it(elements, client):
    assert client_in(F, ("forwarded", elements)) == client


ANYTHING = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60) | st.sampled_from(
    ["6.6.6.6", "10.6.6.6", 'for="', "for=6.6.6.6;proto=https", '"', "\\", '\\"', "for=10.6.6.6,", ";", ",,"]
)


@given(ANYTHING, ANYTHING)
def test_whatever_a_client_sends_itself_it_is_seen_where_its_proxy_saw_it(before, more):
    sent = before + more
    assert client_in(X, ("x-forwarded-for", sent), ("x-forwarded-for", "192.0.2.7"))[0] == "192.0.2.7"
    appended = [("x-forwarded-for", f"{sent}, 192.0.2.7"), ("x-forwarded-proto", f"{sent}, http")]
    assert client_in(X, *appended) == ("192.0.2.7", "http")
    for element in ("for=192.0.2.7;proto=http", 'for="192.0.2.7:1";host="a:1";proto=http'):
        assert client_in(F, ("forwarded", f"{sent}, {element}")) == ("192.0.2.7", "http")


def test_a_list_without_end_is_not_walked_for_ever():
    chain = ", ".join(f"10.1.{at // 256}.{at % 256}" for at in range(2 * HOPS_MAX))
    assert client_in(X, ("x-forwarded-for", chain))[0] == f"10.1.0.{HOPS_MAX}"
    assert client_in(F, ("forwarded", chain.replace("10.", "for=10.")))[0] == f"10.1.0.{HOPS_MAX}"


def test_what_is_remembered_is_bounded():
    by = Forwarding(TRUSTED, "x-forwarded")
    for at in range(REMEMBERED_MAX + 10):
        address = f"172.16.{at // 256}.{at % 256}"
        assert client_in(by, peer=Peer(address, 1, "http"))[0] == address
        assert client_in(by, ("x-forwarded-for", address))[0] == address
    assert by.remembered <= 2 * REMEMBERED_MAX
    remembered = by.remembered
    assert client_in(by, ("x-forwarded-for", "1" * 1000 + ", 192.0.2.7"))[0] == "192.0.2.7"
    assert by.remembered == remembered


def test_the_record_says_who_it_was():
    assert seen(X, PROXY, ("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https")).client.record_headers == (
        ("http_client_address", b"192.0.2.7"), ("http_scheme", b"https"),
    )  # fmt: skip
    assert seen(X, Peer("", 0, "http")).client.record_headers[0] == ("http_client_address", b"unix:")
    assert client_in(X, peer=Peer("::ffff:192.0.2.7", 1, "http"))[0] == "192.0.2.7"


LIES = [
    ("x-forwarded-for", "6.6.6.6, 7.7.7.7"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "evil.test"),
    ("x-forwarded-port", "666"), ("x-forwarded-prefix", "/evil"), ("x-real-ip", "6.6.6.6"),
    ("forwarded", "for=6.6.6.6;proto=https"),
]  # fmt: skip


def copied(head: Head) -> dict[str, str | None]:
    return {name: told(name, head, head.client) for name, _ in LIES}


def test_what_a_stranger_forwards_is_replaced_by_what_is_known():
    assert copied(seen(X, STRANGER, *LIES)) == copied(seen(F, STRANGER, *LIES)) == {
        "x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "http", "x-forwarded-host": "shop.test",
        "x-forwarded-port": "80", "x-forwarded-prefix": None, "x-real-ip": "203.0.113.9",
        "forwarded": 'for=203.0.113.9;host="shop.test";proto=http',
    }  # fmt: skip


def test_what_a_trusted_proxy_forwards_is_passed_on_with_that_proxy_appended():
    assert copied(seen(X, PROXY, *LIES)) == {
        "x-forwarded-for": "6.6.6.6, 7.7.7.7, 10.0.0.1", "x-forwarded-proto": "https",
        "x-forwarded-host": "evil.test", "x-forwarded-port": "666", "x-forwarded-prefix": "/evil",
        "x-real-ip": "7.7.7.7", "forwarded": 'for=7.7.7.7;host="shop.test";proto=https',
    }  # fmt: skip
    assert copied(seen(F, PROXY, *LIES)) == {
        "x-forwarded-for": "6.6.6.6", "x-forwarded-proto": "https", "x-forwarded-host": "shop.test",
        "x-forwarded-port": "443", "x-forwarded-prefix": None, "x-real-ip": "6.6.6.6",
        "forwarded": "for=6.6.6.6;proto=https, for=10.0.0.1",
    }  # fmt: skip


def test_a_name_with_underscores_is_the_same_name():
    head = seen(X, STRANGER, ("x_forwarded_for", "6.6.6.6"), ("x_real_ip", "6.6.6.6"))
    assert forwarding.is_about_client("x_forwarded_for")
    assert told("x_forwarded_for", head, head.client) == told("x_real_ip", head, head.client) == "203.0.113.9"


def test_a_trusted_proxy_that_says_nothing_is_the_client():
    assert copied(seen(X, PROXY))["x-forwarded-for"] == "10.0.0.1"
    assert copied(seen(F, PROXY))["forwarded"] == 'for=10.0.0.1;host="shop.test";proto=http'


def test_who_has_no_address_is_not_given_one():
    nobody = Peer("", 0, "http")
    off = Forwarding((), "x-forwarded")
    assert copied(seen(off, nobody))["x-forwarded-for"] is None
    assert copied(seen(off, nobody))["x-real-ip"] is None
    assert copied(seen(off, nobody))["forwarded"] == 'for=unknown;host="shop.test";proto=http'
    assert copied(seen(X, nobody, *LIES))["x-forwarded-for"] == "6.6.6.6, 7.7.7.7"


def test_ipv6_is_written_as_each_header_wants_it():
    copies = copied(seen(X, Peer("2001:db8::7", 1, "https")))
    assert copies["x-forwarded-for"] == "2001:db8::7"
    assert copies["forwarded"] == 'for="[2001:db8::7]";host="shop.test";proto=https'
    assert copies["x-forwarded-port"] == "443"


@pytest.mark.parametrize(
    ("host", "port"), [("a:81", "81"), ("[::1]:82", "82"), ("[::1]", "80"), ("a", "80"), ("a:", "80")]
)
def test_the_port_is_that_of_the_host(host, port):
    head = head_of(hosts=(host,), peer=STRANGER)
    head.client = X.client_of(head)
    assert told("x-forwarded-port", head, head.client) == port


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("x-forwarded-for", True),
        ("x-forwarded-anything", True),
        ("x-real-ip", True),
        ("forwarded", True),
        ("x-forwarded", False),
        ("x-request-id", False),
    ],
)
def test_the_headers_that_speak_of_the_client_are_known(name, is_one):
    assert forwarding.is_about_client(name) is is_one
