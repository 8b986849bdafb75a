"""`fastgw demo`: runs the embedded broker, three services and a gateway as processes, until Ctrl-C.

    demo ─┬─ broker                     started first, ended last
          ├─ orders, customers, baskets (services.py)
          └─ gateway: fastgw run        started last, ended first: it drains while the others still run

Each child has its own session, so that Ctrl-C reaches only the demo, which ends the children in this order. If the demo
is killed, the kernel ends the children (PR_SET_PDEATHSIG), and the broker notices the end of a pipe.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from setproctitle import setproctitle

from fastgw.demo.broker import BrokerError, EmbeddedBroker
from fastgw.errors import FastgwError, Outcome, StartError
from fastgw.port_holder import bind_error, port_of

NAME = "demo"
REQUEST_PARTITIONS = 4
LANES = 8  # later.lanes
STORE_BYTES = "64MiB"  # the temporary directory may be in memory
START_WAIT_S = 60.0  # it takes a few seconds on an idle machine
STOP_WAIT_S = 20.0  # the gateway drains for up to 10 s
LOOK_EVERY_S = 0.1

# The mock broker does not wake a waiting fetch, so this is the latency of a single request.
FETCH_WAIT_MS = 2

LOOPBACK_OF = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  # addresses for "any"
PR_SET_PDEATHSIG = 1


class Route(NamedTuple):
    """One route of the demo, and a harmless request that checks whether its service answers."""

    method: str
    path: str
    topic: str
    probe: str = ""
    response_headers: tuple[str, ...] = ()
    later: bool = False
    idempotency: str = "off"
    streams: bool = False


ROUTES = (
    Route("POST", "/orders", "orders", response_headers=("location",)),
    Route("GET", "/orders", "orders", streams=True),
    Route("GET", "/orders/{id}", "orders", probe="/orders/0"),
    Route("POST", "/reports", "orders", later=True),
    Route("POST", "/payments", "orders", idempotency="require"),
    Route("GET", "/customers/{id}", "customers", probe="/customers/ada"),
    Route("GET", "/baskets/{id}", "baskets", probe="/baskets/ada"),
    Route("PUT", "/baskets/{id}", "baskets"),
)
TOPICS = tuple(dict.fromkeys(route.topic for route in ROUTES))

WELCOME = """\
fastgw demo: everything is running; Ctrl-C stops it.

  gateway  {url}
  admin    {admin_url}/status  /metrics  /readyz
  Kafka    {bootstrap} (embedded)

Paste these into another terminal:

curl -i -w '\\n' -X POST {url}/orders -H 'content-type: application/json' -d '{{"customer": "ada", "items": ["tea"]}}'
curl -i -w '\\n' {url}/customers/ada
curl -i -w '\\n' -X PUT {url}/baskets/ada -H 'content-type: application/json' -d '{{"items": ["tea", "scones"]}}'

All orders, and each new one for 10 seconds, as lines and as events:

curl -N {url}/orders
curl -N {url}/orders -H 'accept: text/event-stream'

A slow report, answered at once with 202; then its status URL, which waits for the report:

location=$(curl -s -o /dev/null -w '%header{{location}}' -X POST {url}/reports -H 'prefer: respond-async')
curl -i -w '\\n' {url}$location -H 'prefer: wait=10'

A payment that may be sent again, because it has a key; paste it twice, and it is made once:

