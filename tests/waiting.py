"""Waiting for a condition, so that no test sleeps for as long as it hopes is enough."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

LOOK_AGAIN_S = 0.01  # short against everything that is waited for, long against the cost of a look


def eventually(condition: Callable[[], Value], timeout_s: float = 10.0, message: str = "") -> Value:
    """Ask `condition` until its answer is true, and return that answer.

    Raises:
        AssertionError: it was still false after `timeout_s`; tells `message` and the last answer. An exception from
            `condition` is not caught: a condition that can fail on its way says so itself.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (answer := condition()):
        if time.monotonic() >= deadline:
            what = message or getattr(condition, "__name__", "condition")
            raise AssertionError(f"not within {timeout_s:g} s: {what} (last answer: {answer!r})")
        pause.wait(LOOK_AGAIN_S)
    return answer
