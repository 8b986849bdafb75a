"""Ports for processes that a test starts: told to them as numbers, so nobody else may take them in between.

They lie below the range from which the kernel gives ports to outgoing connections (32768 and up), and each process of
a test run draws from a part of its own.
"""

from __future__ import annotations

import os
import random
import socket
from itertools import count

FIRST, LAST = 10_000, 32_000
LANES = 8  # parts; more processes than that share them
LANE_PORTS = (LAST - FIRST) // LANES

_drawn = count(random.randrange(LANE_PORTS))  # another run on this machine begins elsewhere


def free_ports(how_many: int) -> list[int]:
    """Ports that nobody listens on and that this process has not given away lately; they follow each other."""
    first = FIRST + _lane() * LANE_PORTS
    for _ in range(LANE_PORTS):
        begin = next(_drawn) % LANE_PORTS
        if begin + how_many > LANE_PORTS:
            continue
        ports = [first + begin + number for number in range(how_many)]
        if all(_is_free(port) for port in ports):
            for _ in range(how_many - 1):
                next(_drawn)
            return ports
    raise AssertionError(f"no {how_many} free ports in a row from {first} to {first + LANE_PORTS}")


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)[0]


def _lane() -> int:
    """The number of this process among those of a test run (pytest-xdist calls them gw0, gw1 ...)."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % LANES


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