curl -i -w '\\n' -X POST {url}/payments -H 'idempotency-key: "order-1"' -d '{{"order": "1", "amount": 5}}'
"""


class Part(NamedTuple):
    """A child process with its name for messages."""

    name: str
    pid: int


def run(listen: str = "127.0.0.1:8080", admin: str = "127.0.0.1:9100", workers: int = 2) -> int:
    """Run the demo until SIGINT or SIGTERM.

    Args:
        listen: "host:port" of the gateway.
        admin: "host:port" of its admin port.
        workers: worker processes of the gateway.

    Returns:
        The exit code: 0. No process of the demo remains, also after an error.

    Raises:
        StartError: an address is in use, or a part cannot start.
        FastgwError: a part ended unexpectedly.
    """
    _check_address(listen, "--listen")
    _check_address(admin, "--admin")
    setproctitle("fastgw: demo")
    asked = _Asked()
    print("fastgw demo: starting the broker, three services and the gateway", flush=True)
    with contextlib.ExitStack() as started:
        broker = started.enter_context(_broker(workers))
        parts = [Part("broker", broker.pid or 0)]
        options = ["--bootstrap", broker.bootstrap, "--fetch-wait-ms", str(FETCH_WAIT_MS)]
        services = {f"{topic} service": ["fastgw.demo.services", topic, *options] for topic in TOPICS}
        parts += started.enter_context(_children(services, asked))
        config = started.enter_context(_config_file(broker.bootstrap, listen, admin, workers))
        parts += started.enter_context(_children({"gateway": ["fastgw", "run", config]}, asked))
        if _wait_until_it_works(parts, listen, admin, asked):
            urls = {"url": f"http://{_reachable(listen)}", "admin_url": f"http://{_reachable(admin)}"}
            print(WELCOME.format(bootstrap=broker.bootstrap, **urls), flush=True)
            while not asked.to_end.wait(LOOK_EVERY_S):
                _check_alive(parts, starting=False)
        print("fastgw demo: stopping", flush=True)
    return 0


def config_text(bootstrap: str, listen: str, admin: str, workers: int, store_dir: str) -> str:
    """The gateway's configuration, as a user would write it."""
    lines = [
        "[gateway]",
        f"name = {json.dumps(NAME)}",
        f"listen = [{json.dumps(listen)}]",
        f"workers = {workers}",
        f"secrets = [{json.dumps(secrets.token_urlsafe(32))}]  # a new one at each start: nothing of the last is left",
        "[store]",
        f"dir = {json.dumps(store_dir)}",
        f"max_bytes = {json.dumps(STORE_BYTES)}",
        "[kafka]",
        f"bootstrap = {json.dumps(bootstrap)}",
        f'fetch_wait = "{FETCH_WAIT_MS}ms"  # the embedded broker does not wake a waiting fetch',
        "[admin]",
        f"listen = {json.dumps(admin)}",
    ]
    for route in ROUTES:
        lines += ["[[route]]", *(f"{key} = {json.dumps(getattr(route, key))}" for key in ("method", "path", "topic"))]
        if route.response_headers:
            lines.append(f"response_headers = {json.dumps(route.response_headers)}")
        if route.later:
            lines.append("later = true  # with `Prefer: respond-async`: 202, and a status URL")
        if route.idempotency != "off":
            lines.append(
                f"idempotency = {json.dumps(route.idempotency)}  # a request that is repeated is not sent again"
            )
        if route.streams:
            lines.append(
                'reply = "stream"  # the service replies with many records, and the client gets each as it comes'
            )
    return "\n".join(lines) + "\n"


# Starting and ending the parts.


class _Asked:
    """Signals of the user: the first asks for an orderly end, the second for an immediate end."""

    def __init__(self) -> None:
        self.to_end = threading.Event()
        self.to_hurry = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        (self.to_hurry if self.to_end.is_set() else self.to_end).set()


def _check_address(address: str, option: str) -> None:
    if address.endswith(":0") or address.startswith("unix:"):
        raise StartError(f"address {address}: expected host:port with a fixed port, such as 8080")
    # Checked before anything starts; the gateway would report the same some seconds later.
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        socket.create_server(
            (host, port_of(address)), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ).close()
    except OSError as error:
        raise bind_error(address, error, option) from error


@contextlib.contextmanager
def _broker(workers: int) -> Iterator[EmbeddedBroker]:
    replies = 1 << (4 * workers - 1).bit_length()  # a power of two, at least 4 for each worker
    topics = dict.fromkeys(TOPICS, REQUEST_PARTITIONS) | {f"{NAME}.replies": replies, f"{NAME}.later": LANES}
    topics[f"{NAME}.streams"] = replies
    broker = EmbeddedBroker(topics)
    try:
        broker.start()
    except BrokerError as error:
        raise StartError(str(error)) from None
    try:
        yield broker
    finally:
        broker.stop()


