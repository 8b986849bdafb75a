"""One step of a plain request, again and again: `python instructed.py STEP ROUNDS`, in the folder of a checkout.

`bench.questions.instructions` runs it under valgrind, for this checkout and for an older one. So it is a script that
uses what both have: the actors of their own tests.
"""

from __future__ import annotations

import gc
import os
import sys
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import Any

Step = Callable[[], object]


def front() -> Step:
    """A POST with a body from its bytes to the call of the core, on a connection of the express front."""
    from fastgw.http.connection import Connection

    heads = import_module("tests.micro.test_bench_heads")

    class Transport:
        write = deque[Any](maxlen=1).append

        def get_extra_info(self, name: str) -> object:
            return ("192.0.2.7", 40000) if name == "peername" else None

        def set_write_buffer_limits(self, high: int) -> None: ...

    its_front = heads.FakeFront()
    its_front.door = heads.InstantDoor()
    connection = Connection(its_front)
    connection.connection_made(Transport())
    lines = "".join(f"{name}: {value}\r\n" for name, value in heads.FEW.items())
    request = f"POST /held HTTP/1.1\r\n{lines}\r\n".encode() + heads.BODY
    return lambda: connection.data_received(request)


def core() -> Step:
    """A request in the exchange: its record, the report that Kafka has it, its reply, its answer."""
    house = import_module("tests.core.test_exchange").House(slots=4096)
    _, first = house.open()
    partition: tuple[int, ...] = (0,)
    try:
        house.exchange.delivered(first, 1, *partition)
    except TypeError:  # an older checkout, which did not keep the partition of a record
        partition = ()

    def live() -> None:
        _, token = house.open()
        house.exchange.delivered(token, 1, *partition)
        house.exchange.resolve(*house.reply(), 2)
        house.send.records.clear()

    return live


STEPS = {"front": front, "core": core}


def main() -> None:
    """Run a step so many times. No garbage collection comes between."""
    sys.path.insert(0, os.getcwd())
    step, rounds = STEPS[sys.argv[1]](), int(sys.argv[2])
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        step()


if __name__ == "__main__":
    main()
