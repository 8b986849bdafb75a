"""What granian does and never promised: one test for each behaviour that http/granian.py leans on, or guards against.

What a front has to do is in tests/fronts; here granian itself is asked, without fastgw's front around it. When a new
version fails one of these, the comment that rests on it has to be read again.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from granian._granian import WorkerSignal
from h2.errors import ErrorCodes
from h2.exceptions import InvalidBodyLengthError

from fastgw.config import Limits, Listen
from fastgw.http import granian
from fastgw.http.granian import GranianFront
from fastgw.supervisor import listeners
from tests.fronts.houses import LoopThread
from tests.fronts.http2_client import Http2Client
from tests.fronts.raw_http import RawClient
from tests.places import REPOSITORY
from tests.waiting import eventually

GET = b"GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\n"


class Bare:
    """granian as http/granian.py sets it up, with the test as its scheduler: `watchers` has what was parsed."""

    def __init__(self, loop_thread: LoopThread, http: str = "1", hook=None) -> None:
        self.loop_thread = loop_thread
        self.listeners = listeners.open_listeners(["127.0.0.1:0"], workers=1)
        self.address = self.listeners.addresses[0]
        self.watchers, self.threads = [], []
        self.ended = threading.Event()
        self.signal = WorkerSignal()
        self.signal.add_cb(self.ended.set)
        self.stopping = False
        self.hook = hook or (lambda watcher: None)
        loop_thread.call(self._serve, http)

    def _serve(self, http: str) -> None:
        bind = self.address
        self._worker = granian._granian_worker(
            self.listeners.fds_of(0)[0], False, Listen(bind=bind, http=http), Limits()
        )
        loop = asyncio.get_running_loop()
        nothing = lambda *_: None  # noqa: E731
        scheduler = granian._Scheduler(loop, self._schedule, None, nothing, nothing)
        self._worker.serve_mtr(scheduler, loop, self.signal)

    def _schedule(self, watcher) -> None:
        self.threads.append(threading.get_ident())
        self.watchers.append(watcher)
        self.hook(watcher)

    def parsed(self, count=1):
        """The protocol object of the last of `count` requests."""
        eventually(lambda: len(self.watchers) >= count, message=f"{count} requests parsed")
        return self.watchers[count - 1].proto

    def on_the_loop(self, function, *args):
        return self.loop_thread.call(function, *args)

    def answer(self, proto, status=200, headers=(), body=b"x"):
        self.on_the_loop(proto.send, {"type": "http.response.start", "status": status, "headers": list(headers)})
        self.on_the_loop(proto.send, {"type": "http.response.body", "body": body})

    def begin_to_stop(self) -> None:
        if not self.stopping:
            self.stopping = True
            self.signal.set()

    def stop(self) -> None:
        self.watchers.clear()
        self.begin_to_stop()
        assert self.ended.wait(10)
        self.listeners.close()


class Told:
    """A future of granian's, and what its callback was told."""

    def __init__(self, bare: Bare, make) -> None:
        self.calls, self.threads = [], []
        self._bare = bare
        self.future = bare.on_the_loop(self._listen, make)

    def _listen(self, make):
        future = make()
        future.add_done_callback(self._on_done)
        return future

    def _on_done(self, future) -> None:
        self.threads.append(threading.get_ident())
        try:
            self.calls.append("cancelled" if future.cancelled() else future.result())
        except Exception as error:
            self.calls.append(type(error).__name__)

    def cancel(self) -> None:
        self._bare.on_the_loop(self.future.cancel)

    def outcome(self):
        eventually(lambda: self.calls)
        assert len(self.calls) == 1
        return self.calls[0]


@pytest.fixture(scope="module")
def loop_thread():
    thread = LoopThread()
    yield thread
    assert thread.failures == []
    thread.stop()


