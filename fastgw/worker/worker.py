"""One worker process: builds the parts of the request path and joins them. The only place where they meet.

Everything runs on one uvloop thread. The fronts call the door (`admit`, `open`, `gone`), the Kafka link calls the
events (`replies`, `delivered`, ...), the mesh calls `forwarded`, and a tick does what time asks for: deadlines,
delivery reports, the heartbeat, a new partition map, the canary.

    starting ──(canary seen, fronts listening)──> ready ──(SIGTERM or supervisor gone)──> draining ──> exit 0
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import setproctitle
import structlog
import uvloop

from fastgw import _ctable, config, errors, ids, logs, table
from fastgw.body_memory import BodyMemory
from fastgw.config import ACCEPT_BACKLOG, Compression, Config, Listen
from fastgw.core import canary, record_key
from fastgw.core.canary import Canary
from fastgw.core.duplicate_nodes import DuplicateNodes
from fastgw.core.exchange import Exchange, Plan
from fastgw.core.ownership import NO_HOME, Ownership
from fastgw.core.partitioner_learner import PartitionerLearner
from fastgw.core.reply_router import MINE, ReplyRouter, Whose
from fastgw.core.routing import Router
from fastgw.core.spread import Spread
from fastgw.dialects import plain
from fastgw.errors import Ending
from fastgw.forwarding import Forwarding
from fastgw.http.cors import Policies
from fastgw.http.express import ExpressFront
from fastgw.ids import CorrelationId, IdMaker, Partitioner
from fastgw.kafka import open_link
from fastgw.kafka import properties as kafka_properties
from fastgw.kafka.link import FROM_BEGINNING, LinkSettings
from fastgw.mesh.links import MeshLinks
from fastgw.messages import SPREAD, TOGETHER, Record, Reply, ReplyDisposition, Tally
from fastgw.throttle import Throttle
from fastgw.worker.access_log import AccessLog
from fastgw.worker.door import GatewayDoor
from fastgw.worker.journal import Journal
from fastgw.worker.memory_trim import MemoryTrim
from fastgw.worker.notes import Notes

if TYPE_CHECKING:
    from fastgw.http.compression import Compressor
    from fastgw.http.granian import GranianFront

log = structlog.get_logger("fastgw.worker")

TICK_S = 0.025  # the precision of deadlines, and how soon a new map or a delivery report is noticed
ROTATE_HOME_NS = 300_000_000_000  # for balance between brokers and partitions
WAITS_FRESH_NS = 5_000_000_000  # the agent tells every second, if Kafka tells it
LAME_DUCK_S = 1.0  # in a reload: kept-alive clients that are busy send their next request well within it
STOP_READING_AFTER_NS = 1_000_000_000  # after others were told: they may have looked a moment before
# How long another node may need to read a partition that it takes over: a group settles in about one second (design
# section 3), and what arrives while nobody reads is lost to everybody whose reply went astray.
HAND_OVER_NS = 4_000_000_000
ORPHAN_MORE_S = 3.0  # after the drain timeout, for a worker whose supervisor is gone
END_OF_TIME_NS = 1 << 62
EXIT_BROKEN = 70  # sysexits.h: an internal error
SWITCH_INTERVAL_S = 0.0005  # other Python threads only hand batches over: let them in quickly


class Worker:
    """The request path of one process. Implements the Kafka link's `LinkEvents`."""

    def __init__(self, cfg: Config, slot: int, generation: int, table_fd: int, run_dir: Path) -> None:
        self._config = cfg
        self._slot = slot
        self._generation = generation
        self._loop = asyncio.get_running_loop()
        self._table = table.attach(table_fd)
        self._process_index = table.process_index(slot, generation)
        self._table.register(self._process_index, os.getpid(), slot, generation)
        self._ids = IdMaker(self._table.node, slot, generation)
        self._ownership = Ownership(slot, generation)
        self._router = ReplyRouter(self._table, slot, generation, self._ownership)
        self._slots = self._table.open_range(self._process_index)
        classes = delivery_classes([route.timeout_ns for route in cfg.routes])
        self._link_settings = self._build_link_settings(classes)
        self._link = open_link(cfg.kafka.link, self._link_settings, self, self._loop, self._slots)
        self._spreads: dict[Spread, list[Plan]] = {}  # the routes that each of them decides for
        self._watched: list[Plan] = []  # those whose service is looked at by the agent
        plans = self._build_plans(classes)
        link = self._link
        self._journal = Journal()
        self._poison = Throttle()  # of lines about replies that nothing could be made of
        policies = Policies(cfg.cors, cfg.routes)
        self._access_log = AccessLog(cfg.log, slot, self._count_dropped) if cfg.log.access != "off" else None
        names = {route.number: route.name for route in cfg.routes}
        notes = Notes(policies, self._access_log, names) if policies or self._access_log is not None else None
        self._exchange = Exchange(
            self._table,
            self._process_index,
            self._slots,
            self._ids,
            plans,
            link.send,
            link.cancel_unsent,
            self._journal,
            notes,
        )
        self._forwarding = Forwarding(cfg.gateway.trusted_proxies, cfg.gateway.forwarded)
        limits = cfg.limits
        self._bodies = BodyMemory(limits.body_memory_bytes, limits.connection_body_memory_bytes)
        self._entrance = GatewayDoor(
            Router(cfg.routes, cfg.limits, cfg.gateway.hosts, self._forwarding),
            self._exchange,
            self._bodies,
            self._table,
            self._process_index,
            self._journal,
            policies or None,
            notes is not None,
        )
        self._memory_trim = MemoryTrim()
        self._mesh = MeshLinks(run_dir, slot, generation, self.forwarded, on_dropped=self._forward_dropped)
        self._canary = Canary()
        self._duplicates = DuplicateNodes()
        self._fronts: list[GranianFront | ExpressFront] = []
        self._listen_fds: Sequence[int] = ()
        self._home_since_ns = 0
        self._told_leaving: dict[int, int] = {}  # partition -> when the others were told that we stop reading it
        self._draining = False
        self.ready = asyncio.Event()
        self.stopped = asyncio.Event()

    def _build_link_settings(self, classes: Sequence[int]) -> LinkSettings:
        kafka = self._config.kafka
        return LinkSettings(
            kafka_properties.client_properties(kafka.bootstrap, kafka.client),
            self._config.gateway.response_topic,
            [delivery_timeout_ms(timeout_ns) for timeout_ns in classes],
            linger_ms=kafka.linger_ms,
            sticky_linger_ms=kafka.sticky_linger_ms,
            fetch_wait_ms=kafka.fetch_wait_ns // 1_000_000,
            queue_messages=2 * self._config.gateway.slots,
            record_bytes=kafka_properties.record_bytes(self._config.limits, self._config.routes),
            partitioners=kafka_properties.partitioners(self._config.routes),
        )

    def _build_plans(self, classes: Sequence[int]) -> list[Plan]:
        gateway = self._config.gateway
        # Routes of one topic are one service: they learn together.
        learners: dict[tuple[str, str], PartitionerLearner] = {}
        spreads: dict[tuple[str, str], Spread] = {}
        compressor = _compressor(self._config.compression)
        memory = plain.Memory()
        plans = []
        for route in self._config.routes:
            learner = learners.setdefault((route.topic, route.partitioner), PartitionerLearner(route.partitioner))
            spread = spreads.setdefault((route.topic, route.spread), Spread(route.spread))
            wire = plain.RequestWire(gateway.response_topic, route.path, route.methods, route.request_headers)
            delivery_class = class_of(classes, route.timeout_ns)
            plan = Plan(
                route.number,
                route.name,
                route.topic,
                wire,
                learner,
                spread,
                route.max_in_flight,
                plain.ReplyWire(
                    route.response_headers,
                    self._config.limits.max_reply_bytes,
                    self._config.limits.max_reply_headers_bytes,
                    memory,
                ),
                record_key.key_of(route.key),
                delivery_class,
                _partition(route.key != "", spread.even),
                compressor if route.compress else None,
            )
            self._link.preload_topic(delivery_class, plan.topic)
            if route.service_group:
                self._watched.append(plan)
            self._spreads.setdefault(spread, []).append(plan)
            plans.append(plan)
        return plans

    def _count_dropped(self, lines: int) -> None:
        self._table.add_tally(self._process_index, Tally.ACCESS_LOG_DROPPED, lines)

    # What the Kafka link and the mesh bring.

    def delivered(self, token: int, at_ns: int) -> None:
        self._exchange.delivered(token, at_ns)

    def undelivered(self, token: int, ending: Ending, detail: str) -> None:
        self._exchange.undelivered(token, ending, detail)

    def replies(self, replies: Sequence[Reply]) -> None:
        self._take_each(replies, self._take_reply)

    def _take_each(self, replies: Sequence[Reply], take: Callable[[Reply, int], None]) -> None:
        now_ns = time.monotonic_ns()
        for reply in replies:
            try:
                take(reply, now_ns)
            except MemoryError:
                raise  # see _on_unhandled
            except Exception:  # one poisonous record must not cost the others of its batch their answers
                held_back = self._poison.admit(("reply",), now_ns)
                if held_back >= 0:
                    where = {"partition": reply.partition, "offset": reply.offset}
                    log.exception("reply not handled", **where, held_back=held_back)
                self._table.count_fate(self._process_index, ReplyDisposition.MALFORMED)

    def _take_reply(self, reply: Reply, now_ns: int) -> None:
        cid = ids.parse(reply.correlation_id)
        if cid is None:
            self._table.count_fate(self._process_index, ReplyDisposition.MALFORMED)
            return
        whose = self._router.whose(cid, reply.partition, reply.offset)
        if whose is MINE:
            self._resolve(cid, reply, now_ns)
        elif whose is Whose.FOREIGN and cid.slot == canary.SLOT and reply.partition in self._ownership.assigned:
            self._hear_duplicate(cid.node, reply.partition, now_ns)
        elif whose is not Whose.LEAVE:
            self._table.count_fate(self._process_index, self._pass_on(whose, cid, reply))

    def _resolve(self, cid: CorrelationId, reply: Reply, now_ns: int) -> None:
        if cid.slot == canary.SLOT:
            if not self._canary.seen(cid.tag, now_ns):
                return
            self._reply_path_changed()
            return
        self._table.count_fate(self._process_index, self._exchange.resolve(cid, reply, now_ns))

    def _hear_duplicate(self, node: int, partition: int, now_ns: int) -> None:
        self._table.count_fate(self._process_index, ReplyDisposition.RIVAL)
        if self._duplicates.heard(node, now_ns):
            log.error(
                "another node claims partitions of ours",
                rival=f"{node:06x}",
                partition=partition,
                hint="are two gateways started with the same response topic and the same [cluster] node_index? "
                "or has that node lost its group?",
            )

    def _pass_on(self, whose: Whose, cid: CorrelationId, reply: Reply) -> ReplyDisposition:
        if whose is Whose.FORWARD:
            sent = self._mesh.forward(cid.worker, cid.generation, reply)
            return ReplyDisposition.MISROUTED if sent else ReplyDisposition.DROPPED
        if whose is Whose.REROUTE and not plain.has_hopped(reply):
            headers = [*reply.headers, (plain.HOPS, b"1")]
            topic = self._config.gateway.response_topic
            sent = self._link.send_untracked(Record(topic, reply.value, reply.correlation_id, headers, cid.home))
            return ReplyDisposition.REROUTED if sent else ReplyDisposition.DROPPED
        return ReplyDisposition.ORPHAN if whose is Whose.ORPHAN else ReplyDisposition.FOREIGN

    def forwarded(self, replies: list[Reply]) -> None:
        self._take_each(replies, self._take_forwarded)

    def _take_forwarded(self, reply: Reply, now_ns: int) -> None:
        cid = ids.parse(reply.correlation_id)
        if cid is not None and (cid.node, cid.worker, cid.generation) == self._address:
            self._resolve(cid, reply, now_ns)
        else:
            self._table.count_fate(self._process_index, ReplyDisposition.ORPHAN)

    @property
    def _address(self) -> tuple[int, int, int]:
        return self._table.node, self._slot, self._generation

    def _forward_dropped(self, count: int) -> None:
        for _ in range(count):
            self._table.count_fate(self._process_index, ReplyDisposition.DROPPED)

    # Partitions.

    def positioned(self, offsets: Mapping[int, int]) -> None:
        now_ns = time.monotonic_ns()
        for partition, offset in offsets.items():
            # Published before the partition can become a home: siblings rely on it to leave replies to us.
            self._table.set_reads_from(self._process_index, partition, offset)
            self._ownership.position(partition, now_ns)
        self._home_changed(now_ns)

    def _follow_map(self, now_ns: int) -> None:
        if self._table.map_version() == self._ownership.map_version:
            return
        version, owners = self._table.read_map()
        known_count = self._ownership.partition_count or len(owners)
        moves = self._ownership.apply(version, owners, now_ns)
        for partition in self._ownership.assigned & self._told_leaving.keys():
            del self._told_leaving[partition]  # it came back before we let go of it
            moves.gained.append(partition)
        log.info("partition map", version=version, gained=len(moves.gained), lost=len(moves.lost))
        # A partition that did not exist a moment ago may have replies already (services saw it first): read them all.
        brand_new = [partition for partition in moves.gained if partition >= known_count]
        older = [partition for partition in moves.gained if partition < known_count]
        if older:
            self._link.assign(older)
        if brand_new:
            self._link.assign(brand_new, FROM_BEGINNING)
        self._home_changed(now_ns)

    def _leave_partitions(self, now_ns: int) -> None:
        """Lets go of partitions that were moved away, once nothing that was made for them waits any more."""
        for partition, since_ns in list(self._ownership.leaving.items()):
            if partition == self._ownership.home:
                continue  # until another can be
            told_ns = self._told_leaving.get(partition)
            if told_ns is None:
                if self._slots.live_before(since_ns) == 0 and self._is_taken_over(partition, since_ns, now_ns):
                    self._table.set_reads_from(self._process_index, partition, _ctable.NOT_READING)
                    self._told_leaving[partition] = now_ns
            elif now_ns - told_ns >= STOP_READING_AFTER_NS:
                self._link.stop_reading([partition])
                del self._told_leaving[partition]
                self._ownership.left(partition)

    def _is_taken_over(self, partition: int, since_ns: int, now_ns: int) -> bool:
        """Whether somebody else reads the partition by now. Of another node it can only be supposed."""
        owner = self._table.map_owner(partition)
        if owner == _ctable.UNOWNED:
            return now_ns - since_ns >= HAND_OVER_NS
        reads = (self._table.reads_from(process, partition) for process in table.processes_of(owner))
        return min(reads) != _ctable.NOT_READING

    def _home_changed(self, now_ns: int) -> None:
        """Ids are made for the partitions that are usable now; a new home has to be heard before it is trusted."""
        ownership = self._ownership
        usable = ownership.usable()
        if ownership.home != NO_HOME:  # which may be one that is leaving
            self._ids.set_ownership(ownership.partition_count, usable or [ownership.home], ownership.home)
        if ownership.home != self._exchange.home:
            self._exchange.set_home(ownership.home, ownership.partition_count)
            self._home_since_ns = now_ns
            self._canary.restart()
            log.info("home partition", home=ownership.home, usable=len(usable))
        self._reply_path_changed()

    def _reply_path_changed(self) -> None:
        """Opens or closes the gate and says so in the table: ready means that replies reach us."""
        works = self._canary.alive and self._ownership.home != NO_HOME
        if self._draining:
            return
        if works:
            self._exchange.open_gate()
            self.ready.set()
        else:
            self._exchange.close_gate(errors.NOT_READY, "replies from Kafka do not reach this worker")
        self._table.set_ready(self._process_index, works and bool(self._fronts))

    def _send_canary(self, now_ns: int) -> None:
        if self._ownership.home == NO_HOME:
            return
        if self._canary.is_silent(now_ns):
            log.error("reply path lost: canaries do not come back", home=self._ownership.home)
            self._ownership.rotate_home(now_ns)
            self._home_changed(now_ns)
        if not self._canary.due(now_ns):
            return
        raw = self._ids.make(canary.SLOT, Partitioner.HEADER)
        self._canary.sent(self._ids.tag, now_ns)
        self._link.send_untracked(Record(self._config.gateway.response_topic, b"", raw, [], self._ownership.home))

    def _follow_services(self, now_ns: int) -> None:
        """What the agent has found out about the services; nothing, if that was long ago."""
        is_fresh = now_ns - self._table.waits_told_ns() < WAITS_FRESH_NS
        for plan in self._watched:
            plan.wait_ns = self._table.wait_ns(plan.number) if is_fresh else 0

    def _decide_spread(self, now_ns: int) -> None:
        for spread, plans in self._spreads.items():
            if spread.decide(now_ns, self._canary.round_trip_ns):
                for plan in plans:
                    plan.partition = _partition(plan.key_of is not None, spread.even)
                log.info("spread", topic=plans[0].topic, even=spread.even)

    # Time.

    def _tick(self) -> None:
        now_ns = time.monotonic_ns()
        self._loop.call_later(TICK_S, self._tick)
        self._exchange.epoch_offset_ns = time.time_ns() - now_ns
        self._link.poll()
        self._exchange.expire(now_ns)
        self._follow_map(now_ns)
        if self._watched:
            self._follow_services(now_ns)
        self._decide_spread(now_ns)
        self._journal.sum_up(now_ns)
        if self._access_log is not None:
            self._access_log.flush()
        if self._ownership.leaving:
            self._leave_partitions(now_ns)
        if not self._draining:
            self._send_canary(now_ns)
            if now_ns - self._home_since_ns > ROTATE_HOME_NS and len(self._ownership.usable()) > 1:
                self._ownership.rotate_home(now_ns)
                self._home_changed(now_ns)
        self._table.set_body_bytes(self._process_index, self._bodies.held_bytes)
        self._memory_trim.look(now_ns)
        self._table.heartbeat(
            self._process_index, now_ns, self._exchange.in_flight, self._ownership.home, self._ownership.map_version
        )

    # Life.

    async def serve(self, listen_fds: Sequence[int], listen_of: Sequence[int]) -> None:
        """From nothing to ready: the reply path first, then the fronts, so that no reply can be missed.

        Args:
            listen_fds: sockets that listen.
            listen_of: for each of them its place in `gateway.listens`.
        """
        self._listen_fds = listen_fds
        await self._mesh.start()
        self._link.start()
        self._tick()
        await self.ready.wait()
        for fd, number in zip(listen_fds, listen_of, strict=True):
            listen = self._config.gateway.listens[number]
            _listen_again(fd)
            front = self._front(fd, listen)
            await front.start()
            self._fronts.append(front)
        self._reply_path_changed()

    def _front(self, fd: int, listen: Listen) -> ExpressFront | GranianFront:
        limits = self._config.limits
        if listen.is_express:
            return ExpressFront(fd, listen, limits, self._entrance, self._forwarding)
        # Here and not at the top: its libraries cost a start 20 ms and a worker 4 MB, and few gateways need them.
        from fastgw.http.granian import GranianFront

        return GranianFront(fd, listen, limits, self._entrance)

    async def drain(self, orphaned: bool = False) -> None:
        """No new connections; what waits is answered, at the latest by the drain timeout; then everything is closed.

        A connection that is open may bring one more request: who sends it at the moment in which its connection is
        closed could not know what became of it.
        """
        if self._draining:
            return
        self._draining = True
        self._table.set_draining(self._process_index)
        lame_duck_s = min(LAME_DUCK_S, self._config.gateway.drain_timeout_ns / 2e9)
        for front in self._fronts:
            front.drain(lame_duck_s)
        if orphaned or self._table.service_draining():
            # In a reload these sockets are our successor's, and so is who comes late. Here nobody else has them: who
            # comes now is refused, so that he goes to another node at once, instead of waiting for nothing.
            for fd in self._listen_fds:
                os.close(fd)
            self._loop.call_later(
                lame_duck_s, self._exchange.close_gate, errors.DRAINING, "this gateway is shutting down"
            )
        now_ns = time.monotonic_ns()
        deadline_ns = now_ns + self._config.gateway.drain_timeout_ns
        read_on_until_ns = now_ns + HAND_OVER_NS if self._leaves_a_group() else now_ns
        log.info("draining", in_flight=self._exchange.in_flight)
        closing = [asyncio.ensure_future(front.closed()) for front in self._fronts]
        while now_ns < deadline_ns and (
            now_ns < read_on_until_ns or self._exchange.in_flight or not all(done.done() for done in closing)
        ):
            await asyncio.sleep(TICK_S)
            now_ns = time.monotonic_ns()
        ended = self._exchange.end_all("the gateway is shutting down")
        if closing:
            await asyncio.wait(closing, timeout=1.0)
        self._mesh.close()
        unsent = self._link.close(1.0)
        if self._access_log is not None:
            self._access_log.close()
        self._journal.sum_up(END_OF_TIME_NS)
        log.info("drained", ended_early=ended, unsent=unsent)
        self.stopped.set()

    def _leaves_a_group(self) -> bool:
        """Whether other nodes take over our partitions now: until they read them, replies still come here."""
        return self._config.cluster.mode == "group" and self._table.service_draining()


