"""A connection that begins with a PROXY protocol header: reads the header before its `Connection`.

The `Connection` exists from the beginning: it is counted and has its deadline. Only its bytes pass through this object
until the header is complete. Then the transport gets the `Connection` as its protocol, and this object is freed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastgw.http import proxy_protocol
from fastgw.http.connection import Connection, Owner
from fastgw.http.proxy_protocol import BadProxyHeader, ProxyHeader
from fastgw.messages import Peer


class ProxiedConnection:
    """Has the methods of an `asyncio.Protocol`; most of them call the connection."""

    def __init__(self, front: Owner, is_trusted: Callable[[str], bool]) -> None:
        """`is_trusted`: whether the peer with this address may send the header; "" is a peer on a Unix socket."""
        self._connection = Connection(front)
        self._is_trusted = is_trusted
        self._header = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._connection.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._connection.connection_lost(error)

    def eof_received(self) -> None:
        self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._connection.has_ended:  # too many connections, or the header was late: it is already answered
            self._step_aside(data)
            return
        self._header += data
        try:
            self._check_sender()
            header = proxy_protocol.read(self._header)
        except BadProxyHeader as bad:
            self._step_aside(b"")
            self._connection.refuse_start(str(bad))
            return
        if header is None:
            self._connection.await_start()
            return
        self._connection.start_as(_peer_in(header, self._connection.peer))
        self._step_aside(bytes(self._header[header.size :]))

    def _check_sender(self) -> None:
        """Called when data arrives, not earlier: an answer to a client that has sent nothing could be lost."""
        address = self._connection.peer.address
        if not self._is_trusted(address):
            got = address or "a Unix socket"
            raise BadProxyHeader(f"expected a connection from one of gateway.trusted_proxies, got one from {got}")

    def _step_aside(self, data: bytes) -> None:
        self._transport.set_protocol(self._connection)
        if data:
            self._connection.data_received(data)


def _peer_in(header: ProxyHeader, sender: Peer) -> Peer:
    """The client in the header; the sender if the header names none, as the specification demands."""
    if header.address is None:
        return sender
    return Peer(header.address, header.port, "https" if header.uses_tls else sender.scheme)