@pytest.fixture
def serve(loop_thread):
    running = []

    def start(http="1", hook=None):
        running.append(Bare(loop_thread, http, hook))
        return running[-1]

    yield start
    for bare in running:
        bare.stop()


@pytest.fixture
def bare(serve):
    return serve()


@pytest.fixture
def client(bare):
    with RawClient(bare.address) as client:
        yield client


def http2(bare):
    return Http2Client(bare.address)


# The scheduler hook.


def test_the_hook_is_called_once_for_each_request_on_one_thread_of_granians_own(bare, client):
    client.send(GET * 3)
    for number in range(1, 4):  # a pipelined request is parsed when the one before it has been answered
        bare.answer(bare.parsed(number))
        assert client.answer().status == 200
    assert len(bare.watchers) == 3
    assert len(set(bare.threads)) == 1
    assert bare.threads[0] not in (threading.get_ident(), bare.on_the_loop(threading.get_ident))


def test_an_error_on_the_loop_does_not_poison_the_next_request(bare, client):
    client.send(GET)
    proto = bare.parsed()
    with pytest.raises(TypeError):
        bare.on_the_loop(proto.send, "no message")
    bare.answer(proto)
    client.send(GET)
    bare.answer(bare.parsed(2))
    assert [client.answer().status, client.answer().status] == [200, 200]


def test_a_request_that_is_forgotten_is_answered_500(bare, client):
    client.send(GET)
    eventually(lambda: bare.watchers)
    bare.watchers.clear()
    assert client.answer().status == 500


def test_the_first_answer_wins_and_a_later_one_is_an_error(bare, client):
    client.send(GET)
    proto = bare.parsed()
    bare.answer(proto, 201)
    with pytest.raises(RuntimeError, match="already started"):
        bare.answer(proto, 202)
    client.send(GET)
    bare.answer(bare.parsed(2), 203)
    assert [client.answer().status, client.answer().status] == [201, 203]


def test_an_answer_with_a_header_that_is_none_is_refused_and_another_can_be_given(bare, client):
    client.send(GET)
    proto = bare.parsed()
    with pytest.raises(RuntimeError):
        bare.answer(proto, 200, [(b"x-a", b"1\r\nx-b: 2")])
    bare.answer(proto, 500)
    assert client.answer().status == 500


def test_header_values_of_answers_are_bytes(bare, client):
    client.send(GET)
    bare.answer(bare.parsed(), 200, [(b"x-a", "\u00e4".encode())])
    assert dict(client.answer().headers)["x-a"] == "\u00e4".encode().decode("latin-1")


def test_an_event_stream_is_sent_in_chunks_unless_its_length_is_declared(bare, client):
    stream = (b"content-type", b"text/event-stream")
    client.send(GET)
    bare.answer(bare.parsed(), 200, [stream])
    assert "content-length" not in dict(client.answer().headers)
    client.send(GET)
    bare.answer(bare.parsed(2), 200, [stream, (b"content-length", b"1")])
    answer = client.answer()
    assert (dict(answer.headers)["content-length"], answer.body) == ("1", b"x")


# What is known of a request.


def test_the_scope_has_the_raw_path_the_raw_query_and_every_header_line_as_bytes(bare, client):
    client.send(
        b"PUT /a%2Fb%20c%ff?x=%20 HTTP/1.1\r\nHost: one\r\nHost: two\r\nX-A: 1\r\nx-a: 2\r\nX-B: \xc3\xa4\r\n\r\n"
    )
    bare.answer(bare.parsed())
    scope = bare.watchers[0].scope
    assert (scope["method"], scope["http_version"], scope["type"]) == ("PUT", "1.1", "http")
    assert (scope["raw_path"], scope["query_string"]) == (b"/a%2Fb%20c%ff", b"x=%20")
    assert scope["client"] == (client.sock.getsockname()[0], str(client.sock.getsockname()[1]))
    # hyper keeps the lines of one name together; whose turn the names are is not promised.
    assert sorted(scope["headers"]) == [
        (b"host", b"one"), (b"host", b"two"), (b"x-a", b"1"), (b"x-a", b"2"), (b"x-b", b"\xc3\xa4")
    ]  # fmt: skip


