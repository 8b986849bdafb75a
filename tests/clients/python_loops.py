"""What the Python programs share: arguments, bodies, lines, and loops that end with the standard input."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import NamedTuple

METHODS = ("POST", "PUT")  # libraries repeat an idempotent one by themselves
SLOW_EACH = 4  # the service takes two seconds for these: they wait while the gateway reloads or ends

lock = threading.Lock()
ended = threading.Event()


class Mode(NamedTuple):
    """One stream of requests."""

    name: str
    version: str
    url: str


class Job(NamedTuple):
    """The command line."""

    authority: str
    connections: int
    pause_s: float
    modes: list[Mode]


class Told(NamedTuple):
    """What the library gives for one request."""

    status: int
    version: str
    answer: str
    outcome: str


def job() -> Job:
    """The command line of this program."""
    authority, connections, pause_ms, *modes = sys.argv[1:]
    return Job(authority, int(connections), int(pause_ms) / 1000, [Mode(*mode.split("=", 2)) for mode in modes])


def request(mode: Mode, loop: int, number: int) -> tuple[str, str]:
    """Method and body of a request; no two bodies are the same."""
    manner = "slow" if number % SLOW_EACH == SLOW_EACH - 1 else "fast"
    return METHODS[number % len(METHODS)], f"{manner} {mode.name} {loop} {number}"


def streams(number: int) -> bool:
    """Whether this request's body is sent without its length: with both methods, slow ones and fast ones."""
    return number % 4 >= 2


def tell(mode: Mode, body: str, told: Told | None, error: str = "") -> None:
    """One line."""
    status, version, answer, outcome = told or Told(0, "", "", "")
    line = {"client": mode.name, "body": body, "status": status, "version": version, "answer": answer}
    with lock:
        print(json.dumps({**line, "outcome": outcome, "error": error}), flush=True)


def watch_input() -> None:
    """Sets `ended` when the standard input ends."""
    sys.stdin.read()
    ended.set()


def run_threads(ask: Callable[[Mode], Callable[[str, str, bool], Told]]) -> None:
    """For libraries that block: a thread for each connection, with what `ask(mode)` gives for each."""
    work = job()

    def loop(mode: Mode, index: int) -> None:
        send = ask(mode)
        number = 0
        while not ended.is_set():
            method, body = request(mode, index, number)
            try:
                tell(mode, body, send(method, body, streams(number)))
            except Exception as error:  # whatever the library raises is its word on the request
                tell(mode, body, None, repr(error))
            number += 1
            ended.wait(work.pause_s)

    threads = [
        threading.Thread(target=loop, args=(mode, index)) for mode in work.modes for index in range(work.connections)
    ]
    for thread in threads:
        thread.start()
    watch_input()
    for thread in threads:
        thread.join()
