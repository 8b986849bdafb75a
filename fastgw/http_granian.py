"""The granian front: HTTP/1.1, HTTP/2 and TLS. The only file that knows granian.

granian's own threads do the I/O and the parsing. Its public way to our code is a coroutine for each request; that was
measured at 16 and 64 connections and cost about a third of the whole gateway more than the way taken here (figures in
bench/README.md): a private hook, `CallbackScheduler._schedule_fn`, that is called for each parsed request on granian's
Python thread. It only appends to a deque and wakes the loop once for a batch; everything else happens on the loop.

What granian lacks is added here: a deadline for bodies, and `slow_clients` for what its sockets would have to tell.
What kills it is kept from it: a status outside 100-999 aborts the process, and so does a future that is pending when
its last connection has ended; a third stop signal blocks it. The version is pinned, because all of this is found out
and none of it promised; tests/test_http_granian.py has one test for each behaviour that is leaned on here.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import structlog
from granian._granian import CallbackScheduler, RSGIWorker, SocketHolder, WorkerSignal
from granian.http import HTTP1Settings, HTTP2Settings
from granian.rsgi import HTTPProtocol, Scope

from fastgw import errors
from fastgw.admission import UNKNOWN, Admission, Door, Refusal
from fastgw.config import Limits, Listen
from fastgw.deadlines import Deadlines
from fastgw.messages import Head, HeaderList, Peer
from fastgw.slow_clients import SlowClients

log = structlog.get_logger("fastgw.http")

BACKLOG = 1024
HTTP1_BUFFER_BYTES_MIN = 16_384  # hyper panics below 8 KiB and refuses ordinary headers just above
CLOSE = ("connection", "close")
_NOT_ESCAPED = "/!$&'()*+,;=:@\"<>[\\]^`{|}"
# HTTP/2 may send a body without Content-Length with any of them.
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
CONNECTION_HEADERS = frozenset({"connection", "keep-alive"})  # not allowed in HTTP/2 (RFC 9113, 8.2.2)
HTTP2_PING_MS_MAX = 15_000
BODY_SWEEP_S = 0.25  # the precision of the body deadline
WATCH_AFTER_S = 0.25  # a request that is answered sooner is spared the price of knowing whether its client has left


class _Scheduler(CallbackScheduler):
    """Calls `schedule(watcher)` for each request, on granian's Python thread, with the GIL held.

    `schedule` must not raise: granian leaves the error set on its thread, and what it hands over from then on is a
    matter of chance. It must return None: anything else is leaked.
    """

    def __init__(self, _loop: object, schedule: Any, *_: object) -> None:
        self._schedule_fn = schedule


class _FuturesLoop:
    """The loop as granian's futures see it: what they call back is handed over in batches, as requests are.

    Each body would wake the loop by itself otherwise. Nothing here is a task, so nothing asks whose loop this is.
    """

    def __init__(self, hand_over: Callable[[Any, Any], None]) -> None:
        self._hand_over = hand_over

    def call_soon_threadsafe(self, callback: Any, future: Any, context: object = None) -> None:  # noqa: ARG002
        self._hand_over(callback, future)

    call_soon = call_soon_threadsafe  # of futures that are done or cancelled already


def _no_task(*_: object) -> None:
    return None


class GranianFront:
    """One listening socket served by granian; the loop it is made on is the one that everything happens on."""

    def __init__(self, fd: int, listen: Listen, limits: Limits, door: Door) -> None:
        """`fd` is a listening socket; it stays the caller's."""
        self.door = door
        self._loop = asyncio.get_running_loop()
        self._body_timeout_s = limits.body_timeout_ns / 1e9
        # A connection may be silent while one of its requests waits. How long that can be, the requests tell.
        self._longest_wait_ns = max(limits.header_timeout_ns, limits.body_timeout_ns)
        self._handed_over: deque[tuple[Any, Any]] = deque()  # filled by granian's threads, emptied by the loop
        self._woken = False  # a wake-up is under way; set by granian's thread, cleared by the loop
        self.reading: dict[int, _Body] = {}  # bodies on their way, oldest first
        self._unwatched = Deadlines(WATCH_AFTER_S, _Request.watch)
        self._draining = False
        # hyper keeps the limit itself, by the size of its buffer, from the smallest buffer that it can have upwards.
        self._small_max_header_bytes = (
            limits.max_header_bytes if limits.max_header_bytes < HTTP1_BUFFER_BYTES_MIN else 0
        )
        self._ended = self._loop.create_future()
        self._stop = WorkerSignal()
        self._stop.add_cb(partial(self._loop.call_soon_threadsafe, self._on_ended))
        self._slow_clients: SlowClients | None = None
        with socket.socket(fileno=os.dup(fd)) as listening:
            self._is_unix = listening.family == socket.AF_UNIX
            if not self._is_unix:
                # HTTP/1 alone has a deadline of its own for clients that say nothing.
                longest_wait_s = self._longest_wait_s if listen.http != "1" else None
                self._slow_clients = SlowClients(listening, limits.write_timeout_ns / 1e9, longest_wait_s, door.cut)
        self._worker = _granian_worker(fd, self._is_unix, listen, limits)

    async def start(self) -> None:
        """Begins to accept connections."""
        serve = self._worker.serve_mtr_uds if self._is_unix else self._worker.serve_mtr
        # The last three are for tasks, of which there are none; granian's constructor wants them all the same.
        futures_loop = _FuturesLoop(self._hand_over)
        serve(_Scheduler(futures_loop, self._schedule, None, _no_task, _no_task), futures_loop, self._stop)
        self._sweep()
        if self._slow_clients is not None:
            self._slow_clients.start()

    def drain(self, lame_duck_s: float = 0.0) -> None:
        """Stops accepting; requests that are in go on, and their answers end their connections. Safe to call twice.

        Args:
            lame_duck_s: how long connections are kept for one last request, and accepted: told to stop, hyper ends at
                once all that have none.
        """
        if self._draining:
            return
        self._draining = True
        if lame_duck_s:
            self._loop.call_later(lame_duck_s, self._begin_to_end)
        else:
            self._begin_to_end()

    def _begin_to_end(self) -> None:
        self._unwatched.expire(math.inf)
        self._stop.set()  # once: further ones would block this thread for good

    async def closed(self) -> None:
        """Returns when every connection has ended after `drain`."""
        await asyncio.shield(self._ended)

    def _on_ended(self) -> None:
        if self._slow_clients is not None:
            self._slow_clients.stop()
        if not self._ended.done():
            self._ended.set_result(None)

    def _longest_wait_s(self) -> float:
        return self._longest_wait_ns / 1e9

    # granian's threads.

    def _schedule(self, watcher: Any) -> None:
        self._hand_over(self._take_request, watcher)

    def _hand_over(self, callback: Any, argument: Any) -> None:
        self._handed_over.append((callback, argument))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._take_handed_over)

    # The loop.

    def _take_handed_over(self) -> None:
        self._woken = False  # first: what is appended from here on brings its own wake-up
        handed_over = self._handed_over
        while handed_over:
            callback, argument = handed_over.popleft()
            try:
                callback(argument)
            except MemoryError:
                raise  # ends the worker
            except Exception:  # a defect met by one request must not take the batch with it
                log.exception("request not handled")

    def _take_request(self, watcher: Any) -> None:
        try:
            self._begin(watcher.scope, watcher.proto)
        except Exception:
            watcher.proto.response_bytes(500, [], b"")
            raise

    def _begin(self, scope: Scope, proto: HTTPProtocol) -> None:
        is_http2 = scope.http_version == "2"
        head = _head_of(scope, is_http2)
        verdict = (self._small_max_header_bytes and self._check_header_bytes(scope.headers)) or self.door.admit(head)
        answer = partial(_answer_http2, proto) if is_http2 else partial(self._answer_http1, proto)
        if isinstance(verdict, Refusal):
            self.door.refuse(verdict, answer)
            return
        if verdict.timeout_ns > self._longest_wait_ns:
            self._longest_wait_ns = verdict.timeout_ns
        if verdict.body_bytes == UNKNOWN:  # there is no bound to what granian collects
            self.door.abandon(verdict, errors.MALFORMED, "send a Content-Length; chunked bodies are not taken", answer)
        elif verdict.body_bytes:
            _Body(self, proto, verdict, answer, self._loop.time() + self._body_timeout_s)
        else:
            self.open(proto, verdict, b"", answer)

    def open(self, proto: HTTPProtocol, admission: Admission, body: bytes, answer: Any) -> None:
        """Called when a request is complete."""
        request = _Request(proto, answer, self.door, self._unwatched)
        if self._draining:
            request.watch()  # granian may end with any connection: see `_Request.watch`
        else:
            self._unwatched.add(request, self._loop.time())
        try:
            request.token = self.door.open(admission, body, request.answer)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            log.exception("request not opened", route=admission.route_number)
            request.answer(500, [], b"", b"")

    def _check_header_bytes(self, headers: Any) -> Refusal | None:
        header_bytes = sum(len(name) + len(value) + 4 for name, value in headers.items())  # `: ` and the line's end
        if header_bytes <= self._small_max_header_bytes:
            return None
        expected = f"expected headers of at most {self._small_max_header_bytes} bytes together, got {header_bytes}"
        return Refusal(errors.HEADERS_TOO_LARGE, expected)

    def _answer_http1(
        self, proto: HTTPProtocol, status: int, headers: HeaderList, body: bytes, request_id: bytes
    ) -> None:
        if self._draining and CLOSE not in headers:  # hyper adds it, but only once the signal has reached its thread
            headers = [*headers, CLOSE]
        _answer(proto, status, headers, body, request_id)

    def _sweep(self) -> None:
        if not self._ended.done():
            self._loop.call_later(BODY_SWEEP_S, self._sweep)
        now = self._loop.time()
        self._unwatched.expire(now)
        for body in list(self.reading.values()):
            if body.deadline > now:
                break  # all deadlines are equally far from their start: the others are later
            body.expire(self._body_timeout_s)


