"""The granian front: HTTP/1.1, HTTP/2 and TLS. The only file that knows granian.

granian's own threads do the I/O and the parsing; each request comes to our loop as one coroutine, which ends when the
request is answered. What granian lacks is added here (body deadline, exactly one Host, no bodies without length) and
what kills it is kept from it (a status outside 200-599, a second stop signal). The version is pinned; the contract
tests in tests/test_http_granian.py fail when a behaviour that this file leans on changes.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import structlog
from granian._granian import SocketHolder
from granian.constants import HTTPModes, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope
from granian.server.embed import Server

from fastgw import errors
from fastgw.admission import Admission, Door, Refusal
from fastgw.config import Limits, Listen
from fastgw.messages import Head, HeaderList

log = structlog.get_logger("fastgw.http")

BACKLOG = 1024
HTTP1_MAX_BUFFER_FLOOR = 16_384  # hyper refuses to run with less than 8 KiB
CONNECTION_HEADERS = frozenset({"connection", "keep-alive"})  # not allowed in HTTP/2 (RFC 9113, 8.2.2)


class _InheritedSocketServer(Server):
    """granian's embeddable server on a listening socket that the supervisor opened."""

    inherited_fd = -1

    def _init_shared_socket(self) -> None:
        with socket.socket(fileno=os.dup(self.inherited_fd)) as listening:
            is_unix = listening.family == socket.AF_UNIX
        # granian closes the descriptor that it is given, the supervisor's must stay open.
        self._ssp, self._sfd = None, self.inherited_fd
        self._shd = SocketHolder(os.dup(self.inherited_fd), is_unix, BACKLOG)


class GranianFront:
    """One listening socket served by granian on the running loop."""

    def __init__(self, fd: int, listen: Listen, limits: Limits, door: Door) -> None:
        """`fd` is a listening socket; it stays the caller's."""
        self._door = door
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._serving: asyncio.Task[None] | None = None
        self._draining = False
        self._server = _InheritedSocketServer(
            self._on_request,
            interface="rsgi",
            http=HTTPModes(listen.http),
            websockets=False,
            backlog=BACKLOG,
            backpressure=limits.max_connections,
            log_enabled=False,
            http1_settings=HTTP1Settings(
                header_read_timeout=limits.header_timeout_ns // 1_000_000,
                max_buffer_size=max(HTTP1_MAX_BUFFER_FLOOR, limits.max_header_bytes),
            ),
            http2_settings=HTTP2Settings(
                max_headers_size=limits.max_header_bytes,
                max_concurrent_streams=1024,
                keep_alive_interval=15_000,
                keep_alive_timeout=10,
            ),
            ssl_cert=Path(listen.tls_cert) if listen.tls_cert else None,
            ssl_key=Path(listen.tls_key) if listen.tls_key else None,
            ssl_protocol_min=SSLProtocols(f"tls{listen.tls_min}"),
        )
        self._server.inherited_fd = fd

    async def start(self) -> None:
        """Begins to accept connections."""
        self._serving = asyncio.create_task(self._server.serve())
        await asyncio.sleep(0)

    def drain(self) -> None:
        """Stops accepting; requests that are in go on, idle connections are closed. Safe to call twice."""
        if not self._draining:
            self._draining = True
            self._server.stop()

    async def closed(self) -> None:
        """Returns when every connection has ended after `drain`."""
        if self._serving is not None:
            await self._serving

    async def _on_request(self, scope: Scope, proto: HTTPProtocol) -> None:
        answered: asyncio.Future[None] = self._loop.create_future()
        is_http2 = scope.http_version == "2"

        def answer(status: int, headers: HeaderList, body: bytes) -> None:
            if is_http2:
                headers = [header for header in headers if header[0] not in CONNECTION_HEADERS]
            proto.response_bytes(status, headers, body)
            if not answered.done():
                answered.set_result(None)

        verdict = self._door.admit(_head_of(scope, is_http2))
        if isinstance(verdict, Refusal):
            self._door.refuse(verdict, answer)
            return
        body = b""
        if verdict.body_bytes:
            got = await self._read_body(proto, verdict, answer)
            if got is None:
                return
            body = got
        token = self._door.open(verdict, body, answer)
        if token < 0:
            return
        gone = proto.client_disconnect()
        gone.add_done_callback(lambda left: left.cancelled() or self._on_gone(token, answered))
        await answered
        gone.cancel()

    def _on_gone(self, token: int, answered: asyncio.Future[None]) -> None:
        self._door.gone(token)
        if not answered.done():
            answered.set_result(None)

    async def _read_body(self, proto: HTTPProtocol, admission: Admission, answer: Any) -> bytes | None:
        timeout_s = self._limits.body_timeout_ns / 1e9
        try:
            async with asyncio.timeout(timeout_s):
                return await proto()
        except TimeoutError:
            self._door.abandon(
                admission,
                errors.BODY_TIMEOUT,
                f"expected {admission.body_bytes} bytes within {timeout_s:g} s",
                answer,
            )
        except ProtocolClosed:  # truncated, or the client has left: hyper does not say which
            self._door.abandon(admission, errors.CANCELLED_EARLY, "the body ended early", answer)
        return None


def _head_of(scope: Scope, is_http2: bool) -> Head:
    headers = scope.headers  # each access clones the whole header map: once is enough
    hosts = headers.get_all("host")
    if is_http2 and scope.authority is not None:
        hosts = [scope.authority]  # RFC 9113, 8.3.1: :authority takes the place of Host
    length = headers.get("content-length")
    return Head(
        scope.method,
        scope.path,
        scope.query_string,
        headers,
        hosts,
        int(length) if length is not None else None,  # hyper has refused anything that is not a number
        "transfer-encoding" in headers,
        not is_http2,
    )
