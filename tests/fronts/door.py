"""The core behind a front under test: the real intake and the real exchange, with a service that the test plays."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

from fastgw import config, errors, ids, table
from fastgw.admission import Admission, Refusal, Sink
from fastgw.body_memory import AnswerMemory, BodyMemory
from fastgw.config import Config
from fastgw.core.exchange import REFUSED, Exchange
from fastgw.core.routing import Router
from fastgw.errors import Ending
from fastgw.forwarding import Forwarding
from fastgw.http.cors import Policies
from fastgw.ids import IdMaker
from fastgw.messages import Answer, Cut, Head, HeaderList, Record, Reply
from fastgw.worker.access_log import AccessLog
from fastgw.worker.door import GatewayDoor
from fastgw.worker.journal import Journal
from fastgw.worker.notes import Notes
from fastgw.worker.plans import Plans, delivery_classes
from tests.actors.streaming import as_streaming

ROUTES = """
[gateway]
name = "shop"
slots = 4096
hosts = [{hosts}]
[kafka]
bootstrap = "localhost:9092"
[limits]
{limits}
[[route]]
method = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"]
path = "/echo"
topic = "echo"
request_headers = ["x-asked"]
response_headers = ["x-told"]
[[route]]
method = ["GET", "HEAD", "POST"]
path = "/held"
topic = "held"
[[route]]
method = ["GET", "HEAD", "POST"]
path = "/raw"
topic = "raw"
[[route]]
method = ["GET", "POST"]
path = "/defect"
topic = "echo"
[[route]]
method = ["GET", "HEAD", "POST", "QUERY"]
path = "/stream"
topic = "stream"
[[route]]
method = "GET"
path = "/items/{{id}}"
topic = "echo"
[[route]]
method = "POST"
path = "/small"
topic = "echo"
max_body = "16B"
"""

ANYTHING = "".join(
    f"""
