"""`fastgw reload`: finds the gateway that runs with a configuration file, signals it, and reports the result."""

from __future__ import annotations

import os
import select
import signal
import tempfile
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fastgw import state_file
from fastgw.errors import ConfigError, FastgwError, StartError
from fastgw.state_file import Reload, State

LOOK_S = 0.05


class ReloadError(FastgwError):
    """The reload failed, or had no result in time; the text says which configuration runs now."""


class Done(NamedTuple):
    """A successful reload."""

    pid: int
    took_s: float


def reload(config: Path, pid: int | None, timeout_s: float) -> Done:
    """Ask the gateway that runs with `config` to reload it, and wait for the result.

    Args:
        pid: selects one gateway if several run with this file.

    Raises:
        StartError: no gateway runs with this file, or several do.
        ConfigError: the gateway refused the configuration and changed nothing; the text is the gateway's.
        ReloadError: workers could not start with the new configuration, so the old one is back; or there is no result
            in time.
    """
    run_dir, state = _the_one(config, pid)
    before = state.reload.number if state.reload else 0
    try:
        pidfd = os.pidfd_open(state.pid)
    except OSError:
        raise StartError(f"the gateway with pid {state.pid} has just ended") from None
    try:
        if not state_file.is_held(run_dir):  # if it is held, the supervisor lives and this is its pid
            raise StartError(f"the gateway with pid {state.pid} has just ended")
        _signal(pidfd, state.pid)
        # Any reload that begins from here on reads the present file, even if another process asked for it.
        ended = _wait(run_dir, before, pidfd, timeout_s)
    finally:
        os.close(pidfd)
    if ended.result == state_file.REFUSED:
        raise ConfigError(f"reload refused, the old configuration stays: {ended.error}")
    if ended.result == state_file.UNDONE:
        raise ReloadError(f"reload undone, the old configuration stays: {ended.error}")
    return Done(state.pid, (ended.ended_s or 0.0) - ended.began_s)


def _the_one(config: Path, pid: int | None) -> tuple[Path, State]:
    places = _places(config)
    found = state_file.find(places, config)
    if pid is not None:
        found = {run_dir: state for run_dir, state in found.items() if state.pid == pid}
    if not found:
        which = f" with pid {pid}" if pid is not None else ""
        looked = ", ".join(map(str, places[:3]))
        raise StartError(
            f"{config}: expected a gateway{which} that runs with this file, found none (looked in {looked} and /run/*);"
            " `fastgw run` starts one; only its own user and root may reload it"
        )
    if len(found) > 1:
        pids = ", ".join(str(state.pid) for state in found.values())
        raise StartError(f"{config}: {len(found)} gateways run with this file; choose one with --pid: {pids}")
    return next(iter(found.items()))


def _places(config: Path) -> list[Path]:
    """Directories that may contain run directories, most likely first; see `supervisor.run`."""
    names = [
        _configured_place(config),
        os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0],
        os.environ.get("XDG_RUNTIME_DIR", ""),
        tempfile.gettempdir(),
        f"/run/user/{os.getuid()}",
    ]
    places = [Path(name) for name in names if name]
    with suppress(OSError):
        places += [place for place in sorted(Path("/run").iterdir()) if place.is_dir()]
    return list(dict.fromkeys(places))


def _configured_place(config: Path) -> str:
    """`gateway.run_dir`, or "" if it cannot be read: the gateway itself reports mistakes in the file."""
    try:
        place = tomllib.loads(config.read_text())["gateway"]["run_dir"]
        return os.path.expandvars(place) if isinstance(place, str) else ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _signal(pidfd: int, pid: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGHUP)
    except PermissionError:
        raise StartError(
            f"the gateway with pid {pid} belongs to another user: reload it as that user or as root"
        ) from None
    except ProcessLookupError:
        raise StartError(f"the gateway with pid {pid} has just ended") from None


def _wait(run_dir: Path, before: int, pidfd: int, timeout_s: float) -> Reload:
    ends = time.monotonic() + timeout_s
    end_of_process = select.poll()
    end_of_process.register(pidfd, select.POLLIN)
    while time.monotonic() < ends:
        has_ended = bool(end_of_process.poll(LOOK_S * 1000))
        state = state_file.read(run_dir)
        last = state.reload if state is not None else None
        if last is not None and last.number > before and last.result != state_file.RUNNING:
            return last
        if has_ended:
            raise ReloadError("the gateway ended during the reload")
        if state is not None and state.stage == state_file.DRAINING:
            raise ReloadError("the gateway is shutting down and does not reload")
    raise ReloadError(f"no result within {timeout_s:g} s; the reload continues, see `reload` in /status")
