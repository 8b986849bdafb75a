"""The store process: `python -m fastgw store`, from its start by the supervisor to its exit.

SIGTERM, or the supervisor has ended    it brings its tables to the disk and exits with 0
SIGINT                                  ignored: the supervisor handles Ctrl-C
SIGHUP                                  it reads the configuration again
a failure                               it exits with 1, and the supervisor starts a successor
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog
import uvloop
from setproctitle import setproctitle

from fastgw import logs, ready_pipe, table
from fastgw._ctable import Table
from fastgw.config import Config, inherited
from fastgw.config.directories import store_dir
from fastgw.errors import ConfigError, FastgwError, StartError, StoreDamaged, StoreError
from fastgw.messages import StoreGauge
from fastgw.store.announcement import Announcement
from fastgw.store.log_values import LogValues
from fastgw.store.server import Server
from fastgw.store.store import Store
from fastgw.store.stream_reader import StreamReader
from fastgw.store.tables import Tables
from fastgw.store.topic_reader import TopicReader
from fastgw.store.write_behind import WriteBehind
from fastgw.tokens import Secrets

STOP_READING_S = 3.0
FIGURES_S = 0.25
COUNTS = (
    StoreGauge.STREAM_REPLAYS,
    StoreGauge.STREAM_SPLIT,
    StoreGauge.STREAM_SPLIT_LOST,
    StoreGauge.STREAM_GARBAGE,
)

log = structlog.get_logger("fastgw.store")

Result = TypeVar("Result")


def main(*, table_fd: int, config_fd: int, ready_fd: int, life_fd: int, run_dir: str = "") -> int:
    """Run the store process; return its exit code. The supervisor starts it with inherited descriptors.

    Args:
        table_fd: the shared table; the store writes only its own figures there.
        config_fd: the configuration as `config.to_json` wrote it.
        ready_fd: gets one line, `ready` or `error <why>`.
        life_fd: becomes readable when the supervisor has ended.
        run_dir: the directory of the sockets between the processes of the node.
    """
    logs.configure("store")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles Ctrl-C and sends SIGTERM
    try:
        config = inherited.read(config_fd)
        setproctitle(f"fastgw: {config.gateway.name} store")
        code: int = uvloop.run(_run(config, config_fd, table_fd, Path(run_dir), ready_fd, life_fd))
        return code
    except FastgwError as error:
        ready_pipe.tell(ready_fd, f"error {' '.join(str(error).split())}\n")
        return error.exit_code


async def _run(config: Config, config_fd: int, table_fd: int, run_dir: Path, ready_fd: int, life_fd: int) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        failures.append(error)
        loop.call_soon_threadsafe(stopping.set)

    shared, on_loop = table.attach(table_fd), _runner(loop)
    kept = KeptReplies(config, shared, loop, on_loop, fail) if config.keeps_replies else None
    streams = StreamReader(config, shared, on_loop, fail, lambda: server.tell_topics()) if config.has_streams else None
    follows = streams.follows if streams else None
    server = Server(run_dir, kept.store if kept else None, loop, follows, lambda: read_again())
    figures = Figures(shared, streams, kept is not None, loop)

    def read_again() -> None:
        try:
            again = inherited.read(config_fd)
        except ConfigError as error:  # the supervisor is writing it; a signal follows
            log.info("configuration not read", error=str(error))
            return
        if _made_of(again) != _made_of(config):
            stopping.set()  # a successor has other parts, or other clients of Kafka
        elif kept is not None:
            kept.use(again)

    def unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, StoreDamaged | StoreError):
            # Met by a look for a worker, or by the sweep. The successor builds the tables again, or reads on.
            fail(error)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(unhandled)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, read_again)
    loop.add_reader(life_fd, stopping.set)
    await server.start()
    if kept is not None:
        kept.start(server)
    if streams is not None:
        streams.start()
    figures.start()
    ready_pipe.tell(ready_fd, "ready\n")
    await stopping.wait()
    loop.remove_reader(life_fd)  # it would stay readable: the other end is closed
    server.close()
    if streams is not None:
        await loop.run_in_executor(None, streams.stop, STOP_READING_S)
    if kept is not None:
        await kept.stop(loop)
    if failures:
        log.error("store failed", error=repr(failures[0]))
        return 1
    return 0


def _made_of(config: Config) -> tuple[Any, ...]:
    """What a store cannot change while it runs, and a reload can."""
    return config.keeps_replies, config.has_streams, config.kafka


class KeptReplies:
    """The parts that read the topic of kept replies, and keep what they read."""

    def __init__(
        self,
        config: Config,
        shared: Table,
        loop: asyncio.AbstractEventLoop,
        on_loop: Callable[[Callable[[], Any]], Any],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._tables = _open_tables(config, loop)
        self._values = LogValues(config, loop)
        secrets = Secrets(config.gateway.secrets)
        self._announcement = Announcement(config, secrets)
        self.store = Store(config, secrets, self._tables, self._values, shared, loop, self._announcement.write)
        self._reader = TopicReader(config, self.store, self.store.split.send_home, on_loop, fail)

    def start(self, server: Server) -> None:
        self.store.start(server)
        self._reader.start()

    def use(self, config: Config) -> None:
        """Go on with another configuration that needs the same parts."""
        secrets = Secrets(config.gateway.secrets)
        self.store.use(config, secrets)
        self._announcement.use(config, secrets)

    async def stop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop reading, and bring the tables to the disk."""
        await loop.run_in_executor(None, self._reader.stop, STOP_READING_S)
        self._values.close()
        self._announcement.close()
        try:
            self._tables.close()
        except (StoreError, OSError) as error:  # such as a directory that was removed meanwhile
            log.warning("store not closed in order", error=str(error))


