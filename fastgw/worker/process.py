"""The worker process: `python -m fastgw worker`, from its start by the supervisor to its exit.

SIGTERM, or the supervisor has ended    the worker drains and exits with 0
SIGINT                                  ignored: the supervisor handles Ctrl-C
the drain hangs or fails                the process ends anyway, see `_end_in_time` and EXIT_BROKEN
out of memory                           it exits with EXIT_BROKEN at once
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import setproctitle
import structlog
import uvloop

from fastgw import config, logs
from fastgw.worker.worker import Worker

log = structlog.get_logger("fastgw.worker")

ORPHAN_MORE_S = 3.0  # a worker whose supervisor has ended is killed this long after the drain timeout
EXIT_BROKEN = 70  # sysexits.h: an internal error
SWITCH_INTERVAL_S = 0.0005  # other Python threads only hand batches over: give them the GIL quickly


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
    """Run the worker process; return its exit code. The supervisor starts it with inherited descriptors.

    Args:
        slot: the worker slot that this process fills.
        generation: the generation of the process, as in its ids.
        ready_fd: gets a line once the worker is ready; negative: no one waits for it.
        life_fd: becomes readable when the supervisor has ended; negative: there is no supervisor.
        listen_fds, listen_of: see Worker.serve.
    """
    logs.configure(f"worker {slot}.{generation}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles Ctrl-C and sends SIGTERM
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with os.fdopen(config_fd, "rb") as file:
        cfg = config.from_json(file.read())
    setproctitle.setproctitle(f"fastgw: {cfg.gateway.name} worker {slot}")
    args = {"cfg": cfg, "worker": slot, "generation": generation, "table_fd": table_fd, "run_dir": Path(run_dir)}
    uvloop.run(_run(args, ready_fd, life_fd, (listen_fds, listen_of)))
    return 0


async def _run(
    worker_args: dict[str, Any], ready_fd: int, life_fd: int, listens: tuple[Sequence[int], Sequence[int]]
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_unhandled)
    worker = Worker(**worker_args)

    def drain(orphaned: bool = False) -> None:
        draining.append(loop.create_task(worker.drain(orphaned)))
        draining[-1].add_done_callback(_drained)

    def orphaned() -> None:
        loop.remove_reader(life_fd)  # it would stay readable: the other end is closed
        _end_in_time(worker_args["cfg"].gateway.drain_timeout_ns)
        drain(orphaned=True)

    draining: list[asyncio.Task[None]] = []  # keeps a reference: asyncio does not, and the task could be collected
    loop.add_signal_handler(signal.SIGTERM, drain)
    if life_fd >= 0:
        loop.add_reader(life_fd, orphaned)
    await worker.serve(*listens)
    gc.collect()
    gc.freeze()  # the objects alive now stay alive: the collector need not visit them again
    if ready_fd >= 0:
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)
    await worker.stopped.wait()


def _drained(task: asyncio.Task[None]) -> None:
    if task.exception() is not None:
        try:
            log.error("drain failed", exc_info=task.exception())
        finally:
            os._exit(EXIT_BROKEN)


def _on_unhandled(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an uncaught error and go on, but exit when memory has run out.

    Without memory some requests would hang and others be lost. The supervisor replaces the process faster than that.
    """
    error = context.get("exception")
    try:
        log.error("unhandled error", what=context.get("message"), exc_info=error)
    finally:
        if isinstance(error, MemoryError):
            os._exit(EXIT_BROKEN)


def _end_in_time(drain_timeout_ns: int) -> None:
    """Let the kernel end this process if the drain hangs: there is no supervisor left that could."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, drain_timeout_ns / 1e9 + ORPHAN_MORE_S)