def test_of_an_absolute_target_only_the_path_is_seen(bare, client):
    client.send(b"GET http://evil.test/a HTTP/1.1\r\nHost: shop.test\r\n\r\n")
    bare.answer(bare.parsed())
    scope = bare.watchers[0].scope
    assert (scope["raw_path"], scope["headers"]) == (b"/a", [(b"host", b"shop.test")])


def test_over_http2_the_authority_stands_for_the_host_header(serve):
    bare = serve("2")
    with http2(bare) as client:
        stream = client.request("/a")
        bare.answer(bare.parsed())
        assert client.answer(stream).status == 200
    scope = bare.watchers[0].scope
    assert (scope["http_version"], scope["headers"][0]) == ("2", (b"host", b"shop.test"))


def test_a_length_beside_chunks_is_not_there(bare, client):
    client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    bare.answer(bare.parsed())
    assert sorted(bare.watchers[0].scope["headers"]) == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]


def test_two_equal_lengths_are_one(bare, client):
    client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello")
    bare.answer(bare.parsed())
    assert (b"content-length", b"5") in bare.watchers[0].scope["headers"]
    assert len(bare.watchers[0].scope["headers"]) == 2


# Bodies.


def part(body: bytes, more: bool):
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


def test_a_body_is_told_part_by_part_on_the_loop_and_so_is_its_end(bare, client):
    client.send(POST + b"he")
    proto = bare.parsed()
    first = Told(bare, proto.receive)
    assert first.outcome() == part(b"he", True)
    client.send(b"llo")
    assert Told(bare, proto.receive).outcome() == part(b"llo", True)
    assert Told(bare, proto.receive).outcome() == part(b"", False)
    assert first.threads == [bare.on_the_loop(threading.get_ident)]
    bare.answer(proto)


def test_a_request_without_a_body_has_one_empty_part(bare, client):
    client.send(GET)
    proto = bare.parsed()
    assert Told(bare, proto.receive).outcome() == part(b"", False)
    bare.answer(proto)


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_body_that_breaks_off_is_told_as_a_client_that_has_left(bare, client, leave):
    client.send(POST + b"hell")
    proto = bare.parsed()
    assert Told(bare, proto.receive).outcome() == part(b"hell", True)
    rest = Told(bare, proto.receive)
    client.sock.close() if leave == "close" else client.reset()
    assert rest.outcome() == GONE


def test_so_is_one_whose_chunks_are_broken(bare, client):
    client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\nzz\r\n")
    proto = bare.parsed()
    assert Told(bare, proto.receive).outcome() == part(b"he", True)
    assert Told(bare, proto.receive).outcome() == GONE
    bare.answer(proto, 400)
    assert client.answer().status == 400


def test_the_future_of_a_body_can_be_cancelled_and_the_request_be_answered(bare, client):
    client.send(POST)
    body = Told(bare, bare.parsed().receive)
    body.cancel()
    assert body.outcome() == "cancelled"
    bare.answer(bare.watchers[0].proto, 408, [(b"connection", b"close")])
    answer = client.answer()
    assert (answer.status, answer.closes) == (408, True)
    bare.watchers.clear()  # as long as somebody holds the request, hyper waits for the rest of its body
    assert client.rest() == b""


def test_a_callback_for_a_part_that_is_there_already_is_called_all_the_same(bare, client):
    client.send(POST + b"hello")
    proto = bare.parsed()
    future = bare.on_the_loop(proto.receive)
    eventually(future.done)
    body = Told(bare, lambda: future)
    assert body.outcome() == part(b"hello", True)
    bare.answer(proto)


