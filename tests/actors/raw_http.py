"""A blocking HTTP/1.1 client that sends whatever bytes a test wants, and reads answers one at a time."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Sequence
from typing import Any, NamedTuple

TIMEOUT_S = 20.0


class Answer(NamedTuple):
    """An answer as it came; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem body."""
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)


def head(method: str, path: str, *lines: str) -> bytes:
    """The head of a request with a Host, and whatever else `lines` say."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *lines, "", ""]).encode()


class RawConnection:
    """One connection to a port of this machine or to a Unix socket; a context manager."""

    def __init__(self, address: int | str, tls: ssl.SSLContext | None = None) -> None:
        self._socket: socket.socket
        if isinstance(address, str):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(TIMEOUT_S)
            self._socket.connect(address)
        else:
            self._socket = socket.create_connection(("127.0.0.1", address), TIMEOUT_S)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")
        self._came = b""

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def finish_sending(self) -> None:
        """Sends the end of the stream; answers can still be read."""
        self._socket.shutdown(socket.SHUT_WR)

    def ask(self, method: str, path: str, body: bytes = b"", headers: Sequence[str] = ()) -> None:
        """Sends one well-formed request and waits for nothing."""
        self.send(head(method, path, f"Content-Length: {len(body)}", *headers) + body)

    def request(self, method: str, path: str, body: bytes = b"", headers: Sequence[str] = ()) -> Answer:
        """Sends one well-formed request and returns its answer."""
        self.ask(method, path, body, headers)
        return self.answer(bodiless=method == "HEAD")

    def answer(self, bodiless: bool = False) -> Answer:
        """The next answer on this connection.

        Raises:
            ConnectionError: the connection ended before a whole answer had come.
        """
        lines = self._take_through(b"\r\n\r\n").decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
        length = 0 if bodiless else int(headers.get("content-length", 0))
        return Answer(int(lines[0].split()[1]), headers, self._take(length))

    def is_closed(self) -> bool:
        """Whether the other side closes this connection; waits for it to do so or to send something else."""
        try:
            return not self._came and self._socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _take_through(self, end: bytes) -> bytes:
        while end not in self._came:
            self._read_more()
        return self._take(self._came.index(end) + len(end))

    def _take(self, count: int) -> bytes:
        while len(self._came) < count:
            self._read_more()
        taken, self._came = self._came[:count], self._came[count:]
        return taken

    def _read_more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError(f"closed after {self._came[:200]!r}")
        self._came += data
