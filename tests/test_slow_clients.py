"""Whom the watch over clients ends and whom it leaves alone: real sockets, whose holder would never end them."""

from __future__ import annotations

import os
import socket

import pytest

from fastgw.messages import Cut
from fastgw.slow_clients import LOOKS_AT_ONCE, SlowClients
from tests.fronts.houses import LoopThread
from tests.waiting import eventually

WAIT_S, WRITE_S = 0.1, 0.3  # silence is cut off a second after the wait


class Watched:
    """A listening socket whose clients are watched, and both ends of their connections."""

    def __init__(
        self, loop_thread: LoopThread, host: str, write_timeout_s: float, longest_wait_s: float | None
    ) -> None:
        self._call = loop_thread.call
        self.cuts: list[Cut] = []
        self._cut = self.cuts.append
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listening = socket.socket(family)
        self.listening.bind((host, 0))
        self.listening.listen(512)
        wait = None if longest_wait_s is None else lambda: longest_wait_s
        self.watch: SlowClients = self._call(SlowClients, self.listening, write_timeout_s, wait, self._cut)
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

    def start(host="127.0.0.1", write_timeout_s=WRITE_S, longest_wait_s=WAIT_S):
        watched.append(Watched(loop_thread, host, write_timeout_s, longest_wait_s))
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
    except BlockingIOError:
        return


def read_a_little(client: socket.socket) -> None:
    try:
        client.recv(4096)
    except BlockingIOError:
        return


def test_a_silent_client_is_ended_on_whatever_address_it_came(watch):
    addresses = {"127.0.0.1": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::1": "::1", "::": "::1"}
    watched = {address: watch(listening) for listening, address in addresses.items()}
    servers = [one.connection(address)[1] for address, one in watched.items()]
    eventually(lambda: all(is_ended(server) for server in servers))
    assert all(one.cuts == [Cut.SILENT] for one in watched.values())


def test_a_client_that_says_or_hears_something_now_and_then_is_not_ended(watch):
    watched = watch()
    (speaker, from_speaker), (listener, to_listener) = watched.connection(), watched.connection()
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


def test_a_client_may_be_silent_for_as_long_as_a_request_may_wait(watch, loop_thread):
    patient, clock = watch(longest_wait_s=60), watch(longest_wait_s=WAIT_S)
    _, waiting = patient.connection()
    _, silent = clock.connection()
    eventually(lambda: is_ended(silent))
    assert not is_ended(waiting)


def test_silence_is_none_of_our_business_where_nobody_asked(watch):
    unasked, clock = watch(longest_wait_s=None), watch()
    _, server = unasked.connection()
    _, silent = clock.connection()
    eventually(lambda: is_ended(silent))
    assert not is_ended(server)


def test_a_reader_that_takes_a_little_now_and_then_is_ended(watch):
    watched = watch(longest_wait_s=None)
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
    watched = watch(longest_wait_s=None)
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
    watched = watch(longest_wait_s=None)
    watched._call(watched.watch.stop)  # the watch is not needed for it
    _, server = watched.connection()
    fill(server)
    eventually(lambda: is_ended(server))


def test_a_reader_that_always_has_something_to_take_but_keeps_up_is_not_ended(watch):
    """A busy connection is never seen with an empty queue; what counts is that it moves on."""
    watched = watch(longest_wait_s=None)
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
    watched, clock = watch(longest_wait_s=WAIT_S), watch()
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
