"""Closes the connections of slow, silent and idle clients, judged by the kernel's data about their sockets.

A front does not notice a slow reader once the kernel has the whole answer. granian does not expose its sockets, and
hyper has only one timer for late heads and idle connections, and none while it detects the HTTP version. But the kernel
has the data (TCP_INFO), and the front knows the state of a connection (`Standing`). So each round checks all sockets,
or those that the front lists, a few at a time:

- *slow*: the last answer was given more than one write timeout ago, and data is queued for the client in two successive
  rounds. If the client sends further requests meanwhile: data queued one write timeout ago is still not acknowledged. A
  client that reads nothing at all is closed by the kernel: TCP_USER_TIMEOUT is set on the listening socket.
- *silent*: the client has begun a request head or never sent a request, and the head did not arrive within its timeout.
- *idle*: the last request was answered more than one idle timeout ago.

A socket is checked through a duplicate of its descriptor, so that a socket that is closed meanwhile is not confused
with another one. Its owner sees the shutdown as the end of the client. Unix sockets have no TCP_INFO; they are local.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple, Protocol

import structlog

from fastgw.messages import Cut

log = structlog.get_logger("fastgw.http")

LOOKS_AT_ONCE = 32  # a fifth of a millisecond of the loop's time (measured: 6 us each)
NEXT_LOOKS_AFTER_S = 0.005
ROUNDS_PER_TIMEOUT = 4  # the precision is a quarter of the shortest timeout
ROUND_PERIOD_MAX_S = 2.5
SILENCE_SLACK_S = 1.0  # the kernel counts in ticks, and data of the client may be in transit

SO_COOKIE = 57  # a unique number of a socket (Linux 4.6); not in Python's socket module
ESTABLISHED = 1
# struct tcp_info (linux/tcp.h): state, unacked (segments), last_data_sent and last_data_recv (ms ago), bytes_acked,
# notsent_bytes.
_TCP_INFO = struct.Struct("=B23xI16xI4xI64xQ16xI")
_INT = struct.Struct("=i")


class Standing(NamedTuple):
    """A front's knowledge about a connection that has sent a request."""

    is_busy: bool  # a request is arriving or waits for its answer
    since_s: float  # time of the last answer, by the loop's clock


class Clients(Protocol):
    """The front whose clients are watched."""

    def descriptors(self) -> Iterator[int]:
        """The descriptors to check in this round; -1 for a connection that is being closed."""

    def standing(self, fd: int, connection: socket.socket) -> Standing | None:
        """The state of the connection with this descriptor; None if it has not sent a request yet."""

    def round_ends(self) -> None:
        """Called after all descriptors were checked."""


class Timeouts(NamedTuple):
    """The timeouts of clients; None: the front enforces it itself."""

    write_s: float  # to read an answer
    header_s: float | None = None  # to send a request head, from its first byte or the beginning of the connection
    idle_s: float | None = None  # between an answer and the next request


class _Mark(NamedTuple):
    """An observation of a connection."""

    since_s: float
    position: int  # a position in all bytes ever sent to the client


def all_descriptors() -> Iterator[int]:
    """Every descriptor of this process."""
    for entry in os.scandir("/proc/self/fd"):
        yield int(entry.name)


