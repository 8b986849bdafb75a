"""PROXY protocol headers: each sample whole, byte by byte, and with a request behind it."""

from __future__ import annotations

import ipaddress

import pytest

from fastgw.http.proxy_protocol import V1_BYTES_MAX, V2_BYTES_MAX, BadProxyHeader, ProxyHeader, crc32c, read

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
INET = bytes([192, 0, 2, 1]) + bytes([198, 51, 100, 2]) + (56_324).to_bytes(2, "big") + (443).to_bytes(2, "big")
INET6 = (
    ipaddress.IPv6Address("2001:db8::1").packed + ipaddress.IPv6Address("2001:db8::2").packed
    + (56_324).to_bytes(2, "big") + (443).to_bytes(2, "big")
)  # fmt: skip
UNIX = b"/run/client.sock".ljust(108, b"\0") + b"/run/proxy.sock".ljust(108, b"\0")


def v2(body: bytes, family: int = 0x11, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def with_checksum(body: bytes) -> bytes:
    header = v2(body + tlv(0x03, bytes(4)))
    return header[:-4] + crc32c(header).to_bytes(4, "big")


USES_TLS = tlv(0x20, b"\x01" + bytes(4) + tlv(0x21, b"TLSv1.3"))
NO_TLS = tlv(0x20, b"\x00" + bytes(4))

SAID = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", ("192.0.2.1", 56_324, False)),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65_535, False)),
    (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0", 0, False)),
    (b"PROXY TCP6 2001:DB8:0::1 ::1 1 2\r\n", ("2001:db8::1", 1, False)),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 1 2\r\n", ("192.0.2.1", 1, False)),
    (b"PROXY UNKNOWN\r\n", (None, 0, False)),
    (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", (None, 0, False)),
    (v2(INET), ("192.0.2.1", 56_324, False)),
    (v2(INET, 0x12), ("192.0.2.1", 56_324, False)),
    (v2(INET6, 0x21), ("2001:db8::1", 56_324, False)),
    (v2(UNIX, 0x31), ("", 0, False)),
    (v2(b"", 0x00), (None, 0, False)),
    (v2(b"whatever it is", 0x00), (None, 0, False)),
    (v2(INET, 0x10), (None, 0, False)),
    (v2(b"", 0x00, 0x20), (None, 0, False)),
    (v2(INET, 0x11, 0x20), (None, 0, False)),
    (v2(b"\1\2\3", 0xFF, 0x20), (None, 0, False)),
    (v2(INET + USES_TLS), ("192.0.2.1", 56_324, True)),
    (v2(INET6 + USES_TLS, 0x21), ("2001:db8::1", 56_324, True)),
    (v2(UNIX + USES_TLS, 0x31), ("", 0, True)),
    (v2(INET + NO_TLS), ("192.0.2.1", 56_324, False)),
    (v2(INET + tlv(0x04, bytes(300)) + tlv(0xEA, b"vpce-1") + USES_TLS), ("192.0.2.1", 56_324, True)),
    (with_checksum(INET), ("192.0.2.1", 56_324, False)),
    (with_checksum(INET + USES_TLS), ("192.0.2.1", 56_324, True)),
    (v2(INET + tlv(0xE0, bytes(V2_BYTES_MAX - 16 - 12 - 3))), ("192.0.2.1", 56_324, False)),
]  # fmt: skip

BAD = [
    REQUEST,
    b"PUT / HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\r\n" + REQUEST,
    b"\0",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"proxy TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
    b"PROXY  TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
    b"PROXY TCP4 192.0.2.01 198.51.100.2 56324 443\r\n",
    b"PROXY TCP4 192.0.2 198.51.100.2 56324 443\r\n",
    b"PROXY TCP4 192.0.2.1 client 56324 443\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 56324 443\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 0443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 \xb2 443\r\n",
    b"PROXY TCP5 192.0.2.1 198.51.100.2 56324 443\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n" + REQUEST,
    v2(INET, 0x11, 0x11),
    v2(INET, 0x11, 0x31),
    v2(INET, 0x11, 0x22),
    v2(INET, 0x41),
    v2(INET, 0x13),
    v2(INET[:-1]),
    v2(INET6[:-1], 0x21),
    v2(INET, 0x21),
    v2(UNIX[:-1], 0x31),
    v2(INET + b"\x04"),
    v2(INET + b"\x04\x00"),
    v2(INET + b"\x04\x00\x01"),
    v2(INET + tlv(0x20, b"\x01" + bytes(3))),
    v2(INET + tlv(0x03, bytes(4))),
    v2(INET + tlv(0x03, b"")),
    with_checksum(INET)[:-1] + b"\0",
    v2(bytes(V2_BYTES_MAX - 15)),
]  # fmt: skip


@pytest.mark.parametrize(("header", "said"), SAID, ids=lambda value: value[:40] if isinstance(value, bytes) else "")
def test_a_header_is_read_whole_byte_by_byte_and_with_a_request_behind_it(header, said):
    expected = ProxyHeader(len(header), *said)
    assert read(header) == read(bytearray(header)) == read(header + REQUEST) == expected
    for end in range(len(header)):
        assert read(header[:end]) is None, f"it is complete after {end} of {len(header)} bytes"


@pytest.mark.parametrize("start", BAD, ids=lambda value: value[:60])
def test_what_is_no_header_is_refused_however_it_is_cut(start):
    with pytest.raises(BadProxyHeader, match="expected"):
        read(start)
    first = next(end for end in range(len(start) + 1) if is_refused(start[:end]))
    assert first <= V2_BYTES_MAX
    assert all(is_refused(start[:end]) for end in range(first, len(start) + 1)), "more bytes cannot mend it"


def is_refused(start: bytes) -> bool:
    try:
        read(start)
    except BadProxyHeader:
        return True
    return False


@pytest.mark.parametrize("start", [b"G", b"PU", b"PROXYX", b"\r\nG", b"\r\n\r\n\0\r\nQUITS"])
def test_a_stranger_is_refused_at_the_first_byte_that_fits_no_header(start):
    assert not is_refused(start[:-1])
    assert is_refused(start)


def test_a_line_without_end_is_not_waited_for():
    line = b"PROXY UNKNOWN " + b"f" * (V1_BYTES_MAX - 15)
    assert read(line) is None
    assert is_refused(line + b"f")


def test_a_length_that_is_too_large_is_refused_before_it_comes():
    assert is_refused(v2(bytes(V2_BYTES_MAX))[:16])


def test_no_byte_of_a_checked_header_can_be_changed_unseen():
    header = with_checksum(INET + USES_TLS)
    for at in range(16, len(header)):
        changed = header[:at] + bytes([header[at] ^ 1]) + header[at + 1 :]
        assert is_refused(changed) or at == len(header) - 7, at  # there it is no checksum any more


@pytest.mark.parametrize(
    ("data", "checksum"),
    [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_the_checksum_is_that_of_rfc_3720(data, checksum):
    assert crc32c(data) == checksum
