"""The embedded broker: librdkafka's mock cluster, used through ctypes from the library in the confluent-kafka wheel.

It is for the demo and for tests: it starts at once and needs no installation. Limits: its Fetch does not wake on new
records (clients set `fetch.wait.max.ms` to 1-5), and it has no admin API, no TLS and no disk. So it is never used for
performance measurements. An undeclared topic is created on first use, with 4 partitions.

The mock API is not part of librdkafka's stable ABI; only this file uses it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import FrameType, TracebackType

import confluent_kafka
from setproctitle import setproctitle

from fastgw import loaded_library, topic_names
from fastgw.ids import PARTITIONS_MAX

# A legal topic name, and a number of partitions that the mock creates quickly.
TOPIC = re.compile(rf"(?P<name>{topic_names.LEGAL}):(?P<partitions>[0-9]{{1,4}})")

START_TIMEOUT_S = 30.0  # it takes 0.2 s on an idle machine
STOP_TIMEOUT_S = 5.0

_PRODUCER = 0  # rd_kafka_type_t: the mock cluster needs any client handle
_CONF_OK = 0


class BrokerError(Exception):
    """The embedded broker cannot be started; the message says why, in one line."""


def run(
    topics: Iterable[tuple[str, int]],
    *,
    brokers: int = 1,
    listen: str = "",
    advertise: str = "",
    life_fd: int | None = None,
    announce: Callable[[str], None] | None = None,
) -> int:
    """Run the embedded broker until SIGTERM, SIGINT, or end of file on `life_fd`.

    Args:
        topics: (name, number of partitions) of each topic to create at the start.
        brokers: the number of brokers, each on its own port.
        listen: "host:port" of the first broker; the others take the next ports. By default 127.0.0.1 and free ports.
        advertise: the host name that the brokers advertise to clients; by default that of `listen`.
        life_fd: read end of a pipe; end of file on it ends the broker, so that it never outlives its parent.
        announce: called with the bootstrap address; by default it is printed as one line on stdout.

    Returns:
        The exit code: 0.

    Raises:
        BrokerError: a topic cannot be created, or there is no librdkafka with a mock cluster.
    """
    place = _parse_listen(listen, advertise, brokers) if listen else None
    setproctitle("fastgw: broker")
    ends = _EndSignals()
    cluster = MockCluster(brokers)
    try:
        if place is not None:
            cluster.move_to(*place)
        for name, partitions in topics:
            cluster.create_topic(name, partitions)
        (announce or _print_line)(cluster.bootstrap)
        ends.wait(life_fd)
    finally:
        cluster.close()
    return 0


def parse_topic(text: str) -> tuple[str, int]:
    """Read `"orders:12"` as topic name and number of partitions.

    Raises:
        BrokerError: the text is invalid; the message says what was expected.
    """
    found = TOPIC.fullmatch(text)
    partitions = int(found["partitions"]) if found else 0
    if not found or not 1 <= partitions <= PARTITIONS_MAX:
        raise BrokerError(f"topic: expected NAME:PARTITIONS (1 to {PARTITIONS_MAX}), such as orders:12, got {text!r}")
    return found["name"], partitions


def _parse_listen(listen: str, advertise: str, brokers: int) -> tuple[str, int, str]:
    """Host, port, and the host for clients.

    Raises:
        BrokerError: it is not an address, or it cannot be advertised to clients.
    """
    host, _, digits = listen.rpartition(":")
    port = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 5 else -1
    if not host or "[" in host or not 0 <= port <= 65536 - brokers:
        raise BrokerError(f"listen: expected HOST:PORT with an IPv4 address or a name, 127.0.0.1:9092, got {listen!r}")
    if host == "0.0.0.0" and not advertise:  # noqa: S104  # compared, not bound
        raise BrokerError("listen: 0.0.0.0 needs --advertise with the host name or address for clients")
    return host, port, advertise or host


class MockCluster:
    """One mock cluster in this process; runs in librdkafka's own threads until `close`."""

    def __init__(self, brokers: int = 1) -> None:
        self._library = _library()
        self._client = _client(self._library)
        self._cluster: int | None = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        if not self._cluster:
            raise BrokerError(f"librdkafka refused a mock cluster of {brokers} brokers")
        # By default the first consumer of a group waits 3 s for others: too long for a demo.
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self.bootstrap: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def __repr__(self) -> str:
        return f"<MockCluster {self.bootstrap}{'' if self._cluster else ' closed'}>"

    def move_to(self, host: str, port: int, advertised: str) -> None:
        """Listen on `host`, from `port` upwards, one port for each broker, and advertise the host `advertised`.

        librdkafka's mock brokers always listen on free ports of 127.0.0.1. This method replaces their listening sockets
        by duplicating another socket onto the same descriptor.

        Raises:
            BrokerError: an address cannot be listened on; the message says why.
        """
        told = []
        for number, address in enumerate(self.bootstrap.split(",")):
            with _listening(host, port + number if port else 0) as ours:
                os.dup2(ours.fileno(), _descriptor_of(int(address.rpartition(":")[2])), inheritable=False)
                own_port = ours.getsockname()[1]
            # Also wakes the thread that still waits on the old socket.
            self._library.rd_kafka_mock_broker_set_host_port(self._cluster, number + 1, advertised.encode(), own_port)
            told.append(f"{advertised}:{own_port}")
        self.bootstrap = ",".join(told)

    def create_topic(self, name: str, partitions: int) -> None:
        """Create one topic with one replica.

        Raises:
            BrokerError: the topic exists already, or librdkafka refuses it.
        """
        problem = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        if problem:
            why = self._library.rd_kafka_err2str(problem).decode()
            raise BrokerError(f"topic {name!r} with {partitions} partitions could not be created: {why}")

    # Faults, for tests. Brokers are numbered from 1.

    def push_errors(self, api_key: int, codes: Sequence[int]) -> None:
        """Answer the next requests of one type with these errors, one each, instead of executing them.

        Args:
            api_key: the request type in Kafka's protocol (0 Produce, 1 Fetch, 2 ListOffsets, 3 Metadata).
            codes: Kafka's error codes.
        """
        array = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, api_key, len(codes), array)

    def push_errors_at(self, broker: int, api_key: int, codes: Sequence[int]) -> None:
        """The same for a single broker."""
        push = self._library.rd_kafka_mock_broker_push_request_error_rtts
        # Pairs of error and delay.
        pairs = [ctypes.c_int(number) for code in codes for number in (code, 0)]
        push(
            ctypes.c_void_p(self._cluster),
            ctypes.c_int32(broker),
            ctypes.c_int16(api_key),
            ctypes.c_size_t(len(codes)),
            *pairs,
        )

    def set_leader(self, topic: str, partition: int, broker: int) -> None:
        """Make this broker the leader of a partition."""
        self._library.rd_kafka_mock_partition_set_leader(self._cluster, topic.encode(), partition, broker)

    def set_down(self, broker: int = 1) -> None:
        """Close every connection to a broker and refuse new ones."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def set_up(self, broker: int = 1) -> None:
        """Let a broker accept connections again after `set_down`."""
        self._library.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def set_round_trip(self, milliseconds: int, broker: int = 1) -> None:
        """Delay every response of a broker by this time; 0 ends the delay."""
        self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, milliseconds)

    def close(self) -> None:
        """End the cluster; may be called again."""
        if self._cluster:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._library.rd_kafka_destroy(self._client)
            self._cluster = None


class EmbeddedBroker:
    """The embedded broker as a child process; a context manager.

    Args:
        topics: name -> number of partitions, created before `bootstrap` is known.
        brokers: the number of brokers.
    """

    def __init__(self, topics: Mapping[str, int] | None = None, *, brokers: int = 1) -> None:
        self.topics = dict(topics or {})
        self.brokers = brokers
        self.bootstrap = ""  # "host:port", once started
        self._process: subprocess.Popen[str] | None = None
        self._life_fd = -1  # closed when this process ends, for any reason: this ends the child

    def __repr__(self) -> str:
        state = f"{self.bootstrap} pid {self.pid}" if self.pid else "not running"
        return f"<EmbeddedBroker {state}, topics {self.topics}>"

    def __enter__(self) -> EmbeddedBroker:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The pid of the child; None if it does not run."""
        return self._process.pid if self._process else None

    def start(self) -> EmbeddedBroker:
        """Start the child and wait for its address.

        Raises:
            BrokerError: the child ended or did not report in time; stderr has its message.
        """
        theirs, self._life_fd = os.pipe()
        topics = [f"{name}:{partitions}" for name, partitions in self.topics.items()]
        options = ["--brokers", str(self.brokers), "--life-fd", str(theirs)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastgw.demo.broker", *options, *topics],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, pass_fds=[theirs],
            start_new_session=True,  # Ctrl-C reaches only the parent, which ends the broker last
        )  # fmt: skip
        os.close(theirs)
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START_TIMEOUT_S)
        self.bootstrap = self._process.stdout.readline().strip() if readable else ""
        if not self.bootstrap:
            self.stop()
            raise BrokerError(f"the embedded broker did not start with topics {self.topics}")
        return self

    def stop(self) -> None:
        """End the child; may be called again."""
        process, self._process = self._process, None
        if process is None:
            return
        os.close(self._life_fd)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class _EndSignals:
    # SIGTERM and SIGINT as a file descriptor, so that one select can wait for them and for the life pipe. Created
    # before the cluster, so that a signal during the start also ends it in order.

    def __init__(self) -> None:
        self._wake, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._nothing_more)

    def wait(self, life_fd: int | None) -> None:
        select.select([self._wake] if life_fd is None else [self._wake, life_fd], [], [])

    @staticmethod
    def _nothing_more(_number: int, _frame: FrameType | None) -> None:
        """The wake-up descriptor has reported the signal."""