@pytest.mark.parametrize("code", [ErrorCodes.NO_ERROR, ErrorCodes.CANCEL])
def test_over_http2_a_body_that_breaks_off_so_looks_complete_and_a_client_that_has_left_is_told_next(serve, code):
    """Its length has to be checked, or its client be asked for."""
    bare = serve("2")
    with http2(bare) as client:
        stream = client.request("/a", "POST", [], b"hell", complete=False)
        proto = bare.parsed()
        assert Told(bare, proto.receive).outcome() == part(b"hell", True)
        end = Told(bare, proto.receive)
        client.leave_stream(stream, code)
        assert end.outcome() in (part(b"", False), GONE)
        if end.outcome() != GONE:
            assert Told(bare, proto.receive).outcome() == GONE


def test_over_http2_a_body_of_an_answer_to_head_is_sent(serve):
    """RFC 9110, 9.3.2, forbids it, and h2 takes it for an error."""
    bare = serve("2")
    with http2(bare) as client:
        stream = client.request("/a", "HEAD")
        bare.answer(bare.parsed(), body=b"hello")
        with pytest.raises(InvalidBodyLengthError):
            client.answer(stream)


def test_over_http2_what_is_not_asked_for_stays_with_the_client(serve):
    bare = serve("2")
    with http2(bare) as client:
        settled = client.request("/")  # its answer comes behind the server's settings, which open the window
        bare.answer(bare.parsed())
        client.answer(settled)
        upload = client.request("/a", "POST", [], b"", complete=False)
        sent = client.fill(upload)
        assert sent > 500_000
        proto = bare.parsed(2)
        clock = client.request("/b")
        bare.answer(bare.parsed(3))
        client.answer(clock)
        assert client.fill(upload) == 0
        got = 0
        while got < sent:
            got += len(Told(bare, proto.receive).outcome()["body"])
        eventually(lambda: client.read_some() and client.fill(upload) > 0, message="there is room again")
        bare.answer(proto)


# Clients that leave.


def test_a_client_that_leaves_is_told_once_and_on_the_loop(bare, client):
    client.send(GET)
    proto = bare.parsed()
    assert Told(bare, proto.receive).outcome() == part(b"", False)
    gone = Told(bare, proto.receive)
    client.sock.close()
    assert gone.outcome() == GONE
    assert gone.threads == [bare.on_the_loop(threading.get_ident)]


def test_a_client_that_has_left_before_anybody_asked_is_told_as_well(bare, client):
    client.send(GET)
    proto = bare.parsed()
    client.reset()
    with RawClient(bare.address) as other:  # one thread does all I/O: when this one is parsed, the other's end is known
        other.send(GET)
        bare.answer(bare.parsed(2))
        assert other.answer().status == 200
    messages = [Told(bare, proto.receive).outcome()]
    if messages[0] != GONE:  # the end of the body comes first where it is known
        messages.append(Told(bare, proto.receive).outcome())
    assert messages[-1] == GONE


def test_an_answer_ends_the_question_for_a_disconnect(bare, client):
    client.send(GET)
    proto = bare.parsed()
    assert Told(bare, proto.receive).outcome() == part(b"", False)
    gone = Told(bare, proto.receive)
    bare.answer(proto)
    assert client.answer().status == 200
    assert gone.outcome() == GONE


def test_asking_for_a_disconnect_can_be_taken_back(bare, client):
    client.send(GET)
    proto = bare.parsed()
    assert Told(bare, proto.receive).outcome() == part(b"", False)
    gone = Told(bare, proto.receive)
    gone.cancel()
    bare.answer(proto)
    assert client.answer().status == 200
    assert gone.outcome() == "cancelled"


def test_over_http2_a_reset_stream_is_a_client_that_has_left(serve):
    bare = serve("2")
    with http2(bare) as client:
        stream = client.request("/a")
        proto = bare.parsed()
        assert Told(bare, proto.receive).outcome() == part(b"", False)
        gone = Told(bare, proto.receive)
        client.leave_stream(stream)
        assert gone.outcome() == GONE


