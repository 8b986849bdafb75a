"""Who the client is and whether it speaks TLS, when others stand between it and this gateway.

Only the connection's peer is certain. What a peer in one of the trusted networks writes in its headers is believed: it
names the one before it, who is the client, unless it is a trusted proxy too; then what that one has written is looked
at. So the list is walked from its right end, where the proxies append, and ends at the first address that is not
trusted. To the left of it anybody can have written anything.

    X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.0.0.9       peer 10.0.0.1, trusted: 10.0.0.0/8
                              └ the client  └ trusted

An element that is no address (`unknown`, `_hidden`, garbage) ends the walk as well: the client is the last one whose
address is known. nginx (`real_ip_recursive`) does the same.

One family of headers is believed, not both: a proxy that appends to the one passes the other on as the client sent it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from fastgw.addresses import Address, Network, network, parsed
from fastgw.messages import Client, Head, Peer

X_FORWARDED, FORWARDED, OFF = "x-forwarded", "forwarded", "off"
UNIX = "unix"  # among the trusted networks: whoever connects to a Unix socket
HOPS_MAX = 64  # of a list; no chain of proxies is that long
REMEMBERED_MAX = 4096  # peers, and the same number of things that trusted ones say
_REMEMBERED_CHARACTERS_MAX = 256  # of what a trusted peer says

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
    """What one configuration believes about clients. The same peer, saying the same, is the same client, made once."""

    def __init__(self, trusted: Iterable[str], family: str) -> None:
        """
        Args:
            trusted: the networks of the proxies that are believed, and `unix` for peers on Unix sockets.
            family: which headers they are believed in: X_FORWARDED, FORWARDED or OFF.
        """
        trusted = tuple(trusted)
        self._networks: list[Network] = [network(text) for text in trusted if text != UNIX]
        self._trusts_unix = UNIX in trusted
        self._family = "" if family == OFF else family
        self._by_peer: dict[tuple[str, str], Client] = {}
        self._by_word: dict[tuple[str, str, str, str | None], Client] = {}

    @property
    def remembered(self) -> int:
        """Entries of what is kept to be quick; at most twice REMEMBERED_MAX."""
        return len(self._by_peer) + len(self._by_word)

    def is_trusted(self, address: str) -> bool:
        """Whether a peer of this address is one of the trusted proxies; "" is one on a Unix socket."""
        if not address:
            return self._trusts_unix
        found = parsed(address)
        return found is not None and self._is_in_networks(found)

    def client_of(self, head: Head) -> Client:
        """Who has sent this request, as far as it can be known."""
        peer = head.peer
        address, _, scheme = peer
        key = (address, scheme)
        client = self._by_peer.get(key)
        if client is None:
            client = of_peer(peer, self._family if self._family and self.is_trusted(address) else "")
            _remember(self._by_peer, key, client)
        return self._told_by(client, head) if client.believed else client

    def _told_by(self, peer: Client, head: Head) -> Client:
        """The client of which a trusted peer speaks."""
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
        """The client's address, and by how many trusted proxies it was told."""
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
        """The client's address and its scheme, as the farthest trusted proxy has seen them."""
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
    """The peer of a connection as the client, as long as it speaks for itself."""
    found = parsed(peer.address)
    address = str(found) if found is not None else peer.address
    return _client(address, peer.scheme, address, believed)


def _client(address: str, scheme: str, peer_address: str, believed: str) -> Client:
    # Who is on a Unix socket has no address; nginx calls it by the same name.
    headers = (("http_client_address", (address or "unix:").encode()), ("http_scheme", scheme.encode()))
    return Client(address, scheme, peer_address, believed, headers)


def _remember(known: dict[Any, Client], key: object, found: Client) -> None:
    if len(known) >= REMEMBERED_MAX:
        known.clear()
    known[key] = found


# X-Forwarded-*.


def _x_forwarded_node(node: str) -> Address | None:
    """`192.0.2.1`, `2001:db8::1` or `[2001:db8::1]`; behind the first and the last may be a port."""
    match = _XFF_NODE(node)
    return parsed(match[1] or match[2] or match[3]) if match else None


def _scheme_at(schemes: str | None, hops: int) -> str | None:
    """What the farthest trusted proxy says of the scheme: where each appends, the lists are equally long; where they
    overwrite each other, or pass it on, there is one."""
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
    """The members of a list, from its right end, without blanks and without the empty ones (RFC 9110, 5.6.1.2).

    A comma in quotes separates nothing. Read from the left, a client that opens a quote and does not close it would
    swallow what the proxies have appended.
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
    """Whether an odd number of backslashes stands in front of it."""
    before = at - 1
    while before >= 0 and text[before] == "\\":
        before -= 1
    return (at - before) % 2 == 0


def _pairs(element: str) -> dict[str, str] | None:
    """An element of Forwarded (RFC 7239, section 4), names in lower case; None if it is none."""
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


# What a request's own headers may say on the record.


def is_about_client(name: str) -> bool:
    """Whether a request header of this name (lower case) speaks of the client in a proxy's stead.

    With underscores as well: many services see no difference between the two (they come from CGI).
    """
    name = name.replace("_", "-")
    return name in ("forwarded", "x-real-ip") or name.startswith("x-forwarded-")


def told(name: str, head: Head, who: Client) -> str | None:
    """What goes on a record in place of the request's header of that name, for which `is_about_client`; None: nothing.

    A trusted peer's lists are passed on with that peer appended, as the next proxy would. Everything else is what the
    gateway knows itself.
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
