"""The HTTP/1.1 server of the admin port: one thread with an event loop and llhttp, and only the features it needs.

Requests have no body. A request with a body is answered and its connection closed, so that the body cannot be taken for
another request. Requests are answered one at a time, each only after the client has read the previous response.

DNS rebinding: a web page must not read this port by pointing its own host name at our address. So the Host of a request
must be a loopback name or address, the address of the connection or of the listener, or one of `admin.hosts`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import threading
from collections import OrderedDict
from http import HTTPStatus
from typing import Any, cast

import httptools
import structlog

from fastgw.admin.pages import PLAIN, Admin, Page, page
from fastgw.config import ACCEPT_BACKLOG

log = structlog.get_logger("fastgw.admin")

CONNECTIONS_MAX = 64  # a scraper or two, some probes and people
IDLE_TIMEOUT_S = 10.0  # to receive each head, and to send each response
LINGER_S = 1.0  # input after the last response is discarded for this time: a reset could destroy the response
TARGET_BYTES_MAX = 8 << 10
HEAD_BYTES_MAX = 64 << 10
HEADERS_MAX = 100

_HEAD_END = b"\r\n\r\n"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?").fullmatch
_ABSOLUTE = re.compile(r"https?://([^/?#]*)([^#]*)", re.IGNORECASE).fullmatch
_DEFAULT_PORT = re.compile(r":(?:80)?$")


class AdminServer:
    """Serves the pages of an `Admin` on a listening socket of the supervisor, so that a restart loses no connection.

    There are at most CONNECTIONS_MAX connections. A new one above the limit closes the oldest, so that idle or slow
    clients cannot lock out a probe.
    """

    def __init__(self, listening: socket.socket, admin: Admin) -> None:
        """Takes over `listening`; accepts nothing before `start`."""
        self.server_address = listening.getsockname()
        self.admin = admin
        self._listening = listening
        self._thread = threading.Thread(target=self._run, name="admin", daemon=True)
        self._serves = threading.Event()
        # Used only by the thread.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._open: OrderedDict[_Connection, None] = OrderedDict()  # oldest first

    def start(self) -> None:
        """Serves from now on, on its own thread."""
        self._thread.start()
        self._serves.wait()

    def stop(self) -> None:
        """Accepts nothing more and closes every connection. The listening socket is closed in this process only."""
        if self._loop is None:
            self._listening.close()
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._serves.set()  # also if the server could not start

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await self._loop.create_server(lambda: _Connection(self), sock=self._listening, backlog=ACCEPT_BACKLOG)
        self._serves.set()
        await self._stopping.wait()
        server.close()
        for connection in list(self._open):
            connection.abort()

    def opened(self, connection: _Connection) -> None:
        self._open[connection] = None
        if len(self._open) > CONNECTIONS_MAX:
            oldest, _ = self._open.popitem(last=False)  # `closed` would remove it only later
            oldest.abort()

    def closed(self, connection: _Connection) -> None:
        self._open.pop(connection, None)


class _Refused(Exception):
    """A refused request; its response ends the connection."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status, self.text = status, text


def _too_large(head: bytes | bytearray) -> _Refused:
    if not 0 <= head.find(b"\r\n") <= TARGET_BYTES_MAX:
        return _Refused(414, f"expected a target of at most {TARGET_BYTES_MAX} bytes")
    return _Refused(431, f"expected a head of at most {HEAD_BYTES_MAX} bytes")


class _Head:
    """One head as llhttp reads it."""

    def __init__(self, data: bytes) -> None:
        """
        Raises:
            _Refused: the head is malformed or too large, or its end is ambiguous.
        """
        self.begun = self.ended = 0
        self.url = b""
        self.hosts: list[str] = []
        self.lengths: list[bytes] = []
        self.has_body = self.keeps_alive = False
        self.headers = 0
        self._parser = parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the server may ignore the offer
        except httptools.HttpParserError as error:
            raise _Refused(400, f"expected a request of HTTP 1.1, got: {error}") from None
        if len(self.url) > TARGET_BYTES_MAX:
            raise _Refused(414, f"expected a target of at most {TARGET_BYTES_MAX} bytes")
        if self.headers > HEADERS_MAX:
            raise _Refused(431, f"expected at most {HEADERS_MAX} headers")
        if (self.begun, self.ended) != (1, 1) or len(self.lengths) > 1:
            raise _Refused(400, "expected one request with one end")
        self.version = parser.get_http_version()
        if self.version not in ("1.0", "1.1"):
            raise _Refused(505, "expected HTTP/1.1")
        self.method = parser.get_method().decode("latin-1")
        self.has_body = self.has_body or any(length.strip(b"0") for length in self.lengths)
        self.keeps_alive = self.keeps_alive and not self.has_body

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers += 1
        match name.lower():
            case b"host":
                self.hosts.append(value.strip().decode("latin-1"))
            case b"content-length":
                self.lengths.append(value.strip())
            case b"transfer-encoding":
                self.has_body = True

    def on_headers_complete(self) -> None:
        self.ended += 1
        self.keeps_alive = self._parser.should_keep_alive()  # not available after the message is complete

    def target(self) -> tuple[str, str | None]:
        """Path and query, and the requested host; None if an HTTP/1.0 request has no Host.

        Raises:
            _Refused: no Host, several, or a target with another host.
        """
        target = self.url.decode("latin-1")
        if len(self.hosts) > 1 or (not self.hosts and self.version != "1.0"):
            raise _Refused(400, f"expected exactly one Host, got {len(self.hosts)}")
        host = self.hosts[0] if self.hosts else None
        absolute = _ABSOLUTE(target)
        if absolute is None:
            return target, host
        authority, path = absolute.groups()
        if host is not None and _DEFAULT_PORT.sub("", authority).lower() != _DEFAULT_PORT.sub("", host).lower():
            raise _Refused(400, "expected the target's authority to be the Host")
        return (path if path.startswith("/") else f"/{path}"), authority


