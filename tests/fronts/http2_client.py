"""An HTTP/2 client of one connection, on the h2 library: requests go out frame by frame, events come in by stream."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from tests.fronts.raw_http import Answer

TIMEOUT_S = 10.0
FRAME_HEAD_BYTES = 9


class Http2Client:
    """Says its preface at once; everything is read on demand, pings are answered while something is read."""

    def __init__(
        self, address: str, *, tls: ssl.SSLContext | None = None, window_bytes: int | None = None, check: bool = True
    ) -> None:
        """`check=False` sends what h2 would not let an honest client send."""
        if address.startswith("unix:"):
            plain, where = socket.socket(socket.AF_UNIX), address.removeprefix("unix:")
        else:
            host, _, port = address.rpartition(":")
            plain, where = socket.socket(socket.AF_INET), (host, int(port))
        plain.settimeout(TIMEOUT_S)
        plain.connect(where)
        self.sock = tls.wrap_socket(plain, server_hostname="localhost") if tls else plain
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(validate_outbound_headers=check, normalize_outbound_headers=check)
        )
        self.connection.initiate_connection()
        if window_bytes is not None:
            self.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window_bytes})
        self._got = bytearray()
        self.events: list[h2.events.Event] = []
        self.ended = False
        self.acknowledges = True  # what is read opens the windows again
        self.flush()

    def __enter__(self) -> Http2Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what it said before can still be read
            self.sock.sendall(self.connection.data_to_send())

    def request(
        self,
        path: str,
        method: str = "GET",
        headers: Iterable[tuple[str, str] | tuple[bytes, bytes]] = (),
        body: bytes | None = None,
        *,
        authority: str | None = "shop.test",
        scheme: str = "http",
        complete: bool = True,
    ) -> int:
        """Sends a request; returns its stream. Not `complete`: more of its body could follow.

        A body that the windows do not take at once is sent as they open. h2 encodes text as UTF-8: a header that is
        not ASCII has to come as bytes.
        """
        stream = self.connection.get_next_available_stream_id()
        pseudo: list[Any] = [(":method", method), (":scheme", scheme), (":path", path)]
        if authority is not None:
            pseudo.append((":authority", authority))
        self.connection.send_headers(stream, [*pseudo, *headers], end_stream=complete and body is None)
        if body is not None:
            self._send_body(stream, body, complete)
        self.flush()
        return stream

    def _send_body(self, stream: int, body: bytes, complete: bool) -> None:
        rest = memoryview(body)
        while True:
            room = min(self.connection.local_flow_control_window(stream), self.connection.max_outbound_frame_size)
            if len(rest) <= room:
                break
            if room:
                self.connection.send_data(stream, bytes(rest[:room]))
                rest = rest[room:]
            else:
                self.flush()
                self._receive()
                assert not self.ended, f"the connection ended with {len(rest)} bytes to send"
        self.connection.send_data(stream, bytes(rest), end_stream=complete)

    def post(self, path: str, body: bytes) -> int:
        """A whole request with a body and its length."""
        return self.request(path, "POST", [("content-length", str(len(body)))], body)

    def has_answer(self, stream: int) -> bool:
        """Whether its answer has begun, as far as it was read."""
        return self._has(h2.events.ResponseReceived, stream)

    def send_some(self, stream: int, most_bytes: int) -> int:
        """Sends a part of a body as soon as the server's windows take any; returns its size, 0 if an answer came."""
        self._until(lambda: self.has_answer(stream) or self.connection.local_flow_control_window(stream) > 0)
        if self.has_answer(stream):
            return 0
        room = self.connection.local_flow_control_window(stream)
        piece = bytes(min(room, most_bytes, self.connection.max_outbound_frame_size))
        self.connection.send_data(stream, piece)
        self.flush()
        self.receive(0)
        return len(piece)

    def fill(self, stream: int) -> int:
        """Sends as much of a body as the server's windows take; returns how much that was."""
        sent = 0
        while (room := self.connection.local_flow_control_window(stream)) > 0:
            piece = bytes(min(room, self.connection.max_outbound_frame_size))
            self.connection.send_data(stream, piece)
            self.flush()
            sent += len(piece)
        return sent

    def read_some(self) -> bool:
        """Reads once; True."""
        self._receive()
        return True

    def answer(self, stream: int) -> Answer:
        """The whole answer on a stream, which has to end without a reset."""
        self._until(lambda: self._has(h2.events.StreamEnded, stream) or self._has(h2.events.StreamReset, stream))
        assert self._has(h2.events.StreamEnded, stream), f"the stream was reset: {self._of(stream)}"
        head = next(event for event in self._of(stream) if isinstance(event, h2.events.ResponseReceived))
        headers = [(name.decode(), value.decode("latin-1")) for name, value in head.headers]
        body = b"".join(event.data for event in self._of(stream) if isinstance(event, h2.events.DataReceived))
        return Answer(int(dict(headers)[":status"]), headers[1:], body)

    def read_body(self, stream: int, size_bytes: int) -> None:
        """Reads until so much of the answer's body has come; its windows stay as they are."""
        self.acknowledges = False
        self._until(lambda: sum(len(event.data) for event in self._of(stream) if hasattr(event, "data")) >= size_bytes)
        self.acknowledges = True

    def reset_code(self, stream: int) -> int:
        """With which code the server resets a stream."""
        self._until(lambda: self._has(h2.events.StreamReset, stream))
        return next(event.error_code for event in self._of(stream) if isinstance(event, h2.events.StreamReset))

    def goodbye(self) -> h2.events.ConnectionTerminated:
        """The server's GOAWAY."""
        self._until(lambda: any(isinstance(event, h2.events.ConnectionTerminated) for event in self.events))
        return next(event for event in self.events if isinstance(event, h2.events.ConnectionTerminated))

    def end(self) -> None:
        """Read until the server has ended the connection."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.ended:
            assert time.monotonic() < deadline, "the connection stays open"
            self._receive()

    def open_windows(self, streams: Iterable[int], by_bytes: int = 1 << 24) -> None:
        """Lets the server send so much more on each of these streams, and on the connection for all of them."""
        for number, stream in enumerate(streams, 1):
            self.connection.increment_flow_control_window(by_bytes, stream)
            if number <= 64:  # a connection's window is below 2 GiB
                self.connection.increment_flow_control_window(by_bytes)
        self.flush()

    def leave_stream(self, stream: int, code: h2.errors.ErrorCodes = h2.errors.ErrorCodes.CANCEL) -> None:
        """RST_STREAM: the client does not want this answer any more."""
        self.connection.reset_stream(stream, code)
        self.flush()

    def _of(self, stream: int) -> list[Any]:
        return [event for event in self.events if getattr(event, "stream_id", None) == stream]

    def _has(self, kind: type[h2.events.Event], stream: int) -> bool:
        return any(isinstance(event, kind) for event in self._of(stream))

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S  # the server's pings keep the socket busy forever
        while not condition():
            assert not self.ended, f"the connection ended after {self.events}"
            assert time.monotonic() < deadline, f"nothing of the kind came: {self.events}"
            self._receive()

    def receive(self, timeout_s: float) -> None:
        """Reads what comes within this time, if anything does."""
        self.sock.settimeout(timeout_s)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            self._receive()
        self.sock.settimeout(TIMEOUT_S)

    def _receive(self) -> None:
        try:
            data = self.sock.recv(65536)
        except (ConnectionResetError, ssl.SSLEOFError):
            data = b""
        self.ended = not data
        self._got += data
        while len(self._got) >= FRAME_HEAD_BYTES:
            frame_bytes = FRAME_HEAD_BYTES + int.from_bytes(self._got[:3], "big")
            if len(self._got) < frame_bytes:
                break
            self._take(bytes(self._got[:frame_bytes]))
            del self._got[:frame_bytes]
        self.flush()

    def _take(self, frame: bytes) -> None:
        for event in self.connection.receive_data(frame):
            self.events.append(event)
            if isinstance(event, h2.events.ConnectionTerminated) and event.error_code == h2.errors.ErrorCodes.NO_ERROR:
                # h2 takes every GOAWAY for the end; but streams that are open go on (RFC 9113, 6.8).
                self.connection.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length and self.acknowledges:
                with contextlib.suppress(h2.exceptions.StreamClosedError):
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
