"""How every benchmark is a command: help from its docstring, an end in order on Ctrl-C, SIGTERM or a failure."""

from __future__ import annotations

import functools
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

from bench.rig.processes import BenchError

INTERRUPTED = 130  # what shells give for Ctrl-C


def run(main: Callable[..., Any], doc: str | None) -> None:
    """Run `main` with the arguments of the command line; every context it has entered is left, whatever happens."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    # Click fills paragraphs; \b keeps the lines of the indented ones as they are.
    app.command(help=re.sub(r"\n\n(?=    )", "\n\n\b\n", doc or ""))(_ending_in_order(main))
    for number in (signal.SIGTERM, signal.SIGINT):  # SIGINT as well: a shell's background jobs ignore it
        signal.signal(number, _interrupt)
    app()


def _ending_in_order(main: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(main)
    def run_it(*arguments: Any, **named: Any) -> None:
        try:
            main(*arguments, **named)
        except KeyboardInterrupt:
            print("bench: interrupted; everything it started has ended", file=sys.stderr)
            sys.exit(INTERRUPTED)
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            sys.exit(1)

    return run_it


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
