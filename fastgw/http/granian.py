"""The granian front: HTTP/1.1, HTTP/2 and TLS. The only file that uses granian.

granian's own threads do the I/O and the parsing. Its public interface calls a coroutine for each request. Measured at
16 and 64 connections, that cost about a third of the whole gateway more than the private hook used here (figures in
bench/README.md): granian calls `CallbackScheduler._schedule_fn` for each parsed request on its Python thread. The hook
only appends to a deque and wakes the loop once for a batch; everything else happens on the event loop.

Of granian's two interfaces this front uses ASGI. Only ASGI has the path as sent, header values as bytes, and bodies in
parts, which can be limited. RSGI decodes the path (`%2F` is lost), hides values with bytes that are not ASCII, and has
either the whole body or parts that look complete when they are not. ASGI costs some microseconds more for each request
(bench/README.md).

This front adds what granian lacks: a deadline and a limit for bodies, a deadline and a limit for answers that clients
do not read (`_MeteredAnswer`), an idle timeout separate from the timeout for heads, `slow_clients` for slow readers.

It does not stream answers. granian does not tell when a client is behind, and it cannot end an answer as incomplete.
All its heads say `cannot_stream`, so the door refuses their requests to streaming routes and `open_stream` is never
called.

The list has the behaviour of granian that this front must cope with. It was found by experiments and is not documented,
so the version is pinned, and each entry has a test: in tests/http/test_granian.py, or in the named file.

 1. It calls the hook on a thread of its own, so each request has to be handed to the loop.
    test_the_hook_is_called_once_for_each_request_on_one_thread_of_granians_own
 2. An invalid status aborts the process: `_Request.answer` replaces it.
    test_a_status_that_is_none_aborts_the_process
 3. An invalid header raises an exception; the request still needs its answer: `_send`.
    test_an_answer_with_a_header_that_is_none_is_refused_and_another_can_be_given
 4. It answers 500 itself when a request is freed, and reads the body as long as the request is referenced: `proto` is
    released with the answer.
    test_a_request_that_is_forgotten_is_answered_500
    test_the_future_of_a_body_can_be_cancelled_and_the_request_be_answered
 5. It sends an event stream in chunks, unless its length is declared: `heads_for`.
    test_an_event_stream_is_sent_in_chunks_unless_its_length_is_declared
 6. It hides a Content-Length beside chunks, and the authority of an absolute target.
    test_a_length_beside_chunks_is_not_there
    test_of_an_absolute_target_only_the_path_is_seen
 7. It reports malformed chunks like a disconnected client: `_Body._cut_short`.
    test_so_is_one_whose_chunks_are_broken
 8. An HTTP/2 body whose stream is reset with NO_ERROR or CANCEL looks complete: `_Body._ask_for_reset`.
    test_over_http2_a_body_that_breaks_off_so_looks_complete_and_a_client_that_has_left_is_told_next
 9. It reports the end of an unread body before it reports the disconnect: `_Request._on_message` asks twice.
    test_a_client_that_has_left_before_anybody_asked_is_told_as_well
10. It returns no future if it has already reported the disconnect in a cancelled one: `_Request.watch`.
    tests/fronts/test_granian.py: test_a_client_of_which_granian_has_told_already_is_gone
11. Its futures and our callbacks can form reference cycles through Rust, which the garbage collector cannot see:
    `_gone` and `_future` are cleared before anything else.
    tests/fronts/test_granian.py: test_a_request_that_has_waited_for_long_leaves_nothing_behind
12. It ends with its last connection, and aborts the process if `receive` is called at that moment: it is not called
    after the stop signal (`_begin_to_end`). Earlier calls do no harm.
    tests/fronts/test_drain.py: test_however_soon_a_client_leaves_in_a_drain_it_is_reported
    test_a_question_that_is_pending_at_the_end_does_no_harm
13. A third stop signal blocks the process forever: there is one.
    test_the_third_stop_signal_blocks_for_ever
14. It closes the listening socket that it is given: it gets a duplicate.
    test_the_listening_socket_is_ours_after_the_end_and_can_be_served_again
15. Over HTTP/2 it sends a body in the answer to HEAD: `_Request.answer` leaves it out, and declares its length.
    test_over_http2_a_body_of_an_answer_to_head_is_sent
16. It copies an answer and tells nobody when its client has read it. But it takes the parts of a streamed answer one by
    one, as the client reads them, and has room for CHANNEL_PARTS: `_MeteredAnswer`.
    test_parts_of_an_answer_wait_until_what_is_before_them_can_be_sent
    test_an_answer_that_is_not_read_ends_with_its_stream_and_with_its_connection
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import structlog
from granian._granian import ASGIWorker, CallbackScheduler, SocketHolder, WorkerSignal
from granian.http import HTTP1Settings, HTTP2Settings

from fastgw import errors
from fastgw.addresses import as_told
from fastgw.admission import UNKNOWN, Admission, Door, Refusal
from fastgw.body_memory import LARGE_ANSWER_BYTES
from fastgw.config import ACCEPT_BACKLOG, Limits, Listen
from fastgw.errors import Ending
from fastgw.http.deadlines import SWEEP_S, Deadlines
from fastgw.http.front import Front
from fastgw.http.slow_clients import SlowClients, Standing, Timeouts, all_descriptors
from fastgw.ids import refusal_id
from fastgw.messages import Head, HeaderList, Peer

log = structlog.get_logger("fastgw.http")

HTTP1_BUFFER_BYTES_MIN = 16_384  # hyper panics below 8 KiB and refuses ordinary headers just above
CLOSE = ("connection", "close")
CHUNKED = ("chunked",)
CONNECTION_HEADERS = frozenset({"connection", "keep-alive"})  # not allowed in HTTP/2 (RFC 9113, 8.2.2)
EVENT_STREAM = b"text/event-stream"  # granian begins to stream when it sees this content-type
HTTP2_PING_MS_MAX = 15_000
WATCH_AFTER_S = 0.25  # requests answered sooner are not watched for a disconnect, which saves its cost
SMALL_BODY_BYTES = 16_384  # usually arrives at once: memory is checked only when a part has arrived
STOP_CHECK_S, STOP_PATIENCE_S = 0.005, 1.0  # how often, and how long, to wait until all requests are watched
RESET_CHECK_S = 0.01  # a reset stream is reported within this time after the end of its body; see `_Body`
BODY_METHODS = frozenset({"POST", "PUT", "PATCH", "QUERY"})  # other methods usually have no body
# Each part of a body is a round trip through granian's threads (measured: 50 us): small ones must be few.
SMALL_PARTS_MAX, PART_BYTES = 1024, 64
HEADS_REMEMBERED_MAX, HEAD_REMEMBERED_BYTES_MAX = 1024, 1024
# To see whether an answer is read costs about 100 us of CPU, so answers up to this size are not metered. An HTTP/1
# connection has one answer at a time, and a buffer of the same size in hyper; an HTTP/2 connection may have 1024.
HTTP1_UNMETERED_BYTES, HTTP2_UNMETERED_BYTES = 65_536, LARGE_ANSWER_BYTES
# After this many bytes of unmetered answers on an HTTP/2 connection, its answers are metered until one was read. So a
# client that opens no window cannot hold more without being noticed.
CONNECTION_UNMETERED_BYTES = 262_144
CHANNEL_PARTS = 4  # the room of granian's channel for the parts of an answer
LAST_PARTS = CHANNEL_PARTS + 2  # see `_MeteredAnswer`


class _Scheduler(CallbackScheduler):
    """Calls `schedule(watcher)` for each request, on granian's Python thread, with the GIL held.

    `schedule` must not raise: granian leaves the error set on its thread, and its later calls are then undefined. It
    must return None: any other object leaks.
    """

    def __init__(self, _loop: object, schedule: Any, *_: object) -> None:
        self._schedule_fn = schedule


class _FuturesLoop:
    """The event loop for granian's futures: it hands over their callbacks in batches, like requests.

    Otherwise each body would wake the loop separately. There are no tasks, so nothing checks which loop this is.
    """

    def __init__(self, hand_over: Callable[[Any, Any], None]) -> None:
        self._hand_over = hand_over

    def call_soon_threadsafe(self, callback: Any, future: Any, context: object = None) -> None:  # noqa: ARG002
        self._hand_over(callback, future)

    call_soon = call_soon_threadsafe  # of futures that are done or cancelled already


def _no_task(*_: object) -> None:
    return None


class _Client:
    """One connection that has sent a request, as far as its requests show."""

    def __init__(self, peer: Peer, now: float) -> None:
        self.peer = peer
        self.open = 0  # requests that come in or wait
        self.answered_s = now
        self.unread = 0  # metered answers that it has not read
        self.late = 0  # of these, those that it should have read by now
        self.unmetered_bytes = 0  # of unmetered answers since it has read a metered one
        self.fd = -1  # its descriptor, as of the last round of `slow_clients`


class GranianFront(Front):
    """One listening socket served by granian; all work happens on the event loop on which it is created."""

    def __init__(self, fd: int, listen: Listen, limits: Limits, door: Door) -> None:
        """`fd` is a listening socket, which the caller closes."""
        self.door = door
        self.loop = asyncio.get_running_loop()
        self._scheme = "https" if listen.tls_cert else "http"
        self._body_timeout_s = limits.body_timeout_ns / 1e9
        self._handed_over: deque[tuple[Any, Any]] = deque()  # filled by granian's threads, emptied by the loop
        self._woken = False  # a wake-up is under way; set by granian's thread, cleared by the loop
        self.reading: dict[int, _Body] = {}  # bodies on their way, oldest first
        self.unwatched = Deadlines(WATCH_AFTER_S, _Request.watch)
        self.reads_due = Deadlines(limits.write_timeout_ns / 1e9, _MeteredAnswer.expire)
        self.half_watched: set[_Request] = set()  # asked for the end of their bodies, so that they can be watched
        self._draining = False
        self.stopped = False  # granian has been told to end
        self._stop_by = 0.0
        # hyper keeps the limit itself, by the size of its buffer, from the smallest buffer that it can have upwards.
        self._small_max_header_bytes = (
            limits.max_header_bytes if limits.max_header_bytes < HTTP1_BUFFER_BYTES_MIN else 0
        )
        self._heads: dict[tuple[object, ...], tuple[list[tuple[bytes, bytes]], bool]] = {}  # of answers
        self._clients: dict[tuple[str, str], _Client] = {}  # by address and port
        self._seen: set[tuple[str, str]] = set()  # of those, in this round of `slow_clients`
        self._round_began_s = 0.0
        self._ended = self.loop.create_future()
        self._stop = WorkerSignal()
        self._stop.add_cb(partial(self.loop.call_soon_threadsafe, self._on_ended))
        self._slow_clients: SlowClients | None = None
        with socket.socket(fileno=os.dup(fd)) as listening:
            self._is_unix = listening.family == socket.AF_UNIX
            if not self._is_unix:
                timeouts = Timeouts(
                    limits.write_timeout_ns / 1e9, limits.header_timeout_ns / 1e9, limits.idle_timeout_ns / 1e9
                )
                self._slow_clients = SlowClients(listening, timeouts, self, door.cut)
        self._worker = _granian_worker(fd, self._is_unix, listen, limits)

    @property
    def open_connections(self) -> int:
        """As of the last round of `slow_clients`; 0 on Unix sockets, which granian does not expose."""
        return 0 if self._slow_clients is None else self._slow_clients.open_connections

    async def start(self) -> None:
        serve = self._worker.serve_mtr_uds if self._is_unix else self._worker.serve_mtr
        # The last three are for tasks, of which there are none; granian's constructor wants them all the same.
        futures_loop = _FuturesLoop(self._hand_over)
        serve(_Scheduler(futures_loop, self._schedule, None, _no_task, _no_task), futures_loop, self._stop)
        self._sweep()
        if self._slow_clients is not None:
            self._slow_clients.start()

    def drain(self, lame_duck_s: float = 0.0) -> None:
        """See `Front.drain`. In `lame_duck_s` connections are accepted, too: told to stop, hyper ends at once all that
        have no request."""
        if self._draining:
            return
        self._draining = True
        self._stop_by = self.loop.time() + lame_duck_s + STOP_PATIENCE_S
        if lame_duck_s:
            self.loop.call_later(lame_duck_s, self._begin_to_end)
        else:
            self._begin_to_end()

    def _begin_to_end(self) -> None:
        """Tells granian to stop, once all waiting requests are watched.

        granian ends with its last connection. If `receive` is called at that moment, a thread without the GIL drops its
        future, which aborts the process. So from here on it is no longer called.
        """
        self.unwatched.expire(math.inf)
        if self.half_watched and self.loop.time() < self._stop_by:
            self.loop.call_later(STOP_CHECK_S, self._begin_to_end)
        elif not self.stopped:
            self.stopped = True
            self._stop.set()  # once: further ones would block this thread for good

    async def closed(self) -> None:
        await asyncio.shield(self._ended)

    def _on_ended(self) -> None:
        if self._slow_clients is not None:
            self._slow_clients.stop()
        if not self._ended.done():
            self._ended.set_result(None)

    # What `slow_clients` asks.

    def descriptors(self) -> Iterator[int]:
        self._round_began_s = self.loop.time()
        return all_descriptors()

    def standing(self, fd: int, connection: socket.socket) -> Standing | None:
        try:
            address, port = connection.getpeername()[:2]
        except OSError:
            return None  # it has just ended
        key = (address.partition("%")[0], str(port))  # Python names the interface of a link-local address
        client = self._clients.get(key)
        if client is None:
            return None
        self._seen.add(key)
        client.fd = fd
        return Standing(client.open > 0 or client.unread > 0, client.answered_s, client.late > 0)

    def round_ends(self) -> None:
        """Forgets the closed connections: those that existed when the round began and were not seen in it."""
        began_s, seen = self._round_began_s, self._seen
        gone = [
            key
            for key, client in self._clients.items()
            if client.answered_s < began_s and not client.open and not client.unread and key not in seen
        ]
        for key in gone:
            del self._clients[key]
        self._seen = set()

    # granian's threads.

    def _schedule(self, watcher: Any) -> None:
        self._hand_over(self._take_request, watcher)

    def _hand_over(self, callback: Any, argument: Any) -> None:
        self._handed_over.append((callback, argument))
        if not self._woken:
            self._woken = True
            self.loop.call_soon_threadsafe(self._take_handed_over)

    # The loop.

    def _take_handed_over(self) -> None:
        self._woken = False  # first: later items cause their own wake-up
        handed_over = self._handed_over
        while handed_over:
            callback, argument = handed_over.popleft()
            try:
                callback(argument)
            except MemoryError:
                raise  # ends the worker
            except Exception:  # an error in one request must not lose the rest of the batch
                log.exception("request not handled")

    def _take_request(self, watcher: Any) -> None:
        proto = watcher.proto
        try:
            self._begin(watcher.scope, proto)
        except Exception:
            _send(proto, 500, [], b"", refusal_id())
            raise

    def _begin(self, scope: dict[str, Any], proto: Any) -> None:
        client = self._client_of(scope["client"])
        headers = _Headers(scope["headers"])
        version = scope["http_version"]
        head = _head_of(scope, headers, version, client.peer)
        refusal = headers.refusal(version)
        if self._small_max_header_bytes and refusal is None:
            refusal = self._check_header_bytes(scope["headers"])
        verdict = refusal._replace(head=head) if refusal else self.door.admit(head)
        request = _Request(self, proto, client, version, head.method == "HEAD")
        if isinstance(verdict, Refusal):
            self.door.refuse(verdict, request.answer)
        elif verdict.body_bytes:
            _Body(self, request, verdict, self.loop.time() + self._body_timeout_s)
        else:
            self.open(request, verdict, b"")

    def _client_of(self, key: tuple[str, str]) -> _Client:
        if self._is_unix:  # all clients count as one: they are local and not watched
            key = ("", "0")
        client = self._clients.get(key)
        if client is None:
            peer = Peer(as_told(key[0]), int(key[1]), self._scheme)
            client = self._clients[key] = _Client(peer, self.loop.time())
        return client

    def open(self, request: _Request, admission: Admission, body: bytes) -> None:
        """Called when a request is complete."""
        if self._draining:
            request.watch()  # while granian can be asked: see `_begin_to_end`
        else:
            self.unwatched.add(request, self.loop.time())
        try:
            admission.connection = request.connection
            request.token = self.door.open(admission, body, request.answer)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            log.exception("request not opened", route=admission.route_number)
            request.answer(500, [], b"", refusal_id())

    def _check_header_bytes(self, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
        header_bytes = sum(len(name) + len(value) + 4 for name, value in headers)  # `: ` and the line's end
        if header_bytes <= self._small_max_header_bytes:
            return None
        expected = f"expected headers of at most {self._small_max_header_bytes} bytes together, got {header_bytes}"
        return Refusal(errors.HEADERS_TOO_LARGE, expected)

    def heads_for(self, headers: HeaderList) -> tuple[list[tuple[bytes, bytes]], bool]:
        """The same headers as bytes, and whether granian would begin to stream for them; made once."""
        key = tuple(headers)
        made = self._heads.get(key)
        if made is None:
            lines = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
            streams = any(name == b"content-type" and value.startswith(EVENT_STREAM) for name, value in lines)
            made = lines, streams
            if sum(len(name) + len(value) for name, value in lines) <= HEAD_REMEMBERED_BYTES_MAX:
                if len(self._heads) >= HEADS_REMEMBERED_MAX:
                    self._heads.clear()
                self._heads[key] = made
        return made

    @property
    def draining(self) -> bool:
        """Answers end their connections."""
        return self._draining

    def _sweep(self) -> None:
        if not self._ended.done():
            self.loop.call_later(SWEEP_S, self._sweep)
        now = self.loop.time()
        for body in list(self.reading.values()):
            if body.deadline > now:
                break  # all deadlines are equally far from their start: the others are later
            body.expire(self._body_timeout_s)
        self.unwatched.expire(now)
        self.reads_due.expire(now)

    def end_late(self, client: _Client) -> None:
        """Closes the connection of a late client; then hyper frees its answers. Impossible on Unix sockets."""
        if self._slow_clients is not None and client.fd >= 0:
            self._slow_clients.look(client.fd)  # else the next round finds it


class _Body:
    """An incoming body: it completes, breaks off, or exceeds its deadline, whichever happens first.

    A part is counted when it has arrived, and only then the next one is requested. hyper reads no further than
    requested, so data beyond the limits is not read.

    A stream of HTTP/2 that its client resets with NO_ERROR or CANCEL looks like one that has ended (hyper takes both
    for the end of the body). A declared length shows the difference. Without one, the body counts as complete only
    after the request was asked for a disconnect: a reset is known by then.
    """

    def __init__(self, front: GranianFront, request: _Request, admission: Admission, deadline: float) -> None:
        self._front = front
        self._request = request
        self._admission = admission
        self._parts: list[bytes] = []
        self._part_count = 0  # with empty ones
        self._got_bytes = 0
        self._held_bytes = 0
        self._future: Any = None
        self.deadline = deadline
        front.reading[id(self)] = self
        if admission.body_bytes <= SMALL_BODY_BYTES or self._can_fit(admission.body_bytes):
            self._ask()

    def _can_fit(self, size_bytes: int) -> bool:
        """Whether a body of this size would fit now; refuses the request if not."""
        memory, connection = self._front.door.bodies, self._request.connection
        if memory.has_room(size_bytes, connection):
            return True
        self._break_off(errors.BODIES_FULL, memory.why_full(size_bytes, connection))
        return False

    def _ask(self) -> None:
        future = self._future = self._request.proto.receive()
        future.add_done_callback(self._on_part)

    def _on_part(self, future: Any) -> None:
        if self._future is not future:
            return  # the deadline was first
        self._future = None  # it holds this very method: a circle through Rust, which no collector can see
        message = future.result()
        if message["type"] != "http.request":
            self._cut_short()
            return
        part = message["body"]
        declared = self._admission.body_bytes
        if len(part) == declared and not self._got_bytes:  # the likely way: all of it at once
            self._complete(part)
            return
        if not self._keep(part):
            return
        if declared == UNKNOWN:
            if message["more_body"]:
                self._ask()
            elif self._may_be_reset():
                self._ask_for_reset()
            else:
                self._complete(self._joined())
        elif self._got_bytes == declared:
            self._complete(self._joined())
        elif message["more_body"]:
            self._ask()
        else:
            self._cut_short()

    def _keep(self, part: bytes) -> bool:
        """Whether the body may go on after this part of it."""
        self._part_count += 1
        self._got_bytes += len(part)
        if self._part_count > SMALL_PARTS_MAX + self._got_bytes // PART_BYTES:
            self._break_off(errors.MALFORMED, f"expected a body in chunks or DATA frames of {PART_BYTES} bytes or more")
            return False
        if self._admission.body_bytes == UNKNOWN:
            limit = self._admission.max_body_bytes
            if self._got_bytes > limit:
                self._break_off(errors.BODY_TOO_LARGE, f"expected at most {limit} bytes, got more")
                return False
        return not part or self._hold(part)

    def _hold(self, part: bytes) -> bool:
        """Whether there was room for the part; refuses the request if not."""
        memory, connection = self._front.door.bodies, self._request.connection
        if not memory.take(len(part), connection):
            self._break_off(errors.BODIES_FULL, memory.why_full(len(part), connection))
            return False
        self._held_bytes += len(part)
        self._parts.append(part)
        return True

    def _may_be_reset(self) -> bool:
        # A request without a body, of a method that has none as a rule, has nothing that could be cut short.
        return self._request.is_http2 and (self._got_bytes > 0 or self._admission.method in BODY_METHODS)

    def _ask_for_reset(self) -> None:
        if self._front.stopped:  # too late to ask, and a body that was cut short must not be taken for a whole one
            self._break_off(errors.DRAINING, "this gateway is shutting down")
            return
        future = self._future = self._request.proto.receive()
        future.add_done_callback(self._on_reset)
        self._front.loop.call_later(RESET_CHECK_S, self._on_no_reset, future)

    def _on_reset(self, future: Any) -> None:
        if self._future is future and not future.cancelled():
            self._future = None
            self._cut_short()

    def _on_no_reset(self, future: Any) -> None:
        if self._future is future and future.cancel():  # else it is done: `_on_reset` is on its way
            self._future = None
            self._complete(self._joined())

    def _joined(self) -> bytes:
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _complete(self, body: bytes) -> None:
        del self._front.reading[id(self)]
        try:
            self._front.open(self._request, self._admission, body)
        finally:
            self._give_back()

    def _cut_short(self) -> None:
        if self._admission.body_bytes == UNKNOWN and not self._request.is_http2:
            # hyper says the same of broken chunks, whose client waits for an answer, and of one that has left.
            self._break_off(errors.MALFORMED, "expected well-formed chunks up to the last one")
        else:
            self._break_off(errors.CANCELLED_EARLY, "the body ended early")

    def expire(self, timeout_s: float) -> None:
        declared = self._admission.body_bytes
        expected = "the whole body" if declared == UNKNOWN else f"{declared} bytes"
        self._break_off(errors.BODY_TIMEOUT, f"expected {expected} within {timeout_s:g} s, got {self._got_bytes} bytes")

    def _break_off(self, ending: Ending, detail: str) -> None:
        """The body is not going to be complete."""
        future, self._future = self._future, None
        if future is not None:
            future.cancel()
        self._parts = []
        del self._front.reading[id(self)]
        self._front.door.abandon(self._admission, ending, detail, self._request.answer)
        self._give_back()

    def _give_back(self) -> None:
        if self._held_bytes:
            self._front.door.bodies.give(self._held_bytes, self._request.connection)


class _Request:
    """One request, until it is answered.

    Most requests are answered before a disconnect matters. Watching for it needs a task and a future of granian for
    each request, which costs a fifth of the whole gateway.
    """

    def __init__(self, front: GranianFront, proto: Any, client: _Client, http_version: str, is_head: bool) -> None:
        self._front = front
        self._http_version = http_version
        self._is_head = is_head
        self._gone: Any = None
        self.proto = proto
        self.client = client
        self.token = -1
        self._is_open = True
        client.open += 1

    @property
    def is_http2(self) -> bool:
        return self._http_version == "2"

    @property
    def connection(self) -> _Client | None:
        """What names its connection, where several bodies can come in on one."""
        return self.client if self.is_http2 and self.client.peer.address else None

    def watch(self) -> None:
        """Watches for the disconnect of the client, also an earlier one.

        After the stop signal this is no longer possible: see `GranianFront._begin_to_end`.
        """
        if self._front.stopped:
            return
        gone = self.proto.receive()
        if not hasattr(gone, "add_done_callback"):  # no future: granian has told of it, in one that was cancelled
            self._front.loop.call_soon(self._has_left)  # not from here: it may be about to be opened
            return
        self._gone = gone
        self._front.half_watched.add(self)
        gone.add_done_callback(self._on_message)

    def _on_message(self, future: Any) -> None:
        if future is not self._gone:
            return  # it has been answered
        self._gone = None
        if future.result()["type"] != "http.request":
            self._has_left()
            return
        # The end of its body, which nobody had to read so far.
        self.watch()
        self._front.half_watched.discard(self)

    def _has_left(self) -> None:
        self._gone = None
        self._front.half_watched.discard(self)
        if self._is_open:
            self._end()
            self._front.door.gone(self.token)

    def _end(self) -> None:
        """The request is answered or its client has disconnected: its connection may count as idle."""
        if self._is_open:
            self._is_open = False
            self.client.open -= 1
            self.client.answered_s = self._front.loop.time()

    def answer(self, status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
        gone, self._gone = self._gone, None  # it holds `_on_message`: a circle through Rust, which no collector sees
        if gone is not None:
            gone.cancel()
        front = self._front
        front.unwatched.discard(self)
        front.half_watched.discard(self)
        self._end()
        if not 200 <= status <= 599:  # granian sends 101 as it is, and below 100 or above 999 it aborts the process
            log.error("answer not sent", error=f"expected a status from 200 to 599, got {status}")
            status, headers, body, request_id = 500, [], b"", request_id or refusal_id()
        if self._http_version == "2":
            headers = [header for header in headers if header[0] not in CONNECTION_HEADERS]
        elif self._http_version == "1":
            # To a kept-alive client of HTTP/1.0 hyper would say both, `close` and `keep-alive`. It knows where the next
            # request begins, or ends the connection by itself.
            headers = [header for header in headers if header != CLOSE]
        elif front.draining and CLOSE not in headers:  # hyper adds it once the signal has reached its thread
            headers = [*headers, CLOSE]
        lines, streams = front.heads_for(headers)
        leaves_out = self._is_head and self._http_version == "2" and body  # over HTTP/1.1 hyper leaves it out
        is_metered = not self._is_head and self._must_be_metered(len(body))
        if streams or leaves_out or is_metered:  # as a stream it would go out in chunks
            lines = [*lines, (b"content-length", b"%d" % len(body))]
        if leaves_out:
            body = b""
        proto, self.proto = self.proto, None  # while somebody holds it, hyper waits for a body that nobody reads
        if is_metered:
            _MeteredAnswer(front, self.client, self.connection, proto).send(status, lines, body, request_id)
        else:
            _send(proto, status, lines, body, request_id)

    def _must_be_metered(self, size_bytes: int) -> bool:
        if self._front.stopped:  # granian may be about to end, and must not be asked for futures any more
            return False
        if self._http_version != "2":
            return size_bytes > HTTP1_UNMETERED_BYTES
        client = self.client
        if size_bytes <= HTTP2_UNMETERED_BYTES and client.unmetered_bytes <= CONNECTION_UNMETERED_BYTES:
            client.unmetered_bytes += size_bytes
            return False
        return size_bytes > LAST_PARTS


class _MeteredAnswer:
    """An answer whose bytes count until its client has read it.

    granian passes the parts of a streamed answer to hyper through a channel with room for CHANNEL_PARTS parts. hyper
    takes a part from the channel, and keeps it until the client's windows (HTTP/2) or the socket (HTTP/1) have room for
    all parts before it. So the answer is sent as one large part, and its last bytes as parts of one byte:

        [ all but LAST_PARTS bytes ] [1] [2] [3] [4] [5] [6]

    When granian has accepted [6], hyper has taken [2] from the channel, so it has sent [1], so there was room for
    everything before. (hyper's buffers may still hold up to 16 KiB over HTTP/2, and 64 KiB over HTTP/1.) While the
    channel is full, `send` returns a future. With a client that reads, this usually happens once.
    """

    def __init__(self, front: GranianFront, client: _Client, connection: _Client | None, proto: Any) -> None:
        self._front = front
        self._client = client
        self._connection = connection
        self._proto = proto
        self._size_bytes = 0
        self._last = b""  # the bytes that are not sent yet
        self._is_late = False

    def send(self, status: int, lines: list[tuple[bytes, bytes]], body: bytes, request_id: bytes) -> None:
        """The length must be among the headers."""
        if not _begin(self._proto, status, lines, request_id):
            return
        self._size_bytes = len(body)
        self._front.door.answers.hold(self._size_bytes, self._connection)
        self._client.unread += 1
        self._front.reads_due.add(self, self._front.loop.time())
        self._last = body[-LAST_PARTS:]
        if not self._has_to_wait(self._proto.send(_part(body[:-LAST_PARTS], True))):
            self._go_on()

    def _go_on(self) -> None:
        while self._last:
            part, self._last = self._last[:1], self._last[1:]
            if self._has_to_wait(self._proto.send(_part(part, bool(self._last)))):
                return
        self._end()

    def _has_to_wait(self, future: Any) -> bool:
        if not hasattr(future, "add_done_callback"):
            return False  # accepted, or the client has left
        future.add_done_callback(self._on_accepted)  # not kept: that would be a circle through Rust
        return True

    def _on_accepted(self, _future: Any) -> None:
        self._go_on()

    def expire(self) -> None:
        """It should have been read by now."""
        self._is_late = True
        self._client.late += 1
        self._front.end_late(self._client)

    def _end(self) -> None:
        """All of it is read, or its client has left."""
        self._proto = None
        self._client.unread -= 1
        self._client.unmetered_bytes = 0
        if self._is_late:
            self._client.late -= 1
        self._front.reads_due.discard(self)
        self._front.door.answers.give(self._size_bytes, self._connection)


def _part(content: bytes, is_followed: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": is_followed}


def _send(proto: Any, status: int, lines: list[tuple[bytes, bytes]], body: bytes, request_id: bytes) -> None:
    if _begin(proto, status, lines, request_id):
        proto.send({"type": "http.response.body", "body": body})


def _begin(proto: Any, status: int, lines: list[tuple[bytes, bytes]], request_id: bytes) -> bool:
    """Sends the head of an answer. False: granian has refused it, and the answer is 500."""
    if request_id:
        lines = [*lines, (b"x-request-id", request_id)]
    try:
        proto.send({"type": "http.response.start", "status": status, "headers": lines})
    except Exception as error:  # granian refuses a header that could inject another one
        log.error("answer not sent", error=str(error), status=status)
        lines = [(b"x-request-id", request_id or refusal_id())]
        proto.send({"type": "http.response.start", "status": 500, "headers": lines})
        proto.send({"type": "http.response.body", "body": b""})
        return False
    return True


class _Headers:
    """The headers of a request by name; values as latin-1, which has a character for each byte."""

    def __init__(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        lines: dict[bytes, Any] = {}
        for name, value in pairs:
            if name in lines:
                before = lines[name]
                lines[name] = [*before, value] if type(before) is list else [before, value]
            else:
                lines[name] = value
        self._lines = lines

    def get_all(self, key: str, /) -> Sequence[str]:
        found = self._lines.get(key.encode())
        if found is None:
            return ()
        return [str(value, "latin-1") for value in found] if type(found) is list else (str(found, "latin-1"),)

    def first(self, name: bytes) -> bytes | None:
        """The value of the first line of that name."""
        found = self._lines.get(name)
        return found[0] if type(found) is list else found

    def refusal(self, version: str) -> Refusal | None:
        """Refuses headers that hyper accepts but fastgw does not.

        hyper accepts every list of encodings that ends with `chunked`, and leaves the others in the body. It handles
        `100-continue` and ignores every other expectation. HTTP/1.0 ("1") has none (RFC 9110, 10.1.1).
        """
        if b"transfer-encoding" in self._lines and _lower(self.get_all("transfer-encoding")) != CHUNKED:
            return Refusal(errors.MALFORMED, "expected only one Transfer-Encoding: chunked")
        if b"expect" in self._lines and version != "1" and {*_lower(self.get_all("expect"))} != {"100-continue"}:
            return Refusal(errors.EXPECTATION_FAILED, "expected only Expect: 100-continue")
        return None


def _lower(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(value.lower() for value in values)


def _head_of(scope: dict[str, Any], headers: _Headers, version: str, peer: Peer) -> Head:
    length = headers.first(b"content-length")
    return Head(
        scope["method"],
        scope["raw_path"].decode("latin-1"),
        scope["query_string"].decode("latin-1"),
        headers,
        headers.get_all("host"),
        int(length) if length is not None else None,  # hyper has refused anything that is not a number
        # granian does not show whether an HTTP/2 stream has ended with its headers.
        version == "2" or headers.first(b"transfer-encoding") is not None,
        peer,
        version == "1",
        cannot_stream=True,
    )


def _granian_worker(fd: int, is_unix: bool, listen: Listen, limits: Limits) -> ASGIWorker:
    header_timeout_ms = limits.header_timeout_ns // 1_000_000
    # hyper has one timer for a late head and an idle connection; `slow_clients` enforces the shorter timeout.
    idle_timeout_ms = max(header_timeout_ms, limits.idle_timeout_ns // 1_000_000)
    uses_tls = bool(listen.tls_cert)
    return ASGIWorker(  # positional throughout: this is how granian's own servers call it
        1,
        (None, SocketHolder(os.dup(fd), is_unix, ACCEPT_BACKLOG)),  # granian closes what it is given
        None,
        1,  # runtime threads: one was measured best, the loop is the bottleneck
        4,  # tokio's blocking threads
        1,  # Python threads: exactly one: the hook is called on it
        30,
        limits.max_connections,
        listen.http,
        HTTP1Settings(
            header_read_timeout=idle_timeout_ms,
            max_buffer_size=max(HTTP1_BUFFER_BYTES_MIN, limits.max_header_bytes),
        ),
        HTTP2Settings(
            max_headers_size=limits.max_header_bytes,
            max_concurrent_streams=1024,
            max_send_buffer_size=HTTP2_UNMETERED_BYTES,  # of each stream; only streamed answers notice it
            # So a living client is never silent, and its other frames are not taken for a late head.
            keep_alive_interval=max(1, min(HTTP2_PING_MS_MAX, header_timeout_ms // 2)),
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
