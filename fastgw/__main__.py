"""`python -m fastgw`: the commands of `cli`, and the processes that the supervisor starts.

Those two, `worker` and `agent`, are no commands for people. They are parsed here because a worker that died has to be
back soon, and the libraries of the command line take 0.1 s to import.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from fastgw.errors import FastgwError

_CHILDREN = {
    "worker": ("--slot", "--generation", "--table-fd", "--config-fd", "--ready-fd", "--life-fd"),
    "agent": ("--table-fd", "--config-fd", "--ready-fd", "--life-fd", "--admin-fd"),
}


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in _CHILDREN:
        sys.exit(_be(sys.argv[1], sys.argv[2:]))
    from fastgw import cli

    cli.main()


def _be(kind: str, arguments: Sequence[str]) -> int:
    """Be a child process of the supervisor; the exit code."""
    options = parse_child(kind, arguments)
    try:
        if kind == "worker":
            from fastgw import worker

            return worker.main(**options)
        from fastgw import agent

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
    return vars(parser.parse_args(arguments))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


if __name__ == "__main__":
    main()