def _listen_again(fd: int) -> None:
    """The supervisor may have made the socket deaf while nobody was ready here; it sees us ready later than clients."""
    with socket.socket(fileno=os.dup(fd)) as listening:
        listening.listen(ACCEPT_BACKLOG)


def _compressor(settings: Compression) -> Compressor | None:
    if not settings.encodings:
        return None
    # Here and not at the top: its library costs a worker a megabyte, and few gateways need it.
    from fastgw.http.compression import Compressor

    return Compressor(settings)


def _partition(has_key: bool, is_even: bool) -> int:
    return SPREAD if has_key or is_even else TOGETHER


def delivery_classes(timeouts_ns: Sequence[int]) -> list[int]:
    """The smallest timeout of each delivery class: timeouts within a factor of four share a producer.

    A producer costs connections and threads; a delivery timeout far above a route's deadline costs that route its
    honest "unknown" in time.
    """
    classes: list[int] = []
    for timeout_ns in sorted(set(timeouts_ns)):
        if not classes or timeout_ns > 4 * classes[-1]:
            classes.append(timeout_ns)
    return classes or [5_000_000_000]


def class_of(classes: Sequence[int], timeout_ns: int) -> int:
    """The delivery class of a route with this timeout."""
    return max(number for number, smallest_ns in enumerate(classes) if smallest_ns <= timeout_ns)


