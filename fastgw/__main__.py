"""`python -m fastgw`: the commands of `cli`, and the processes that the supervisor starts.

The processes `worker`, `agent`, `store`, `checker` and `standby` are not commands for users. They are parsed here
because a dead worker must be replaced quickly, and importing the command line's libraries takes 0.1 s.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from fastgw.errors import FastgwError
from fastgw.structlog_alone import import_structlog

_CHILDREN = {
    "worker": ("--slot", "--generation", "--table-fd", "--config-fd", "--ready-fd", "--life-fd"),
    "agent": ("--table-fd", "--config-fd", "--ready-fd", "--life-fd"),
    "checker": ("--table-fd", "--config-fd", "--ready-fd", "--life-fd"),
    "store": ("--table-fd", "--config-fd", "--ready-fd", "--life-fd"),
}


def main() -> None:
    if sys.argv[1:2] == ["standby"]:
        sys.exit(_stand_by(sys.argv[2:]))
    if sys.argv[1:2] and sys.argv[1] in _CHILDREN:
        sys.exit(_be(sys.argv[1], sys.argv[2:]))
    from fastgw.cli import main as cli

    cli.main()


def _stand_by(arguments: Sequence[str]) -> int:
    """Import what a worker needs, wait for its options, run as that worker; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fastgw standby", description="Started by `fastgw run` only.")
    parser.add_argument("--standby-fd", type=int, required=True)
    parser.add_argument("--name", required=True)
    options = parser.parse_args(arguments)
    import_structlog()
    from setproctitle import setproctitle

    from fastgw.supervisor.standby import await_role
    from fastgw.worker import process  # noqa: F401  this import takes the time

    setproctitle(f"fastgw: {options.name} standby")
    role = await_role(options.standby_fd)
    return 0 if role is None else _be("worker", role)


def _be(kind: str, arguments: Sequence[str]) -> int:
    """Run as a child process of the supervisor; returns the exit code."""
    options = parse_child(kind, arguments)
    import_structlog()
    try:
        if kind == "worker":
            from fastgw.worker import process

            return process.main(**options)
        if kind == "checker":
            from fastgw.agent import checker

            return checker.main(**options)
        if kind == "store":
            from fastgw.store import process as store

            return store.main(**options)
        from fastgw.agent import agent

        return agent.main(**options)
    except FastgwError as error:
        print(f"fastgw: {kind}: {error}", file=sys.stderr)
        return error.exit_code


def parse_child(kind: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a child as keyword arguments of its `main`."""
    parser = argparse.ArgumentParser(prog=f"python -m fastgw {kind}", description="Started by `fastgw run` only.")
    for option in _CHILDREN[kind]:
        parser.add_argument(option, type=int, required=True)
    parser.add_argument("--run-dir", required=True)
    if kind == "worker":
        parser.add_argument("--listen-fds", type=_numbers, required=True)
        parser.add_argument("--listen-of", type=_numbers, required=True)
    if kind == "agent":
        parser.add_argument("--admin-fds", type=_numbers, default=[])
    return vars(parser.parse_args(arguments))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


if __name__ == "__main__":
    main()
