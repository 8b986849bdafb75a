"""The client's address and scheme, if proxies stand between the client and this gateway.

Only the peer of the connection is certain. If the peer is in a trusted network, its forwarding headers are trusted:
they name the hop before it. That hop is the client, unless it is a trusted proxy too; then the element before it is
used. So the list is read from its right end, where proxies append, up to the first address that is not trusted. The
elements to the left of it may be forged.

    X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.0.0.9       peer 10.0.0.1, trusted: 10.0.0.0/8
                              └ the client  └ trusted

An element that is not an address (`unknown`, `_hidden`, garbage) also ends the walk: the client is then the last known
address. nginx (`real_ip_recursive`) does the same.

Only one family of headers is trusted: a proxy that appends to one family passes the other on as the client sent it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from fastgw.addresses import Address, Network, network, parsed
from fastgw.messages import Client, Head, Peer

X_FORWARDED, FORWARDED, OFF = "x-forwarded", "forwarded", "off"
UNIX = "unix"  # among the trusted networks: the clients of Unix sockets
HOPS_MAX = 64  # longest list that is read; no chain of proxies is that long
REMEMBERED_MAX = 4096  # cached peers, and the same number of cached header values
_REMEMBERED_CHARACTERS_MAX = 256  # longest header values that are cached

_IPV6 = r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]+"
_XFF_NODE = re.compile(rf"\[({_IPV6})\](?::[0-9]{{1,5}})?|([0-9.]+)(?::[0-9]{{1,5}})?|({_IPV6})").fullmatch
# RFC 7239, section 6; `unknown` and obfuscated identifiers are no addresses.
_NODE = re.compile(rf"(?:([0-9.]+)|\[({_IPV6})\])(?::(?:[0-9]{{1,5}}|_[A-Za-z0-9._-]+))?").fullmatch
_WORD = r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+"
_QUOTED = r"\"(?:[^\"\\]|\\.)*\""
_PAIR = re.compile(rf"[ \t]*({_WORD})=({_WORD}|{_QUOTED})[ \t]*").fullmatch
_PARTS = re.compile(rf"(?:[^;\"]|{_QUOTED}|\")+").findall
_ESCAPE = re.compile(r"\\(.)")
_BLANKS = " \t"


class Forwarding:
    """Determines clients according to one configuration. The result for a peer and its header values is cached."""

    def __init__(self, trusted: Iterable[str], family: str) -> None:
        """
        Args:
            trusted: the networks of the trusted proxies, and `unix` for peers on Unix sockets.
            family: the trusted headers: X_FORWARDED, FORWARDED or OFF.
        """
        trusted = tuple(trusted)
        self._networks: list[Network] = [network(text) for text in trusted if text != UNIX]
        self._trusts_unix = UNIX in trusted
        self._family = "" if family == OFF else family
        self._by_peer: dict[tuple[str, str], Client] = {}
        self._by_word: dict[tuple[str, str, str, str | None], Client] = {}

    @property
    def remembered(self) -> int:
        """Number of cached clients; at most twice REMEMBERED_MAX."""
        return len(self._by_peer) + len(self._by_word)

    def is_trusted(self, address: str) -> bool:
        """Whether a peer with this address is a trusted proxy; "" is a peer on a Unix socket."""
        if not address:
            return self._trusts_unix
        found = parsed(address)
        return found is not None and self._is_in_networks(found)

    def client_of(self, head: Head) -> Client:
        """The client of this request, as far as the gateway can know."""
        peer = head.peer
        address, _, scheme = peer
        key = (address, scheme)
        client = self._by_peer.get(key)
        if client is None:
            client = of_peer(peer, self._family if self._family and self.is_trusted(address) else "")
            _remember(self._by_peer, key, client)
        return self._told_by(client, head) if client.believed else client

    def _told_by(self, peer: Client, head: Head) -> Client:
        """The client that a trusted peer names in its headers."""
        if self._family == FORWARDED:
            nodes, schemes = head.get("forwarded") or "", None
        else:
            nodes, schemes = head.get("x-forwarded-for") or "", head.get("x-forwarded-proto")
            if not nodes and schemes is None:
                return peer
        key = (peer.address, peer.scheme, nodes, schemes)
        found = self._by_word.get(key)
        if found is None:
            if self._family == FORWARDED:
                address, scheme = self._walk_forwarded(nodes, peer)
            else:
                address, hops = self._walk_x_forwarded_for(nodes, peer)
                scheme = _scheme_at(schemes, hops) or peer.scheme
            found = _client(address, scheme, peer.address, peer.believed)
            if len(nodes) + len(schemes or "") <= _REMEMBERED_CHARACTERS_MAX:
                _remember(self._by_word, key, found)
        return found

    def _walk_x_forwarded_for(self, nodes: str, peer: Client) -> tuple[str, int]:
        """The client's address, and the number of elements read to find it."""
        address, hops = peer.address, 0
        for node in _from_right(nodes):
            hops += 1
            found = _x_forwarded_node(node)
            if found is None:
                break
            address = str(found)
            if hops == HOPS_MAX or not self._is_in_networks(found):
                break
        return address, hops

    def _walk_forwarded(self, elements: str, peer: Client) -> tuple[str, str]:
        """The client's address and scheme, as the farthest trusted proxy saw them."""
        address, scheme = peer.address, peer.scheme
        for hops, element in enumerate(_from_right(elements), 1):
            pairs = _pairs(element)
            if pairs is None:
                break
            proto = pairs.get("proto", "").lower()
            if proto in ("http", "https"):
                scheme = proto
            found = _forwarded_node(pairs.get("for", ""))
            if found is None:
                break
            address = str(found)
            if hops == HOPS_MAX or not self._is_in_networks(found):
                break
        return address, scheme

    def _is_in_networks(self, address: Address) -> bool:
        return any(address in one for one in self._networks)


