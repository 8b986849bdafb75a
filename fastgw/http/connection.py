"""One HTTP/1.1 connection of the express front: bytes in, calls to the door, bytes out (RFC 9112).

One request at a time, without a queue: llhttp is fed up to the end of one message, and not a byte further until that
message is answered. So an answer can only belong to the request before it, memory is bounded even if a client sends
ahead, and after an error nothing is left that could be served by mistake.

    HEAD ──> BODY ──> WAITING ──> HEAD ...                   the normal course
                              ──> STREAMING ──> HEAD ...     an answer that comes in pieces (`streamed_answer`)

The table shows what an event does in each state. The next state follows the arrow; without an arrow the state stays
the same; `.` is impossible.

    event          HEAD                BODY                 WAITING            STALLED        ENDED
    ─────────────  ──────────────────  ───────────────────  ─────────────────  ─────────────  ────────────────
    bytes          head is whole:      take them; body is   keep them          keep them      throw them away
                   admit -> WAITING,   whole: open
                   or -> BODY          -> WAITING
    head or body   refuse -> WAITING   abandon -> WAITING   .                  .              .
      is bad
    answer         .                   .                    write -> HEAD,     .              .
                                                            or see below
    client took    .                   .                    .                  -> HEAD        wait for its end
      everything
    deadline       408 -> WAITING, or  408 -> WAITING       cut: it does not   cut            cut
                   close: no byte came                      take its answers
    client left    -> ENDED            abandon -> ENDED     gone -> ENDED      -> ENDED       .
    drain          close, if no byte   .                    .                  .              .
                   came -> ENDED

STREAMING is as WAITING, but for these events:

    end of the stream              -> HEAD, or as below
    stream is aborted              cut -> ENDED
    client took everything         the door may go on (`writable`)
    deadline of a slow client      begins again, if the client took anything since it began; otherwise cut

An answer, or the end of a stream, leads to HEAD, and

    to BODY      if the request was refused and a short rest of its body must be skipped; its deadline then cuts
    to STALLED   if the client must read its answer first, or if input that was sent ahead waits for the next loop turn
    to ENDED     if the answer closes the connection: nothing more is served, and input is discarded until the client
                 has read the answer

A client that closes its side (FIN) counts as disconnected: a close and a half-close look the same until something is
sent, and the request of a disconnected client must not hold its slot until the deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog
from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from fastgw import errors
from fastgw.addresses import as_told
from fastgw.admission import STREAM, UNKNOWN, Admission, Door, Refusal
from fastgw.config import Limits
from fastgw.errors import Ending
from fastgw.http import heads
from fastgw.http._http1 import MessageEnd, RequestHead, scan, whole_answer
from fastgw.http.chunked import ChunkedBody
from fastgw.http.deadlines import Deadlines
from fastgw.http.heads import CLOSE, HEAD_END, AnswerHeads, BadAnswer, BadHead
from fastgw.http.slow_clients import queued_bytes
from fastgw.http.streamed_answer import StreamedAnswer
from fastgw.ids import refusal_id
from fastgw.messages import UNKNOWN_PEER, HeaderList, Peer, no_head

log = structlog.get_logger("fastgw.http")

AHEAD_BYTES_MAX = 65_536  # input before an answer; more stays in the kernel
HEADS_AT_ONCE = 64  # of one connection; then other connections get their turn
SKIPPED_BODY_BYTES_MAX = 65_536  # of a refused request: skipping them is cheaper than a new connection
COPIED_BODY_BYTES_MAX = 16_384  # a larger body is passed to the transport separately, not copied

_CARRIAGE_RETURN = 13
_HEAD, _BODY, _WAITING, _STREAMING, _STALLED, _ENDED = range(6)
_STATES = ("head", "body", "waiting", "streaming", "stalled", "ended")


class Owner(Protocol):
    """The front as its connections see it."""

    door: Door
    limits: Limits
    clock: Callable[[], float]  # the loop's, in seconds
    call_soon: Callable[..., object]  # the loop's
    answer_heads: AnswerHeads
    draining: bool  # answers close their connections
    now: float  # time of the last sweep
    line_bytes_max: int
    small_head_bytes: int  # a head up to this size is within every limit
    paused: set[Connection]  # reading is paused: they have sent too far ahead
    heads_due: Deadlines[Connection]
    bodies_due: Deadlines[Connection]
    writes_due: Deadlines[Connection]
    lingers_due: Deadlines[Connection]

    def take_in(self, connection: Connection) -> bool: ...
    def is_crowded(self) -> bool: ...
    def let_go(self, connection: Connection) -> None: ...
    def close_soon(self, connection: Connection) -> None: ...


class Connection:
    """One connection: its bytes in order, one request at a time. Has the methods of an `asyncio.Protocol`."""

    def __init__(self, front: Owner) -> None:
        # For the life of the connection.
        self._front = front
        self._door = front.door
        self._heads_made = front.answer_heads.made
        self._small_head_bytes = front.small_head_bytes
        self._answer: Any = self._take_answer  # bound once, not for each request
        self._transport: Any = None
        self._write: Any = None
        self._peer = UNKNOWN_PEER
        self._message = MessageEnd()  # the callbacks of llhttp
        self._feed: Any = None
        self._new_parser(self._message)
        # The state.
        self._state = _HEAD
        self._watch: Deadlines[Connection] | None = None  # the running deadline
        self._quiet_since = front.now  # time of the sweep before the last answer
        self._unread = b""  # input after the waiting request
        self._unflushed = False  # the client has not read everything that was written
        self._unflushed_bytes = 0  # of it; counted in the worker's limit for answers
        # The request.
        self._partial: bytearray | None = None  # an incomplete head
        self._keep_alive = True
        self._is_head = False
        self._is_http10 = False
        self._is_followed = False  # more bytes follow the request
        self._left = 0  # missing bytes of the body; UNKNOWN: chunked
        self._admission: Admission | None = None  # while the body is read; None if it is skipped
        self._body = bytearray()
        self._chunks: ChunkedBody | None = None  # reads a chunked body
        self._token = -1
        self._held_bytes = 0  # memory reserved in the worker's limit for bodies
        # A streamed answer.
        self._stream: StreamedAnswer | None = None
        self._written_bytes = 0
        self._taken_bytes = 0  # of these, received by the client when the running deadline began

    def __repr__(self) -> str:
        return f"<Connection {_STATES[self._state]}, {len(self._unread)} bytes unread>"

    # Called by the event loop.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._write = transport.write
        self._peer = _peer_of(transport)
        transport.set_write_buffer_limits(high=0)  # so that pause_writing is called at once if a client does not read
        if self._front.take_in(self):
            self._start(self._front.heads_due)
        elif self._front.is_crowded():
            self.cut()
        else:
            limit = self._front.limits.max_connections
            self._refuse_all(errors.CONNECTION_CAP, f"{limit} connections are open already")

    def connection_lost(self, _error: Exception | None) -> None:
        state, self._state = self._state, _ENDED
        self._stop_watch()
        self._unread = b""
        self._partial = None
        self._answer = self._feed = self._write = None  # break the reference cycles
        self._give_back()
        self._count_flushed()
        self._front.paused.discard(self)
        self._front.let_go(self)
        if self._stream is not None:
            self._stream.let_go()
            self._stream = None
        if _WAITING <= state <= _STREAMING and self._token >= 0:
            self._door.gone(self._token)
        elif state == _BODY and self._admission is not None:
            self._door.abandon(self._admission, errors.CANCELLED_EARLY, "the client disconnected during the body", None)

    def eof_received(self) -> None:
        return None  # the transport closes itself after it has written everything

    def pause_writing(self) -> None:
        self._unflushed = True
        self._unflushed_bytes = self._transport.get_write_buffer_size()
        self._door.answers.hold(self._unflushed_bytes)
        if self._watch is None:
            if self._state == _STREAMING:
                self._taken_bytes = self._count_taken()
            self._start(self._front.writes_due)

    def resume_writing(self) -> None:
        self._unflushed = False
        self._count_flushed()
        if self._watch is self._front.writes_due:
            self._stop_watch()
        if self._state == _STALLED:
            self._go_on()
        elif self._state == _STREAMING:
            self._door.writable(self._token)
        elif self._state == _ENDED and not self._transport.is_closing():
            self._start(self._front.lingers_due)

    def _count_flushed(self) -> None:
        """The kernel has the rest of the answer, or the connection has ended."""
        if self._unflushed_bytes:
            self._door.answers.give(self._unflushed_bytes)
            self._unflushed_bytes = 0

    def data_received(self, data: bytes) -> None:
        if self._state == _HEAD and self._partial is None:
            at = self._take_head(data, 0)
            if at < len(data):
                self._read(data, at)
        elif self._state > _BODY:
            self._hold(data)
        elif self._partial is None:
            self._read(data, 0)
        else:
            self._read_partial(data)

    # For `proxied_connection`, until the PROXY protocol header is complete.

    @property
    def peer(self) -> Peer:
        """The other end, as far as it is known yet."""
        return self._peer

    @property
    def has_ended(self) -> bool:
        """Whether the connection reads no more requests."""
        return self._state == _ENDED

    def await_start(self) -> None:
        """Part of the header has arrived: the connection is not idle."""
        self._partial = bytearray()

    def start_as(self, peer: Peer) -> None:
        """The header is complete: requests of this client follow."""
        self._partial = None
        self._peer = peer

    def refuse_start(self, detail: str) -> None:
        """The connection does not begin with the expected header."""
        self._refuse_all(errors.MALFORMED, detail)

    # Called by the front.

    @property
    def is_idle(self) -> bool:
        """Whether it is between two requests or before the first, so that it can be closed."""
        return self._state == _HEAD and self._partial is None and not self._unflushed

    def fileno(self) -> int:
        """The socket's descriptor; -1 if it is being closed."""
        return -1 if self._transport.is_closing() else int(self._transport.get_extra_info("socket").fileno())

    def leave(self) -> None:
        """Close after everything written is delivered."""
        self._state = _ENDED
        self._transport.close()

    def is_idle_since(self, moment: float) -> bool:
        """Whether it is idle and was not used since this time of the loop's clock."""
        return self.is_idle and self._quiet_since <= moment

    @property
    def is_busy(self) -> bool:
        """Whether a request is arriving or waits for its answer."""
        return _BODY <= self._state <= _STREAMING

    @property
    def quiet_since(self) -> float:
        """About the time of the last answer: it was then, or up to one sweep later (loop's clock)."""
        return self._quiet_since

    def has_been_answered_since(self, moment: float) -> bool:
        """Whether no answer is due or under way, and the last one was after this time of the loop's clock."""
        return not _WAITING <= self._state <= _STREAMING and self._quiet_since > moment

    def cut(self) -> None:
        """Abort the connection; unsent data is lost."""
        self._transport.abort()

    def head_is_late(self) -> None:
        """The head did not arrive in time: close a silent connection, answer 408 to an incomplete head."""
        self._watch = None
        if self._partial is None:
            self.leave()
        else:
            timeout_s = self._front.heads_due.timeout_s
            self._refuse_all(errors.HEADER_TIMEOUT, f"expected the whole head within {timeout_s:g} s")

    def body_is_late(self) -> None:
        """The body did not arrive in time."""
        self._watch = None
        timeout_s = self._front.bodies_due.timeout_s
        got = len(self._body)
        self._break_off(errors.BODY_TIMEOUT, f"expected the whole body within {timeout_s:g} s, got {got} bytes")

    def reader_is_late(self) -> bool:
        """The client did not take in time what was written. Cuts it, unless it is slow in taking a stream.

        A stream that is long or fast keeps data waiting for its client for any length of time. So a client is too slow
        only if it has taken nothing at all; the core decides how long it goes on with one that takes little.
        """
        self._watch = None
        if self._state == _STREAMING:
            taken_bytes = self._count_taken()
            if taken_bytes > self._taken_bytes:
                self._taken_bytes = taken_bytes
                self._start(self._front.writes_due)
                return False
        self.cut()
        return True

    # Deadlines: at most one runs.

    def _start(self, deadlines: Deadlines[Connection]) -> None:
        self._stop_watch()
        self._watch = deadlines
        deadlines.add(self, self._front.clock())

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.discard(self)
            self._watch = None

    # Bytes.

    def _read(self, data: bytes, at: int = 0) -> None:
        """Reads messages from `data` until one must wait."""
        end, read = len(data), 0
        while at < end:
            if self._state == _HEAD and read < HEADS_AT_ONCE:
                read += 1
                at = self._take_head(data, at)
            elif self._state == _BODY:
                at = self._take_body(data, at)
            else:
                if self._state == _HEAD:
                    self._state = _STALLED
                    self._front.call_soon(self._go_on)
                self._hold(data[at:])
                return

    def _hold(self, data: bytes) -> None:
        """Keeps input that arrived too early."""
        if self._state == _ENDED or not data:
            return
        self._unread += data
        if len(self._unread) > AHEAD_BYTES_MAX and self not in self._front.paused:
            self._transport.pause_reading()
            self._front.paused.add(self)

    def _go_on(self) -> None:
        """Reads the next request, if nothing prevents it any more."""
        if self._state != _STALLED or self._unflushed:
            return
        self._state = _HEAD
        data, self._unread = self._unread, b""
        if self in self._front.paused:
            self._front.paused.discard(self)
            self._transport.resume_reading()
        if data:
            self._read(data)

    def _read_partial(self, data: bytes) -> None:
        partial = self._partial
        assert partial is not None
        searched = max(0, len(partial) - 3)
        partial += data
        if partial.find(HEAD_END, searched) >= 0:
            self._partial = None
            self._read(bytes(partial))
            return
        while partial.startswith(b"\r\n"):
            del partial[:2]
        if partial:
            self._check_size(partial, 3)
        else:
            self._partial = None

    def _check_size(self, head: bytes | bytearray, slack: int) -> bool:
        """Whether the head, or its part received so far, is within the limits; refuses it if not."""
        front = self._front
        excess = heads.excess(head, front.line_bytes_max, front.limits.max_header_bytes, slack)
        if excess is None:
            return True
        self._partial = None
        self._refuse_all(*excess)
        return False

    # Heads.

    def _take_head(self, data: bytes, at: int) -> int:
        """Reads one request from `data` at `at`, as far as it has arrived; returns where it stopped."""
        while data[at] == _CARRIAGE_RETURN and data[at : at + 2] == b"\r\n":  # RFC 9112, 2.2: empty lines before it
            at += 2
            if at == len(data):
                return at
        head = scan(data, at)
        if head is None:
            self._begin_partial(data[at:])
            return len(data)
        if self._watch is not None:
            self._stop_watch()
        if head.end - at > self._small_head_bytes and not self._check_size(data[at : head.end], 0):
            return len(data)
        end = self._begin_request(head, len(data))
        if not self._parse(head, data, at, end):
            return len(data)
        self._admit(head, data, at, end)
        return min(end, len(data))

    def _begin_request(self, head: RequestHead, available: int) -> int:
        """Sets the state for a new request; returns where the request ends, or its head if the body is chunked.

        `available` is the end of the received bytes.
        """
        end = head.end
        if head.is_streamed:
            left = UNKNOWN
        else:
            if head.content_length:
                end += head.content_length
            left = end - available if end > available else 0
        self._left = left
        self._is_followed = end < available
        self._keep_alive = head.is_kept_alive
        self._is_head = head.is_head
        self._is_http10 = head.is_http10
        head.peer = self._peer
        return end

    def _parse(self, head: RequestHead, data: bytes, at: int, end: int) -> bool:
        """Whether llhttp agrees with `scan` about the request, as far as it has arrived; refuses it if not."""
        message = self._message
        message.seen = False
        try:
            if head.is_plain:
                self._feed(data if at == 0 and end >= len(data) else data[at:end])
            else:
                heads.complete(head)
                self._feed(heads.for_llhttp(data[at : head.end]) + data[head.end : end])
        except HttpParserInvalidMethodError:
            self._refuse_unknown_method(head, data[at : head.end])
            return False
        except HttpParserUpgrade:
            if not self._pass_by_tunnel():
                return False
        except (BadHead, HttpParserError) as error:
            self._refuse_all(errors.MALFORMED, str(error))
            return False
        if message.seen is (self._left == 0):
            return True
        self._refuse_all(errors.MALFORMED, "expected a body that ends where its head says")
        return False

    def _admit(self, head: RequestHead, data: bytes, at: int, end: int) -> None:
        """Asks the door to admit the request, and opens it if it is complete."""
        if head.is_expecting:
            self._take_expectation(head, data, at, end)
            return
        verdict = self._door.admit(head)
        if self._left == 0 and isinstance(verdict, Admission):  # the common case, which continues in _take_answer
            self._open(verdict, data[head.end : end])
        else:
            self._take_verdict(verdict, data[at : head.end], data[head.end : end])

    def _take_verdict(self, verdict: Admission | Refusal, head_bytes: bytes, body: bytes) -> None:
        if isinstance(verdict, Refusal):
            self._refuse(verdict)
        elif self._left == 0:
            self._open(verdict, body)
        else:
            self._begin_body(verdict, head_bytes, body)

    def _open(self, admission: Admission, body: bytes) -> None:
        """Called when a request is complete."""
        self._state = _WAITING
        self._token = -1
        try:
            if admission.kind >= STREAM:
                self._open_stream(admission, body)
            else:
                self._token = self._door.open(admission, body, self._answer)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            log.exception("request not opened", route=admission.route_number)
            self._take_answer(500, [], b"", refusal_id())

    def _open_stream(self, admission: Admission, body: bytes) -> None:
        assert not self._is_http10, "the door refuses HTTP/1.0 on a route that streams"
        self._written_bytes = self._taken_bytes = 0
        self._stream = StreamedAnswer(self, self._is_head)
        self._token = self._door.open_stream(admission, body, self._stream)

    # Special heads.

    def _begin_partial(self, data: bytes) -> None:
        """Begins an incomplete head."""
        self._is_head = False
        if self._watch is None:
            self._start(self._front.heads_due)
        if self._check_size(data, 3):
            self._partial = bytearray(data)

    def _take_expectation(self, head: RequestHead, data: bytes, at: int, end: int) -> None:
        """RFC 9110, 10.1.1: the client waits for 100 before it sends the body; an admitted request gets it."""
        head_end = head.end
        expected = {value.lower() for value in head.get_all("expect")}
        if expected == {"100-continue"} or self._is_http10:
            verdict = self._door.admit(head)
        else:
            verdict = Refusal(errors.EXPECTATION_FAILED, "expected only Expect: 100-continue", head=head)
        if isinstance(verdict, Refusal):
            # The body may follow or not, so the start of the next request is unknown.
            self._refuse(verdict, may_skip=False)
            return
        if self._left and head_end == len(data) and not self._is_http10:
            self._write(heads.CONTINUE)
        self._take_verdict(verdict, data[at:head_end], data[head_end:end])

    def _pass_by_tunnel(self) -> bool:
        """The client asks for a tunnel (CONNECT): it gets one answer, then the connection is closed.

        llhttp has stopped after the head and does not parse the body. False if its end is unknown: it is refused.
        """
        self._feed = heads.ignore
        self._keep_alive = False
        if self._left == UNKNOWN:
            self._refuse_all(errors.MALFORMED, "expected no CONNECT together with a chunked body")
            return False
        self._message.seen = self._left == 0
        return True

    def _refuse_unknown_method(self, head: RequestHead, head_bytes: bytes) -> None:
        """llhttp refuses methods that are not on its list. The core decides how to answer them."""
        try:
            if not heads.is_token(head.method):
                raise BadHead("expected a method")
            HttpRequestParser(None).feed_data(b"GET" + heads.for_llhttp(head_bytes)[len(head.method) :])
        except HttpParserUpgrade:
            pass
        except (BadHead, HttpParserError) as error:
            self._refuse_all(errors.MALFORMED, str(error))
            return
        verdict = self._door.admit(head)
        assert isinstance(verdict, Refusal), "no route has a method that llhttp does not know"
        self._left = UNKNOWN
        self._refuse(verdict)

    # Refusals.

    def _refuse(self, refusal: Refusal, may_skip: bool = True) -> None:
        """Answers a request that is not admitted. Skips a short rest of its body, or closes the connection."""
        if self._left:
            self._keep_alive &= may_skip and 0 < self._left <= SKIPPED_BODY_BYTES_MAX
            if self._keep_alive:
                self._start(self._front.bodies_due)
        self._admission = None
        self._token = -1
        self._state = _WAITING
        self._door.refuse(refusal, self._answer)

    def _refuse_all(self, ending: Ending, detail: str) -> None:
        """Answers a request whose end is unknown."""
        self._stop_watch()
        self._partial = None
        self._left = UNKNOWN
        self._refuse(Refusal(ending, detail, head=no_head(self._peer)))

    def _break_off(self, ending: Ending, detail: str) -> None:
        """The body will not be complete."""
        self._stop_watch()
        admission, self._admission = self._admission, None
        if admission is None:
            self.cut()  # already refused and answered
            return
        self._abandon(admission, ending, detail)

    def _abandon(self, admission: Admission, ending: Ending, detail: str) -> None:
        self._body.clear()  # cleared, not replaced: the chunk parser shares it
        self._chunks = None
        self._give_back()
        self._keep_alive = False
        self._left = UNKNOWN
        self._token = -1
        self._state = _WAITING
        self._door.abandon(admission, ending, detail, self._answer)

    # Bodies.

    def _begin_body(self, admission: Admission, head_bytes: bytes, body: bytes) -> None:
        """The first part of an incomplete body."""
        bodies = self._door.bodies
        whole = len(body) + max(0, self._left)
        if not (bodies.has_room(whole) and bodies.take(len(body))):
            self._abandon(admission, errors.BODIES_FULL, bodies.why_full(whole))
            return
        self._held_bytes = len(body)
        self._state = _BODY
        self._admission = admission
        self._start(self._front.bodies_due)
        if self._left == UNKNOWN:  # nothing of it has been read: `body` is empty
            self._chunks = ChunkedBody(head_bytes, self._message)
            self._body = self._chunks.content
        else:
            self._body = bytearray(body)

    def _take_body(self, data: bytes, at: int) -> int:
        """Reads the body from `data` at `at`; returns where it stopped."""
        if self._left == UNKNOWN:
            return self._take_chunks(data, at)
        piece = data[at : at + self._left]
        self._left -= len(piece)
        self._feed(piece)
        if self._admission is not None:
            if not self._take_room(len(piece)):
                return len(data)
            self._body += piece
        at += len(piece)
        if self._left == 0:
            self._is_followed = at < len(data)
            self._body_ends()
        return at

    def _take_chunks(self, data: bytes, at: int) -> int:
        chunks = self._chunks
        assert chunks is not None, "refused bodies in chunks are not read"
        try:
            at = chunks.take(data, at)
        except HttpParserError as error:
            self._break_off(errors.MALFORMED, str(error))
            return len(data)
        if not self._is_within_limits(chunks):  # checked once for all of it, not at each empty line
            return len(data)
        if chunks.is_complete:
            self._left = 0
            self._is_followed = at < len(data)
            self._chunks = None
            self._new_parser(self._message)
            self._body_ends()
        return at

    def _is_within_limits(self, chunks: ChunkedBody) -> bool:
        """Whether a chunked body is within its limits; breaks it off if not."""
        assert self._admission is not None, "refused bodies in chunks are not read"
        limit, got = self._admission.max_body_bytes, len(chunks.content)
        if got > limit:
            self._break_off(errors.BODY_TOO_LARGE, f"expected at most {limit} bytes, got more")
            return False
        if not self._take_room(got - self._held_bytes):
            return False
        if chunks.is_bloated(self._front.limits.max_header_bytes):
            self._break_off(
                errors.MALFORMED, "expected fewer bytes of chunk sizes, chunk extensions and trailers for this body"
            )
            return False
        return True

    def _take_room(self, size_bytes: int) -> bool:
        """Reserves memory for more of the body; breaks it off and returns False if there is not enough."""
        bodies = self._door.bodies
        if not bodies.take(size_bytes):
            self._break_off(errors.BODIES_FULL, bodies.why_full(size_bytes))
            return False
        self._held_bytes += size_bytes
        return True

    def _give_back(self) -> None:
        """Releases the memory of the body: it is dropped, or in the Kafka client's queue."""
        if self._held_bytes:
            self._door.bodies.give(self._held_bytes)
            self._held_bytes = 0

    def _body_ends(self) -> None:
        self._stop_watch()
        admission, self._admission = self._admission, None
        if admission is not None:
            body, self._body = bytes(self._body), bytearray()
            self._open(admission, body)
            self._give_back()
        elif not self._keep_alive:
            self._end()
        else:
            self._after_answer()

    def _new_parser(self, callbacks: Any) -> None:
        self._feed = HttpRequestParser(callbacks).feed_data

    # Answers.

    def _take_answer(self, status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
        """`messages.Answer` for the waiting request."""
        if self._state != _WAITING:
            return  # the client has disconnected
        front = self._front
        made = self._heads_made.get((status, *headers))
        if made is None:
            try:
                made = front.answer_heads.make(status, headers)
            except BadAnswer as error:  # the core has checked it: this is the last look before the wire
                log.error("answer not sent", error=str(error))
                self._take_answer(500, [], b"", request_id or refusal_id())
                return
        head, is_plain = made
        if (
            is_plain
            and self._keep_alive
            and not (self._is_head or self._is_http10 or front.draining)
            and len(body) <= COPIED_BODY_BYTES_MAX
        ):
            self._write(whole_answer(head, request_id, body))
            if self._left or self._unread or self._unflushed:
                self._after_answer()
            else:
                self._state = _HEAD
                self._quiet_since = front.now
        else:
            self._write_unusual(status, head, body, request_id, CLOSE in headers)

    def _write_unusual(self, status: int, head: bytes, body: bytes, request_id: bytes, closes: bool) -> None:
        if status == 205:  # RFC 9110, 15.3.6: its content length is 0
            body = b""
        has_body = status != 204 and status != 304
        framing = b"content-length: %d\r\n" % len(body) if has_body else b""
        keeps = self._keep_alive and not closes and not self._front.draining
        self._write_head(head, request_id, framing, keeps, body if has_body and not self._is_head else b"")
        if keeps:
            self._after_answer()
        else:
            self._end()

    def _write_head(self, head: bytes, request_id: bytes, framing: bytes, keeps: bool, body: bytes) -> None:
        """Writes a head with this framing header, and the body or its beginning."""
        lines = [head]
        if request_id:
            lines.append(b"x-request-id: %b\r\n" % request_id)
        lines.append(framing)
        if not keeps:
            lines.append(b"connection: close\r\n")
        elif self._is_http10:
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        if len(body) > COPIED_BODY_BYTES_MAX:
            self._transport.writelines([b"".join(lines), body])
        else:
            self._write(b"".join([*lines, body]))

    def _after_answer(self) -> None:
        """Continues after an answer."""
        self._quiet_since = self._front.now
        if self._left:
            self._state = _BODY  # of a refused request: skip the body
        elif self._unread or self._unflushed:
            self._state = _STALLED
            if self._unflushed:
                if self._watch is None:  # another deadline may have run when the client stopped reading
                    self._start(self._front.writes_due)
            else:
                self._front.call_soon(self._go_on)  # not directly: the caller may be in the middle of its work
        else:
            self._state = _HEAD

    def _end(self) -> None:
        """Serves nothing more. Further input is read and discarded, because a reset could destroy our answer."""
        lingers = self._left != 0 or self._is_followed or self._unread
        self._state = _ENDED
        self._unread = b""
        if self._transport.is_closing():
            return
        if not lingers:
            self._transport.close()
            return
        if self in self._front.paused:
            self._front.paused.discard(self)
            self._transport.resume_reading()
        self._transport.write_eof()
        if not self._unflushed:
            self._start(self._front.lingers_due)

    # Streamed answers: `streamed_answer.Carrier`.

    def answer_whole(self, status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
        self._stream = None
        self._take_answer(status, headers, body, request_id)

    def begin_stream(self, status: int, headers: HeaderList, request_id: bytes, framing: bytes, data: bytes) -> None:
        front = self._front
        head, _ = self._heads_made.get((status, *headers)) or front.answer_heads.make(status, headers)
        self._keep_alive = self._keep_alive and not (CLOSE in headers or front.draining)
        self._state = _STREAMING
        self._written_bytes += len(data)
        self._write_head(head, request_id, framing, self._keep_alive, data)

    def write_stream(self, parts: Sequence[bytes]) -> None:
        size = sum(map(len, parts))
        self._written_bytes += size
        if self._unflushed:
            self._unflushed_bytes += size
            self._door.answers.hold(size)
        if size > COPIED_BODY_BYTES_MAX:
            self._transport.writelines(parts)
        else:
            self._write(b"".join(parts))

    def is_behind(self) -> bool:
        return self._unflushed

    def end_stream(self) -> None:
        self._stream = None
        self._stop_watch()
        if self._unflushed:  # from here on, what is left has the time of an ordinary answer
            self._start(self._front.writes_due)
        if not self._keep_alive:
            self._end()
            return
        self._after_answer()
        if self._front.draining:  # the head has promised that the client may send its next request here
            self._front.close_soon(self)

    def abort_stream(self) -> None:
        self._stream = None
        self._state = _ENDED
        self.cut()

    def _count_taken(self) -> int:
        """How many bytes of the stream have reached the client, up to a constant: what waits here or in the kernel is
        subtracted. On Unix sockets the kernel counts its own overhead, so the result is lower than it should be."""
        fd = self.fileno()
        if fd < 0:
            return 0
        return self._written_bytes - int(self._transport.get_write_buffer_size()) - queued_bytes(fd)


def _peer_of(transport: Any) -> Peer:
    name = transport.get_extra_info("peername")
    if name is None:  # it has already disconnected; not UNKNOWN_PEER, which is on a Unix socket and may be trusted
        return Peer("unknown", 0, "http")
    if not isinstance(name, tuple):
        return UNKNOWN_PEER
    return Peer(as_told(name[0]), name[1], "http")
