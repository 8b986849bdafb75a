"""What granian does and never promised: one test for each behaviour that http_granian.py leans on, or guards against.

What a front has to do is in tests/fronts; here granian itself is asked, without fastgw's front around it. When a new
version fails one of these, the comment that rests on it has to be read again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from granian._granian import WorkerSignal
from h2.errors import ErrorCodes

from fastgw import http_granian, listeners
from fastgw.config import Limits, Listen
from fastgw.http_granian import GranianFront
from tests.fronts.houses import LoopThread
from tests.fronts.http2_client import Http2Client
from tests.fronts.raw_http import RawClient
from tests.waiting import eventually

REPOSITORY = Path(__file__).resolve().parent.parent

GET = b"GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\n"


class Bare:
    """granian as http_granian.py sets it up, with the test as its scheduler: `watchers` has what was parsed."""

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
        self._worker = http_granian._granian_worker(
            self.listeners.fds_of(0)[0], False, Listen(bind=bind, http=http), Limits()
        )
        loop = asyncio.get_running_loop()
        nothing = lambda *_: None  # noqa: E731
        scheduler = http_granian._Scheduler(loop, self._schedule, None, nothing, nothing)
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
        self.on_the_loop(proto.response_bytes, status, list(headers), body)

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
        bare.on_the_loop(proto.response_bytes, "no status", [], b"")
    bare.answer(proto)
    client.send(GET)
    bare.answer(bare.parsed(2))
    assert [client.answer().status, client.answer().status] == [200, 200]


def test_a_request_that_is_forgotten_is_answered_500(bare, client):
    client.send(GET)
    eventually(lambda: bare.watchers)
    bare.watchers.clear()
    assert client.answer().status == 500


def test_the_first_answer_wins_and_later_ones_are_ignored(bare, client):
    client.send(GET)
    proto = bare.parsed()
    bare.answer(proto, 201)
    bare.answer(proto, 202)
    client.send(GET)
    bare.answer(bare.parsed(2), 203)
    assert [client.answer().status, client.answer().status] == [201, 203]


# What is known of a request.


def test_the_scope_has_the_decoded_path_the_raw_query_and_every_header_line(bare, client):
    client.send(
        b"PUT /a%2Fb%20c%ff?x=%20 HTTP/1.1\r\nHost: one\r\nHost: two\r\nX-A: 1\r\nx-a: 2\r\nX-B: \xc3\xa4\r\n\r\n"
    )
    bare.answer(bare.parsed())
    scope = bare.watchers[0].scope
    assert (scope.method, scope.http_version, scope.authority) == ("PUT", "1.1", None)
    assert (scope.path, scope.query_string) == ("/a/b c\ufffd", "x=%20")
    headers = scope.headers
    assert (headers.get_all("host"), headers.get("x-a"), headers.get_all("x-a")) == (["one", "two"], "1", ["1", "2"])
    assert ("x-a" in headers, "x-c" in headers) == (True, False)
    assert headers.get("x-b") is None, "a value that is not ASCII is not there at all"


def test_an_absolute_target_is_seen_as_an_authority(bare, client):
    client.send(b"GET http://evil.test/a HTTP/1.1\r\nHost: shop.test\r\n\r\n")
    bare.answer(bare.parsed())
    scope = bare.watchers[0].scope
    assert (scope.authority, scope.path) == ("evil.test", "/a")


def test_over_http2_the_authority_is_no_host_header(serve):
    bare = serve("2")
    with http2(bare) as client:
        stream = client.request("/a")
        bare.answer(bare.parsed())
        assert client.answer(stream).status == 200
    scope = bare.watchers[0].scope
    assert (scope.http_version, scope.authority, scope.headers.get("host")) == ("2", "shop.test", None)


def test_a_length_beside_chunks_is_not_there(bare, client):
    client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    bare.answer(bare.parsed())
    headers = bare.watchers[0].scope.headers
    assert (headers.get("content-length"), "transfer-encoding" in headers) == (None, True)


def test_two_equal_lengths_are_one(bare, client):
    client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello")
    bare.answer(bare.parsed())
    assert bare.watchers[0].scope.headers.get_all("content-length") == ["5"]


# Bodies.


def test_the_future_of_a_body_has_all_of_it_and_tells_so_on_the_loop(bare, client):
    client.send(POST + b"he")
    body = Told(bare, bare.parsed())
    client.send(b"llo")
    assert body.outcome() == b"hello"
    assert body.threads == [bare.on_the_loop(threading.get_ident)]
    bare.answer(bare.watchers[0].proto)


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_the_future_of_a_body_that_breaks_off_raises(bare, client, leave):
    client.send(POST + b"hell")
    body = Told(bare, bare.parsed())
    client.sock.close() if leave == "close" else client.reset()
    assert body.outcome() == "RSGIProtocolClosed"


def test_the_future_of_a_body_can_be_cancelled_and_the_request_be_answered(bare, client):
    client.send(POST + b"hell")
    body = Told(bare, bare.parsed())
    body.cancel()
    assert body.outcome() == "cancelled"
    bare.answer(bare.watchers[0].proto, 408, [("connection", "close")])
    answer = client.answer()
    assert (answer.status, answer.closes) == (408, True)
    assert client.rest() == b""


def test_a_callback_for_a_body_that_is_there_already_is_called_all_the_same(bare, client):
    client.send(POST + b"hello")
    proto = bare.parsed()
    future = bare.on_the_loop(proto)
    eventually(future.done)
    body = Told(bare, lambda: future)
    assert body.outcome() == b"hello"
    bare.answer(proto)


@pytest.mark.parametrize(
    ("code", "outcome"), [(ErrorCodes.NO_ERROR, b"hell"), (ErrorCodes.CANCEL, "RSGIProtocolClosed")]
)
def test_over_http2_a_body_that_breaks_off_without_an_error_looks_complete(serve, code, outcome):
    """Its length has to be checked, which hyper does not do."""
    bare = serve("2")
    with http2(bare) as client:
        stream = client.request("/a", "POST", [("content-length", "5")], b"hell", complete=False)
        body = Told(bare, bare.parsed())
        client.leave_stream(stream, code)
        assert body.outcome() == outcome


# Clients that leave.


def test_a_client_that_leaves_is_told_once_and_on_the_loop(bare, client):
    client.send(GET)
    gone = Told(bare, bare.parsed().client_disconnect)
    client.sock.close()
    assert gone.outcome() is None
    assert gone.threads == [bare.on_the_loop(threading.get_ident)]


def test_a_client_that_has_left_before_anybody_asked_is_told_as_well(bare, client):
    client.send(GET)
    proto = bare.parsed()
    client.reset()
    with RawClient(bare.address) as other:  # one thread does all I/O: when this one is parsed, the other's end is known
        other.send(GET)
        bare.answer(bare.parsed(2))
        assert other.answer().status == 200
    gone = Told(bare, proto.client_disconnect)
    assert gone.outcome() is None


def test_asking_for_a_disconnect_can_be_taken_back(bare, client):
    client.send(GET)
    gone = Told(bare, bare.parsed().client_disconnect)
    gone.cancel()
    bare.answer(bare.watchers[0].proto)
    assert client.answer().status == 200
    client.sock.close()
    assert gone.outcome() == "cancelled"


def test_over_http2_a_reset_stream_is_a_client_that_has_left(serve):
    bare = serve("2")
    with http2(bare) as client:
        stream = client.request("/a")
        gone = Told(bare, bare.parsed().client_disconnect)
        client.leave_stream(stream)
        assert gone.outcome() is None


def test_over_http2_a_stream_that_was_reset_before_anybody_asked_is_told_as_well(serve):
    bare = serve("2")
    with http2(bare) as client:
        stream = client.request("/a")
        proto = bare.parsed()
        client.leave_stream(stream)
        client.request("/b")  # parsed behind the reset, on the same connection
        other = bare.parsed(2)
        gone = Told(bare, proto.client_disconnect)
        assert gone.outcome() is None
        bare.answer(other)


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
        return http_granian.Refusal(http_granian.errors.NO_ROUTE, "")

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
from tests.test_http_granian import GET, Bare
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


def test_a_future_that_is_pending_at_the_end_aborts_the_process():
    done = run(
        "gone = bare.on_the_loop(proto.client_disconnect)\n"
        "bare.answer(proto)\n"
        "client.answer()\n"
        "bare.signal.set()\n"
        "bare.ended.wait(10)\n"
        "threading.Event().wait(5)"
    )
    assert done.returncode == -signal.SIGABRT, done
    assert "Cannot drop pointer into Python heap" in done.stderr


def test_the_third_stop_signal_blocks_for_ever():
    """A blocking send with the GIL held: whoever does it stops the whole process, so an alarm has to end it."""
    done = run("import signal\nsignal.alarm(1)\nfor _ in range(3):\n    bare.signal.set()")
    assert done.returncode == -signal.SIGALRM
    assert "survived" not in done.stdout
