"""Closes the connections of slow, silent and idle clients, judged by the kernel's data about their sockets.

A front does not notice a slow reader once the kernel has the whole answer. granian does not expose its sockets, and
hyper has only one timer for late heads and idle connections, and none while it detects the HTTP version. But the kernel
has the data (TCP_INFO), and the front knows the state of a connection (`Standing`). So each round checks all sockets,
or those that the front lists, a few at a time:

- *slow*: the last answer was given more than one write timeout ago, and data has been queued for the client for some
  time. If the client sends further requests meanwhile: data queued one write timeout ago is still not acknowledged. Or
  the front itself knows that the client is late (`Standing.is_late`). A client that reads nothing at all is closed by
  the kernel, too: TCP_USER_TIMEOUT is set on the listening socket.
- *silent*: the client has begun a request head or never sent a request, and the head did not arrive within its timeout.
  Frames of HTTP/2 that are no request, such as answers to pings, change nothing.
- *idle*: the last request was answered more than one idle timeout ago.

A slow client is closed within its write timeout and `lateness_s`: a socket whose client may become late before the next
round is checked again when it is due.

A socket is checked through a duplicate of its descriptor, so that a socket that is closed meanwhile is not confused
with another one. Its owner sees the shutdown as the end of the client. Unix sockets have no TCP_INFO; they are local.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import math
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
SUSPECT_PERIOD_S = 0.25  # between two looks at those that are due before the next round
LATENESS_S, LATENESS_SHARE = 1.0, 0.1  # of the write timeout: see `lateness_s`
QUEUED_S = 2.5  # data queued for less may be a ping, which HTTP/2 connections get long after their last answer
SILENCE_SLACK_S = 1.0  # the kernel counts in ticks, and data of the client may be in transit

SO_COOKIE = 57  # a unique number of a socket (Linux 4.6); not in Python's socket module
ESTABLISHED = 1
# struct tcp_info (linux/tcp.h): state, unacked (segments), last_data_sent and last_data_recv (ms ago), bytes_acked,
# notsent_bytes.
_TCP_INFO = struct.Struct("=B23xI16xI4xI64xQ16xI")
_INT = struct.Struct("=i")


class Standing(NamedTuple):
    """A front's knowledge about a connection that has sent a request."""

    is_busy: bool  # a request is arriving or waits for its answer, or the front has an answer that is not read
    since_s: float  # time of the last answer, by the loop's clock
    is_late: bool = False  # the front has an answer that should have been read by now


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
    queued_s: float = 0.0  # since when every look has found something queued


def lateness_s(write_s: float) -> float:
    """The longest time from the write timeout to the end of a slow reader: a tenth of it, or a second if more."""
    return max(LATENESS_S, LATENESS_SHARE * write_s)


def all_descriptors() -> Iterator[int]:
    """Every descriptor of this process."""
    for entry in os.scandir("/proc/self/fd"):
        yield int(entry.name)


