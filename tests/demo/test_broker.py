"""The embedded broker: a Kafka that clients take for one, and that never outlives whoever started it."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from fastgw.demo.broker import BrokerError, EmbeddedBroker, parse_topic, run
from tests.actors.alone import left_open
from tests.ports import free_ports
from tests.waiting import eventually

pytestmark = pytest.mark.slow

PYTHON_BROKER = [sys.executable, "-m", "fastgw.demo.broker"]


def partitions_of(bootstrap: str) -> dict[str, int]:
    topics = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=10).topics
    return {name: len(topic.partitions) for name, topic in topics.items()}


def is_alive(pid: int) -> bool:
    """False for a zombie as well: whoever is its parent now may take its time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_topics_are_there_with_their_partitions_when_the_address_is() -> None:
    with EmbeddedBroker({"orders": 12, "shop.replies": 16}) as broker:
        assert partitions_of(broker.bootstrap) == {"orders": 12, "shop.replies": 16}


def test_a_record_comes_back_with_key_headers_and_value() -> None:
    with EmbeddedBroker({"orders": 4}) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True})
        producer.produce("orders", b"value", key=b"key", headers={"correlation_id": b"id", "empty": None}, partition=3)
        assert producer.flush(10) == 0
        consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "none", "fetch.wait.max.ms": 5})
        try:
            consumer.assign([TopicPartition("orders", 3, 0)])
            message = eventually(lambda: consumer.poll(0.1), message="the record is fetched")
        finally:
            consumer.close()
    assert (message.key(), message.value(), message.partition()) == (b"key", b"value", 3)
    assert message.headers() == [("correlation_id", b"id"), ("empty", None)]


def test_several_brokers_have_several_addresses() -> None:
    with EmbeddedBroker({"orders": 4}, brokers=3) as broker:
        assert len(set(broker.bootstrap.split(","))) == 3
        assert len(AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=10).brokers) == 3


@contextlib.contextmanager
def command(*arguments: str) -> Iterator[str]:
    """The broker as a command; what it prints."""
    with subprocess.Popen([*PYTHON_BROKER, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_broker_listens_where_it_is_told_and_sends_its_clients_there(host: str) -> None:
    port = free_ports(2)[0]
    with command("--brokers", "2", "--listen", f"{host}:{port}", "orders:4") as told:
        assert told == f"{host}:{port},{host}:{port + 1}"
        # Of the second alone: what it tells of the first has to be right as well.
        cluster = AdminClient({"bootstrap.servers": f"{host}:{port + 1}"}).list_topics(timeout=10)
        assert sorted(str(broker) for broker in cluster.brokers.values()) == [
            f"{host}:{port}/1",
            f"{host}:{port + 1}/2",
        ]
        producer = Producer({"bootstrap.servers": f"{host}:{port}", "enable.idempotence": True})
        for partition in range(4):
            producer.produce("orders", b"value", partition=partition)
        assert producer.flush(10) == 0


def test_a_broker_advertises_another_host_than_that_on_which_it_listens() -> None:
    with command("--listen", "0.0.0.0:0", "--advertise", "localhost") as told:
        host, _, port = told.rpartition(":")
        assert host == "localhost"
        (broker,) = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"}).list_topics(timeout=10).brokers.values()
        assert str(broker) == f"localhost:{port}/1"


def test_an_address_that_a_broker_cannot_have_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*PYTHON_BROKER, "--listen", f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=30, check=False
        )
    assert done.returncode == 2
    assert done.stderr == (
        f"fastgw broker: address 127.0.0.1:{port}: Address already in use; end the process that listens there, or "
        "choose another --listen\n"
    )


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("9092", "expected HOST:PORT"),
        (":9092", "expected HOST:PORT"),
        ("[::1]:9092", "an IPv4 address or a name"),
        ("127.0.0.1:65536", "expected HOST:PORT"),
        ("127.0.0.1:65535", "expected HOST:PORT"),
        ("0.0.0.0:9092", "say with --advertise by which host"),
    ],
)
def test_an_address_that_is_none_says_what_is_expected(listen: str, says: str) -> None:
    with pytest.raises(BrokerError, match=says):
        run([], brokers=2, listen=listen)


def test_stop_leaves_no_process_and_may_be_called_again() -> None:
    broker = EmbeddedBroker().start()
    pid = broker.pid
    assert pid is not None
    assert is_alive(pid)
    broker.stop()
    broker.stop()
    assert not is_alive(pid)
    assert repr(broker) == "<EmbeddedBroker not running, topics {}>"


def test_the_broker_ends_when_its_parent_is_killed() -> None:
    script = "from fastgw.demo.broker import EmbeddedBroker; print(EmbeddedBroker().start().pid, flush=True); input()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    eventually(lambda: not is_alive(pid), message=f"broker {pid} has ended")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_prints_one_line_and_ends_in_order(number: signal.Signals) -> None:
    with subprocess.Popen([*PYTHON_BROKER, "orders:2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().decode()
        assert address.startswith("127.0.0.1:")
        assert partitions_of(address.strip()) == {"orders": 2}
        process.send_signal(number)
        assert process.wait(10) == 0
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")


@pytest.mark.parametrize("text", ["orders", "orders:", "orders:0", "orders:4097", "or ders:4", ":4", "orders:-1", ""])
def test_a_malformed_topic_says_what_was_expected(text: str) -> None:
    with pytest.raises(BrokerError, match=r"expected NAME:PARTITIONS \(1 to 4096\)") as raised:
        parse_topic(text)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize(
    ("topics", "expected"),
    [(["orders"], "got 'orders'"), (["orders:2", "orders:3"], "'orders' with 3 partitions could not be created")],
)
def test_a_mistake_in_the_command_is_one_line_and_exit_code_2(topics: list[str], expected: str) -> None:
    done = subprocess.run([*PYTHON_BROKER, *topics], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fastgw broker: ")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


UNSTARTABLE = """
try:
    EmbeddedBroker({"no good name": 1}).start()
except BrokerError as error:
    print(error)
"""


def test_a_broker_that_cannot_start_is_an_error_and_leaves_nothing_open() -> None:
    *error, left = left_open("from fastgw.demo.broker import BrokerError, EmbeddedBroker\n", UNSTARTABLE).splitlines()
    assert "did not start" in "".join(error)
    assert "expected NAME:PARTITIONS" in "".join(error)
    assert left == "left open:"