class SlowClients:
    """Watches the clients of one listening TCP socket, from `start` to `stop`.

    Attributes:
        open_connections: number of connections checked in the last round.
    """

    def __init__(
        self, listening: socket.socket, timeouts: Timeouts, clients: Clients, on_cut: Callable[[Cut], object]
    ) -> None:
        """
        Args:
            listening: not kept; TCP_USER_TIMEOUT is set on it, and every accepted socket inherits that.
            on_cut: called for each closed connection, with the reason.
        """
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(timeouts.write_s * 1000)))
        self._family = listening.family
        host, self._port = listening.getsockname()[:2]
        self._host = None if ipaddress.ip_address(host).is_unspecified else host
        self._timeouts = timeouts
        self._clients = clients
        self._on_cut = on_cut
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        shortest_s = min(timeout_s for timeout_s in timeouts if timeout_s is not None)
        self._period_s = min(ROUND_PERIOD_MAX_S, shortest_s / ROUNDS_PER_TIMEOUT)
        self.open_connections = 0
        # One round. By socket cookie: the observations of the last round and of this one.
        self._fds: Iterator[int] = iter(())
        self._queued: dict[int, _Mark] = {}  # had queued data; the position is its end
        self._still_queued: dict[int, _Mark] = {}
        self._heads: dict[int, _Mark] = {}  # had begun a head; the position is the end of the data sent before
        self._still_heads: dict[int, _Mark] = {}
        self._looked_at = 0
        self._cut = 0

    def start(self) -> None:
        """Starts the rounds."""
        self._after(self._period_s, self._begin_round)

    def stop(self) -> None:
        """Ends the rounds. Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _after(self, delay_s: float, step: Callable[[], None]) -> None:
        self._timer = self._loop.call_later(delay_s, step)

    def _begin_round(self) -> None:
        self._fds = self._clients.descriptors()
        self._still_queued, self._still_heads = {}, {}
        self._looked_at = self._cut = 0
        self._go_on()

    def _go_on(self) -> None:
        """Checks a few sockets: thousands at once would delay all requests."""
        looks = list(islice(self._fds, LOOKS_AT_ONCE))
        now = self._loop.time()
        for fd in looks:
            self._look(fd, now)
        if len(looks) == LOOKS_AT_ONCE:
            self._after(NEXT_LOOKS_AFTER_S, self._go_on)
            return
        self._queued, self._heads = self._still_queued, self._still_heads
        self.open_connections = self._looked_at
        self._clients.round_ends()
        if self._cut:
            log.warning("stalled clients cut off", port=self._port, connections=self._cut)
        self._after(self._period_s, self._begin_round)

    def _look(self, fd: int, now: float) -> None:
        try:
            copy = os.dup(fd)
        except OSError:
            return  # closed since it was listed
        try:
            one = socket.socket(self._family, socket.SOCK_STREAM, fileno=copy)
        except OSError:
            os.close(copy)
            return  # not a socket
        with one:
            try:
                info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            except OSError:
                return  # not TCP
            if len(info) == _TCP_INFO.size and info[0] == ESTABLISHED and self._is_ours(one):
                self._looked_at += 1
                self._judge(one, info, self._clients.standing(fd, one), now)

    def _judge(self, one: socket.socket, info: bytes, standing: Standing | None, now: float) -> None:
        _, unacknowledged, last_sent_ms, last_received_ms, acknowledged, unsent = _TCP_INFO.unpack(info)
        if unacknowledged or unsent:
            cookie = _cookie_of(one)
            # HTTP/2 connections get pings long after their last answer: a ping is acknowledged by the next round.
            was_queued = cookie in self._queued
            answered_long_ago = (
                standing is not None and not standing.is_busy and now - standing.since_s > self._timeouts.write_s
            )
            if self._is_slow(one, cookie, acknowledged, now) or (answered_long_ago and was_queued):
                # Without this, the kernel would keep the queued data after the connection.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._cut_off(one, Cut.SLOW_READER)
        elif self._timeouts.header_s is not None and not (standing is not None and standing.is_busy):
            silent_s = min(last_sent_ms, last_received_ms) / 1000
            has_begun = last_received_ms < last_sent_ms  # the client sent last
            if self._is_late(standing, silent_s) or (has_begun and self._head_is_late(one, acknowledged, now)):
                self._cut_off(one, Cut.SILENT)
            # A client that sent data a moment ago may have sent a request that the front has not read yet.
            elif self._is_idle(standing, now) and last_received_ms > 500 * self._period_s:
                self._cut_off(one, Cut.IDLE)

    def _is_ours(self, one: socket.socket) -> bool:
        host, port = one.getsockname()[:2]
        return port == self._port and self._host in (host, None)

    def _is_slow(self, one: socket.socket, cookie: int, acknowledged: int, now: float) -> bool:
        before = self._queued.get(cookie)
        if before is None or acknowledged >= before.position:
            (queued_bytes,) = _INT.unpack(fcntl.ioctl(one.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))
            before = _Mark(now, acknowledged + queued_bytes)
        self._still_queued[cookie] = before
        return now - before.since_s > self._timeouts.write_s

    def _is_late(self, standing: Standing | None, silent_s: float) -> bool:
        """No request was ever sent, and no data moves. (HTTP/2 connections get pings: they are never silent.)"""
        assert self._timeouts.header_s is not None
        return standing is None and silent_s > self._timeouts.header_s + SILENCE_SLACK_S

    def _head_is_late(self, one: socket.socket, acknowledged: int, now: float) -> bool:
        """Part of a head has arrived, but no request. (Other frames of HTTP/2 clients are followed by a ping.)

        A head that begins in the same kernel tick as the previous answer is noticed with its next bytes. Without more
        bytes the connection counts as idle.
        """
        assert self._timeouts.header_s is not None
        cookie = _cookie_of(one)
        before = self._heads.get(cookie)
        if before is None or before.position != acknowledged:
            before = _Mark(now, acknowledged)
        self._still_heads[cookie] = before
        return now - before.since_s > self._timeouts.header_s + SILENCE_SLACK_S

    def _is_idle(self, standing: Standing | None, now: float) -> bool:
        idle_s = self._timeouts.idle_s
        return standing is not None and idle_s is not None and now - standing.since_s > idle_s + SILENCE_SLACK_S

    def _cut_off(self, one: socket.socket, why: Cut) -> None:
        self._cut += 1
        self._on_cut(why)
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the connection has just ended


def _cookie_of(one: socket.socket) -> int:
    return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