def queued_bytes(fd: int) -> int:
    """What the kernel has for the other end of this connection: not yet sent, or not yet acknowledged.

    Raises:
        OSError: it is no open socket.
    """
    (size,) = _INT.unpack(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(_INT.size)))
    return int(size)


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
        # Data may be queued for almost a round before it is noticed, and the look when it is due may be late as well.
        precise_s = lateness_s(timeouts.write_s) - 2 * SUSPECT_PERIOD_S
        self._period_s = min(ROUND_PERIOD_MAX_S, shortest_s / ROUNDS_PER_TIMEOUT, precise_s)
        self._queued_s = min(QUEUED_S, timeouts.write_s / ROUNDS_PER_TIMEOUT)
        self.open_connections = 0
        # One round. By socket cookie: the observations of the last round and of this one.
        self._fds: Iterator[int] = iter(())
        self._suspects: dict[int, float] = {}  # descriptors to look at again before the next round, and when
        self._next_round_s = 0.0
        self._queued: dict[int, _Mark] = {}  # had queued data; the position is its end
        self._still_queued: dict[int, _Mark] = {}
        self._heads: dict[int, _Mark] = {}  # had begun a head; the position is the end of the data sent before
        self._still_heads: dict[int, _Mark] = {}
        self._unasked: dict[int, float] = {}  # have sent no request; since when they have been connected
        self._still_unasked: dict[int, float] = {}
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
        self._still_queued, self._still_heads, self._still_unasked = {}, {}, {}
        self._suspects = {}
        self._looked_at = 0
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
        self._queued, self._heads, self._unasked = self._still_queued, self._still_heads, self._still_unasked
        self.open_connections = self._looked_at
        self._clients.round_ends()
        self._tell_cut()
        self._next_round_s = now + self._period_s
        self._until_next_round(now)

    def _tell_cut(self) -> None:
        if self._cut:
            log.warning("stalled clients cut off", port=self._port, connections=self._cut)
            self._cut = 0

    def _until_next_round(self, now: float) -> None:
        left_s = self._next_round_s - now
        if self._suspects and left_s > SUSPECT_PERIOD_S:
            self._after(SUSPECT_PERIOD_S, self._look_again)
        else:
            self._after(max(0.0, left_s), self._begin_round)

    def _look_again(self) -> None:
        """Looks at those that were found in the last round and are due now."""
        now = self._loop.time()
        due = list(islice((fd for fd, due_s in self._suspects.items() if due_s <= now), LOOKS_AT_ONCE))
        for fd in due:
            del self._suspects[fd]
            self.look(fd)
        if len(due) == LOOKS_AT_ONCE:
            self._after(NEXT_LOOKS_AFTER_S, self._look_again)
            return
        self._tell_cut()
        self._until_next_round(now)

    def look(self, fd: int) -> None:
        """Judges one connection now, between two rounds or within one."""
        self._look(fd, self._loop.time(), is_again=True)

    def _look(self, fd: int, now: float, is_again: bool = False) -> None:
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
                standing = self._clients.standing(fd, one)
                if is_again:
                    self._judge_again(one, info, standing, now)
                else:
                    self._looked_at += 1
                    self._judge(fd, one, info, standing, now)

    def _judge_again(self, one: socket.socket, info: bytes, standing: Standing | None, now: float) -> None:
        _, unacknowledged, _, _, acknowledged, unsent = _TCP_INFO.unpack(info)
        mark = self._queued.get(_cookie_of(one)) if unacknowledged or unsent else None
        is_slow = mark is not None and self._is_slow(mark, acknowledged, standing, now)
        if is_slow or (standing is not None and standing.is_late):
            self._cut_off_reader(one)

    def _judge(self, fd: int, one: socket.socket, info: bytes, standing: Standing | None, now: float) -> None:
        _, unacknowledged, last_sent_ms, last_received_ms, acknowledged, unsent = _TCP_INFO.unpack(info)
        silent_s = min(last_sent_ms, last_received_ms) / 1000
        if standing is not None and standing.is_late:
            self._cut_off_reader(one)
        elif standing is None and self._asks_too_late(one, silent_s, now):
            self._cut_off(one, Cut.SILENT)
        elif unacknowledged or unsent:
            mark = self._mark_queued(one, acknowledged, now)
            if self._is_slow(mark, acknowledged, standing, now):
                self._cut_off_reader(one)
                return
            due_s = self._due_s(mark, standing)
            if due_s <= now + self._period_s + SUSPECT_PERIOD_S:
                self._suspects[fd] = due_s
        elif self._timeouts.header_s is not None and not (standing is not None and standing.is_busy):
            has_begun = last_received_ms < last_sent_ms  # the client sent last
            if has_begun and self._head_is_late(one, acknowledged, now):
                self._cut_off(one, Cut.SILENT)
            # A client that sent data a moment ago may have sent a request that the front has not read yet.
            elif self._is_idle(standing, now) and last_received_ms > 500 * self._period_s:
                self._cut_off(one, Cut.IDLE)

    def _is_ours(self, one: socket.socket) -> bool:
        host, port = one.getsockname()[:2]
        return port == self._port and self._host in (host, None)

    def _mark_queued(self, one: socket.socket, acknowledged: int, now: float) -> _Mark:
        """Since when what is queued now has been queued."""
        cookie = _cookie_of(one)
        mark = self._queued.get(cookie)
        if mark is None or acknowledged >= mark.position:
            mark = _Mark(now, acknowledged + queued_bytes(one.fileno()), now if mark is None else mark.queued_s)
        self._still_queued[cookie] = mark
        return mark

    def _is_slow(self, mark: _Mark, acknowledged: int, standing: Standing | None, now: float) -> bool:
        stands_still = acknowledged < mark.position and now >= mark.since_s + self._timeouts.write_s
        return stands_still or now >= self._answer_due_s(mark, standing)

    def _due_s(self, mark: _Mark, standing: Standing | None) -> float:
        """When a client will be slow that reads nothing until then."""
        return min(mark.since_s + self._timeouts.write_s, self._answer_due_s(mark, standing))

    def _answer_due_s(self, mark: _Mark, standing: Standing | None) -> float:
        """When everything should have been read because the last answer was given long before."""
        if standing is None or standing.is_busy:
            return math.inf
        return max(standing.since_s + self._timeouts.write_s, mark.queued_s + self._queued_s)

    def _asks_too_late(self, one: socket.socket, silent_s: float, now: float) -> bool:
        """No request was ever sent. (HTTP/2 connections get pings and answer them: they are never silent.)"""
        if self._timeouts.header_s is None:
            return False
        cookie = _cookie_of(one)
        since_s = self._still_unasked[cookie] = self._unasked.get(cookie, now - silent_s)
        return now - since_s > self._timeouts.header_s + SILENCE_SLACK_S

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

    def _cut_off_reader(self, one: socket.socket) -> None:
        # Without this, the kernel would keep the queued data after the connection.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._cut_off(one, Cut.SLOW_READER)

    def _cut_off(self, one: socket.socket, why: Cut) -> None:
        self._cut += 1
        self._on_cut(why)
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the connection has just ended


def _cookie_of(one: socket.socket) -> int:
    return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