def delivery_timeout_ms(timeout_ns: int) -> int:
    """What became of a record is told before the deadline: a tenth of it earlier, at least 50 ms, at most 1 s."""
    timeout_ms = timeout_ns // 1_000_000
    return max(100, timeout_ms - min(1000, max(50, timeout_ms // 10)))


def _on_unhandled(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An error that nobody caught: the loop goes on, but not without memory.

    Half of the requests would hang and the other half be lost. The supervisor has a successor ready in less time.
    """
    error = context.get("exception")
    try:
        log.error("unhandled error", what=context.get("message"), exc_info=error)
    finally:
        if isinstance(error, MemoryError):
            os._exit(EXIT_BROKEN)


def _end_in_time(drain_timeout_ns: int) -> None:
    """Nobody is left to end us if the drain hangs: the kernel does it then, whatever this process is doing."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, drain_timeout_ns / 1e9 + ORPHAN_MORE_S)


async def _run(
    worker_args: dict[str, Any], ready_fd: int, life_fd: int, listens: tuple[Sequence[int], Sequence[int]]
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_unhandled)
    worker = Worker(**worker_args)

    def drain(orphaned: bool = False) -> None:
        draining.append(loop.create_task(worker.drain(orphaned)))
        draining[-1].add_done_callback(drained)

    def drained(task: asyncio.Task[None]) -> None:
        if task.exception() is not None:
            try:
                log.error("drain failed", exc_info=task.exception())
            finally:
                os._exit(EXIT_BROKEN)

    def orphaned() -> None:
        loop.remove_reader(life_fd)  # it stays readable: the other end is closed for good
        _end_in_time(worker_args["cfg"].gateway.drain_timeout_ns)
        drain(orphaned=True)

    draining: list[asyncio.Task[None]] = []  # a task that nobody holds may be collected
    loop.add_signal_handler(signal.SIGTERM, drain)
    if life_fd >= 0:
        loop.add_reader(life_fd, orphaned)
    await worker.serve(*listens)
    gc.collect()
    gc.freeze()  # what is alive now stays: the collector need not walk it again
    if ready_fd >= 0:
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)
    await worker.stopped.wait()


def main(
    *,
    slot: int,
    generation: int,
    table_fd: int,
    config_fd: int,
    ready_fd: int,
    life_fd: int,
    listen_fds: Sequence[int],
    listen_of: Sequence[int],
    run_dir: str,
) -> int:
    """The process: `fastgw worker`, started by the supervisor with everything it needs as inherited descriptors."""
    logs.configure(f"worker {slot}.{generation}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's; it tells us
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with os.fdopen(config_fd, "rb") as file:
        cfg = config.from_json(file.read())
    setproctitle.setproctitle(f"fastgw: {cfg.gateway.name} worker {slot}")
    args = {"cfg": cfg, "slot": slot, "generation": generation, "table_fd": table_fd, "run_dir": Path(run_dir)}
    uvloop.run(_run(args, ready_fd, life_fd, (listen_fds, listen_of)))
    return 0
