"""One HTTP/1.1 connection of the express front: bytes in, calls of the door, bytes out (RFC 9112).

One request at a time, and never a queue of them: llhttp is fed up to the end of one message and not a byte further
until that message is answered. So an answer can only belong to the request before it, memory is bounded whatever a
client sends ahead, and behind an error there is nothing left that could be served by mistake.

    HEAD ──> BODY ──> WAITING ──> HEAD ...    the way it should go

What happens in which state. After the arrow stands the next state, and without an arrow the state stays; `.` cannot be.

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

An answer leads from WAITING to HEAD, and

    to BODY      if the request was refused and a short rest of its body is to be skipped; its deadline then cuts
    to STALLED   if the client has to take its answer first, or if what came ahead waits for the loop's next turn
    to ENDED     if the connection ends with it: nothing is served any more, and what arrives is thrown away until the
                 client has taken the answer

A client that closes its side (FIN) has left: a close and a half-close look the same until something is sent, and a
request whose client is gone must not hold its place until the deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from fastgw import errors
from fastgw.addresses import as_told
from fastgw.admission import UNKNOWN, Admission, Door, Refusal
from fastgw.config import Limits
from fastgw.errors import Ending
from fastgw.http import heads as http1_wire
from fastgw.http._http1 import MessageEnd, RequestHead, scan, whole_answer
from fastgw.http.chunked import ChunkedBody
from fastgw.http.deadlines import Deadlines
from fastgw.http.heads import CLOSE, HEAD_END, AnswerHeads, BadHead
from fastgw.messages import UNKNOWN_PEER, HeaderList, Peer, no_head

AHEAD_BYTES_MAX = 65_536  # sent ahead of an answer; beyond it the client's bytes stay in the kernel
HEADS_AT_ONCE = 64  # of one connection; then the others have their turn
SKIPPED_BODY_BYTES_MAX = 65_536  # of a refused request: reading it is cheaper than a new connection
COPIED_BODY_BYTES_MAX = 16_384  # a larger body is given to the transport beside its head, not copied behind it

_CARRIAGE_RETURN = 13
_HEAD, _BODY, _WAITING, _STALLED, _ENDED = range(5)
_STATES = ("head", "body", "waiting", "stalled", "ended")


class Owner(Protocol):
    """What all connections of one front share: that front, as they see it."""

    door: Door
    limits: Limits
    clock: Callable[[], float]  # the loop's, in seconds
    call_soon: Callable[..., object]  # the loop's
    answer_heads: AnswerHeads
    draining: bool  # answers end their connections
    now: float  # of the last sweep, by that clock
    line_bytes_max: int
    small_head_bytes: int  # a head up to this size is within every limit
    deaf: set[Connection]  # not read from: they have sent too far ahead
    heads_due: Deadlines[Connection]
    bodies_due: Deadlines[Connection]
    writes_due: Deadlines[Connection]
    lingers_due: Deadlines[Connection]

    def take_in(self, connection: Connection) -> bool: ...
    def is_crowded(self) -> bool: ...
    def let_go(self, connection: Connection) -> None: ...


class Connection:
    """One client: its bytes in order, one request at a time. An `asyncio.Protocol` by its methods."""

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
        # What is going on.
        self._state = _HEAD
        self._watch: Deadlines[Connection] | None = None  # the deadline that runs
        self._quiet_since = front.now  # of the sweep before the last answer
        self._unread = b""  # behind the request that waits
        self._unflushed = False  # the client has not taken all that was written
        # The request.
        self._partial: bytearray | None = None  # a head without its end
        self._keep_alive = True
        self._is_head = False
        self._is_http10 = False
        self._is_followed = False  # bytes were seen behind it
        self._left = 0  # bytes of the body that have not come; UNKNOWN: chunks
        self._admission: Admission | None = None  # while the body is read; None then: it is skipped
        self._body = bytearray()
        self._chunks: ChunkedBody | None = None  # what reads it, where it comes in chunks
        self._token = -1
        self._held_bytes = 0  # what it has taken of the worker's memory for bodies

    def __repr__(self) -> str:
        return f"<Connection {_STATES[self._state]}, {len(self._unread)} bytes unread>"

    # What the loop calls.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._write = transport.write
        self._peer = _peer_of(transport)
        transport.set_write_buffer_limits(high=0)  # we hear at once of a client that does not take its answer
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
        self._answer = self._feed = self._write = None  # else this object and they hold each other
        self._give_back()
        self._front.deaf.discard(self)
        self._front.let_go(self)
        if state == _WAITING and self._token >= 0:
            self._door.gone(self._token)
        elif state == _BODY and self._admission is not None:
            self._door.abandon(self._admission, errors.CANCELLED_EARLY, "the client left in the middle of it", None)

    def eof_received(self) -> None:
        return None  # the transport closes itself, when what was written is out

    def pause_writing(self) -> None:
        self._unflushed = True
        if self._watch is None:
            self._start(self._front.writes_due)

    def resume_writing(self) -> None:
        self._unflushed = False
        if self._watch is self._front.writes_due:
            self._stop_watch()
        if self._state == _STALLED:
            self._go_on()
        elif self._state == _ENDED and not self._transport.is_closing():
            self._start(self._front.lingers_due)

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

    # What stands before it until the PROXY protocol header has come (`proxied_connection`).

    @property
    def peer(self) -> Peer:
        """The other end, as far as it is known by now."""
        return self._peer

    @property
    def has_ended(self) -> bool:
        """Nothing is read any more."""
        return self._state == _ENDED

    def await_start(self) -> None:
        """Something has come, but not all of what is to come before the first request: it is not idle."""
        self._partial = bytearray()

    def start_as(self, peer: Peer) -> None:
        """Requests may follow, of this client."""
        self._partial = None
        self._peer = peer

    def refuse_start(self, detail: str) -> None:
        """What came is not what has to come before the first request."""
        self._refuse_all(errors.MALFORMED, detail)

    # What the front asks.

    @property
    def is_idle(self) -> bool:
        """Between two requests, or before the first: nobody would miss the connection."""
        return self._state == _HEAD and self._partial is None and not self._unflushed

    def fileno(self) -> int:
        """The socket's descriptor; -1 once it is about to be closed."""
        return -1 if self._transport.is_closing() else int(self._transport.get_extra_info("socket").fileno())

    def leave(self) -> None:
        """Close, with what was written delivered."""
        self._state = _ENDED
        self._transport.close()

    def is_idle_since(self, moment: float) -> bool:
        """Whether it is idle, and nothing has happened since that moment of the loop's clock."""
        return self.is_idle and self._quiet_since <= moment

    @property
    def is_busy(self) -> bool:
        """A request of it is coming in or waits for its answer."""
        return self._state == _WAITING or self._state == _BODY

    @property
    def quiet_since(self) -> float:
        """When it was last answered, by the loop's clock: then, or up to one sweep later."""
        return self._quiet_since

    def has_been_answered_since(self, moment: float) -> bool:
        """It is between two requests and has an answer of that moment of the loop's clock or later."""
        return self._state != _WAITING and self._quiet_since > moment

    def cut(self) -> None:
        """End it now; what was not taken is lost."""
        self._transport.abort()

    def head_is_late(self) -> None:
        """A client that has said nothing is owed nothing; one that has begun is told what went wrong."""
        self._watch = None
        if self._partial is None:
            self.leave()
        else:
            timeout_s = self._front.heads_due.timeout_s
            self._refuse_all(errors.HEADER_TIMEOUT, f"expected the whole head within {timeout_s:g} s")

    def body_is_late(self) -> None:
        """The rest of the body did not come."""
        self._watch = None
        timeout_s = self._front.bodies_due.timeout_s
        got = len(self._body)
        self._break_off(errors.BODY_TIMEOUT, f"expected the whole body within {timeout_s:g} s, got {got} bytes")

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
        """Takes one message after the other out of `data`, until one has to wait."""
        end, heads = len(data), 0
        while at < end:
            if self._state == _HEAD and heads < HEADS_AT_ONCE:
                heads += 1
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
        """Keeps what came too early."""
        if self._state == _ENDED or not data:
            return
        self._unread += data
        if len(self._unread) > AHEAD_BYTES_MAX and self not in self._front.deaf:
            self._transport.pause_reading()
            self._front.deaf.add(self)

    def _go_on(self) -> None:
        """Nothing stands in the way of the next request any more."""
        if self._state != _STALLED or self._unflushed:
            return
        self._state = _HEAD
        data, self._unread = self._unread, b""
        if self in self._front.deaf:
            self._front.deaf.discard(self)
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
        """Whether the head, or what there is of it, is within the limits; refuses it if not."""
        front = self._front
        excess = http1_wire.excess(head, front.line_bytes_max, front.limits.max_header_bytes, slack)
        if excess is None:
            return True
        self._partial = None
        self._refuse_all(*excess)
        return False

    # Heads.

    def _take_head(self, data: bytes, at: int) -> int:
        """Takes one request off `data` from `at` on, as much of it as is there; returns where it stopped."""
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
        """Notes what the head says of the request; returns where it ends, or its head if its body comes in chunks.

        `available` is where the bytes that have come end.
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
        self._is_head = head.method == "HEAD"
        self._is_http10 = head.is_http10
        head.peer = self._peer
        return end

    def _parse(self, head: RequestHead, data: bytes, at: int, end: int) -> bool:
        """Whether llhttp takes the request, as far as it has come, for what `scan` took it for; refuses it if not."""
        message = self._message
        message.seen = False
        try:
            if head.is_plain:
                self._feed(data if at == 0 and end >= len(data) else data[at:end])
            else:
                http1_wire.complete(head)
                self._feed(http1_wire.for_llhttp(data[at : head.end]) + data[head.end : end])
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
        """Asks whether the request may enter, and opens it if all of it is here."""
        if head.is_expecting:
            self._take_expectation(head, data, at, end)
            return
        verdict = self._door.admit(head)
        if self._left == 0 and isinstance(verdict, Admission):  # the likely way; the rest of it is in _take_answer
            self._state = _WAITING
            self._token = -1
            self._token = self._door.open(verdict, data[head.end : end], self._answer)
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
        self._state = _WAITING
        self._token = -1
        self._token = self._door.open(admission, body, self._answer)

    # Heads that are not like the others.

    def _begin_partial(self, data: bytes) -> None:
        """A head that has no end yet."""
        self._is_head = False
        if self._watch is None:
            self._start(self._front.heads_due)
        if self._check_size(data, 3):
            self._partial = bytearray(data)

    def _take_expectation(self, head: RequestHead, data: bytes, at: int, end: int) -> None:
        """RFC 9110, 10.1.1: the client waits for a word before it sends the body; it gets one once it may enter."""
        head_end = head.end
        expected = {value.lower() for value in head.get_all("expect")}
        if expected == {"100-continue"} or self._is_http10:
            verdict = self._door.admit(head)
        else:
            verdict = Refusal(errors.EXPECTATION_FAILED, "expected no Expect but 100-continue", head=head)
        if isinstance(verdict, Refusal):
            # The body may follow all the same or not at all: nobody knows where the next request begins.
            self._refuse(verdict, may_skip=False)
            return
        if self._left and head_end == len(data) and not self._is_http10:
            self._write(http1_wire.CONTINUE)
        self._take_verdict(verdict, data[at:head_end], data[head_end:end])

    def _pass_by_tunnel(self) -> bool:
        """The client asks for a tunnel (CONNECT): it gets one answer, and no more.

        llhttp has stopped behind the head and does not know the body. False where nobody does: it is refused.
        """
        self._feed = http1_wire.ignore
        self._keep_alive = False
        if self._left == UNKNOWN:
            self._refuse_all(errors.MALFORMED, "expected no CONNECT together with a chunked body")
            return False
        self._message.seen = self._left == 0
        return True

    def _refuse_unknown_method(self, head: RequestHead, head_bytes: bytes) -> None:
        """llhttp has a list of methods. What is said to one that is not on it is for the core to decide."""
        try:
            if not http1_wire.is_token(head.method):
                raise BadHead("expected a method")
            HttpRequestParser(None).feed_data(b"GET" + http1_wire.for_llhttp(head_bytes)[len(head.method) :])
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
        """Answers a request that may not enter. A short rest of its body is skipped, or the connection ends."""
        if self._left:
            self._keep_alive &= may_skip and 0 < self._left <= SKIPPED_BODY_BYTES_MAX
            if self._keep_alive:
                self._start(self._front.bodies_due)
        self._admission = None
        self._token = -1
        self._state = _WAITING
        self._door.refuse(refusal, self._answer)

    def _refuse_all(self, ending: Ending, detail: str) -> None:
        """Answers a request of which nobody knows where it ends."""
        self._stop_watch()
        self._partial = None
        self._left = UNKNOWN
        self._refuse(Refusal(ending, detail, head=no_head(self._peer)))

    def _break_off(self, ending: Ending, detail: str) -> None:
        """The body is not going to be complete."""
        self._stop_watch()
        admission, self._admission = self._admission, None
        if admission is None:
            self.cut()  # refused and answered already
            return
        self._abandon(admission, ending, detail)

    def _abandon(self, admission: Admission, ending: Ending, detail: str) -> None:
        self._body.clear()  # not another one: the parser of chunks has this one, too
        self._chunks = None
        self._give_back()
        self._keep_alive = False
        self._left = UNKNOWN
        self._token = -1
        self._state = _WAITING
        self._door.abandon(admission, ending, detail, self._answer)

    # Bodies.

    def _begin_body(self, admission: Admission, head_bytes: bytes, body: bytes) -> None:
        """The first part of a body whose rest has not come."""
        bodies = self._door.bodies
        whole = len(body) + max(0, self._left)
        if not (bodies.has_room(whole) and bodies.take(len(body))):
            self._abandon(admission, errors.BODIES_FULL, bodies.why_full(whole))
            return
        self._held_bytes = len(body)
        self._state = _BODY
        self._admission = admission
        self._start(self._front.bodies_due)
        if self._left == UNKNOWN:  # nothing of it has been looked at: `body` is empty
            self._chunks = ChunkedBody(head_bytes, self._message)
            self._body = self._chunks.content
        else:
            self._body = bytearray(body)

    def _take_body(self, data: bytes, at: int) -> int:
        """Takes of the body what `data` has from `at` on; returns where it stopped."""
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
        if not self._is_within_limits(chunks):  # once for all of it: empty lines cost enough
            return len(data)
        if chunks.is_complete:
            self._left = 0
            self._is_followed = at < len(data)
            self._chunks = None
            self._new_parser(self._message)
            self._body_ends()
        return at

    def _is_within_limits(self, chunks: ChunkedBody) -> bool:
        """Whether a body in chunks may go on; breaks it off if not."""
        assert self._admission is not None, "refused bodies in chunks are not read"
        limit, got = self._admission.max_body_bytes, len(chunks.content)
        if got > limit:
            self._break_off(errors.BODY_TOO_LARGE, f"expected at most {limit} bytes, got more")
            return False
        if not self._take_room(got - self._held_bytes):
            return False
        if chunks.is_bloated(self._front.limits.max_header_bytes):
            self._break_off(
                errors.MALFORMED, "expected fewer bytes of chunk sizes, chunk extensions and trailers beside the body"
            )
            return False
        return True

    def _take_room(self, size_bytes: int) -> bool:
        """Whether there was room for so much more of the body; breaks it off if not."""
        bodies = self._door.bodies
        if not bodies.take(size_bytes):
            self._break_off(errors.BODIES_FULL, bodies.why_full(size_bytes))
            return False
        self._held_bytes += size_bytes
        return True

    def _give_back(self) -> None:
        """What it held of a body is held no longer, or by the Kafka client."""
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
        """`messages.Answer` for the request that waits."""
        if self._state != _WAITING:
            return  # the client has left
        front = self._front
        head, is_plain = self._heads_made.get((status, *headers)) or front.answer_heads.make(status, headers)
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
        if status == 205:  # RFC 9110, 15.3.6: it has a length, and that is 0
            body = b""
        keeps = self._keep_alive and not closes and not self._front.draining
        lines = [head]
        if request_id:
            lines.append(b"x-request-id: %b\r\n" % request_id)
        if status != 204 and status != 304:
            lines.append(b"content-length: %d\r\n" % len(body))
        if not keeps:
            lines.append(b"connection: close\r\n")
        elif self._is_http10:
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        if self._is_head or status == 204 or status == 304:
            body = b""
        if len(body) > COPIED_BODY_BYTES_MAX:
            self._transport.writelines([b"".join(lines), body])
        else:
            self._write(b"".join([*lines, body]))
        if keeps:
            self._after_answer()
        else:
            self._end()

    def _after_answer(self) -> None:
        """What comes next on this connection."""
        self._quiet_since = self._front.now
        if self._left:
            self._state = _BODY  # of a refused request, to be skipped
        elif self._unread or self._unflushed:
            self._state = _STALLED
            if self._unflushed:
                if self._watch is None:  # another deadline may have run when the client began to stand still
                    self._start(self._front.writes_due)
            else:
                self._front.call_soon(self._go_on)  # not from here: whoever answers may be in the middle of it
        else:
            self._state = _HEAD

    def _end(self) -> None:
        """No byte is served from here on. What the client still sends is read, or a reset could destroy our answer."""
        lingers = self._left != 0 or self._is_followed or self._unread
        self._state = _ENDED
        self._unread = b""
        if self._transport.is_closing():
            return
        if not lingers:
            self._transport.close()
            return
        if self in self._front.deaf:
            self._front.deaf.discard(self)
            self._transport.resume_reading()
        self._transport.write_eof()
        if not self._unflushed:
            self._start(self._front.lingers_due)


def _peer_of(transport: Any) -> Peer:
    name = transport.get_extra_info("peername")
    if name is None:  # it has left already; not to be taken for somebody on a Unix socket, who may be trusted
        return Peer("unknown", 0, "http")
    if not isinstance(name, tuple):
        return UNKNOWN_PEER
    return Peer(as_told(name[0]), name[1], "http")
