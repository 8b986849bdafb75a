"""The admin port: /livez, /readyz, /metrics, and /status with what waits, where and for how long.

`Admin` decides what is answered, from shared memory alone: it works while every worker is busy, hangs or is dead.
`AdminServer` is the standard library's HTTP server around it. Nothing here changes anything, so there is nothing to
protect but attention: the port listens on the loopback address unless the operator says otherwise.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import orjson
import structlog

from fastgw import __version__, _ctable, metrics
from fastgw._ctable import Table
from fastgw.config import Config
from fastgw.messages import HeaderList

log = structlog.get_logger("fastgw.admin")

WAITING_SHOWN = 200  # requests that /status lists; their total is always exact
CONNECTIONS_MAX = 64  # a scraper or two, some probes and people
IDLE_TIMEOUT_S = 10.0  # for each read and write of one connection

PHASES = {_ctable.CLAIMED: "claimed", _ctable.SENT: "sent", _ctable.RECORDED: "recorded"}

_PLAIN = "text/plain; charset=utf-8"
_JSON = "application/json"


class Page(NamedTuple):
    """An answer of the admin port. HEAD has the body of GET, of which the server sends the length alone."""

    status: int
    headers: HeaderList
    body: bytes


class Admin:
    """What the admin port says.

    Attributes:
        config: the present configuration; a reload assigns another one.
    """

    def __init__(self, table: Table, config: Config, clock_ns: Callable[[], int]) -> None:
        """
        Args:
            clock_ns: the monotonic clock, the same for all processes of this machine.
        """
        self.config = config
        self._table = table
        self._clock_ns = clock_ns
        self._pages: dict[str, Callable[[], Page]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/status": self._status,
        }

    def handle(self, method: str, target: str) -> Page:
        """The answer to one request; `target` as sent, its query does not matter."""
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            return _page(404, _PLAIN, ("here are: " + " ".join(self._pages) + "\n").encode())
        if method not in ("GET", "HEAD"):
            refused = _page(405, _PLAIN, b"expected GET or HEAD\n")
            return refused._replace(headers=[*refused.headers, ("allow", "GET, HEAD")])
        return page()

    def _livez(self) -> Page:
        # That this process answers is all it says: Kafka or a worker being away is no reason to kill the service.
        return _page(200, _PLAIN, b"alive\n")

    def _readyz(self) -> Page:
        reasons = metrics.why_not_ready(self._table, metrics.worker_states(self._table, self._clock_ns()))
        return _page(503 if reasons else 200, _JSON, orjson.dumps({"ready": not reasons, "reasons": reasons}))

    def _metrics(self) -> Page:
        text = metrics.render(self._table, self._route_names(), self._clock_ns())
        return _page(200, metrics.CONTENT_TYPE, text.encode(errors="replace"))

    def _status(self) -> Page:
        return _page(200, _JSON, orjson.dumps(self.status()))

    def status(self) -> dict[str, Any]:
        """What /status shows: times in ms, `null` where there is nothing."""
        now_ns = self._clock_ns()
        table = self._table
        reasons = metrics.why_not_ready(table, metrics.worker_states(table, now_ns))
        return {
            "name": self.config.gateway.name,
            "version": __version__,
            "node": f"{table.node:06x}",
            "ready": not reasons,
            "reasons": reasons,
            "draining": table.service_draining(),
            "workers": self._workers(now_ns),
            "partitions": self._partitions(),
            "waiting": self._waiting(now_ns),
        }

    def _workers(self, now_ns: int) -> list[dict[str, Any]]:
        """Every living process; during a reload a worker slot has two."""
        living = filter(None, map(self._table.process_info, range(self._table.processes)))
        return [
            {
                "slot": info.worker,
                "generation": info.generation,
                "pid": info.pid,
                "ready": info.ready,
                "draining": info.draining,
                "heartbeat_age_ms": _ms(now_ns - info.heartbeat_ns),
                "in_flight": info.in_flight,
                "home_partition": info.home if info.home >= 0 else None,
                "map_version": info.applied_map_version,
            }
            for info in living
        ]

    def _partitions(self) -> dict[str, Any]:
        version, owners = self._table.read_map()
        return {
            "topic": self.config.gateway.response_topic,
            "map_version": version,
            "count": len(owners),
            # The place in the list is the partition; null belongs to another node.
            "owners": [None if owner == _ctable.NOBODY else owner for owner in owners],
        }

    def _waiting(self, now_ns: int) -> dict[str, Any]:
        names = self._route_names()
        oldest = self._table.waiting(WAITING_SHOWN)
        return {
            "total": max(len(oldest), self._waiting_total()),
            "oldest": [
                {
                    "route": names.get(slot.route, f"#{slot.route}"),
                    "phase": PHASES.get(slot.state, "ended"),
                    "age_ms": _ms(now_ns - slot.claimed_ns),
                    "deadline_in_ms": _ms(slot.deadline_ns - now_ns),
                    "worker": slot.process // 2,
                    "home_partition": slot.home,
                }
                for slot in oldest
            ],
        }

    def _waiting_total(self) -> int:
        counts = map(self._table.states, range(self._table.processes))
        return sum(by_state.get(state, 0) for by_state in counts for state in PHASES)

    def _route_names(self) -> dict[int, str]:
        return {route.number: route.name for route in self.config.routes}


def _page(status: int, content_type: str, body: bytes) -> Page:
    headers = [("content-type", content_type), ("content-length", str(len(body))), ("cache-control", "no-store")]
    return Page(status, headers, body)


def _ms(duration_ns: int) -> float:
    return round(duration_ns / 1e6, 1)


class AdminServer(ThreadingHTTPServer):
    """Answers with an `Admin` on a socket that listens already (the supervisor bound it, so a restart loses nobody).

    One thread a connection, at most CONNECTIONS_MAX of them; the oldest connection has to go when there are more, so
    that idle or slow clients cannot lock out a probe.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket, admin: Admin) -> None:
        """Takes over `listening`; nothing is accepted before `start`."""
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        # A client may be gone between select and accept; the thread must not wait for the next one then.
        self.socket.setblocking(False)
        self.server_address = listening.getsockname()
        self.admin = admin
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.2}, name="admin", daemon=True
        )
        self._guard = threading.Lock()
        self._open: OrderedDict[Any, None] = OrderedDict()  # guarded by _guard; oldest first

    def start(self) -> None:
        """Serves from now on, on a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Accepts nothing more and closes every connection. The listening socket is closed in this process only."""
        self.shutdown()
        self.server_close()
        with self._guard:
            for connection in self._open:
                _hang_up(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open[request] = None
            if len(self._open) > CONNECTIONS_MAX:
                _hang_up(next(iter(self._open)))
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  (the base class decides)
        # Called inside an except block. A client that went away is not worth a line; anything else is our mistake.
        if not isinstance(sys.exc_info()[1], OSError):
            log.error("admin request failed", client=str(client_address), exc_info=True)


def _hang_up(connection: socket.socket) -> None:
    # Only shut down: the file descriptor still belongs to the connection's own thread, which wakes up and closes it.
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has gone already


class _Handler(BaseHTTPRequestHandler):
    """One connection. The parser bounds the request line (64 KiB) and the headers (100 lines of 64 KiB)."""

    server: AdminServer
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # a request too broken to have a version still gets a status line
    server_version = "fastgw"
    sys_version = ""
    timeout = IDLE_TIMEOUT_S
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = _PLAIN

    def answer(self) -> None:
        page = self.server.admin.handle(self.command, self.path)
        if self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers:
            self.close_connection = True  # nobody reads the body, so what follows it cannot be found
        self.send_response_only(page.status)
        for name, value in page.headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Access is not logged: probes come every second."""
