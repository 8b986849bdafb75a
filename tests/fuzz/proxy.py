"""Promise: any bytes are a PROXY protocol header, the beginning of one, or refused; more bytes never change a verdict,
no more than 4,096 are ever waited for, and an address that is read is spelled in the one way it has."""

from __future__ import annotations

from fastgw.addresses import parsed
from fastgw.http.proxy_protocol import V2_BYTES_MAX, BadProxyHeader, ProxyHeader, read
from tests.http.test_proxy_protocol import BAD, SAID

SEEDS = [header for header, _ in SAID if len(header) < 300] + [start for start in BAD if len(start) < 300]


def verdict(data: bytes) -> ProxyHeader | str | None:
    try:
        return read(data)
    except BadProxyHeader as error:
        return str(error)


def target(data: bytes) -> None:
    whole = verdict(data)
    if isinstance(whole, ProxyHeader):
        assert 0 < whole.size <= min(len(data), V2_BYTES_MAX)
        assert verdict(data[: whole.size]) == whole
        assert verdict(data[: whole.size - 1]) is None
        assert not whole.address or str(parsed(whole.address)) == whole.address
        assert 0 <= whole.port <= 65_535
    elif whole is None:
        assert len(data) < V2_BYTES_MAX
    assert verdict(data + b"GET / HTTP/1.1\r\n") == whole or whole is None
    assert isinstance(verdict(data.ljust(V2_BYTES_MAX, b"x")), ProxyHeader | str)
