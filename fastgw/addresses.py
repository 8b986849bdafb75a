"""IP addresses and networks in canonical form, so that each client has only one spelling."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291, 2.5.5.2: IPv4 addresses as IPv6 sockets show them


def unmapped(address: Address) -> Address:
    """The same address; an IPv4-mapped IPv6 address becomes IPv4."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def parsed(text: str) -> Address | None:
    """The address in a text, without its zone, which is only valid on one host; None if it is not an address."""
    try:
        return unmapped(ip_address(text.partition("%")[0]))
    except ValueError:
        return None


def as_told(address: str) -> str:
    """A socket's address in canonical form; other texts stay unchanged."""
    return str(parsed(address) or address) if ":" in address else address


def network(text: str) -> Network:
    """A network such as "10.0.0.0/8"; an address is a network of one.

    Raises:
        ValueError: it is not a network, or has host bits; the text is for the author of the configuration.
    """
    if "%" in text:
        raise ValueError("a network has no zone")
    found = ip_network(text)
    if isinstance(found, IPv6Network) and found.subnet_of(_MAPPED):
        return IPv4Network((int(found.network_address) & 0xFFFFFFFF, found.prefixlen - 96))
    return found
