"""Parks requests over HTTP/2: many streams on few connections, and then nothing, until SIGTERM.

    python -m bench.rig.park_http2 PORT PATH BODY_FILE COUNT

Prints "sent" when every request is written. An answer is a mistake here (the topic has no reader) and is printed.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from functools import partial
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RemoteSettingsChanged, ResponseReceived, StreamReset, WindowUpdated

STREAMS_A_CONNECTION = 1000  # every gateway here allows as many
PAUSE_EVERY = 50  # streams, so that a gateway's flow control has its turn


class ParkingConnection(asyncio.Protocol):
    """One connection; `parked` is done when all its requests are written."""

    def __init__(self, path: str, body: bytes, count: int) -> None:
        self._path, self._body, self._left = path, body, count
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._transport: asyncio.Transport | None = None
        self._may_send = asyncio.Event()
        self.parked = asyncio.get_running_loop().create_task(self._park())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, RemoteSettingsChanged | WindowUpdated):
                self._may_send.set()
            elif isinstance(event, ResponseReceived | StreamReset):
                print(f"park_http2: unexpected {event}", file=sys.stderr)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        print(f"park_http2: a connection ended: {error}", file=sys.stderr)
        self._may_send.set()

    async def _park(self) -> None:
        await self._may_send.wait()
        if self._h2.remote_settings.max_concurrent_streams < self._left:
            raise SystemExit(f"only {self._h2.remote_settings.max_concurrent_streams} streams are allowed")
        while self._left:
            if self._h2.outbound_flow_control_window < len(self._body):
                self._may_send.clear()
                await self._may_send.wait()
                continue
            self._send_one()
            if self._left % PAUSE_EVERY == 0:
                self._flush()
                await asyncio.sleep(0)
        self._flush()

    def _send_one(self) -> None:
        stream = self._h2.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":authority", "127.0.0.1"), (":path", self._path)]
        headers += [("content-type", "application/json"), ("content-length", str(len(self._body)))]
        self._h2.send_headers(stream, headers)
        self._h2.send_data(stream, self._body, end_stream=True)
        self._left -= 1

    def _flush(self) -> None:
        if self._transport is not None and (data := self._h2.data_to_send()):
            self._transport.write(data)


async def park(port: int, path: str, body: bytes, count: int) -> None:
    """Park `count` requests, then wait for SIGTERM."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    while count and not done.is_set():
        share = min(count, STREAMS_A_CONNECTION)
        count -= share
        new_connection = partial(ParkingConnection, path, body, share)
        _, connection = await loop.create_connection(new_connection, "127.0.0.1", port)
        await connection.parked
    print("sent", flush=True)
    await done.wait()


if __name__ == "__main__":
    asyncio.run(park(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_bytes(), int(sys.argv[4])))
