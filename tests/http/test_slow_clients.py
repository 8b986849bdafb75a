"""Whom the watch over clients ends and whom it leaves alone: real sockets, whose holder would never end them."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest

from fastgw.http.slow_clients import (
    LOOKS_AT_ONCE,
    SUSPECT_PERIOD_S,
    SlowClients,
    Standing,
    Timeouts,
    all_descriptors,
    lateness_s,
)
from fastgw.messages import Cut
from tests.fronts.houses import LoopThread
from tests.waiting import eventually

pytestmark = pytest.mark.slow

HEADER_S, WRITE_S, IDLE_S = 0.1, 0.3, 0.4  # a late head, and an idle connection, is cut off a second later
FOR_EVER_S = 1e9


class Watched:
    """A listening socket whose clients are watched, both ends of their connections, and what a front knows of them."""

    def __init__(self, loop_thread: LoopThread, host: str, timeouts: Timeouts) -> None:
        self._call = loop_thread.call
        self.cuts: list[Cut] = []
        self._cut = self.cuts.append
        self.standings: dict[int, Standing] = {}  # by the client's port
        self.rounds = 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listening = socket.socket(family)
        self.listening.bind((host, 0))
        self.listening.listen(512)
        self.watch: SlowClients = self._call(SlowClients, self.listening, timeouts, self, self._cut)
        self._call(self.watch.start)
        self.ends: list[socket.socket] = []

    def connection(self, host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
        """(client, server side) of a new connection."""
        client = socket.socket(self.listening.family)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, self.listening.getsockname()[1]))
        server, _ = self.listening.accept()
        server.setblocking(False)
        client.setblocking(False)
        self.ends += [client, server]
        return client, server

    # What the watch asks.

    def descriptors(self):
        return all_descriptors()

    def standing(self, _fd, connection):
        return self.standings.get(connection.getpeername()[1])

    def round_ends(self) -> None:
        self.rounds += 1

    def asks(self, client: socket.socket) -> None:
        """A request of this client waits."""
        self.standings[client.getsockname()[1]] = Standing(True, 0.0)

    def is_answered(self, client: socket.socket, ago_s: float = 0.0) -> None:
        """It was, and is between two requests."""
        now = self._call(lambda: asyncio.get_running_loop().time())
        self.standings[client.getsockname()[1]] = Standing(False, now - ago_s)

    def close(self) -> None:
        self._call(self.watch.stop)
        for one in (self.listening, *self.ends):
            one.close()


@pytest.fixture(scope="module")
def loop_thread():
    thread = LoopThread()
    yield thread
    assert thread.failures == []
    thread.stop()


@pytest.fixture
def watch(loop_thread):
    watched = []

    def start(host="127.0.0.1", write_s=WRITE_S, header_s=HEADER_S, idle_s=IDLE_S):
        watched.append(Watched(loop_thread, host, Timeouts(write_s, header_s, idle_s)))
        return watched[-1]

    yield start
    for one in watched:
        one.close()


def is_ended(server: socket.socket) -> bool:
    """What the owner of an accepted socket sees when its client has left."""
    try:
        return server.recv(1) == b""
    except BlockingIOError:
        return False
    except (ConnectionResetError, TimeoutError):  # a reset, or TCP_USER_TIMEOUT
        return True


def fill(server: socket.socket) -> None:
    """Queue as much as the kernel takes."""
    try:
        while True:
            server.send(bytes(65536))
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):  # or it has been ended meanwhile
        return


def read_a_little(client: socket.socket) -> None:
    try:
        client.recv(4096)
    except (BlockingIOError, ConnectionResetError):
        return


def test_a_silent_client_is_ended_on_whatever_address_it_came(watch):
    addresses = {"127.0.0.1": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::1": "::1", "::": "::1"}
    watched = {address: watch(listening) for listening, address in addresses.items()}
    servers = [one.connection(address)[1] for address, one in watched.items()]
    eventually(lambda: all(is_ended(server) for server in servers))
    assert all(one.cuts == [Cut.SILENT] for one in watched.values())


def test_a_client_that_says_or_hears_something_now_and_then_is_not_ended(watch):
    watched = watch(header_s=10 * HEADER_S)  # more than a busy machine makes this test wait
    (speaker, from_speaker), (listener, to_listener) = watched.connection(), watched.connection()
    watched.asks(speaker)  # a body comes in: bytes without a request would be a head that is late
    _, silent = watched.connection()

    def silent_one_is_ended() -> bool:
        speaker.send(b"a")
        from_speaker.recv(1)
        to_listener.send(b"a")
        listener.recv(1)
        return is_ended(silent)

    eventually(silent_one_is_ended)
    assert not is_ended(from_speaker)
    assert not is_ended(to_listener)


def test_a_client_whose_request_waits_may_be_silent(watch):
    watched = watch()
    waiting, server = watched.connection()
    watched.asks(waiting)
    _, silent = watched.connection()
    eventually(lambda: is_ended(silent))
    assert not is_ended(server)


def test_an_idle_connection_has_its_own_time(watch):
    watched = watch(idle_s=60)
    recent, kept = watched.connection()
    watched.is_answered(recent)
    old, idle = watched.connection()
    watched.is_answered(old, ago_s=62)
    eventually(lambda: is_ended(idle))
    assert not is_ended(kept)
    assert watched.cuts == [Cut.IDLE]


@pytest.mark.parametrize("has_asked", [False, True])
def test_a_head_that_comes_byte_by_byte_and_not_in_time_ends_the_connection(watch, has_asked):
    watched = watch(idle_s=FOR_EVER_S)
    client, server = watched.connection()
    server.send(b"the answer before")
    if has_asked:
        watched.is_answered(client)

    def ended() -> bool:
        client.send(b"G")
        try:
            return server.recv(65536) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    eventually(ended)
    assert watched.cuts == [Cut.SILENT]


def test_a_client_that_is_pinged_in_time_may_say_other_things_than_heads(watch):
    """HTTP/2: answers to pings, acknowledged settings, windows."""
    watched = watch(header_s=0.5)
    client, server = watched.connection()
    _, silent = watched.connection()

    def silent_one_is_ended() -> bool:
        server.send(b"ping")
        client.send(b"pong")
        read_a_little(server)
        return is_ended(silent)

    eventually(silent_one_is_ended)
    assert watched.cuts == [Cut.SILENT]


def test_silence_is_none_of_our_business_where_nobody_asked(watch):
    unasked, clock = watch(header_s=None, idle_s=None), watch()
    _, server = unasked.connection()
    _, silent = clock.connection()
    eventually(lambda: is_ended(silent))
    assert not is_ended(server)


def test_an_answer_has_one_write_timeout_however_often_a_little_of_it_is_taken(watch):
    """The kernel takes more off the front's hands whenever a little was read: that is no new beginning."""
    watched = watch(write_s=1.0, header_s=None, idle_s=None)
    client, server = watched.connection()
    fill(server)
    begun_s = time.monotonic()
    watched.is_answered(client)

    def ended() -> bool:
        if is_ended(server):
            return True
        fill(server)
        for _ in range(1000):  # it keeps up well enough for everything that was queued at any moment
            read_a_little(client)
        return False

    eventually(ended)
    assert watched.cuts == [Cut.SLOW_READER]
    assert time.monotonic() - begun_s > 1.0


