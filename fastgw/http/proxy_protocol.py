"""The PROXY protocol, versions 1 and 2: a header in which a proxy names its client before the first byte of HTTP.

The specification is HAProxy's doc/proxy-protocol.txt. A listener reads both versions. Anything else is an error, as the
specification demands: if a port also accepted connections without the header, any client could write one. A header is
accepted as a whole or not at all. Only the address, the port and whether the client used TLS are kept.

    PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 CR LF         version 1: one line, 107 bytes at most

    | signature, 12 | version, command | family | length, 2 | addresses | TLVs |         version 2: bytes
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from fastgw.addresses import unmapped

V1_BYTES_MAX = 107  # with CR LF; "PROXY UNKNOWN" with two addresses in their longest form
V2_BYTES_MAX = 4096  # as nginx: the TLVs may contain the certificate of a TLS client
_V2_FIXED_BYTES = 16  # signature, version and command, family, length

_V1_START = b"PROXY "
_V2_START = b"\r\n\r\n\0\r\nQUIT\n"

_V1_PORT = re.compile(rb"0|[1-9][0-9]{0,4}").fullmatch
_LOCAL, _PROXY = 0x20, 0x21  # version 2 and the command

# By address family: the total length of the addresses and ports.
_UNSPEC, _INET, _INET6, _UNIX = range(4)
_ADDRESS_BYTES = {_UNSPEC: 0, _INET: 12, _INET6: 36, _UNIX: 216}
_TRANSPORT_MAX = 2  # unspecified, stream, datagram (QUIC, which the proxy has converted to a stream)

_TLV_CRC32C, _TLV_SSL = 0x03, 0x20
_SSL_FIXED_BYTES = 5  # flags, and the result of the verification
_SSL_CLIENT_USED_TLS = 0x01


class BadProxyHeader(ValueError):
    """The bytes are not a PROXY protocol header; the text says what was expected."""


class ProxyHeader(NamedTuple):
    """The content of a complete header.

    Attributes:
        size: bytes of the header; the client's bytes follow.
        address: canonical address of the client; "" for a client on a Unix socket of the proxy; None if the header
            names no client (LOCAL, UNKNOWN, UNSPEC: the proxy's own connection, such as a health check).
        port: port of the client; 0 without one.
        uses_tls: whether the client used TLS to the proxy. Version 1 cannot say this.
    """

    size: int
    address: str | None
    port: int
    uses_tls: bool


def read(data: bytes | bytearray) -> ProxyHeader | None:
    """The header at the start of a connection's bytes; None while it is incomplete.

    Never waits for more than `V2_BYTES_MAX` bytes, and refuses other input at the first wrong byte.

    Raises:
        BadProxyHeader: the connection does not start with one.
    """
    if data.startswith(_V2_START):
        return _read_v2(bytes(data[:V2_BYTES_MAX]))
    if data.startswith(_V1_START):
        return _read_v1(bytes(data[:V1_BYTES_MAX]))
    if _V2_START.startswith(data) or _V1_START.startswith(data):
        return None
    raise BadProxyHeader("expected a PROXY protocol header, version 1 or 2, before the request")


# Version 1.


def _read_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n")
    if end < 0:
        if len(data) == V1_BYTES_MAX:
            raise BadProxyHeader(f"expected a PROXY protocol header of at most {V1_BYTES_MAX} bytes")
        return None
    size = end + 2
    words = data[len(_V1_START) : end].split(b" ")
    if words[0] == b"UNKNOWN":  # the rest of the line must be ignored
        return ProxyHeader(size, None, 0, False)
    if len(words) != 5 or words[0] not in (b"TCP4", b"TCP6"):
        raise BadProxyHeader(
            "expected PROXY TCP4, TCP6 or UNKNOWN, then two addresses and two ports, each after one blank"
        )
    parse = IPv4Address if words[0] == b"TCP4" else IPv6Address
    source, _ = (_v1_address(word, parse) for word in words[1:3])
    port, _ = (_v1_port(word) for word in words[3:])
    return ProxyHeader(size, source, port, False)


def _v1_address(word: bytes, parse: type[IPv4Address] | type[IPv6Address]) -> str:
    try:
        text = word.decode("ascii")
        if "%" in text:  # a zone is only valid on one host
            raise ValueError
        return str(unmapped(parse(text)))
    except ValueError:
        raise BadProxyHeader("expected addresses of the declared family in a PROXY protocol header") from None


def _v1_port(word: bytes) -> int:
    if not _V1_PORT(word) or int(word) > 65_535:
        raise BadProxyHeader("expected ports from 0 to 65535 in a PROXY protocol header")
    return int(word)


# Version 2.


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise BadProxyHeader("expected version 2 and the command LOCAL or PROXY in a PROXY protocol header")
    if len(data) < _V2_FIXED_BYTES:
        return None
    size = _V2_FIXED_BYTES + int.from_bytes(data[14:16], "big")
    if size > V2_BYTES_MAX:
        raise BadProxyHeader(f"expected a PROXY protocol header of at most {V2_BYTES_MAX} bytes, got {size}")
    family, transport = data[13] >> 4, data[13] & 0x0F
    if data[12] == _PROXY and (family not in _ADDRESS_BYTES or transport > _TRANSPORT_MAX):
        raise BadProxyHeader(f"expected a known address family in a PROXY protocol header, got 0x{data[13]:02x}")
    if len(data) < size:
        return None
    if data[12] == _LOCAL:  # its family and addresses must be ignored
        return ProxyHeader(size, None, 0, False)
    return _read_v2_body(data[:size], _UNSPEC if transport == 0 else family)


def _read_v2_body(header: bytes, family: int) -> ProxyHeader:
    addresses_end = _V2_FIXED_BYTES + _ADDRESS_BYTES[family]
    if len(header) < addresses_end:
        raise BadProxyHeader("expected complete addresses in a PROXY protocol header")
    if family == _UNSPEC:  # the length of its addresses is unknown, so the start of the TLVs is too
        return ProxyHeader(len(header), None, 0, False)
    uses_tls = _read_tlvs(header, addresses_end)
    if family == _UNIX:
        return ProxyHeader(len(header), "", 0, uses_tls)
    address: IPv4Address | IPv6Address
    if family == _INET:
        address, port_at = IPv4Address(header[16:20]), 24
    else:
        address, port_at = IPv6Address(header[16:32]), 48
    return ProxyHeader(
        len(header), str(unmapped(address)), int.from_bytes(header[port_at : port_at + 2], "big"), uses_tls
    )


def _read_tlvs(header: bytes, start: int) -> bool:
    """Checks the checksum, if there is one; returns whether the client used TLS."""
    uses_tls = False
    for kind, at, end in _tlvs(header, start):
        if kind == _TLV_CRC32C:
            _check_checksum(header, at, end)
        elif kind == _TLV_SSL:
            if end - at < _SSL_FIXED_BYTES:
                raise BadProxyHeader("expected at least 5 bytes of TLS information in a PROXY protocol header")
            uses_tls = bool(header[at] & _SSL_CLIENT_USED_TLS)
    return uses_tls


def _tlvs(header: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Type, start and end of each TLV."""
    while at < len(header):
        start = at + 3
        end = start + int.from_bytes(header[at + 1 : start], "big")
        if start > len(header) or end > len(header):
            raise BadProxyHeader("expected a PROXY protocol header that ends with its last field")
        yield header[at], start, end
        at = end


def _check_checksum(header: bytes, at: int, end: int) -> None:
    if end - at != 4 or int.from_bytes(header[at:end], "big") != crc32c(header[:at] + bytes(4) + header[end:]):
        raise BadProxyHeader("expected the correct checksum of the PROXY protocol header")


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720, appendix B.4. Few proxies send one, so it need not be fast."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
