"""An HTTP server that answers each POST with its own body at once: what HTTP alone costs, without Kafka.

    python -m bench.rig.noop_front KIND PORT

KIND is express or granian (fastgw's fronts with fastgw's own intake behind them, in one process), or plain-granian
(granian's public RSGI interface and nothing of fastgw).
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import Any

import uvloop
from granian import Granian
from granian.constants import Interfaces, Loops

from fastgw import config
from fastgw.admission import Admission, Refusal, Sink
from fastgw.body_memory import AnswerMemory, BodyMemory
from fastgw.core.routing import Router
from fastgw.errors import Ending
from fastgw.http.express import ExpressFront
from fastgw.http.granian import GranianFront
from fastgw.messages import Answer, Cut, Head

BACKLOG = 4096
HEADERS = [("content-type", "application/json")]
REQUEST_ID = b"00000000-0000-8000-8000-000000000001"
CONFIG = """
[gateway]
name = "noop"
[[listen]]
bind = "127.0.0.1:{port}"
front = "{kind}"
http = "1"
[kafka]
bootstrap = "127.0.0.1:1"
[[route]]
method = "POST"
path = "/orders"
topic = "orders"
"""


class EchoDoor:
    """fastgw's door with nobody behind it."""

    def __init__(self, intake: Router) -> None:
        self._intake = intake
        self.bodies = BodyMemory(1 << 30, 1 << 30)
        self.answers = AnswerMemory()

    def admit(self, head: Head) -> Admission | Refusal:
        return self._intake.admit(head)

    def refuse(self, refusal: Refusal, answer: Answer) -> None:
        answer(refusal.ending.status, HEADERS, refusal.detail.encode(), REQUEST_ID)

    def abandon(self, admission: Admission, ending: Ending, detail: str, answer: Answer | None) -> None:
        if answer is not None:
            answer(ending.status, HEADERS, f"{admission.path}: {detail}".encode(), REQUEST_ID)

    def open(self, _admission: Admission, body: bytes, answer: Answer) -> int:
        answer(200, HEADERS, body, REQUEST_ID)
        return -1  # it is answered already

    def open_stream(self, _admission: Admission, body: bytes, sink: Sink) -> int:
        sink.answer(200, HEADERS, body, REQUEST_ID)
        return -1

    def writable(self, token: int) -> None:
        raise AssertionError(f"nothing streams here, and yet a client of {token} has caught up")

    def cut(self, why: Cut) -> None:
        """Nobody counts."""

    def gone(self, token: int) -> None:
        raise AssertionError(f"nothing waits here, and yet a client of {token} has left")


async def serve_front(kind: str, port: int) -> None:
    """Serve until SIGTERM."""
    cfg = config.loads(CONFIG.format(port=port, kind=kind))
    listening = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    listening.setblocking(False)
    door = EchoDoor(Router(cfg.routes, cfg.limits, cfg.gateway.hosts))
    chosen = ExpressFront if kind == "express" else GranianFront
    front = chosen(listening.fileno(), cfg.gateway.listens[0], cfg.limits, door)
    await front.start()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    front.drain()
    await front.closed()


async def app(scope: Any, proto: Any) -> None:
    """An RSGI application for plain-granian."""
    assert scope.method == "POST"
    proto.response_bytes(200, HEADERS, await proto())


def main(kind: str, port: int) -> None:
    """Serve one kind until SIGTERM."""
    if kind != "plain-granian":
        uvloop.run(serve_front(kind, port))
        return
    Granian(
        "bench.rig.noop_front:app", address="127.0.0.1", port=port, interface=Interfaces.RSGI, loop=Loops.uvloop,
        workers=1, backlog=BACKLOG, log_enabled=False,
    ).serve()  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