class _Body:
    """A body on its way: it comes, it breaks off, or its deadline passes. One of them wins."""

    __slots__ = ("_admission", "_answer", "_front", "_future", "_proto", "deadline")

    def __init__(
        self, front: GranianFront, proto: HTTPProtocol, admission: Admission, answer: Any, deadline: float
    ) -> None:
        self._front = front
        self._proto = proto
        self._admission = admission
        self._answer = answer
        self.deadline = deadline
        front.reading[id(self)] = self
        self._future: Any = proto()
        self._future.add_done_callback(self._on_done)

    def _on_done(self, future: Any) -> None:
        if self._front.reading.pop(id(self), None) is None:
            return  # the deadline was first
        self._future = None  # it holds this very method: a circle through Rust, which no collector can see
        try:
            body = future.result()
        except Exception:  # granian raises its own for truncated and for broken framing alike; the client may be gone
            body = b""
        # An HTTP/2 stream that its client resets with NO_ERROR looks like one that has ended.
        if len(body) != self._admission.body_bytes:
            self._front.door.abandon(self._admission, errors.CANCELLED_EARLY, "the body ended early", self._answer)
            return
        self._front.open(self._proto, self._admission, body, self._answer)

    def expire(self, timeout_s: float) -> None:
        del self._front.reading[id(self)]
        self._future.cancel()
        self._future = None
        detail = f"expected {self._admission.body_bytes} bytes within {timeout_s:g} s"
        self._front.door.abandon(self._admission, errors.BODY_TIMEOUT, detail, self._answer)