def _listening(host: str, port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((host, port))
        one.listen()
    except OSError as error:
        one.close()
        advice = "end the process that listens there, or choose another --listen" if port else "choose another --listen"
        raise BrokerError(f"address {host}:{port}: {error.strerror or error}; {advice}") from error
    return one


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # the descriptor of the listing itself, which is closed by now
        return False


def _descriptor_of(port: int) -> int:
    """The descriptor of this process that listens on 127.0.0.1 at `port`."""
    for number in map(int, os.listdir("/proc/self/fd")):
        if _is_socket(number):
            with socket.socket(fileno=os.dup(number)) as one:
                listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if listens and one.getsockname() == ("127.0.0.1", port):
                    return number
    raise BrokerError(f"this librdkafka's mock cluster does not listen on 127.0.0.1:{port}")


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(_library_path())
    pointer = ctypes.c_void_p
    try:
        library.rd_kafka_conf_new.restype = pointer
        library.rd_kafka_conf_set.argtypes = [pointer, *[ctypes.c_char_p] * 3, ctypes.c_size_t]
        library.rd_kafka_new.restype = pointer
        library.rd_kafka_new.argtypes = [ctypes.c_int, pointer, ctypes.c_char_p, ctypes.c_size_t]
        library.rd_kafka_destroy.argtypes = [pointer]
        library.rd_kafka_err2str.restype = ctypes.c_char_p
        library.rd_kafka_mock_cluster_new.restype = pointer
        library.rd_kafka_mock_cluster_new.argtypes = [pointer, ctypes.c_int]
        library.rd_kafka_mock_cluster_destroy.argtypes = [pointer]
        library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        library.rd_kafka_mock_cluster_bootstraps.argtypes = [pointer]
        library.rd_kafka_mock_topic_create.argtypes = [pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
        library.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [pointer, ctypes.c_int32]
        library.rd_kafka_mock_push_request_errors_array.argtypes = [
            pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)
        ]  # fmt: skip
        library.rd_kafka_mock_partition_set_leader.argtypes = [
            pointer, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32
        ]  # fmt: skip
        library.rd_kafka_mock_broker_set_host_port.argtypes = [
            pointer, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int
        ]  # fmt: skip
        library.rd_kafka_mock_broker_set_down.argtypes = [pointer, ctypes.c_int32]
        library.rd_kafka_mock_broker_set_up.argtypes = [pointer, ctypes.c_int32]
        library.rd_kafka_mock_broker_set_rtt.argtypes = [pointer, ctypes.c_int32, ctypes.c_int]
    except AttributeError as error:
        raise BrokerError(f"this librdkafka has no mock cluster: {error}") from error
    return library


def _library_path() -> str:
    if path := loaded_library.path_of("librdkafka"):
        return path
    raise BrokerError(f"confluent_kafka {confluent_kafka.__version__} has not loaded a librdkafka of its own")


def _client(library: ctypes.CDLL) -> int:
    problem = ctypes.create_string_buffer(512)
    conf = library.rd_kafka_conf_new()
    # Errors only: the client has no brokers of its own and would warn about that.
    assert library.rd_kafka_conf_set(conf, b"log_level", b"3", problem, len(problem)) == _CONF_OK, problem.value
    client: int | None = library.rd_kafka_new(_PRODUCER, conf, problem, len(problem))
    if not client:
        raise BrokerError(f"librdkafka refused a client: {problem.value.decode()}")
    return client


def _print_line(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """`python -m fastgw.demo.broker [options] [TOPIC:PARTITIONS ...]`; the exit code is 2 for a mistake in these."""
    parser = argparse.ArgumentParser(prog="python -m fastgw.demo.broker", description="Run the embedded broker.")
    parser.add_argument("topics", nargs="*", metavar="TOPIC:PARTITIONS")
    parser.add_argument("--brokers", type=int, default=1)
    parser.add_argument("--listen", default="", metavar="HOST:PORT", help="where the first broker listens")
    parser.add_argument("--advertise", default="", metavar="HOST", help="host name for clients, if it differs")
    parser.add_argument("--life-fd", type=int, default=None, help="end when the other end of this pipe is closed")
    options = parser.parse_args(arguments)
    try:
        topics = [parse_topic(text) for text in options.topics]
        return run(
            topics,
            brokers=options.brokers,
            listen=options.listen,
            advertise=options.advertise,
            life_fd=options.life_fd,
        )
    except BrokerError as error:
        print(f"fastgw broker: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