# Sockets.


def test_accepted_sockets_have_the_options_of_the_listening_one(bare, client):
    client.send(GET)
    proto = bare.parsed()
    port = int(bare.address.rpartition(":")[2])
    accepted = [one for one in _tcp_sockets() if one.getsockname()[1] == port and _is_connected(one)]
    (ours,) = accepted
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
    ours.close()
    bare.answer(proto)


def _tcp_sockets():
    """Copies of this process's TCP sockets."""
    for entry in os.listdir("/proc/self/fd"):
        try:
            one = socket.socket(fileno=os.dup(int(entry)))
        except OSError:
            continue  # not a socket, or closed since
        if one.family == socket.AF_INET and one.type == socket.SOCK_STREAM:
            yield one


def _is_connected(one) -> bool:
    try:
        return one.getpeername()[1] != 0
    except OSError:
        return False


@pytest.mark.alone
def test_the_listening_socket_is_ours_after_the_end_and_can_be_served_again(loop_thread):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = "{}:{}".format(*listening.getsockname())
        open_before = threads_before = 0
        for round_number in range(20):
            front = loop_thread.call(
                GranianFront, listening.fileno(), Listen(bind=address, http="1"), Limits(), Refusing()
            )
            loop_thread.run(front.start())
            with RawClient(address) as client:
                client.send(GET)
                assert client.answer().status == 404
            loop_thread.call(front.drain)
            loop_thread.run(front.closed())
            if round_number == 9:
                open_before, threads_before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= open_before, message=f"{open_before} descriptors as before")
    eventually(lambda: len(os.listdir("/proc/self/task")) <= threads_before, message="as many threads as before")


class Refusing:
    """A door that lets nobody in."""

    def admit(self, head):
        return granian.Refusal(granian.errors.NO_ROUTE, "")

    def refuse(self, refusal, answer):
        answer(404, [], b"", b"")

    def cut(self, why):
        raise AssertionError("nobody is slow here")


# Stopping.


def test_the_end_is_told_once_the_last_request_has_been_answered(bare, client):
    client.send(GET)
    proto = bare.parsed()
    bare.begin_to_stop()
    assert not bare.ended.wait(0.2)
    bare.answer(proto)
    assert client.answer().status == 200
    assert client.rest() == b""
    assert bare.ended.wait(10)


# What would kill the process, each in one of its own.

KILLERS = """
import sys, threading
from tests.fronts.houses import LoopThread
from tests.fronts.raw_http import RawClient
from tests.http.test_granian import GET, Bare
bare = Bare(LoopThread())
client = RawClient(bare.address)
client.send(GET)
proto = bare.parsed()
{deed}
print("survived")
"""


def run(deed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLERS.format(deed=deed)],
        cwd=REPOSITORY, timeout=60, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("status", [99, 1000])
def test_a_status_that_is_none_aborts_the_process(status):
    done = run(f"bare.answer(proto, {status})\nclient.rest()")
    assert done.returncode == -signal.SIGABRT
    assert "InvalidStatusCode" in done.stderr


@pytest.mark.parametrize("answer", ["", "bare.answer(proto)\nclient.answer()"], ids=["unanswered", "answered"])
def test_a_question_that_is_pending_at_the_end_does_no_harm(answer):
    """RSGI's aborted the process."""
    done = run(
        "body = bare.on_the_loop(proto.receive)\n"
        "while not body.done(): pass\n"
        "gone = bare.on_the_loop(proto.receive)\n"
        f"{answer}\n"
        "client.sock.close()\n"
        "bare.signal.set()\n"
        "bare.ended.wait(10)\n"
        "del gone, body, proto\n"
        "bare.watchers.clear()"
    )
    assert "survived" in done.stdout, done