class _Request:
    """One that waits for its answer. Most are answered before anybody need know whether their clients are still there.

    To be told of that takes a task and a future of granian's for each request: a fifth of the whole gateway.
    """

    __slots__ = ("_answer", "_door", "_gone", "_proto", "_unwatched", "token")

    def __init__(self, proto: HTTPProtocol, answer: Any, door: Door, unwatched: Deadlines[_Request]) -> None:
        self._proto = proto
        self._answer = answer
        self._door = door
        self._unwatched = unwatched
        self._gone: Any = None
        self.token = -1

    def watch(self) -> None:
        """From now on a client that leaves is told of, and one that has left.

        The future has to end before granian does: one that is left pending when the last connection has ended is
        dropped by a thread without the GIL, which aborts the process. So it is asked for while the connection lives or
        granian goes on, and `answer` ends it.
        """
        self._gone = self._proto.client_disconnect()
        self._gone.add_done_callback(self._on_gone)

    def answer(self, status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
        gone, self._gone = self._gone, None  # it holds `_on_gone`: a circle through Rust, which no collector can see
        if gone is None:
            self._unwatched.discard(self)
        else:
            gone.cancel()
        self._answer(status, headers, body, request_id)

    def _on_gone(self, left: Any) -> None:
        self._gone = None
        if not left.cancelled():
            self._door.gone(self.token)


def _answer(proto: HTTPProtocol, status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
    if not 200 <= status <= 599:  # granian sends 101 as it is, and below 100 or above 999 it aborts the process
        log.error("the core answered with an illegal status", status=status)
        status, headers, body = 500, [], b""
    if request_id:
        headers = [*headers, ("x-request-id", request_id.decode("ascii"))]
    proto.response_bytes(status, headers, body)


def _answer_http2(proto: HTTPProtocol, status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
    _answer(proto, status, [header for header in headers if header[0] not in CONNECTION_HEADERS], body, request_id)


def _head_of(scope: Scope, is_http2: bool) -> Head:
    headers: Any = scope.headers  # each access clones the whole header map: once is enough
    length = headers.get("content-length")
    return Head(
        scope.method,
        _escaped(scope.path),
        scope.query_string,
        headers,
        _hosts(scope.authority, headers.get_all("host"), is_http2),
        int(length) if length is not None else None,  # hyper has refused anything that is not a number
        "transfer-encoding" in headers or (is_http2 and scope.method in _BODY_METHODS),
        _peer(scope),
    )


def _escaped(path: str) -> str:
    """granian has decoded it; what were no characters is left as it is, for the core to refuse."""
    return path if "\ufffd" in path else quote(path, safe=_NOT_ESCAPED)


def _peer(scope: Scope) -> Peer:
    host, _, port = scope.client.rpartition(":")
    return Peer(host.strip("[]"), int(port), scope.scheme) if port.isdigit() else Peer("", 0, scope.scheme)


def _hosts(authority: str | None, hosts: list[str], is_http2: bool) -> list[str]:
    """Every host that the request names: two names for it are two, and refused.

    `authority` is that of an absolute target (RFC 9112, 3.2.2: a Host of its own is wanted all the same) or, in
    HTTP/2, :authority, which takes the place of Host (RFC 9113, 8.3.1).
    """
    if authority is None or hosts == [authority]:
        return hosts
    return [authority, *hosts] if is_http2 or hosts else []


def _granian_worker(fd: int, is_unix: bool, listen: Listen, limits: Limits) -> RSGIWorker:
    header_timeout_ms = limits.header_timeout_ns // 1_000_000
    uses_tls = bool(listen.tls_cert)
    return RSGIWorker(  # positional throughout: this is how granian's own servers call it
        1,
        (None, SocketHolder(os.dup(fd), is_unix, BACKLOG)),  # granian closes what it is given
        None,
        1,  # runtime threads: one was measured best, the loop is the bottleneck
        4,  # tokio's blocking threads
        1,  # Python threads: RSGI wants exactly one
        30,
        limits.max_connections,
        listen.http,
        HTTP1Settings(
            header_read_timeout=header_timeout_ms,
            max_buffer_size=max(HTTP1_BUFFER_BYTES_MIN, limits.max_header_bytes),
        ),
        HTTP2Settings(
            max_headers_size=limits.max_header_bytes,
            max_concurrent_streams=1024,
            keep_alive_interval=min(HTTP2_PING_MS_MAX, header_timeout_ms),  # so a living client is never silent
            keep_alive_timeout=10,
        ),
        False,  # WebSockets: not yet
        None,
        uses_tls,
        listen.tls_cert or None,
        listen.tls_key or None,
        None,
        f"tls{listen.tls_min}",
        None,
        [],
        False,
        (None, None),
    )
