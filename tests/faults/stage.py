"""The stage of a scenario: brokers, topics, a service, one or more gateways, and clients that are at work.

A `House` says what stands on a stage; opening one takes seconds, so scenarios that leave it as they found it follow
one another in the same house. A `Stage` is what one scenario sees of it: it injects faults and notes when.
"""

from __future__ import annotations

import random
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka.admin import NewTopic

from tests.conftest import have_leaders
from tests.faults import key_clients
from tests.faults.clients import Clients, Habits
from tests.faults.clock_ahead import ahead
from tests.faults.disks import small_disk
from tests.faults.echo_service import OWN, echo_service
from tests.faults.kafkas import REPLIES_BROKER, REQUESTS_BROKER, Kafka, admin_of
from tests.faults.key_clients import KeyClients
from tests.faults.key_oracle import Written
from tests.faults.key_topics import NO_STARTS, id_of, lanes_of
from tests.faults.stream_clients import StreamClients
from tests.faults.stream_service import stream_service
from tests.faults.ticket_clients import TicketClients
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

TOPIC_S = 30.0
RECOVERY_S = 60.0
REPLY_BYTES_MAX = 12 << 20
LANES = 8  # partitions of the topic of kept replies
LATER_PATH = "/later"
STORE = """
[store]
dir = "{dir}"
max_bytes = "256MiB"
[later]
topic = "{topic}"
"""
LATER = """
[[route]]
name = "later"
method = "POST"
path = "{path}"
topic = "{requests}"
timeout = "{timeout}"
work_timeout = "5m"
later = true
"""
TAKE_OVER_MS = 7000  # of the route below: its work_timeout, its timeout, and 5 s
KEYED = """
[[route]]
name = "{name}"
method = "POST"
path = "{path}"
topic = "{keyed}"
idempotency = "require"
timeout = "1s"
"""
SECRET = "the secret of all scenarios about status URLs, keys, and positions in streams"
IDLE_S, LONGEST_S = 5, 600  # of streams
STREAMS = """
[streams]
topic = "{topic}"
"""
STREAM_ROUTE = """
[[route]]
name = "{name}"
method = "GET"
path = "/{name}"
topic = "{streamed}"
reply = "stream"
timeout = "{timeout}"
idle_timeout = "{idle}s"
max_duration = "{longest}s"
stream_buffer = "64KiB"
{more}
"""
STREAM_ROUTES = {"streams": "end_line = true", "bytes": 'items = "bytes"', "lasting": "resume = true"}


def clients_of(furniture: Furniture, habits: Habits) -> Clients:
    """Clients with these habits; not yet at work."""
    if habits.defers:
        return TicketClients(furniture.ports, LATER_PATH, habits)
    if habits.keys:
        return KeyClients(furniture.ports, habits)
    if habits.streams:
        return StreamClients(furniture.ports, habits)
    return Clients(furniture.ports, f"/{furniture.requests}", habits)


def wait(seconds: float) -> None:
    """For faults that have to last."""
    threading.Event().wait(seconds)


class House(NamedTuple):
    """What stands on a stage."""

    kafka: str = "one"  # see kafkas.py
    workers: int = 2
    nodes: int = 1
    cluster: str = "single"  # the gateway's cluster.mode
    only_first_proxied: bool = False  # where there is a proxy: the other nodes reach the brokers without it
    timeout: str = "5s"
    reply_partitions: int = 8
    request_partitions: int = 4
    gateway_settings: str = ""
    front: str = "auto"
    kafka_settings: str = ""
    drain_timeout: str = "10s"
    own_disks: bool = False  # the store of each node has a small one, see disks.py
    manners: tuple[str, ...] = ()  # of the service, see echo_service.py
    defers: bool = False  # it has a route with deferred answers, at LATER_PATH, and each node a store
    keys: bool = False  # it has a route with idempotency keys, and a service of its own behind it
    clock_ahead_s: int = 0  # of the first node, compared with all others
    streams: bool = False  # it has routes that stream, see STREAM_ROUTES, and a service behind them
    requests_max: int = 1 << 30  # whose records its brokers keep: an act of the soak asks for no more

    @property
    def keeps(self) -> bool:
        """Whether each node has a store of kept replies."""
        return self.defers or self.keys