def test_the_third_stop_signal_blocks_for_ever():
    """A blocking send with the GIL held: whoever does it stops the whole process, so an alarm has to end it."""
    done = run("import signal\nsignal.alarm(1)\nfor _ in range(3):\n    bare.signal.set()")
    assert done.returncode == -signal.SIGALRM
    assert "survived" not in done.stdout


# The list in http/granian.py.


def test_every_test_that_the_front_names_exists():
    files = [Path(__file__), *(REPOSITORY / "tests/fronts").glob("test_*.py")]
    there = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}
    named = set(re.findall(r"\btest_\w+$", granian.__doc__, re.MULTILINE))
    assert len(named) >= 16
    assert named <= there


# Answers in parts.

LARGE = 1 << 20


class Parts:
    """An answer in parts, given one by one as granian accepts them."""

    def __init__(self, bare: Bare, proto, parts: list[bytes]) -> None:
        self.accepted = 0
        self._proto, self._parts = proto, parts
        bare.on_the_loop(self._begin)

    def _begin(self) -> None:
        length = b"%d" % sum(map(len, self._parts))
        self._proto.send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        self._go_on()

    def _go_on(self, _future=None) -> None:
        if _future is not None:
            self.accepted += 1
        while self._parts:
            part = self._parts.pop(0)
            message = {"type": "http.response.body", "body": part, "more_body": bool(self._parts)}
            future = self._proto.send(message)
            if hasattr(future, "add_done_callback"):
                future.add_done_callback(self._go_on)
                return
            self.accepted += 1


def parts_of(bare: Bare, number: int) -> Parts:
    """The answer to this request: a large part, and ten of one byte."""
    return Parts(bare, bare.parsed(number), [bytes(LARGE), *[b"x"] * 10])


def test_parts_of_an_answer_wait_until_what_is_before_them_can_be_sent(serve):
    """The channel has room for four parts; hyper has taken one more, and keeps it until it can send it."""
    bare = serve("2")
    with Http2Client(bare.address, window_bytes=0) as client:
        stream = client.request("/a")
        parts = parts_of(bare, 1)
        eventually(lambda: parts.accepted == granian.CHANNEL_PARTS + 1)
        client.open_windows([stream], 1)  # hyper gives the large part to h2 and takes the next one
        eventually(lambda: parts.accepted == granian.CHANNEL_PARTS + 2)
        client.open_windows([stream], LARGE - 1)
        client.read_body(stream, LARGE)  # it is gone, and the next part has no window
        assert parts.accepted == granian.CHANNEL_PARTS + 2
        client.open_windows([stream], 1)
        eventually(lambda: parts.accepted == granian.CHANNEL_PARTS + 3)
        client.open_windows([stream], 9)
        assert client.answer(stream).body == bytes(LARGE) + b"x" * 10
        eventually(lambda: parts.accepted == 11)


def test_over_http1_they_wait_for_the_socket(bare):
    with RawClient(bare.address, receive_buffer_bytes=4096) as client:
        client.send(GET)
        parts = Parts(bare, bare.parsed(), [bytes(16 * LARGE), *[b"x"] * 10])
        eventually(lambda: parts.accepted == granian.CHANNEL_PARTS + 1)
        assert client.answer().body == bytes(16 * LARGE) + b"x" * 10
        eventually(lambda: parts.accepted == 11)


@pytest.mark.parametrize("end", ["stream", "connection"])
def test_an_answer_that_is_not_read_ends_with_its_stream_and_with_its_connection(serve, end):
    """What is left of it is accepted then, and goes nowhere."""
    bare = serve("2")
    with Http2Client(bare.address, window_bytes=10) as client:
        stream = client.request("/a")
        parts = parts_of(bare, 1)
        eventually(lambda: parts.accepted == granian.CHANNEL_PARTS + 2)
        if end == "stream":
            client.leave_stream(stream)
        else:
            client.sock.close()
        eventually(lambda: parts.accepted == 11)
