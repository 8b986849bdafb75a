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
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog
import uvloop
from setproctitle import setproctitle

from fastgw import logs, ready_pipe, table
from fastgw.config import Config, inherited
from fastgw.config.directories import store_dir
from fastgw.errors import FastgwError, StartError, StoreDamaged, StoreError
from fastgw.store.log_values import LogValues
from fastgw.store.server import Server
from fastgw.store.store import Store
from fastgw.store.tables import Tables
from fastgw.store.topic_reader import TopicReader
from fastgw.tokens import Secrets

STOP_READING_S = 3.0

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

    tables = _open_tables(config)
    values = LogValues(config, loop)
    store = Store(config, Secrets(_secrets(config)), tables, values, table.attach(table_fd), loop)
    server = Server(run_dir, store, loop)
    reader = TopicReader(config, store, _runner(loop), fail)

    def read_again() -> None:
        store.config = inherited.read(config_fd)

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
    store.start(server)
    reader.start()
    ready_pipe.tell(ready_fd, "ready\n")
    await stopping.wait()
    loop.remove_reader(life_fd)  # it would stay readable: the other end is closed
    server.close()
    await loop.run_in_executor(None, reader.stop, STOP_READING_S)
    values.close()
    try:
        tables.close()
    except (StoreError, OSError) as error:  # such as a directory that was removed meanwhile
        log.warning("store not closed in order", error=str(error))
    if failures:
        log.error("store failed", error=repr(failures[0]))
        return 1
    return 0


def _open_tables(config: Config) -> Tables:
    path = store_dir(config.store, config.gateway)
    if path is None:
        raise StartError("store.dir: expected a directory, got none; $STATE_DIRECTORY is not set either")
    tables = Tables(path, config.store.max_bytes, note_crashes=True)
    if tables.rebuilt:
        log.warning("kept replies are read again", why=tables.rebuilt)
    return tables


def _secrets(config: Config) -> list[bytes]:
    return [secret.encode() for secret in config.gateway.secrets]


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
