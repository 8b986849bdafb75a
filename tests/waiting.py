"""Waiting for a condition, so that no test sleeps for as long as it hopes is enough."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

LOOK_AGAIN_S = 0.01  # short against everything that is waited for, long against the cost of a look

# What a look raises at something that is not there yet: the first of an empty list, a key of None, half a JSON text,
# a port where nobody listens.
NOT_THERE = (LookupError, TypeError, AttributeError, ValueError, OSError, StopIteration)


def eventually(condition: Callable[[], Value], timeout_s: float = 10.0, message: str = "") -> Value:
    """Ask `condition` until its answer is true, and return that answer.

    A condition that cannot look yet (`NOT_THERE`) is false. So `lambda: status()["reload"]["result"] == "ok"` is right
    while there is no reload, and while nobody answers. An AssertionError of the condition ends the waiting at once.

    Raises:
        AssertionError: it was still false after `timeout_s`; tells `message` and the last answer, or is raised from
            the last exception.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        answer, failure = _look(condition)
        if failure is None and answer:
            return answer
        if time.monotonic() >= deadline:
            what = message or getattr(condition, "__name__", "condition")
            last = f"last answer: {answer!r}" if failure is None else f"the last look raised {failure!r}"
            raise AssertionError(f"not within {timeout_s:g} s: {what} ({last})") from failure
        pause.wait(LOOK_AGAIN_S)


def _look(condition: Callable[[], Value]) -> tuple[Value, None] | tuple[None, Exception]:
    try:
        return condition(), None
    except NOT_THERE as failure:
        return None, failure
