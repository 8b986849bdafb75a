"""A blocking HTTP client that reads a streamed answer piece by piece, and tells complete ones from others."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any

TIMEOUT_S = 20.0


class StreamClient:
    """One request to a port of this machine; a context manager."""

    def __init__(
        self,
        port: int,
        path: str,
        method: str = "GET",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        receive_buffer_bytes: int = 0,
    ) -> None:
        """Sends the request. With `receive_buffer_bytes`, the kernel takes no more than about this much for it."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        if receive_buffer_bytes:
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            one.settimeout(TIMEOUT_S)
            one.connect(("127.0.0.1", port))
            self._connection.sock = one
        self._connection.request(method, path, body or None, dict(headers or {}))
        self._answer: http.client.HTTPResponse | None = None

    def __enter__(self) -> StreamClient:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        if self._answer is not None:
            self._answer.close()
        self._connection.close()

    @property
    def answer(self) -> http.client.HTTPResponse:
        """The head, once it has come."""
        if self._answer is None:
            self._answer = self._connection.getresponse()
        return self._answer

    @property
    def status(self) -> int:
        return self.answer.status

    def line(self) -> bytes:
        """The next line, without its end; b"" at the end of the answer.

        Raises:
            http.client.IncompleteRead: the answer broke off.
        """
        return self.answer.readline().rstrip(b"\n")

    def value(self) -> Any:
        """The JSON value on the next line."""
        return json.loads(self.line())

    def event(self) -> dict[str, str]:
        """The next event: its fields, such as `data` and `event`. Comments are skipped. Empty at the end."""
        fields: dict[str, str] = {}
        while raw := self.answer.readline():
            text = raw.decode().rstrip("\n")
            if not text and fields:
                return fields
            name, colon, content = text.partition(":")
            if name and colon:
                fields[name] = content.removeprefix(" ")
        return fields

    def rest(self) -> bytes:
        """Everything up to the end. Raises IncompleteRead as `line` does."""
        return self.answer.read()
