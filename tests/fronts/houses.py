"""A front under test that is really running: listening socket, loop in a thread of its own, door behind it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import msgspec
import uvloop

from fastgw.config import Listen
from fastgw.http.express import ExpressFront
from fastgw.http.front import Front
from fastgw.messages import Record
from fastgw.supervisor import listeners
from tests.fronts.door import Defect, ScriptedDoor, configuration
from tests.fronts.kinds import FrontKind
from tests.fronts.raw_http import RawClient
from tests.waiting import eventually

Value = TypeVar("Value")

STOP_TIMEOUT_S = 10.0


class LoopThread:
    """A uvloop in a thread; `failures` has what no callback caught."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.failures: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _loop, context: self.failures.append(context))
        self._thread = threading.Thread(target=self.loop.run_forever, name="loop", daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., Value], *args: Any) -> Value:
        """What `function(*args)` returns on the loop."""

        async def on_the_loop() -> Value:
            return function(*args)

        return self.run(on_the_loop())

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """The result of a coroutine of the loop."""
        return self.begin(coroutine).result(STOP_TIMEOUT_S)

    def begin(self, coroutine: Coroutine[Any, Any, Value]) -> concurrent.futures.Future[Value]:
        """Starts a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(STOP_TIMEOUT_S)
        assert not self._thread.is_alive()
        self.loop.close()


class House:
    """One front, its door, and the clients that came to it."""

    def __init__(
        self,
        loop_thread: LoopThread,
        kind: FrontKind,
        limits: dict[str, str | int],
        hosts: tuple[str, ...],
        bind: str,
        more_routes: str = "",
        gateway: dict[str, Any] | None = None,
        **listen: Any,
    ) -> None:
        """`gateway`: fields of its section that are not the default ones."""
        self._loop_thread = loop_thread
        self._clients: list[RawClient] = []
        cfg = configuration(limits, hosts, more_routes)
        cfg = msgspec.structs.replace(cfg, gateway=msgspec.structs.replace(cfg.gateway, **gateway or {}))
        self.listeners = listeners.open_listeners([bind], workers=1)
        self.address = self.listeners.addresses[0]
        self.door: ScriptedDoor = loop_thread.call(ScriptedDoor, cfg)
        fd = self.listeners.fds_of(0)[0]
        make = kind.make
        if listen.get("proxy_protocol"):
            make = partial(ExpressFront, forwarding=self.door.forwarding)
        self.front: Front = loop_thread.call(make, fd, Listen(bind=bind, **listen), cfg.limits, self.door)
        loop_thread.run(self.front.start())

    def client(self, **options: Any) -> RawClient:
        """A new connection to the front."""
        client = RawClient(self.address, **options)
        self._clients.append(client)
        return client

    def call(self, function: Callable[..., Value], *args: Any) -> Value:
        """What `function(*args)` returns on the front's loop."""
        return self._loop_thread.call(function, *args)

    def held(self, count: int = 1) -> list[Record]:
        """The records that wait for the service, once there are `count`."""
        eventually(lambda: len(self.door.held) >= count, message=f"{count} held requests in {self.door}")
        assert len(self.door.held) == count, self.door
        return self.door.held

    def reply(self, record: Record, value: bytes = b"", headers: tuple[tuple[str, bytes], ...] = ()) -> None:
        """The service replies to a held request."""
        self.call(self.door.reply, record, value, headers)

    def drain(self) -> None:
        self.call(self.front.drain)

    def closed(self) -> None:
        """Returns when the front has ended all its connections after `drain`."""
        self._loop_thread.run(self.front.closed())

    def closing(self) -> concurrent.futures.Future[None]:
        """Done when the front has ended all its connections after `drain`."""
        return self._loop_thread.begin(self.front.closed())

    def empty(self) -> bool:
        """No request holds a place any more."""
        return self.door.places_taken == 0

    def leave(self) -> None:
        """End everything, and see that the front kept its side of the contract."""
        for client in self._clients:
            client.sock.close()
        self.call(self.door.exchange.end_all, "the test is over")
        eventually(self.empty, message=f"every admission opened or abandoned: {self.door}")
        self.drain()
        self.closed()
        self.listeners.close()
        failures = list(self._loop_thread.failures)
        self._loop_thread.failures.clear()
        unexpected = [failure for failure in failures if not isinstance(failure.get("exception"), Defect)]
        assert not unexpected, unexpected
