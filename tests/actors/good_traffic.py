"""Honest requests that go on while something else is done to a gateway, each answer checked."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.actors.raw_http import RawConnection
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

MORE = 10  # good answers before and after


class GoodTraffic(threading.Thread):
    """One client on one connection; an echo service answers it."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(name="good traffic")
        self._port = port
        self._path = path
        self._enough = threading.Event()
        self.answered = 0
        self.failures: list[object] = []

    def run(self) -> None:
        try:
            with RawConnection(self._port) as client:
                while not self._enough.is_set():
                    body = b"good %d" % self.answered
                    answer = client.request("POST", self._path, body)
                    if (answer.status, answer.body) != (200, body):
                        self.failures.append(answer)
                    self.answered += 1
        except OSError as error:
            self.failures.append(error)

    def goes_on(self) -> None:
        """A few more good answers from now on."""
        least = self.answered + MORE
        eventually(lambda: self.failures or self.answered >= least, 20, f"{MORE} good answers")

    def end(self) -> None:
        self._enough.set()
        self.join()


def processes(gateway: Gateway) -> dict[str, int]:
    """The agent and the workers of a gateway: name -> pid."""
    assert gateway.process is not None
    pid = gateway.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    titles = {Path(f"/proc/{child}/cmdline").read_bytes().rstrip(b"\0").decode(): int(child) for child in children}
    return {title: child for title, child in titles.items() if re.match("fastgw: .* (agent|worker)", title)}


@contextmanager
def unharmed(gateway: Gateway, port: int, path: str) -> Iterator[None]:
    """Good requests are answered before, during and after; the gateway's processes are the same ones afterwards."""
    before = processes(gateway)
    assert len(before) == 1 + len(gateway.status()["workers"])
    traffic = GoodTraffic(port, path)
    traffic.start()
    try:
        traffic.goes_on()
        yield
        traffic.goes_on()
    finally:
        traffic.end()
    assert traffic.failures == []
    assert processes(gateway) == before
