"""The express front: plain HTTP/1.1 on the event loop. One thread reads, produces and answers a request.

`connection` handles single connections. This module has the listening socket, the limit of connections, the sweep for
all deadlines, and the drain.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from fastgw.admission import Door
from fastgw.config import ACCEPT_BACKLOG, Limits, Listen
from fastgw.forwarding import NOBODY_IS_TRUSTED, Forwarding
from fastgw.http.connection import Connection
from fastgw.http.deadlines import SWEEP_S, Deadlines
from fastgw.http.front import Front
from fastgw.http.heads import SMALL_HEAD_BYTES, AnswerHeads
from fastgw.http.proxied_connection import ProxiedConnection
from fastgw.http.slow_clients import ROUND_PERIOD_MAX_S, SlowClients, Standing, Timeouts
from fastgw.messages import Cut

LINGER_S = 2.0  # how long a client that still sends may take to read the last answer
QUIET_AT_ONCE = 64  # quiet connections that are closed in one turn of the loop; takes half a millisecond
REFUSED_AT_ONCE_MAX = 256  # connections above the limit that get 503; further ones are cut


class ExpressFront(Front):
    """One listening socket, served on the event loop on which it is created."""

    def __init__(
        self, fd: int, listen: Listen, limits: Limits, door: Door, forwarding: Forwarding = NOBODY_IS_TRUSTED
    ) -> None:
        """
        Args:
            fd: a listening socket, which the caller closes. TLS and HTTP/2 are not supported.
            forwarding: decides who may send PROXY protocol headers.
        """
        assert not listen.tls_cert, "TLS needs the granian front"
        assert listen.http != "2", "HTTP/2 needs the granian front"
        self.door = door
        self.limits = limits
        self._loop = asyncio.get_running_loop()
        self.clock = self._loop.time
        self.call_soon: Callable[..., object] = self._loop.call_soon
        self.answer_heads = AnswerHeads()
        self.draining = False
        self._lame_duck_s = 0.0  # how long clients may send one more request on an open connection, in a drain
        self.now = self.clock()  # time of the last sweep
        # The request line may be as long as a target of the largest size with every byte percent-encoded.
        self.line_bytes_max = 3 * limits.max_target_bytes + 64
        self.small_head_bytes = min(self.line_bytes_max, limits.max_header_bytes, SMALL_HEAD_BYTES)
        self.heads_due = Deadlines(limits.header_timeout_ns / 1e9, self._head_is_late)
        self.bodies_due = Deadlines(limits.body_timeout_ns / 1e9, Connection.body_is_late)
        self.writes_due = Deadlines(limits.write_timeout_ns / 1e9, self._reader_is_late)
        self.lingers_due = Deadlines(LINGER_S, Connection.cut)
        self.idle_timeout_s = limits.idle_timeout_ns / 1e9
        self._idle_looks = Deadlines(self.idle_timeout_s / 4, self._look_at_idle)
        self.paused: set[Connection] = set()  # reading is paused: they have sent too far ahead
        self._connections: set[Connection] = set()
        self._quiet: dict[Connection, Cut] = {}  # connections to close because they were quiet for too long
        self._new_connection: Any = partial(Connection, self)
        if listen.proxy_protocol:
            self._new_connection = partial(ProxiedConnection, self, forwarding.is_trusted)
        self._fd = fd
        self._server: asyncio.AbstractServer | None = None
        self._slow_clients: SlowClients | None = None
        self._looked_at: dict[int, Connection] = {}  # the connections of the last round of `slow_clients`
        self._is_ending = False  # no new connections can arrive
        self._ended = self._loop.create_future()

    def __repr__(self) -> str:
        return f"<ExpressFront {len(self._connections)} connections{', draining' if self.draining else ''}>"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    async def start(self) -> None:
        listening = socket.socket(fileno=os.dup(self._fd))
        if listening.family == socket.AF_UNIX:
            # Do not remove the file: siblings still listen there when this server is closed.
            unix: Any = self._loop.create_unix_server
            self._server = await unix(
                self._new_connection, sock=listening, backlog=ACCEPT_BACKLOG, cleanup_socket=False
            )
        else:
            # `writes_due` watches data that the kernel has not accepted; this watches data in the kernel.
            timeout_s = self.limits.write_timeout_ns / 1e9
            self._slow_clients = SlowClients(listening, Timeouts(timeout_s), self, self.door.cut)
            self._slow_clients.start()
            self._server = await self._loop.create_server(self._new_connection, sock=listening, backlog=ACCEPT_BACKLOG)
        self._sweep()

    def drain(self, lame_duck_s: float = 0.0) -> None:
        if self.draining:
            return
        self.draining = True
        self._lame_duck_s = lame_duck_s
        if self._server is not None:
            self._server.close()
        self.call_soon(self._begin_to_end)  # after connections that are accepted but not yet taken in
        if lame_duck_s:
            self._loop.call_later(lame_duck_s, self._close_idle)
        else:
            self.call_soon(self._close_idle)

    async def closed(self) -> None:
        await asyncio.shield(self._ended)

    # Called by the connections.

    def take_in(self, connection: Connection) -> bool:
        """Adds a new connection; False if there are too many."""
        self._connections.add(connection)
        self._idle_looks.add(connection, self.clock())
        return len(self._connections) <= self.limits.max_connections

    def close_soon(self, connection: Connection) -> None:
        """Closes a connection in a drain, unless its client sends one more request."""
        self._loop.call_later(self._lame_duck_s, self._leave_if_idle, connection)

    def is_crowded(self) -> bool:
        """Whether so many connections are above the limit that the next one gets no answer."""
        return len(self._connections) > self.limits.max_connections + REFUSED_AT_ONCE_MAX

    def let_go(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)
        self._idle_looks.discard(connection)
        self._quiet.pop(connection, None)
        self._end_if_empty()

    # The sweep.

    def _sweep(self) -> None:
        if self._ended.done():
            return
        self._loop.call_later(SWEEP_S, self._sweep)
        self.now = self.clock()
        self.answer_heads.set_time(time.time())
        for deadlines in (self.heads_due, self.bodies_due, self.writes_due, self.lingers_due, self._idle_looks):
            deadlines.expire(self.now)
        if self._quiet:
            self._end_quiet()
        if self.paused:
            self._end_deserted()

    def _look_at_idle(self, connection: Connection) -> None:
        """Checks for the idle timeout: each connection periodically, not after each request."""
        self._idle_looks.add(connection, self.now)
        if connection.is_idle_since(self.now - self.idle_timeout_s):
            self._quiet.setdefault(connection, Cut.IDLE)

    def _head_is_late(self, connection: Connection) -> None:
        if connection.is_idle:
            self.heads_due.add(connection, self.now)  # a request may already wait in the kernel
            self._quiet[connection] = Cut.SILENT
        else:
            connection.head_is_late()

    def _end_quiet(self) -> None:
        """Closes some quiet connections, and more in the next turn: closing thousands at once would delay all requests.

        Connections with a request in the kernel stay: it may have arrived while the loop was busy.
        """
        some = {connection: self._quiet.pop(connection) for connection in list(islice(self._quiet, QUIET_AT_ONCE))}
        for connection in _idle_and_unasked(some):
            connection.leave()
            self.door.cut(some[connection])
        if self._quiet:
            self.call_soon(self._end_quiet)

    def _reader_is_late(self, connection: Connection) -> None:
        if connection.reader_is_late():
            self.door.cut(Cut.SLOW_READER)

    # Called by `slow_clients`.

    def descriptors(self) -> Iterator[int]:
        """Connections with a recent answer, which may still be unread; the thousands of others need no look."""
        self._looked_at = {}
        moment = self.now - self.writes_due.timeout_s - 2 * ROUND_PERIOD_MAX_S
        for connection in list(self._connections):
            if connection.has_been_answered_since(moment):
                fd = connection.fileno()
                self._looked_at[fd] = connection
                yield fd

    def standing(self, fd: int, _connection: socket.socket) -> Standing | None:
        connection = self._looked_at.get(fd)
        if connection is None or connection.fileno() != fd:
            return None  # it has ended since the round, and the descriptor is another connection's
        return Standing(connection.is_busy, connection.quiet_since + SWEEP_S)

    def round_ends(self) -> None:
        """Nothing to do: `standing` may be called again before the next round."""

    def _end_deserted(self) -> None:
        """Cuts paused connections whose other end has closed: while reading is paused, this must be polled."""
        by_fd = {connection.fileno(): connection for connection in self.paused}
        for fd, _ in _polled(by_fd, select.POLLRDHUP):
            by_fd[fd].cut()

    def _close_idle(self) -> None:
        for connection in _idle_and_unasked(self._connections):
            connection.leave()

    def _leave_if_idle(self, connection: Connection) -> None:
        for one in _idle_and_unasked([connection]):
            one.leave()

    def _begin_to_end(self) -> None:
        self._is_ending = True
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self._is_ending and not self._connections and not self._ended.done():
            if self._slow_clients is not None:
                self._slow_clients.stop()
            self._ended.set_result(None)


def _idle_and_unasked(connections: Iterable[Connection]) -> list[Connection]:
    """The idle connections, without those whose next request has already arrived and will be answered."""
    idle = {connection.fileno(): connection for connection in connections if connection.is_idle}
    for fd, _ in _polled(idle, select.POLLIN):
        del idle[fd]
    return list(idle.values())


def _polled(fds: Iterable[int], event: int) -> list[tuple[int, int]]:
    poll = select.poll()
    for fd in fds:
        if fd >= 0:
            poll.register(fd, event)
    return poll.poll(0)
