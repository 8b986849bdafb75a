"""What does a record cost in each Kafka link, there and back, and does memory stay flat over many?

    python -m bench.questions.link                                          # both links in turn, 5 rounds of 100,000
    python -m bench.questions.link native --rounds 100 --messages 100000    # soak: ten million; 1 if memory has grown

Each record goes to the response topic itself, on the embedded broker in a process of its own, with a slot of the shared
table and its token as correlation id, and comes back as a reply; 1,000 are on their way at a time, in batches, as those
of requests are. Prints a JSON line a round: CPU microseconds a record of the whole process (the link, its threads and
librdkafka's) and resident memory; at the end, with ten rounds or more, by how much memory has grown since a tenth of
them. The embedded broker is no measure of Kafka, but the same for both links.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from bench.rig import facts
from bench.rig.commands import run
from bench.rig.processes import BenchError
from fastgw import table
from fastgw._ctable import ANSWERED
from fastgw.demo.broker import EmbeddedBroker
from fastgw.errors import Ending
from fastgw.kafka.link import FROM_END, Link, LinkSettings
from fastgw.kafka.native_link import NativeLink, open_library
from fastgw.kafka.properties import client_properties
from fastgw.kafka.public_link import KafkaLink
from fastgw.messages import TOGETHER, Record, Reply

KINDS = {"native": NativeLink, "public": KafkaLink}
PARTITIONS, BODY_BYTES = 4, 256
ON_THEIR_WAY = 1000
DEADLINE_NS = 600_000_000_000
GROWTH_ROUNDS, GROWN_BYTES_MAX = 10, 4 << 20
TICK_S = 0.025  # as the worker
BODY = b"x" * BODY_BYTES
OTHER_HEADERS = [
    ("reply_to", b"shop.replies"),
    ("http_method", b"POST"),
    ("http_path", b"/orders"),
    ("content-type", b"application/json"),
]


class Loopback:
    """Sends records, and a new one for each that has come back, until all have."""

    def __init__(self, topic: str) -> None:
        self.link: Link
        _, shared = table.create(node=1, workers=1, slots_per_process=2 * ON_THEIR_WAY)
        shared.register(0, os.getpid(), 0, 0)
        self.slots = shared.open_range(0)
        self._topic = topic
        self._unsent = self._missing = 0
        self._all_back = asyncio.Event()
        self.positions = asyncio.Event()

    async def round(self, messages: int) -> None:
        """Send so many and wait until they are all back."""
        self._unsent = self._missing = messages
        self._all_back.clear()
        self._send(min(messages, ON_THEIR_WAY))
        await self._all_back.wait()

    def _send(self, count: int) -> None:
        now_ns = time.monotonic_ns()
        for _ in range(min(count, self._unsent)):
            self._unsent -= 1
            token = self.slots.publish(self.slots.claim(), 1, 0, 0, now_ns + DEADLINE_NS, now_ns)
            headers = [("correlation_id", b"%032d" % token), *OTHER_HEADERS]
            self.link.send(Record(self._topic, BODY, None, headers, TOGETHER), token, 0, self._missing, now_ns)
            self.slots.sent(token, now_ns)

    def replies(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            token = int(reply.correlation_id)
            self.slots.finish(token, ANSWERED)
            self.slots.release(token)
        self._missing -= len(replies)
        self._send(len(replies))
        if self._missing == 0:
            self._all_back.set()

    def delivered(self, token: int, at_ns: int, _partition: int) -> None:
        self.slots.recorded(token, at_ns)

    def undelivered(self, token: int, ending: Ending, detail: str) -> None:
        raise BenchError(f"record {token}: {ending.name}, {detail}")

    def positioned(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> None:  # noqa: ARG002
        if starts:
            self.positions.set()


def main(
    kinds: Annotated[list[str] | None, typer.Argument(metavar="LINK...", help="native, public; default: both.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    messages: Annotated[int, typer.Option(min=ON_THEIR_WAY, help="Records a round.")] = 100_000,
) -> None:
    chosen = kinds or list(KINDS)
    if unknown := set(chosen) - KINDS.keys():
        raise BenchError(f"no link {', '.join(unknown)}: known are {', '.join(KINDS)}")
    open_library()
    with EmbeddedBroker(dict.fromkeys(chosen, PARTITIONS)) as broker:  # each link has a topic of its own
        resident = uvloop.run(_measure(broker.bootstrap, chosen, rounds, messages))
    print(json.dumps({"versions": facts.versions([], "none: embedded broker"), "machine": facts.machine()}))
    if rounds >= GROWTH_ROUNDS:
        grown = resident[-1] - resident[rounds // 10]
        print(json.dumps({"bench": "link", "records": rounds * messages, "grown_mb": round(grown / (1 << 20), 1)}))
        sys.exit(grown > GROWN_BYTES_MAX)


async def _measure(bootstrap: str, kinds: Sequence[str], rounds: int, messages: int) -> list[int]:
    """Resident bytes after each round."""
    resident = []
    loopbacks = {kind: await _started(kind, bootstrap) for kind in kinds}
    for number in range(rounds + 1):  # one to warm up
        for kind, loopback in loopbacks.items():
            began_s, began = time.process_time(), time.monotonic()
            await loopback.round(messages)
            line = {
                "bench": "link",
                "link": kind,
                "round": number,
                "cpu_us": round((time.process_time() - began_s) / messages * 1e6, 2),
                "records_a_second": round(messages / (time.monotonic() - began)),
                "rss_mb": round(_resident_bytes() / (1 << 20), 1),
            }
            if number:
                print(json.dumps(line), flush=True)
        resident.append(_resident_bytes())
    for loopback in loopbacks.values():
        loopback.link.close(1.0)
    return resident


async def _started(kind: str, bootstrap: str) -> Loopback:
    loop, loopback = asyncio.get_running_loop(), Loopback(kind)
    settings = LinkSettings(client_properties(bootstrap, {}), kind, [60_000], fetch_wait_ms=5)
    more = {"slots": loopback.slots} if kind == "native" else {}
    loopback.link = KINDS[kind](settings, loopback, loop, **more)
    loopback.link.start()

    def tick() -> None:
        loopback.link.poll()
        loop.call_later(TICK_S, tick)

    tick()
    loopback.link.assign(dict.fromkeys(range(PARTITIONS), FROM_END))
    await loopback.positions.wait()
    return loopback


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    run(main, __doc__)