@dataclass
class Fault:
    """One injected fault; monotonic seconds."""

    began_s: float
    over_s: float = 0.0  # when the cause was gone: at once after a SIGKILL, when the brokers are back after an outage
    recovered_s: float = 0.0
    count: int = 1  # of records, where each is a fault of its own


class Furniture:
    """An opened house."""

    def __init__(self, house: House, kafka: Kafka, folder: Path, opened: ExitStack) -> None:
        tag = secrets.token_hex(4)
        self.house = house
        self.kafka = kafka
        self.requests, self.replies = f"asked-{tag}", f"told-{tag}"
        self.make_topic(self.requests, house.request_partitions)
        self.make_topic(self.replies, house.reply_partitions, {"max.message.bytes": str(REPLY_BYTES_MAX)})
        self.later = f"{self.replies}.later" if house.keeps else ""  # the topic of kept replies
        self.later_ids: list[bytes] = []  # of this topic, and of the former ones with its name
        if house.keeps:
            self.make_later()
        # The topics of streams, and of the requests for them.
        self.streams, self.streamed = (f"{self.replies}.streams", f"streamed-{tag}") if house.streams else ("", "")
        if house.streams:
            self.make_topic(self.streams, house.reply_partitions, {"message.timestamp.type": "LogAppendTime"})
            self.make_topic(self.streamed, house.request_partitions)
            self._stream_services = ExitStack()
            opened.callback(self._stream_services.close)
            self.start_stream_service()
        self.keyed = f"keyed-{tag}" if house.keys else ""  # the topic of requests with keys
        if house.keys:
            self.make_topic(self.keyed, house.request_partitions)
            opened.enter_context(echo_service(kafka.bootstrap, self.keyed, OWN, *house.manners))
        self.service = opened.enter_context(echo_service(kafka.bootstrap, self.requests, *house.manners))
        self._folder = folder
        disks = range(house.nodes if house.own_disks else 0)
        self.disks = [opened.enter_context(small_disk(folder / f"disk-{index}")) for index in disks]
        self.gateways = [self.new_gateway(index) for index in range(house.nodes)]
        for gateway in self.gateways:
            gateway.launch()
            opened.push(gateway)
        for gateway in self.gateways:
            gateway.await_ready()
        self.ports = [gateway.port for gateway in self.gateways]

    def tell_gateways_to_end(self) -> None:
        for gateway in self.gateways:
            if not gateway.ended:
                gateway.signal(signal.SIGTERM)

    def make_topic(self, name: str, partitions: int, config: dict[str, str] | None = None) -> None:
        """Creates a topic; every partition has a leader on return."""
        if self.house.kafka == "mock":
            self.kafka.broker.create_topic(name, partitions)
            for number in range(partitions):
                self.kafka.broker.set_leader(name, number, REQUESTS_BROKER if name == self.requests else REPLIES_BROKER)
            return
        admin = admin_of(self.kafka.bootstrap)
        admin.create_topics([NewTopic(name, partitions, -1, config=config or {})])[name].result(TOPIC_S)
        eventually(lambda: have_leaders(admin, {name: partitions}), TOPIC_S, f"leaders for {name}")

    def make_later(self) -> None:
        """Creates the topic of kept replies."""
        self.make_topic(self.later, LANES, {"message.timestamp.type": "LogAppendTime"})
        self.later_ids.insert(0, id_of(admin_of(self.kafka.bootstrap), self.later))

    def store_dir(self, index: int) -> Path:
        """Where the store of a node keeps its files."""
        return (self.disks[index].folder if self.disks else self._folder) / f"store-{index}"

    def start_stream_service(self) -> None:
        """Starts a service behind the routes that stream."""
        service = stream_service(self.kafka.bootstrap, self.streamed)
        self.stream_service: subprocess.Popen = self._stream_services.enter_context(service)

    def _stream_routes(self) -> str:
        house = self.house
        values = {"streamed": self.streamed, "timeout": house.timeout, "idle": IDLE_S, "longest": LONGEST_S}
        routes = [STREAM_ROUTE.format(name=name, more=more, **values) for name, more in STREAM_ROUTES.items()]
        return STREAMS.format(topic=self.streams) + "".join(routes)

    def lanes(self, starts: Mapping[int, int] = NO_STARTS) -> dict[int, list[Written]]:
        """What was written to the lanes, from these offsets on."""
        return lanes_of(self.kafka.bootstrap, self.later, SECRET, self.later_ids, starts)

    def _routes(self, index: int) -> str:
        """What the configuration of a node says about routes that keep replies or stream."""
        house = self.house
        parts = []
        if house.keeps:
            parts.append(STORE.format(dir=self.store_dir(index), topic=self.later))
        if house.defers:
            parts.append(LATER.format(path=LATER_PATH, requests=self.requests, timeout=house.timeout))
        if house.keys:
            parts.append(KEYED.format(name=key_clients.ROUTE, path=key_clients.PATH, keyed=self.keyed))
        if house.streams:
            parts.append(self._stream_routes())
        return "".join(parts)

    def new_gateway(self, index: int, count: int | None = None) -> Gateway:
        """A node that is not started yet."""
        house = self.house
        count = house.nodes if count is None else count
        cluster = f'[cluster]\nmode = "{house.cluster}"\n'
        if house.cluster == "static":
            cluster += f"node_index = {index}\nnode_count = {count}\n"
        elif house.cluster == "group":
            cluster += f'group_id = "{self.replies}"\n'
        directly = house.only_first_proxied and index > 0
        return Gateway(
            self._folder,
            self.kafka.bootstrap if directly else self.kafka.for_gateways,
            self.replies,
            [self.requests],
            workers=house.workers,
            timeout=house.timeout,
            more=cluster + self._routes(index),
            settings=house.gateway_settings + (f'\nsecrets = ["{SECRET}"]' if house.keeps or house.streams else ""),
            kafka=house.kafka_settings,
            drain_timeout=house.drain_timeout,
            front=house.front,
            environ=ahead(house.clock_ahead_s, self._folder) if house.clock_ahead_s and index == 0 else None,
        )


