"""Ends the connections of clients that stand still, for a front whose sockets belong to somebody else.

granian keeps its sockets to itself, has no deadline for a client that does not take its answer, and none for one that
connects and says nothing where it has to find out the HTTP version first. But the kernel knows both (TCP_INFO), and
/proc/self/fd has every socket of the process. So each round looks at all of them, or those that the front names, a few
at a time:

- *slow*: of what was queued for the client one write timeout ago, something is still not acknowledged. A client that
  takes nothing at all is not waited for here: TCP_USER_TIMEOUT, set on the listening socket, lets the kernel end it on
  time. This rule is for those that take a little now and then.
- *silent*: nothing is queued, and nothing has moved in either direction for longer than any request may wait.

A socket is looked at through a duplicate of its descriptor, so that one which is closed meanwhile is not mistaken for
another. Shutting it down is seen by its owner as the end of the client. Unix sockets have no TCP_INFO: they are local.
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
from typing import NamedTuple

import structlog

from fastgw.messages import Cut

log = structlog.get_logger("fastgw.http")

LOOKS_AT_ONCE = 32  # a fifth of a millisecond of the loop's time (measured: 6 us each): whoever comes meanwhile waits
NEXT_LOOKS_AFTER_S = 0.005
ROUNDS_PER_TIMEOUT = 4  # so a deadline is kept to a quarter of the shortest timeout
ROUND_PERIOD_MAX_S = 2.5
SILENCE_SLACK_S = 1.0  # for an answer that is given at the very end of its time

SO_COOKIE = 57  # a number that no other socket of this machine ever has (Linux 4.6); not in Python's socket module
ESTABLISHED = 1
# struct tcp_info (linux/tcp.h): state, unacked (segments), last_data_sent and last_data_recv (ms ago), bytes_acked,
# notsent_bytes.
_TCP_INFO = struct.Struct("=B23xI16xI4xI64xQ16xI")
_INT = struct.Struct("=i")


class _Queued(NamedTuple):
    """What one connection had to take at some moment."""

    since: float
    position: int  # of the last byte that was queued then, in all that was ever sent


def _all_descriptors() -> Iterator[int]:
    for entry in os.scandir("/proc/self/fd"):
        yield int(entry.name)


class SlowClients:
    """The clients of one listening TCP socket, which `start` begins to watch and `stop` leaves alone."""

    def __init__(
        self,
        listening: socket.socket,
        write_timeout_s: float,
        longest_wait_s: Callable[[], float] | None,
        on_cut: Callable[[Cut], object],
        descriptors: Callable[[], Iterator[int]] = _all_descriptors,
    ) -> None:
        """
        Args:
            listening: not kept; TCP_USER_TIMEOUT is set on it, and every accepted socket inherits that.
            write_timeout_s: how long a client may take for what is queued for it.
            longest_wait_s: for how long a client with a request may have to be silent, at most; asked in each round.
                None: silent clients are none of our business.
            on_cut: told of each connection that was ended, and why.
            descriptors: which to look at in a round, for a caller that knows better than to look at all. One that is
                about to be closed may be -1.
        """
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(write_timeout_s * 1000)))
        self._family = listening.family
        host, self._port = listening.getsockname()[:2]
        self._host = None if ipaddress.ip_address(host).is_unspecified else host
        self._write_timeout_s = write_timeout_s
        self._longest_wait_s = longest_wait_s
        self._on_cut = on_cut
        self._descriptors = descriptors
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # One round.
        self._fds: Iterator[int] = iter(())
        self._queued: dict[int, _Queued] = {}  # by socket cookie: those that had something to take in the last round
        self._still_queued: dict[int, _Queued] = {}  # and in this one
        self._cut = 0

    def start(self) -> None:
        """Begins to look."""
        self._after(self._period_s(), self._begin_round)

    def stop(self) -> None:
        """Looks no more. Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _after(self, delay_s: float, step: Callable[[], None]) -> None:
        self._timer = self._loop.call_later(delay_s, step)

    def _period_s(self) -> float:
        shortest = self._write_timeout_s
        if self._longest_wait_s is not None:
            shortest = min(shortest, self._longest_wait_s() + SILENCE_SLACK_S)
        return min(ROUND_PERIOD_MAX_S, shortest / ROUNDS_PER_TIMEOUT)

    def _begin_round(self) -> None:
        self._fds = self._descriptors()
        self._still_queued = {}
        self._cut = 0
        self._go_on()

    def _go_on(self) -> None:
        """A few sockets more: thousands at once would hold up every request."""
        looks = list(islice(self._fds, LOOKS_AT_ONCE))
        now = self._loop.time()
        for fd in looks:
            self._look(fd, now)
        if len(looks) == LOOKS_AT_ONCE:
            self._after(NEXT_LOOKS_AFTER_S, self._go_on)
            return
        self._queued = self._still_queued
        if self._cut:
            log.warning("clients that stood still were cut off", port=self._port, connections=self._cut)
        self._after(self._period_s(), self._begin_round)

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
            if len(info) == _TCP_INFO.size and info[0] == ESTABLISHED:
                self._judge(one, info, now)

    def _judge(self, one: socket.socket, info: bytes, now: float) -> None:
        _, unacknowledged, last_sent_ms, last_received_ms, acknowledged, unsent = _TCP_INFO.unpack(info)
        if unacknowledged or unsent:
            if self._is_ours(one) and self._is_slow(one, acknowledged, now):
                # Without this, what is queued would outlive the connection in the kernel.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._cut_off(one, Cut.SLOW_READER)
        elif self._longest_wait_s is not None:
            silent_s = min(last_sent_ms, last_received_ms) / 1000
            if silent_s > self._longest_wait_s() + SILENCE_SLACK_S and self._is_ours(one):
                self._cut_off(one, Cut.SILENT)

    def _is_ours(self, one: socket.socket) -> bool:
        host, port = one.getsockname()[:2]
        return port == self._port and self._host in (host, None)

    def _is_slow(self, one: socket.socket, acknowledged: int, now: float) -> bool:
        cookie = int.from_bytes(one.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
        before = self._queued.get(cookie)
        if before is None or acknowledged >= before.position:
            (queued_bytes,) = _INT.unpack(fcntl.ioctl(one.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))
            before = _Queued(now, acknowledged + queued_bytes)
        self._still_queued[cookie] = before
        return now - before.since > self._write_timeout_s

    def _cut_off(self, one: socket.socket, why: Cut) -> None:
        self._cut += 1
        self._on_cut(why)
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has just ended by itself