class Figures:
    """Shows the figures of streams in the table, and a heartbeat if there are no kept replies, which have their own."""

    def __init__(
        self, shared: Table, streams: StreamReader | None, keeps_replies: bool, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._table = shared
        self._streams = streams
        self._counted = (0,) * len(COUNTS)  # in the table by this process
        self._keeps_replies = keeps_replies
        self._loop = loop

    def start(self) -> None:
        """Show them now, and again and again."""
        if self._streams is None:
            return
        follows = self._streams.follows
        self._table.set_store_gauge(StoreGauge.FOLLOWS, len(follows))
        self._table.set_store_gauge(StoreGauge.FOLLOWS_BEHIND, follows.behind)
        self._table.set_store_gauge(StoreGauge.STREAM_PARTITIONS, len(follows.topic.homes))
        self._count(self._streams)
        if not self._keeps_replies:
            self._table.set_store_gauge(StoreGauge.READY, int(bool(follows.topic.homes)))
            self._table.store_beats(time.monotonic_ns())
        self._loop.call_later(FIGURES_S, self.start)

    def _count(self, streams: StreamReader) -> None:
        """Counts go on over a restart of the store: this process adds to what the last one has counted."""
        split = streams.split
        counts = streams.follows.replays, split.count, split.lost, split.garbage
        for gauge, now, before in zip(COUNTS, counts, self._counted, strict=True):
            if now != before:
                self._table.set_store_gauge(gauge, self._table.store_gauge(gauge) + now - before)
        self._counted = counts


def _open_tables(config: Config, loop: asyncio.AbstractEventLoop) -> Tables:
    path = store_dir(config.store, config.gateway)
    if path is None:
        raise StartError("store.dir: expected a directory, got none; $STATE_DIRECTORY is not set either")
    tables = WriteBehind(path, config.store.max_bytes, loop, note_crashes=True)
    if tables.rebuilt:
        log.warning("kept replies are read again", why=tables.rebuilt)
    return tables


def _runner(loop: asyncio.AbstractEventLoop) -> Callable[[Callable[[], Result]], Result]:
    """Runs functions on the loop for another thread, which waits for the result."""

    def on_loop(function: Callable[[], Result]) -> Result:
        done: concurrent.futures.Future[Result] = concurrent.futures.Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        loop.call_soon_threadsafe(run)
        return done.result()

    return on_loop