class _Connection(asyncio.Protocol):
    """One connection. Requests are answered in order, one at a time."""

    def __init__(self, server: AdminServer) -> None:
        self._server = server
        self._received = bytearray()
        self._is_writable = True
        self._ends = False
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._wait(IDLE_TIMEOUT_S)
        self._server.opened(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._timer.cancel()
        self._server.closed(self)

    def abort(self) -> None:
        self._ends = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self._ends:
            self._received += data
            self._go_on()

    def pause_writing(self) -> None:
        self._is_writable = False
        self._transport.pause_reading()  # its requests would pile up while it does not read

    def resume_writing(self) -> None:
        self._is_writable = True
        self._transport.resume_reading()
        self._go_on()

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def _go_on(self) -> None:
        if self._ends or not self._is_writable:
            return
        if self._received.startswith(b"\r\n"):
            del self._received[:2]  # RFC 9112, 2.2: ignore an empty line before a request
        end = self._received.find(_HEAD_END)
        if end < 0:
            self._look_at_part()
            return
        head = bytes(self._received[: end + len(_HEAD_END)])
        del self._received[: len(head)]
        self._timer.cancel()
        self._wait(IDLE_TIMEOUT_S)
        self._answer(head)
        if self._received:
            # Other connections go first, and the rest is read after the client has read this response.
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        if self._is_writable and not self._transport.is_closing():
            self._transport.resume_reading()
        self._go_on()

    def _look_at_part(self) -> None:
        if len(self._received) > HEAD_BYTES_MAX:
            self._refuse(_too_large(self._received))

    def _answer(self, data: bytes) -> None:
        try:
            if len(data) > HEAD_BYTES_MAX:
                raise _too_large(data)
            head = _Head(data)
            target, host = head.target()
            if host is not None and not self._serves_host(host):
                raise _Refused(421, "this Host is not allowed here; add it to admin.hosts, without port")
            answer = self._server.admin.handle(head.method, target)
        except _Refused as refused:
            self._refuse(refused)
        except Exception:
            log.exception("admin request failed", client=str(self._transport.get_extra_info("peername")))
            self.abort()
        else:
            self._send(answer, head.method, head.version, keeps_alive=head.keeps_alive)

    def _refuse(self, refused: _Refused) -> None:
        self._send(page(refused.status, PLAIN, f"{refused.text}\n".encode()), "GET", "1.1", keeps_alive=False)

    def _serves_host(self, host: str) -> bool:
        match = _HOST(host)
        if match is None:
            raise _Refused(400, "expected a host name or an address as Host")
        name = match[1].lower().removesuffix(".")
        config = self._server.admin.config.admin
        own = config.listen.rpartition(":")[0].lower()
        if name == "localhost" or name.endswith(".localhost") or name == own or name in config.hosts:
            return True
        address = _address(name.strip("[]"))
        local = _address(str(self._transport.get_extra_info("sockname")[0]))
        return address is not None and (address.is_loopback or address == local)

    def _send(self, answer: Page, method: str, version: str, *, keeps_alive: bool) -> None:
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        if not keeps_alive:
            lines.append("connection: close")
        elif version == "1.0":
            lines.append("connection: keep-alive")
        head = "\r\n".join(lines).encode() + _HEAD_END
        self._transport.write(head if method == "HEAD" else head + answer.body)
        if not keeps_alive:
            self._end()

    def _end(self) -> None:
        self._ends = True
        self._received.clear()
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._timer.cancel()
            self._wait(LINGER_S if self._is_writable else IDLE_TIMEOUT_S)


def _address(text: str) -> Any:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