@pytest.mark.parametrize("write_s", [0.1, 0.3, 1.0, 5.0, 10.0, 20.0, 60.0])
@pytest.mark.parametrize("header_s", [None, 10.0])
def test_rounds_are_near_enough_for_the_precision_that_is_promised(loop_thread, write_s, header_s):
    """What is queued may be noticed one round later, and looked at again a little late."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        timeouts = Timeouts(write_s, header_s)
        watch = loop_thread.call(SlowClients, listening, timeouts, Clientless(), lambda _: None)
    latest_s = watch._period_s + 2 * SUSPECT_PERIOD_S
    assert latest_s <= lateness_s(write_s)
    assert lateness_s(write_s) == max(1.0, 0.1 * write_s)


class Clientless:
    """A front without any."""


def test_a_reader_that_stands_still_is_ended_in_time_although_the_rounds_are_far_apart(watch):
    """The next request of a busy client hides when its answer was given: what is queued counts from its first look."""
    watched = watch(write_s=2.0, header_s=None, idle_s=None)
    lateness, attempts = [], 4
    while not lateness or (min(lateness) > lateness_s(2.0) and len(lateness) < attempts):
        client, server = watched.connection()
        watched.asks(client)
        begun_s = time.monotonic()
        fill(server)

        def ended(server=server, client=client) -> bool:
            read_a_little(client)
            return is_ended(server)

        eventually(ended)
        lateness.append(time.monotonic() - begun_s - 2.0)
    assert 0 <= min(lateness) <= lateness_s(2.0), lateness


def test_a_front_may_know_better_that_a_client_is_late(watch):
    """Nothing is queued in the kernel: an HTTP/2 client that opens no window."""
    watched = watch(write_s=60, header_s=60, idle_s=60)
    client, server = watched.connection()
    (_, other_server) = watched.connection()
    server.send(b"a head")
    read_a_little(client)
    watched.standings[client.getsockname()[1]] = Standing(True, 0.0, is_late=True)
    watched._call(watched.watch.look, server.fileno())
    assert watched.cuts == [Cut.SLOW_READER]
    assert is_ended(server)
    watched._call(watched.watch.look, other_server.fileno())
    watched._call(watched.watch.look, -1)
    assert watched.cuts == [Cut.SLOW_READER]
    assert not is_ended(other_server)


def test_what_is_sent_long_after_the_answer_is_no_answer_that_is_not_taken(watch):
    """Such as the pings of HTTP/2: one is under way for a moment, and that moment may be the one of a look."""
    watched = watch(write_s=2.0, header_s=None, idle_s=None)  # a round takes half a second
    client, server = watched.connection()
    watched.is_answered(client, ago_s=100.0)
    for _ in range(2):
        rounds = watched.rounds
        fill(server)
        eventually(lambda rounds=rounds: watched.rounds > rounds)
        for _ in range(5000):
            read_a_little(client)
        rounds = watched.rounds
        eventually(lambda rounds=rounds: watched.rounds > rounds)
    assert watched.cuts == []


def test_a_reader_that_takes_a_little_now_and_then_is_ended(watch):
    watched = watch(header_s=None, idle_s=None)
    client, server = watched.connection()
    fill(server)

    def ended() -> bool:
        if is_ended(server):
            return True
        read_a_little(client)
        return False

    eventually(ended)
    assert watched.cuts == [Cut.SLOW_READER]


def test_what_was_queued_for_a_slow_reader_is_dropped_with_it(watch):
    watched = watch(header_s=None, idle_s=None)
    client, server = watched.connection()
    fill(server)

    def is_reset() -> bool:
        try:
            return client.recv(4096) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def ended() -> bool:
        read_a_little(client)
        return is_ended(server)

    eventually(ended)
    server.close()  # as its owner does
    eventually(is_reset)


def test_a_reader_that_takes_nothing_is_ended_by_the_kernel(watch):
    watched = watch(header_s=None, idle_s=None)
    watched._call(watched.watch.stop)  # the watch is not needed for it
    _, server = watched.connection()
    fill(server)
    eventually(lambda: is_ended(server))


def test_a_reader_that_always_has_something_to_take_but_keeps_up_is_not_ended(watch):
    """A busy connection is never seen with an empty queue; what counts is that it moves on."""
    watched = watch(header_s=None, idle_s=None)
    (reader, busy), (_, stalled), (slow, trickling) = (watched.connection() for _ in range(3))
    fill(stalled)
    fill(trickling)

    def others_are_ended() -> bool:
        fill(busy)
        for _ in range(2000):
            read_a_little(reader)
        read_a_little(slow)
        return is_ended(stalled) and is_ended(trickling)

    eventually(others_are_ended)
    assert not is_ended(busy)


def test_clients_of_another_address_are_left_alone(watch):
    watched, clock = watch(), watch()
    _, ours = watched.connection()
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        _, silent = clock.connection()
        foreign_client = socket.create_connection(elsewhere.getsockname())
        foreign, _ = elsewhere.accept()
        foreign.setblocking(False)
        eventually(lambda: is_ended(ours) and is_ended(silent))
        assert not is_ended(foreign)
        foreign.close()
        foreign_client.close()


def test_descriptors_that_are_no_tcp_sockets_do_no_harm(watch):
    pipe = os.pipe()
    pair = socket.socketpair()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    watched = watch()
    _, server = watched.connection()
    eventually(lambda: is_ended(server))
    pair[0].send(b"x")
    assert pair[1].recv(1) == b"x"
    for one in (*pair, datagrams):
        one.close()
    for fd in pipe:
        os.close(fd)


def test_more_clients_than_are_looked_at_at_once_are_all_seen(watch):
    watched = watch()
    servers = [watched.connection()[1] for _ in range(2 * LOOKS_AT_ONCE)]
    eventually(lambda: all(is_ended(server) for server in servers))


@pytest.mark.alone
def test_watching_leaves_no_descriptors_behind(watch):
    watched = watch()
    _, before = watched.connection()
    eventually(lambda: is_ended(before))
    open_before = len(os.listdir("/proc/self/fd"))
    _, server = watched.connection()
    eventually(lambda: is_ended(server))
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= open_before + 2, message="only the new connection is added")


def test_after_stop_nobody_is_ended(watch):
    stopped, clock = watch(), watch()
    stopped._call(stopped.watch.stop)
    stopped._call(stopped.watch.stop)
    _, server = stopped.connection()
    _, silent = clock.connection()
    eventually(lambda: is_ended(silent))
    assert not is_ended(server)
