"""Requests with an idempotency key: work that is under way or done is not done again.

The gateway lets one request of a key through. A second one comes if the gateway stopped waiting for the first, if its
record was delivered twice, or if the first was sent late by a process that had been frozen. This process then sends the
reply of the first once more.

This is best effort. What a process knows is lost with it, is not known to the other processes of the group, and is
bounded. Work that must not be done twice needs a unique key in the service's own database.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from fastgw.dialects import plain
from fastgw.service.messages import IDEMPOTENCY_KEY, ReplyRecord, Request
from fastgw.service.replies import Work

REPLIES_MAX = 10_000
REPLIES_BYTES_MAX = 64 << 20
REPLY_BYTES_MAX = 1 << 20  # a larger reply is not stored
KEPT_NS = 24 * 3_600_000_000_000  # as long as the gateway's own `[later] keep`

# What the gateway compares, too. With another of these, the key asks for other work.
_SAME = ("http_method", "http_route", "http_path", "http_query", IDEMPOTENCY_KEY)


class _Stored(NamedTuple):
    reply: ReplyRecord
    until_ns: int


class Repeats:
    """Requests under way, and replies, by what their key asks for. Any thread may call it.

    Attributes:
        answered: requests so far that got the reply of another one.
    """

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """
        Args:
            now_ns: monotonic time.
        """
        self._now_ns = now_ns
        self._guard = threading.Lock()
        # Guarded.
        self._waiting: dict[bytes, list[Work]] = {}  # by the request that is under way
        self._stored: dict[bytes, _Stored] = {}  # the least recently used first
        self._bytes = 0
        self.answered = 0

    def __repr__(self) -> str:
        return f"<Repeats {len(self._waiting)} under way, {len(self._stored)} stored>"

    def begin(self, work: Work) -> ReplyRecord | bool:
        """A request with a key arrives.

        Returns:
            True: it is the first, so do the work and call `end`. False: it waits, `end` will return it. Or the reply
            to send.
        """
        key = _key_of(work.request)
        with self._guard:
            stored = self._stored.pop(key, None)
            if stored is not None and stored.until_ns > self._now_ns():
                self._stored[key] = stored  # now the most recently used
                self.answered += 1
                return readdressed(stored.reply, work)
            if stored is not None:
                self._bytes -= _size(stored.reply)
            if key in self._waiting:
                self._waiting[key].append(work)
                self.answered += 1
                return False
            self._waiting[key] = []
            return True

    def end(self, work: Work, reply: ReplyRecord) -> list[tuple[Work, ReplyRecord]]:
        """The work is done. Its reply is stored, unless the service failed: then the work may be tried again.

        Returns:
            The requests that waited, each with its reply.
        """
        key = _key_of(work.request)
        with self._guard:
            waiting = self._waiting.pop(key, [])
            if reply.status < 500 and _size(reply) <= REPLY_BYTES_MAX:
                self._store(key, reply)
        return [(each, readdressed(reply, each)) for each in waiting]

    def _store(self, key: bytes, reply: ReplyRecord) -> None:
        before = self._stored.pop(key, None)
        self._bytes += _size(reply) - (_size(before.reply) if before else 0)
        self._stored[key] = _Stored(reply, self._now_ns() + KEPT_NS)
        while len(self._stored) > REPLIES_MAX or self._bytes > REPLIES_BYTES_MAX:
            oldest = next(iter(self._stored))
            self._bytes -= _size(self._stored.pop(oldest).reply)


def readdressed(reply: ReplyRecord, work: Work) -> ReplyRecord:
    """The same reply for another request."""
    others = [header for header in reply.headers if header[0] != plain.CORRELATION_ID]
    return reply._replace(headers=[(plain.CORRELATION_ID, work.correlation_id), *others])


def _key_of(request: Request) -> bytes:
    digest = hashlib.sha256()
    for part in (*(request.record_headers.get(name) or b"" for name in _SAME), request.body):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()


def _size(reply: ReplyRecord) -> int:
    return len(reply.value) + sum(len(name) + len(value) for name, value in reply.headers)