NOBODY_IS_TRUSTED = Forwarding((), OFF)


def of_peer(peer: Peer, believed: str = "") -> Client:
    """The peer of a connection as the client."""
    found = parsed(peer.address)
    address = str(found) if found is not None else peer.address
    return _client(address, peer.scheme, address, believed)


def _client(address: str, scheme: str, peer_address: str, believed: str) -> Client:
    # A client on a Unix socket has no address; nginx also names it `unix:`.
    headers = (("http_client_address", (address or "unix:").encode()), ("http_scheme", scheme.encode()))
    return Client(address, scheme, peer_address, believed, headers)


def _remember(known: dict[Any, Client], key: object, found: Client) -> None:
    if len(known) >= REMEMBERED_MAX:
        known.clear()
    known[key] = found


# X-Forwarded-*.


def _x_forwarded_node(node: str) -> Address | None:
    """`192.0.2.1`, `2001:db8::1` or `[2001:db8::1]`; the first and the last may have a port."""
    match = _XFF_NODE(node)
    return parsed(match[1] or match[2] or match[3]) if match else None


def _scheme_at(schemes: str | None, hops: int) -> str | None:
    """The scheme that the farthest trusted proxy saw. If every proxy appends, both lists have the same length; if
    proxies overwrite the header or pass it on, it has one element."""
    if schemes is None:
        return None
    scheme = None
    for at, value in enumerate(_from_right(schemes), 1):
        scheme = value.lower()
        if at >= hops:
            break
    return scheme if scheme in ("http", "https") else None


# Forwarded.


def _from_right(text: str) -> Iterator[str]:
    """The elements of a list from its right end, stripped and without empty ones (RFC 9110, 5.6.1.2).

    A comma in quotes is not a separator. If the list were read from the left, a client could hide the elements of the
    proxies behind a quote that it does not close.
    """
    end, is_quoted = len(text), False
    for at in range(end - 1, -1, -1):
        character = text[at]
        if character == '"':
            is_quoted ^= not _is_escaped(text, at)
        elif character == "," and not is_quoted:
            member = text[at + 1 : end].strip(_BLANKS)
            if member:
                yield member
            end = at
    member = text[:end].strip(_BLANKS)
    if member:
        yield member


def _is_escaped(text: str, at: int) -> bool:
    """Whether an odd number of backslashes precedes this character."""
    before = at - 1
    while before >= 0 and text[before] == "\\":
        before -= 1
    return (at - before) % 2 == 0


def _pairs(element: str) -> dict[str, str] | None:
    """The pairs of an element of Forwarded (RFC 7239, section 4), names in lower case; None if it is malformed."""
    pairs: dict[str, str] = {}
    for part in _PARTS(element):
        if not part.strip(_BLANKS):
            continue
        pair = _PAIR(part)
        if pair is None or (name := pair[1].lower()) in pairs:
            return None
        pairs[name] = _ESCAPE.sub(r"\1", pair[2][1:-1]) if pair[2].startswith('"') else pair[2]
    return pairs


def _forwarded_node(node: str) -> Address | None:
    match = _NODE(node)
    return parsed(match[1] or match[2]) if match else None


# Forwarding headers on records.


def is_about_client(name: str) -> bool:
    """Whether a request header with this name (lower case) is a forwarding header.

    Names with underscores count too: many services do not distinguish `_` and `-` (as in CGI).
    """
    name = name.replace("_", "-")
    return name in ("forwarded", "x-real-ip") or name.startswith("x-forwarded-")


def told(name: str, head: Head, who: Client) -> str | None:
    """The value of a forwarding header (`is_about_client`) for the record; None if the record has no such header.

    Lists of a trusted peer are passed on with the peer's address appended, as a proxy does. All other values come from
    the gateway itself.
    """
    name = name.replace("_", "-")
    if name == "x-real-ip":
        return who.address or None
    if name == "x-forwarded-proto":
        return who.scheme
    believed = head.get(name) if who.believed == (FORWARDED if name == "forwarded" else X_FORWARDED) else None
    if name == "x-forwarded-for":
        return _joined(believed, who.peer_address) if believed else who.address or None
    if name == "forwarded":
        if believed:
            return _joined(believed, _element(who.peer_address))
        return f'{_element(who.address)};host="{head.hosts[0]}";proto={who.scheme}'
    if believed:
        return believed
    if name == "x-forwarded-host":
        return head.hosts[0]
    if name == "x-forwarded-port":
        return _port(head.hosts[0]) or ("443" if who.scheme == "https" else "80")
    return None


def _joined(believed: str, more: str) -> str:
    return f"{believed}, {more}" if more else believed


def _element(address: str) -> str:
    return f'for="[{address}]"' if ":" in address else f"for={address or 'unknown'}"


def _port(host: str) -> str:
    tail = host.rpartition("]")[2]
    return tail.rpartition(":")[2] if ":" in tail else ""