@contextmanager
def open_house(house: House, kafka: Kafka, folder: Path) -> Iterator[Furniture]:
    """The house, ready for its first scenario; drained and closed on the way out."""
    with ExitStack() as opened:
        furniture = Furniture(house, kafka, folder, opened)
        opened.callback(furniture.tell_gateways_to_end)  # together: a node of a group takes its time to leave
        yield furniture


@dataclass
class Stage:
    """What a scenario plays on.

    Attributes:
        faults_wanted: how many faults a scenario that injects many should inject.
        faults: those injected so far.
        progress: told now and then what happens, for people.
        notes: what a scenario has measured, for people.
    """

    furniture: Furniture
    clients: Clients
    habits: Habits
    faults_wanted: int
    progress: Callable[[str], None]
    chance: random.Random
    faults: list[Fault] = field(default_factory=list)
    more_clients: list[Clients] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def gateway(self) -> Gateway:
        """The only node, or the first one."""
        return self.furniture.gateways[0]

    @property
    def gateways(self) -> list[Gateway]:
        return self.furniture.gateways

    @property
    def broker(self) -> Any:
        return self.furniture.kafka.broker

    def some_moment(self, at_most_s: float = 0.3) -> None:
        """Lets a random time pass, so that faults meet the gateway in every state."""
        wait(self.chance.uniform(0.0, at_most_s))

    def all_ready(self) -> bool:
        return all(gateway.ready for gateway in self.gateways if not gateway.ended)

    def also(self, habits: Habits) -> Clients:
        """Further clients, at work inside a `with`; their answers are judged with those of the others."""
        self.more_clients.append(clients_of(self.furniture, habits))
        return self.more_clients[-1]

    @contextmanager
    def fault(self, recovered: Callable[[], object] | None = None, serves_on: bool = True) -> Iterator[Fault]:
        """Injects a fault inside the block, at whose end its cause is gone; returns when the service has recovered.

        Args:
            recovered: when that is; every node is ready by default.
            serves_on: in any case a request that began after the end of the block has to be answered. False for
                faults that nobody survives.
        """
        self.clients.stir()
        fault = Fault(time.monotonic())
        self.faults.append(fault)
        self.progress(f"fault {len(self.faults)}")
        yield fault
        fault.over_s = time.monotonic()
        self.clients.stir()
        eventually(recovered or self.all_ready, RECOVERY_S, "the gateway has recovered")
        if serves_on:
            eventually(lambda: self.clients.answered_since(fault.over_s), RECOVERY_S, "a new request is answered")
        fault.recovered_s = time.monotonic()