[[route]]
method = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
path = "{path}"
topic = "echo"
"""
    for path in ("/", "/{a}", "/{a}/{b}", "/{a}/{b}/{c}", "/{a}/{b}/{c}/{d}")
)
"""Further routes: every path of up to four segments, so that nothing is refused for its path alone."""

HOME, PARTITIONS = 2, 4
STREAM_TOKENS = 1 << 60  # of streams, which have no place in the exchange


def configuration(limits: dict[str, str | int], hosts: Sequence[str] = (), more_routes: str = "") -> Config:
    """The routes above with these limits, as they would stand in a file."""
    lines = "\n".join(f"{key} = {value!r}" for key, value in limits.items())
    return config.loads(ROUTES.format(limits=lines, hosts=", ".join(map(repr, hosts))) + more_routes, "test.toml")


class Defect(Exception):
    """What no code expects."""


class ScriptedDoor:
    """`admission.Door` as `worker.py` has it. What the service does is said by the path:

    /echo, /items/{id}, /small   replies at once with the request's body
    /held                        waits in `held` until the test calls `reply`
    /defect                      `open` raises, as a defect of the core would
    /stream                      waits in `sinks` for what the test writes
    /raw                         `raw_answer` and `raw_id` go to the front as they are, past all that checks replies

    Everything is called on the loop; the lists may be read from anywhere.
    """

    def __init__(self, cfg: Config) -> None:
        self._loop = asyncio.get_running_loop()
        self.dropped: list[int] = []  # lines of the access log
        self.forwarding = Forwarding(cfg.gateway.trusted_proxies, cfg.gateway.forwarded)
        table_fd, shared = table.create(node=1, workers=1, slots_per_process=cfg.gateway.slots)
        os.close(table_fd)  # the mapping lives on without it
        shared.register(0, os.getpid(), 0, 0)
        self.table = shared
        maker = IdMaker(1, 0, 0)
        maker.set_ownership(PARTITIONS, [HOME], HOME)
        self._plans = Plans(cfg, delivery_classes([route.timeout_ns for route in cfg.routes])).all
        journal = Journal()
        policies = Policies(cfg.cors, cfg.routes)
        self.access_log = AccessLog(cfg.log, 0, self.dropped.append) if cfg.log.access != "off" else None
        names = {route.number: route.name for route in cfg.routes}
        notes = Notes(policies, self.access_log, names)
        limits = cfg.limits
        self.bodies = BodyMemory(limits.body_memory_bytes, limits.connection_body_memory_bytes)
        self.answers = AnswerMemory(limits.answer_memory_bytes, limits.connection_answer_memory_bytes)
        slots = shared.open_range(0)
        self.exchange = Exchange(
            shared, 0, slots, maker, self._plans, self._send, lambda _: False, journal, notes, self.answers
        )
        intake = Router(cfg.routes, cfg.limits, cfg.gateway.hosts, self.forwarding)
        has_policies = policies if policies else None
        self._entrance = GatewayDoor(
            intake, self.exchange, self.bodies, self.answers, shared, 0, journal, has_policies, keeps_heads=True
        )
        self.exchange.set_home(HOME, PARTITIONS)
        self.exchange.open_gate()
        # What the front did, in its order.
        self.heads: list[Head] = []
        self.refused: list[Refusal] = []
        self.opened: list[tuple[Admission, bytes]] = []
        self.abandoned: list[tuple[Ending, str]] = []
        self.gone_tokens: list[int] = []
        self.writable_tokens: list[int] = []
        self.cuts: list[Cut] = []
        self.cut_s: list[float] = []  # when, by the loop's clock
        self.answered_s: list[float] = []  # when /raw was answered
        self.sinks: list[Sink] = []
        # What is in Kafka, what of it the service has not answered, and what it says.
        self.records: list[Record] = []
        self.held: list[Record] = []
        self.raw_answer: tuple[int, HeaderList, bytes] = (200, [], b"")
        self.raw_id = b""

    def __repr__(self) -> str:
        return (
            f"<ScriptedDoor refused {[refusal.ending.name for refusal in self.refused]}, opened "
            f"{[admission.path for admission, _ in self.opened]}, abandoned {self.abandoned}, held {len(self.held)}>"
        )

    @property
    def places_taken(self) -> int:
        """Requests between `admit` and their end: what a front that forgets one of its calls would leave behind."""
        return sum(plan.in_flight for plan in self._plans) + self.exchange.in_flight

    # What a front calls.

    def admit(self, head: Head) -> Admission | Refusal:
        self.heads.append(head)
        verdict = self._entrance.admit(head)
        if head.path != "/stream":
            return verdict
        if isinstance(verdict, Admission):
            self.exchange.abandon(verdict, errors.ANSWERED, "", None)  # frees its place
        return as_streaming(verdict, head)

    def refuse(self, refusal: Refusal, answer: Answer) -> None:
        self.refused.append(refusal)
        self.exchange.refuse(refusal, answer)

    def abandon(self, admission: Admission, ending: Ending, detail: str, answer: Answer | None) -> None:
        self.abandoned.append((ending, detail))
        self.exchange.abandon(admission, ending, detail, answer)

    def open(self, admission: Admission, body: bytes, answer: Answer) -> int:
        self.opened.append((admission, body))
        if admission.path == "/defect":
            self.exchange.abandon(admission, errors.ANSWERED, "", None)  # frees its place
            raise Defect
        if admission.path == "/raw":
            self.exchange.abandon(admission, errors.ANSWERED, "", None)  # frees its place
            self.answered_s.append(self._loop.time())
            answer(*self.raw_answer, self.raw_id)
            return REFUSED
        return self.exchange.open(admission, body, answer, time.monotonic_ns())

    def open_stream(self, admission: Admission, body: bytes, sink: Sink) -> int:
        self.opened.append((admission, body))
        self.sinks.append(sink)
        return STREAM_TOKENS + len(self.sinks)

    def writable(self, token: int) -> None:
        self.writable_tokens.append(token)

    def cut(self, why: Cut) -> None:
        self.cut_s.append(self._loop.time())
        self.cuts.append(why)

    def gone(self, token: int) -> None:
        self.gone_tokens.append(token)
        if token < STREAM_TOKENS:
            self.exchange.cancel(token)

    # The service.

    def _send(self, record: Record, token: int, delivery_class: int, concurrency_hint: int, now_ns: int) -> None:
        self.records.append(record)
        if record.topic == "echo":
            self._loop.call_soon(self.reply, record, record.value)
        else:
            self.held.append(record)

    def reply(self, record: Record, value: bytes = b"", headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """The service's reply to `record`; a service that replies too late finds nobody, which is no error."""
        raw = dict(record.headers)["correlation_id"]
        cid = ids.parse(raw)
        assert cid is not None
        self.exchange.resolve(cid, Reply(raw, HOME, 0, list(headers), value), time.monotonic_ns())
