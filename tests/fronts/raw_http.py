"""A client that sends bytes as they are, and reads HTTP/1.1 answers by the letter of RFC 9112; it repairs nothing."""

from __future__ import annotations

import socket
import ssl
import struct
from typing import NamedTuple

TIMEOUT_S = 10.0  # for a server that is alive and may be slow; what must not happen is asserted by other means


class Answer(NamedTuple):
    """One answer, interim ones (1xx) included."""

    status: int
    headers: list[tuple[str, str]]  # names in lower case, in the order they came
    body: bytes

    def values(self, name: str) -> list[str]:
        """All values of the header `name`."""
        return [value for key, value in self.headers if key == name]

    @property
    def closes(self) -> bool:
        """It announces that no further request is answered on this connection."""
        return [value.lower() for value in self.values("connection")] == ["close"]


class RawClient:
    """One connection."""

    versions = ("HTTP/1.1",)  # in which an answer may come

    def __init__(
        self,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        receive_buffer_bytes: int | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`address` is as `Listeners.addresses` has it; `receive_buffer_bytes` makes a slow reader felt early."""
        if address.startswith("unix:"):
            plain, where = socket.socket(socket.AF_UNIX), address.removeprefix("unix:")
        else:
            host, _, port = address.rpartition(":")
            plain, where = socket.socket(socket.AF_INET), (host, int(port))
        if receive_buffer_bytes is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        plain.settimeout(timeout_s)
        plain.connect(where)
        if plain.family == socket.AF_INET:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = tls.wrap_socket(plain, server_hostname="localhost") if tls else plain
        self._got = bytearray()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_while_open(self, data: bytes) -> None:
        """Send to a server that may close at any byte; what it said before can still be read."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def end_sending(self) -> None:
        """A half-close: no more requests, answers are still read."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave with a RST, as a crashed client does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def answer(self, method: str = "GET") -> Answer:
        """The next answer, which is one to a `method` request."""
        head = self._until(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, code, _ = status_line.split(" ", 2)
        assert version in self.versions, f"expected an answer in {self.versions}, got {status_line!r}"
        headers = []
        for line in lines:
            name, colon, value = line.partition(":")
            assert colon, f"expected a header, got {line!r}"
            assert name == name.strip(), f"expected a header name, got {name!r}"
            headers.append((name.lower(), value.strip()))
        return Answer(int(code), headers, self._body(int(code), method, headers))

    def _body(self, status: int, method: str, headers: list[tuple[str, str]]) -> bytes:
        if method == "HEAD" or status < 200 or status in (204, 304):
            return b""
        fields = [(name, value) for name, value in headers if name in ("content-length", "transfer-encoding")]
        assert len(fields) == 1, f"expected exactly one framing header, got {fields}"
        name, value = fields[0]
        if name == "content-length":
            return self._exactly(int(value))
        assert value == "chunked"
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        assert self._until(b"\r\n") == b"", "expected no trailers"
        return body

    def up_to(self, mark: bytes) -> bytes:
        """What comes next, up to the end of `mark`."""
        return self._until(mark) + mark

    @property
    def unused_bytes(self) -> int:
        """How much has been received and was not asked for."""
        return len(self._got)

    def read(self, size_bytes: int) -> None:
        """Receives at least so much, and keeps it."""
        enough = len(self._got) + size_bytes
        while len(self._got) < enough:
            assert self._receive(), "the connection has ended"

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which must come; a reset is an end as well.

        Raises:
            TimeoutError: the connection stays open.
        """
        while self._receive():
            pass
        rest = bytes(self._got)
        self._got.clear()
        return rest

    def answers_until_end(self) -> list[Answer]:
        """All further answers; then the connection must end, and not in the middle of one."""
        answers = []
        while self._got or self._receive():
            answers.append(self.answer())
        return answers

    def _receive(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except (ConnectionResetError, ssl.SSLEOFError):
            return False
        self._got += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._got:
            assert self._receive(), f"the connection ended after {bytes(self._got[:200])!r}, before {mark!r}"
        part, _, rest = self._got.partition(mark)
        self._got = bytearray(rest)
        return bytes(part)

    def _exactly(self, count: int) -> bytes:
        while len(self._got) < count:
            assert self._receive(), f"the connection ended after {len(self._got)} of {count} bytes"
        part = bytes(self._got[:count])
        del self._got[:count]
        return part
