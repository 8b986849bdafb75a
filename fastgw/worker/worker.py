"""One worker: builds the parts of the request path and joins them. No other module knows all of them.

Everything runs on one uvloop thread. The fronts call the door (`admit`, `open`, `gone`), the Kafka link calls the
events (`replies`, `delivered`, ...), and the mesh calls `forwarded`. A tick handles deadlines, delivery reports, the
heartbeat, new partition maps, and the canary.

    starting ──(canary seen, fronts listening)──> ready ──(SIGTERM or supervisor ended)──> draining ──> stopped
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from fastgw import errors, table
from fastgw._ctable import SlotRange
from fastgw.body_memory import AnswerMemory, BodyMemory
from fastgw.config import ACCEPT_BACKLOG, Config, Listen
from fastgw.config.units import NS_PER_MS, NS_PER_S
from fastgw.core.exchange import Exchange
from fastgw.core.keyed import KeyedRequests, KeySettings
from fastgw.core.later import Later, LaterSettings
from fastgw.core.ownership import Ownership
from fastgw.core.reply_router import ReplyRouter
from fastgw.core.routing import Router
from fastgw.core.streams import Streams
from fastgw.core.tickets import Tickets
from fastgw.errors import Ending
from fastgw.forwarding import Forwarding
from fastgw.http.cors import Policies
from fastgw.http.express import ExpressFront
from fastgw.http.front import Front
from fastgw.http.stream_formats import EventStream
from fastgw.ids import IdMaker, ReplyTopic
from fastgw.kafka import open_link
from fastgw.mesh.links import MeshLinks
from fastgw.messages import Gauge, Reply, Tally
from fastgw.open_streams import OpenStreams
from fastgw.tokens import Secrets
from fastgw.worker.access_log import AccessLog
from fastgw.worker.door import GatewayDoor
from fastgw.worker.handled_offsets import HandledOffsets
from fastgw.worker.journal import Journal
from fastgw.worker.memory_trim import MemoryTrim
from fastgw.worker.notes import Notes
from fastgw.worker.plans import Plans, delivery_classes, link_settings
from fastgw.worker.replies import Replies
from fastgw.worker.reply_path import HAND_OVER_NS, ReplyPath
from fastgw.worker.store_link import StoreLink
from fastgw.worker.stream_routes import StreamRoutes, encoder_of

log = structlog.get_logger("fastgw.worker")

TICK_S = 0.025  # the precision of deadlines, and how soon a new map or a delivery report is noticed
LAME_DUCK_S = 1.0  # in a reload: long enough for busy clients to send their next request on a kept-alive connection
END_OF_TIME_NS = 1 << 62
STREAMS_TOLD = 200  # which a worker tells about itself, at most
# granian brings an allocator, jemalloc, which `MemoryTrim` does not reach. It reads this variable when it is loaded.
# Without a thread of its own it returns freed memory only while it is in use: after a burst of large answers, hardly.
GRANIANS_ALLOCATOR = ("_RJEM_MALLOC_CONF", "background_thread:true")


class KeptParts(NamedTuple):
    """What handles requests whose replies are kept."""

    later: Later
    tickets: Tickets
    keyed: KeyedRequests


class Worker:
    """The request path of one process. Implements the Kafka link's `LinkEvents`."""

    def __init__(self, cfg: Config, worker: int, generation: int, table_fd: int, run_dir: Path) -> None:
        """
        Args:
            worker: the number of the worker slot that this process fills.
            generation: the generation of the process, as in its ids.
            table_fd: the shared table; may be closed afterwards.
            run_dir: the directory that the workers of the node share.
        """
        self._config = cfg
        self._loop = asyncio.get_running_loop()
        self._table = table.attach(table_fd)
        self._process_index = table.process_index(worker, generation)
        self._table.register(self._process_index, os.getpid(), worker, generation)
        self._fronts: list[Front] = []
        self._listen_fds: Sequence[int] = ()
        self._draining = False
        self._items_shown = self._resumptions_shown = 0  # of streams, in the counters
        self.ready = asyncio.Event()
        self.stopped = asyncio.Event()
        self._journal = Journal()
        self._memory_trim = MemoryTrim()
        self._access_log = AccessLog(cfg.log, worker, self._count_dropped_lines) if cfg.log.access != "off" else None
        limits = cfg.limits
        self._bodies = BodyMemory(limits.body_memory_bytes, limits.connection_body_memory_bytes)
        self._answers = AnswerMemory(limits.answer_memory_bytes, limits.connection_answer_memory_bytes)
        self._forwarding = Forwarding(cfg.gateway.trusted_proxies, cfg.gateway.forwarded)

        ids = IdMaker(self._table.node, worker, generation)
        slots = self._table.open_range(self._process_index)
        self._join_requests(ids, slots)
        signs = Secrets(cfg.gateway.secrets).ids[0] if cfg.gateway.secrets else b""
        beat_ns = self._table.store_beat_ns
        self._store = StoreLink(run_dir, self._loop, beat_ns, signs) if cfg.needs_store else None
        self._kept = self._join_kept(self._store, worker, generation) if self._store and cfg.keeps_replies else None
        self._streams = self._join_streams(self._store, worker, generation) if self._store and cfg.has_streams else None
        self._open_door(self._kept)
        self._mesh = MeshLinks(
            run_dir,
            worker,
            generation,
            self.forwarded,
            on_dropped=self._count_dropped_replies,
            on_status=self._open_streams,
        )
        self._join_replies(ids, slots, worker, generation)

    def _join_requests(self, ids: IdMaker, slots: SlotRange) -> None:
        """From the fronts to Kafka: the door, the exchange, the link."""
        cfg = self._config
        classes = delivery_classes([route.timeout_ns for route in cfg.routes])
        self._plans = Plans(cfg, classes)
        self._link = open_link(cfg.kafka.link, link_settings(cfg, classes), self, self._loop, slots)
        for plan in self._plans.all:
            self._link.preload_topic(plan.delivery_class, plan.topic)
        policies = Policies(cfg.cors, (*cfg.routes, *([cfg.tickets] if cfg.tickets else [])))
        secret_prefix = f"{cfg.later.path}/" if cfg.keeps_replies else ""
        has_notes = policies or self._access_log is not None
        notes = Notes(policies, self._access_log, cfg.route_names, secret_prefix) if has_notes else None
        self._exchange = Exchange(
            self._table,
            self._process_index,
            slots,
            ids,
            self._plans.all,
            self._link.send,
            self._link.cancel_unsent,
            self._journal,
            notes,
            self._answers,
        )
        self._policies, self._keeps_heads = policies or None, notes is not None

    def _join_kept(self, store: StoreLink, worker: int, generation: int) -> KeptParts:
        """To the store and back: requests whose replies are kept, and status URLs."""
        cfg = self._config
        self._link.preload_topic(0, cfg.later.topic)  # of control records
        secrets = Secrets(cfg.gateway.secrets)

        def make_ids() -> IdMaker:
            return IdMaker(self._table.node, worker, generation, ReplyTopic.LATER)

        settings = LaterSettings(
            cfg.later.topic,
            cfg.later.path,
            cfg.later.keep_ns // NS_PER_MS,
            cfg.later.retry_after_ns // NS_PER_S,
        )
        later = Later(settings, secrets, self._exchange, store, make_ids(), worker, time.monotonic_ns)
        plans = {plan.name: plan for plan in self._plans.all}
        tickets = Tickets(later, self._exchange, plans, self._link.send_untracked, cfg.store.max_waits)
        keyed = KeyedRequests(
            KeySettings(cfg.later.topic, cfg.later.lanes, cfg.later.keep_ns // NS_PER_MS, cfg.limits.body_memory_bytes),
            secrets,
            self._exchange,
            store,
            make_ids,
            self._link.send_untracked,
            self._count_keyed,
            time.monotonic_ns,
            self._journal,
            later,
        )
        return KeptParts(later, tickets, keyed)

    def _join_streams(self, store: StoreLink, worker: int, generation: int) -> Streams:
        """From the store to the fronts: answers that are streamed."""
        cfg = self._config
        return Streams(
            self._exchange,
            store,
            IdMaker(self._table.node, worker, generation, ReplyTopic.STREAMS),
            worker,
            self._table.slots_per_process,
            encoder_of,
            EventStream,
            self._link.send_untracked,
            self._journal,
            time.monotonic_ns,
            Secrets(cfg.gateway.secrets) if cfg.resumes else None,
            cfg.streams.keep_ns // NS_PER_MS,
            cfg.store.max_waits,
        )

    def _open_door(self, kept: KeptParts | None) -> None:
        cfg = self._config
        self._door = GatewayDoor(
            Router(cfg.routes, cfg.limits, cfg.gateway.hosts, self._forwarding, cfg.tickets),
            self._exchange,
            self._bodies,
            self._answers,
            self._table,
            self._process_index,
            self._journal,
            self._policies,
            self._keeps_heads,
            kept.later if kept else None,
            kept.tickets if kept else None,
            kept.keyed if kept else None,
            self._streams,
            StreamRoutes(cfg) if self._streams is not None else None,
        )

    def _join_replies(self, ids: IdMaker, slots: SlotRange, worker: int, generation: int) -> None:
        """From Kafka and the siblings to the exchange: the partitions, and the handling of replies."""
        reply_topic = self._config.gateway.response_topic
        ownership = Ownership(worker, generation)
        router = ReplyRouter(self._table, worker, generation, ownership)
        reply_log = table.log_of(self._config.kafka.bootstrap, reply_topic)
        handled = HandledOffsets(self._table, reply_log, self._link.reached)
        self._reply_path = ReplyPath(
            self._table,
            generation,
            ownership,
            ids,
            self._link,
            self._exchange,
            slots.live_before,
            self.ready.set,
            reply_topic,
            router.is_designated_reader,
            handled,
        )
        self._replies = Replies(
            self._table,
            self._process_index,
            (self._table.node, worker, generation),
            reply_topic,
            router.whose,
            self._exchange.resolve,
            self._reply_path,
            self._mesh.forward,
            self._link.send_untracked,
            self._other_topics(),
        )

    def _other_topics(self) -> dict[int, str]:
        """Where replies belong that a service has sent to the response topic, whatever the request said."""
        kept: dict[int, str] = {ReplyTopic.LATER: self._config.later.topic} if self._kept else {}
        return kept | ({ReplyTopic.STREAMS: self._config.streams.topic} if self._streams is not None else {})

    # Called by the Kafka link and the mesh.

    def delivered(self, token: int, at_ns: int, partition: int) -> None:
        self._exchange.delivered(token, at_ns, partition)

    def undelivered(self, token: int, ending: Ending, detail: str) -> None:
        if self._streams is not None and self._streams.has_begun(token):
            return  # its service has the record: items of its answer have come
        self._exchange.undelivered(token, ending, detail)

    def replies(self, replies: Sequence[Reply]) -> None:
        self._replies.take(replies, time.monotonic_ns())

    def positioned(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> None:
        self._reply_path.positioned(starts, ends, time.monotonic_ns())

    def forwarded(self, replies: list[Reply]) -> None:
        self._replies.take(replies, time.monotonic_ns(), is_forwarded=True)

    def _open_streams(self) -> OpenStreams:
        return OpenStreams(0, []) if self._streams is None else self._streams.open_streams(STREAMS_TOLD)

    def _count_dropped_replies(self, replies: int) -> None:
        self._replies.dropped(replies)

    def _count_keyed(self, became: Tally) -> None:
        self._table.add_tally(self._process_index, became, 1)

    def _count_dropped_lines(self, lines: int) -> None:
        self._table.add_tally(self._process_index, Tally.ACCESS_LOG_DROPPED, lines)

    # Time.

    def _tick(self) -> None:
        now_ns = time.monotonic_ns()
        self._loop.call_later(TICK_S, self._tick)
        self._exchange.epoch_offset_ns = time.time_ns() - now_ns
        self._link.poll()
        self._exchange.expire(now_ns)
        self._reply_path.tick(now_ns)
        if self._store is not None:
            self._store.tick()
        if self._kept is not None:
            self._kept.tickets.expire(now_ns)
            self._kept.keyed.tick(now_ns)
        if self._streams is not None:
            self._streams.resumed.expire(now_ns)
        self._plans.follow_services(self._table, now_ns)
        self._plans.decide_spread(now_ns, self._reply_path.round_trip_ns)
        self._journal.sum_up(now_ns)
        if self._access_log is not None:
            self._access_log.flush()
        self._memory_trim.look(now_ns)
        self._show_figures()
        path = self._reply_path
        self._table.heartbeat(self._process_index, now_ns, self._exchange.in_flight, path.home, path.map_version)

    def _show_figures(self) -> None:
        table, process = self._table, self._process_index
        table.set_body_bytes(process, self._bodies.held_bytes)
        table.set_gauge(process, Gauge.OPEN_CONNECTIONS, sum([front.open_connections for front in self._fronts]))
        table.set_gauge(process, Gauge.KAFKA_WAITING_RECORDS, self._link.waiting())
        table.set_gauge(process, Gauge.KAFKA_WAITING_BYTES, self._link.waiting_bytes())
        table.set_gauge(process, Gauge.ANSWER_BYTES, self._answers.held_bytes)
        if self._streams is not None:
            table.set_gauge(process, Gauge.STREAMS, len(self._streams))
            table.add_tally(process, Tally.STREAM_ITEMS, self._streams.items - self._items_shown)
            table.add_tally(process, Tally.STREAMS_RESUMED, self._streams.resumptions - self._resumptions_shown)
            self._items_shown, self._resumptions_shown = self._streams.items, self._streams.resumptions

    # Life.

    async def serve(self, listen_fds: Sequence[int], listen_of: Sequence[int]) -> None:
        """Start the reply path, then the fronts, until the worker is ready. In this order no reply is missed.

        Args:
            listen_fds: listening sockets.
            listen_of: for each socket the index of its entry in `gateway.listens`.
        """
        self._listen_fds = listen_fds
        await self._mesh.start()
        self._link.start()
        self._tick()
        await self.ready.wait()
        for fd, number in zip(listen_fds, listen_of, strict=True):
            _listen_again(fd)
            front = self._front(fd, self._config.gateway.listens[number])
            await front.start()
            self._fronts.append(front)
        self._reply_path.fronts_listen()

    def _front(self, fd: int, listen: Listen) -> Front:
        limits = self._config.limits
        if listen.is_express:
            return ExpressFront(fd, listen, limits, self._door, self._forwarding)
        os.environ.setdefault(*GRANIANS_ALLOCATOR)
        # Imported here because its libraries cost a start 20 ms and a worker 4 MB, and few gateways need them.
        from fastgw.http.granian import GranianFront

        return GranianFront(fd, listen, limits, self._door)

    async def drain(self, orphaned: bool = False) -> None:
        """Accept no new connections, answer the requests in flight until the drain timeout, then close everything.

        An open connection may still send one more request. If it were closed at once, a client that is just sending a
        request could not know whether it was processed.
        """
        if self._draining:
            return
        self._draining = True
        self._table.set_draining(self._process_index)
        self._reply_path.drain()
        self._exchange.drain()
        if self._kept is not None:
            self._kept.tickets.drain()
        if self._streams is not None:
            self._streams.resumed.drain()
        lame_duck_s = min(LAME_DUCK_S, self._config.gateway.drain_timeout_ns / 2e9)
        for front in self._fronts:
            front.drain(lame_duck_s)
        if orphaned or self._table.service_draining():
            self._refuse_late_comers(lame_duck_s)
        log.info("draining", in_flight=self._exchange.in_flight)
        closing = [asyncio.ensure_future(front.closed()) for front in self._fronts]
        await self._until_quiet(closing)
        if self._streams is not None:
            self._streams.give_up()
        ended = self._kept.keyed.end_all() if self._kept is not None else 0
        ended += self._exchange.end_all("the gateway is shutting down")
        if closing:
            await asyncio.wait(closing, timeout=1.0)
        unsent = self._close()
        log.info("drained", ended_early=ended, unsent=unsent)
        self.stopped.set()

    def _refuse_late_comers(self, lame_duck_s: float) -> None:
        # In a reload the successor has these sockets, too, and accepts late clients. Here no process will accept them:
        # they are refused, so that they go to another node at once instead of waiting in vain.
        for fd in self._listen_fds:
            os.close(fd)
        self._loop.call_later(lame_duck_s, self._exchange.close_gate, errors.DRAINING, "this gateway is shutting down")

    async def _until_quiet(self, closing: Sequence[asyncio.Future[None]]) -> None:
        """Wait until no request is in flight and every front is closed, but not longer than the drain timeout."""
        now_ns = time.monotonic_ns()
        deadline_ns = now_ns + self._config.gateway.drain_timeout_ns
        read_on_until_ns = now_ns + HAND_OVER_NS if self._leaves_a_group() else now_ns
        while now_ns < deadline_ns and (
            now_ns < read_on_until_ns or self._exchange.in_flight or not all(done.done() for done in closing)
        ):
            await asyncio.sleep(TICK_S)
            now_ns = time.monotonic_ns()

    def _leaves_a_group(self) -> bool:
        """Whether other nodes now take over this node's partitions. Until they read them, replies still come here."""
        return self._config.cluster.mode == "group" and self._table.service_draining()

    def _close(self) -> int:
        """Close everything; return how many records were not sent in time."""
        unsent_replies = self._mesh.close()
        if self._store is not None:
            self._store.close()
        unsent = self._link.close(1.0)
        if unsent_replies == 0 and unsent == 0:
            self._reply_path.hand_over()
        if self._access_log is not None:
            self._access_log.close()
        self._journal.sum_up(END_OF_TIME_NS)
        return unsent


def _listen_again(fd: int) -> None:
    """Listen again: the supervisor may have made the socket refuse connections while no worker was ready.

    The supervisor would undo that itself, but it notices this worker's readiness later than clients do.
    """
    with socket.socket(fileno=os.dup(fd)) as listening:
        listening.listen(ACCEPT_BACKLOG)