@contextlib.contextmanager
def _config_file(bootstrap: str, listen: str, admin: str, workers: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="fastgw-demo-") as directory:
        path = Path(directory, "demo.toml")
        path.write_text(config_text(bootstrap, listen, admin, workers, str(Path(directory, "store"))))
        yield str(path)


@contextlib.contextmanager
def _children(modules: Mapping[str, Sequence[str]], asked: _Asked) -> Iterator[list[Part]]:
    """Runs `python -m module...` for each name until the block ends; then ends all of them together."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for module in modules.values():
            processes.append(_start(module))
        yield [Part(name, process.pid) for name, process in zip(modules, processes, strict=True)]
    finally:
        _end(processes, asked)


def _start(module: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -P: do not import from the user's current directory.
        [sys.executable, "-P", "-m", *module],
        stdin=subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,
        preexec_fn=_die_with_parent(),
    )


def _environment() -> dict[str, str]:
    # Children of a checkout that is not installed must import the same one. Only warnings are logged, so that the three
    # requests stay visible.
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {"FASTGW_LOG_LEVEL": "warning", "FASTGW_LOG": "text", **os.environ, "PYTHONPATH": path}


def _die_with_parent() -> Callable[[], None]:
    # Everything is looked up before the fork. The demo has one thread, so running Python after the fork is safe.
    return partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _end(processes: Sequence[subprocess.Popen[bytes]], asked: _Asked) -> None:
    for process in processes:
        process.terminate()
    end_by = time.monotonic() + STOP_WAIT_S
    for process in processes:
        while process.poll() is None and time.monotonic() < end_by and not asked.to_hurry.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_EVERY_S)
        process.kill()
        process.wait()


# Watching them.


def _check_alive(parts: Sequence[Part], *, starting: bool) -> None:
    for part in parts:
        # WNOWAIT: the code that started the process reaps it.
        ended = os.waitid(os.P_PID, part.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            continue
        how = f"exit code {ended.si_status}" if ended.si_code == os.CLD_EXITED else f"signal {ended.si_status}"
        if starting:
            raise StartError(f"the demo's {part.name} ended before it was ready ({how}); its output above says why")
        raise FastgwError(f"the demo's {part.name} ended ({how}), so the rest was stopped")


def _wait_until_it_works(parts: Sequence[Part], listen: str, admin: str, asked: _Asked) -> bool:
    """Wait until the gateway is ready and every service has answered through it; False if a signal came first.

    Raises:
        StartError: a part ended, or the time is over.
    """
    todo: list[tuple[str, str, Callable[[int, str], bool]]] = [(admin, "/readyz", _is_ready)]
    todo += [(listen, route.probe, _is_from_a_service) for route in ROUTES if route.probe]
    give_up_at = time.monotonic() + START_WAIT_S
    while todo and not asked.to_end.is_set():
        _check_alive(parts, starting=True)
        address, path, is_right = todo[0]
        if is_right(*_get(address, path)):
            del todo[0]
        elif time.monotonic() >= give_up_at:
            raise StartError(
                f"the demo did not start within {START_WAIT_S:g} s: http://{address}{path} does not answer"
            )
        else:
            asked.to_end.wait(LOOK_EVERY_S)
    return not todo


def _is_ready(status: int, _outcome: str) -> bool:
    return status == 200


def _is_from_a_service(status: int, outcome: str) -> bool:
    # 404 also comes from a running service; 504 means that the gateway got no reply.
    return status < 500 and outcome == Outcome.RECORDED


def _get(address: str, path: str) -> tuple[int, str]:
    """Status and Fastgw-Outcome of a GET; status 0 if there is no response."""
    connection = http.client.HTTPConnection(_reachable(address), timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers.get("fastgw-outcome", "")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def _reachable(address: str) -> str:
    """The address with which a client on this machine reaches `address`."""
    host, _, port = address.rpartition(":")
    return f"{LOOPBACK_OF.get(host, host)}:{port}"
