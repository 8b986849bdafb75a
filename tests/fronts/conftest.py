"""A running front for a test: `serve` with the settings that the test is about, `house` with none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fronts.houses import House, LoopThread
from tests.fronts.kinds import FrontKind

Serve = Callable[..., House]


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.stop()


@pytest.fixture
def serve(kind: FrontKind, loop_thread: LoopThread) -> Iterator[Serve]:
    """Starts the front of this test: `serve(max_body="1KiB", http="2", hosts=("a.test",), bind=...)`."""
    houses: list[House] = []

    def start(
        *,
        hosts: tuple[str, ...] = (),
        more_routes: str = "",
        bind: str = "127.0.0.1:0",
        http: str = "1",
        tls_cert: str = "",
        tls_key: str = "",
        tls_min: str = "1.2",
        proxy_protocol: bool = False,
        gateway: dict[str, Any] | None = None,
        **limits: str | int,
    ) -> House:
        listen = {"http": http, "tls_cert": tls_cert, "tls_key": tls_key, "tls_min": tls_min}
        house = House(
            loop_thread, kind, limits, hosts, bind, more_routes, gateway, proxy_protocol=proxy_protocol, **listen
        )
        houses.append(house)
        return house

    yield start
    for house in houses:
        house.leave()


@pytest.fixture
def house(serve: Serve) -> House:
    """The front with default limits."""
    return serve()
