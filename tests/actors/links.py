"""Either Kafka link on a loop of its own that turns only while a test waits for something."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

import uvloop

from fastgw.errors import Ending
from fastgw.kafka.link import FROM_END, Link, LinkSettings
from fastgw.kafka.native_link import NativeLink, open_library
from fastgw.kafka.properties import client_properties
from fastgw.kafka.public_link import KafkaLink
from fastgw.messages import Record, Reply
from tests.waiting import eventually

KINDS = {"native": NativeLink, "public": KafkaLink}
TICK_S = 0.025  # as the worker
TURN_S = 0.005

Value = TypeVar("Value")


class Told:
    """What a link told its owner."""

    def __init__(self) -> None:
        self.got: list[Reply] = []
        self.batches: list[int] = []  # how many replies each
        self.recorded: dict[int, int] = {}  # token -> when
        self.failed: dict[int, tuple[Ending, str]] = {}
        self.positions: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        self.positionings = 0

    def replies(self, replies: Sequence[Reply]) -> None:
        self.got += replies
        self.batches.append(len(replies))

    def delivered(self, token: int, at_ns: int, _partition: int) -> None:
        assert token not in self.recorded, "each record is told of once"
        self.recorded[token] = at_ns

    def undelivered(self, token: int, ending: Ending, detail: str) -> None:
        assert token not in self.failed, "each record is told of once"
        self.failed[token] = ending, detail

    def positioned(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> None:
        assert starts.keys() == ends.keys()
        self.positions |= starts
        self.ends |= ends
        self.positionings += 1

    def offsets(self, partition: int) -> list[int]:
        """Offsets of the replies of one partition, in the order in which they came."""
        return [reply.offset for reply in self.got if reply.partition == partition]


class LinkOnALoop:
    """A link with what a worker has around it: a loop, a tick, somebody who is told. A context manager."""

    def __init__(
        self,
        kind: str,
        bootstrap: str,
        topic: str,
        timeouts_ms: Sequence[int] = (5000,),
        client: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        """`client` holds more librdkafka properties, `settings` more of LinkSettings."""
        self.topic = topic
        self.told = Told()
        self.loop = uvloop.new_event_loop()
        shared = client_properties(bootstrap, {"reconnect.backoff.max.ms": 200, **(client or {})})
        self.settings = LinkSettings(shared, topic, timeouts_ms, **{"fetch_wait_ms": 5} | settings)  # type: ignore[arg-type]
        if kind == "native":
            open_library()
        self.link: Link = KINDS[kind](self.settings, self.told, self.loop)
        self._closed = False

    def __enter__(self) -> LinkOnALoop:
        self.link.start()
        self._tick()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._closed:
            self.close(1.0)
        self.loop.close()

    def _tick(self) -> None:
        if not self._closed:
            self.link.poll()
            self.loop.call_later(TICK_S, self._tick)

    def close(self, timeout_s: float) -> int:
        """Closes the link; returns what it says is left."""
        self._closed = True
        return self.link.close(timeout_s)

    def until(self, condition: Callable[[], Value], timeout_s: float = 10.0, message: str = "") -> Value:
        """Lets the loop turn until `condition` holds."""

        def look() -> Value:
            self.loop.call_later(TURN_S, self.loop.stop)
            self.loop.run_forever()
            return condition()

        return eventually(look, timeout_s, message)

    def read(self, partitions: Sequence[int], at: int = FROM_END) -> dict[int, int]:
        """Starts reading these partitions and waits until they are positioned; returns from where."""
        self.told.positions.clear()
        self.link.assign(dict.fromkeys(partitions, at))
        self.until(lambda: self.told.positions.keys() >= set(partitions), message=f"{partitions} positioned")
        return dict(self.told.positions)

    def send(self, token: int, partition: int = 0, delivery_class: int = 0, value: bytes | None = None) -> None:
        """Sends a record with a key to the response topic itself, so that it comes back as a reply."""
        value = b"value %d" % token if value is None else value
        self.send_record(
            Record(self.topic, value, b"key", [("correlation_id", b"id %d" % token)], partition), token, delivery_class
        )

    def send_record(self, record: Record, token: int, delivery_class: int = 0, concurrency_hint: int = 1) -> None:
        """Sends any record."""
        self.link.send(record, token, delivery_class, concurrency_hint, time.monotonic_ns())

    def fate(self, token: int, timeout_s: float = 10.0) -> str:
        """Waits for what becomes of a record: "recorded", or the name of the ending."""
        told = self.told
        self.until(lambda: token in told.recorded or token in told.failed, timeout_s, f"the fate of {token} is told")
        assert not (token in told.recorded and token in told.failed)
        return "recorded" if token in told.recorded else told.failed[token][0].name
