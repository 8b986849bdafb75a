"""The gateways that are compared: fastgw in its variants, and the peers of `peers/`, each started the same way.

A peer is a folder with a `peer.toml`: which tools it needs, how it is built (into `.build/NAME`, once for each state of
its sources), how it is run, how long it wants to be warm. It is told everything else by environment variables:

    BENCH_BOOTSTRAP BENCH_PORT BENCH_REQUEST_TOPIC BENCH_PARK_TOPIC BENCH_REPLY_TOPIC BENCH_REPLY_PARTITION

and serves on 127.0.0.1: `POST /orders` (request topic, 5 s, then 504) and, if it says `parks = true`, `POST /park`
(park topic, which nobody reads; it waits ten minutes).
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import sys
import tomllib
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

import fastgw
from bench.rig import native
from bench.rig.processes import BenchError, Running, run_to_end
from bench.rig.progress import say
from bench.rig.stage import Stage
from fastgw import config

HERE = Path(__file__).resolve().parent.parent  # bench/
PEERS = HERE / "peers"
BUILD_TIMEOUT_S = 900.0
READY_TIMEOUT_S = 90.0
PARK_TIMEOUT = "10m"
BODY_BYTES = 256


class Unavailable(Exception):
    """This machine or this version cannot run that gateway; the message is one line that says why."""


@dataclass(frozen=True)
class Topics:
    """The topics of one gateway; the request topic is shared by all."""

    request: str
    park: str
    reply: str
    reply_partition: int = 0


class Gateway:
    """A started gateway.

    Attributes:
        name: as in tables and results.
        port: where it serves plain HTTP on 127.0.0.1.
        topics: its topics.
        warm_up_s: load that it wants before its figures settle.
        http2_port: where it serves HTTP/2 without TLS, if it was told to.
        admin_port: fastgw's metrics; 0 for others.
    """

    def __init__(self, name: str, port: int, running: Running, topics: Topics, warm_up_s: float) -> None:
        self.name, self.port, self.running, self.topics, self.warm_up_s = name, port, running, topics, warm_up_s
        self.http2_port = port
        self.admin_port = 0

    @property
    def pid(self) -> int:
        return self.running.pid

    def check(self) -> bool:
        """One request: True when the answer is 200 and carries its own body."""
        body = order_body(BODY_BYTES, number=int.from_bytes(os.urandom(4), "big"))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/orders", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status == 200 and json.loads(answer.read()) == json.loads(body)
        except (OSError, ValueError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def samples(self, name: str) -> list[Sample]:
        """fastgw's own figures of that name, by their labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        return [sample for family in families for sample in family.samples if sample.name == name]

    def wait_until_ready(self) -> Gateway:
        """Wait until a request has come back right.

        Raises:
            BenchError: it did not, or the gateway ended; with the end of its log.
        """
        self.running.wait_until(self.check, READY_TIMEOUT_S, f"{self.name} answers a request with its own body")
        return self


def order_body(size: int, number: int = 1) -> bytes:
    """A JSON body of exactly `size` bytes (at least 40)."""
    start = b'{"number": %d, "note": "' % number
    return start + b"x" * (size - len(start) - 2) + b'"}'


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- fastgw ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FastgwSettings:
    """What may differ between runs of fastgw; the rest of its configuration is the default.

    Attributes:
        gateway, listen, kafka, route: more lines for `[gateway]`, for the plain `[[listen]]` table, for `[kafka]` and
            for the route of /orders.
        http2: listen for HTTP/2 without TLS as well, on a port of its own.
        extra: more TOML at the end, such as other routes.
    """

    workers: int = 1
    slots: int = 32768
    gateway: dict[str, Any] = field(default_factory=dict)
    listen: dict[str, Any] = field(default_factory=dict)
    kafka: dict[str, Any] = field(default_factory=dict)
    route: dict[str, Any] = field(default_factory=dict)
    max_body: str = "1MiB"
    http2: bool = False
    extra: str = ""


VARIANTS: dict[str, FastgwSettings] = {
    "fastgw": FastgwSettings(),
    "fastgw-granian": FastgwSettings(listen={"front": "granian"}),
    "fastgw-public": FastgwSettings(kafka={"link": "public"}),
}

# The same from another checkout, built in place: what a change costs is told by both in one run.
BEFORE_VARIABLE = "FASTGW_BEFORE"
VARIANTS |= {name.replace("fastgw", "before"): settings for name, settings in VARIANTS.items()}


def variant(name: str) -> FastgwSettings:
    """The settings of a variant of fastgw.

    Raises:
        Unavailable: this version's configuration does not know what makes the variant.
    """
    if name.startswith("before") and not os.environ.get(BEFORE_VARIABLE):
        raise Unavailable(f"{name}: {BEFORE_VARIABLE} does not name the folder of another checkout")
    settings, schema = VARIANTS[name], config.json_schema()
    front = schema["$defs"]["listen"]["properties"]["front"]
    link = schema["properties"]["kafka"]["properties"].get("link")
    if "front" in settings.listen and '"express"' not in json.dumps(front):
        raise Unavailable(f"{name}: this version has one front only, see fastgw")
    if "link" in settings.kafka and '"native"' not in json.dumps(link):
        raise Unavailable(f"{name}: this version has one Kafka link only, see fastgw")
    return settings


class Ports(NamedTuple):
    """Where a fastgw listens."""

    plain: int
    http2: int
    admin: int


def fastgw_config(settings: FastgwSettings, bootstrap: str, topics: Topics, ports: Ports) -> str:
    """The configuration file of fastgw for a benchmark."""
    listen = {"bind": f"127.0.0.1:{ports.plain}", "http": "1"} | settings.listen
    http2 = {"bind": f"127.0.0.1:{ports.http2}", "front": "granian", "http": "2"}
    gateway = {"name": "bench", "response_topic": topics.reply, "workers": settings.workers, "slots": settings.slots}
    gateway |= settings.gateway
    orders = {"method": "POST", "path": "/orders", "topic": topics.request, "timeout": "5s"} | settings.route
    park = {"method": "POST", "path": "/park", "topic": topics.park, "timeout": PARK_TIMEOUT}
    tables: list[tuple[str, dict[str, Any]]] = [
        ("[gateway]", gateway),
        ("[[listen]]", listen),
        *([("[[listen]]", http2)] if settings.http2 else []),
        ("[limits]", {"max_body": settings.max_body, "max_connections": 20000}),
        ("[kafka]", {"bootstrap": bootstrap} | settings.kafka),
        ("[admin]", {"listen": f"127.0.0.1:{ports.admin}"}),
        ("[[route]]", orders),
        ("[[route]]", park),
    ]
    return "\n".join([*(_toml(title, values) for title, values in tables), settings.extra])


def _toml(title: str, values: dict[str, Any]) -> str:
    return "\n".join([title, *(f"{name} = {json.dumps(value)}" for name, value in values.items()), ""])


def start_fastgw(stage: Stage, name: str, settings: FastgwSettings, topics: Topics, warm_up_s: float = 2.0) -> Gateway:
    """Start fastgw from this checkout, or from the one before; it is ready when this returns."""
    ports = Ports(free_port(), free_port(), free_port())
    file = stage.folder / f"{name}-{ports.plain}.toml"
    file.write_text(fastgw_config(settings, stage.bootstrap, topics, ports))
    command = [sys.executable, "-m", "fastgw", "run", str(file)]
    checkout = Path(os.environ[BEFORE_VARIABLE]) if name.startswith("before") else None
    path = {"PYTHONPATH": str(checkout)} if checkout else None
    running = stage.start(Running(command, file.with_suffix(".log"), path, checkout))
    gateway = Gateway(name, ports.plain, running, topics, warm_up_s)
    gateway.http2_port, gateway.admin_port = ports.http2, ports.admin
    return gateway.wait_until_ready()


# --- peers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """What a `peer.toml` says. In its commands `{build}` stands for the peer's build folder and `{python}` for ours."""

    name: str
    needs: Sequence[str]
    run: Sequence[str]
    build: Sequence[Sequence[str]] = ()
    environment: dict[str, str] = field(default_factory=dict)
    version: Sequence[Sequence[str]] = ()  # commands whose first lines tell what it is made of
    warm_up_s: float = 5.0
    parks: bool = False
    http2: bool = False
    reply_suffix: str = ""  # where a framework insists on the reply topic's name: after the request topic's
    settings: str = ""

    @property
    def folder(self) -> Path:
        return PEERS / self.name

    @property
    def build_folder(self) -> Path:
        return native.BUILD / "peers" / self.name

    def command(self, parts: Sequence[str]) -> list[str]:
        return [self._filled_in(part) for part in parts]

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that the peer itself asks for."""
        return {name: self._filled_in(value) for name, value in self.environment.items()}

    def _filled_in(self, text: str) -> str:
        return text.replace("{build}", str(self.build_folder)).replace("{python}", sys.executable)


def peers() -> dict[str, Peer]:
    """Every peer by name."""
    found = {}
    for file in sorted(PEERS.glob("*/peer.toml")):
        found[file.parent.name] = Peer(file.parent.name, **tomllib.loads(file.read_text()))
    return found


def build_peer(peer: Peer) -> None:
    """Build a peer unless its present sources are built already.

    Raises:
        Unavailable: a tool is missing, or the build failed (a registry that cannot be reached, for example).
    """
    missing = [tool for tool in peer.needs if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"{peer.name}: no {' and no '.join(missing)} on this machine")
    mark, digest = peer.build_folder / ".built", _digest(peer.folder)
    if mark.exists() and mark.read_text() == digest:
        return
    say(f"building {peer.name}, once")
    peer.build_folder.mkdir(parents=True, exist_ok=True)
    try:
        for command in peer.build:
            run_to_end(peer.command(command), BUILD_TIMEOUT_S, peer.folder)
    except BenchError as error:
        lines = str(error).splitlines()
        raise Unavailable(f"{peer.name}: its build failed: {lines[0]} … {lines[-1]}") from error
    mark.write_text(digest)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def start_peer(stage: Stage, peer: Peer, topics: Topics) -> Gateway:
    """Start a built peer; it is ready when this returns."""
    port = free_port()
    told = {
        "BENCH_BOOTSTRAP": stage.bootstrap,
        "BENCH_PORT": str(port),
        "BENCH_REQUEST_TOPIC": topics.request,
        "BENCH_PARK_TOPIC": topics.park,
        "BENCH_REPLY_TOPIC": topics.reply,
        "BENCH_REPLY_PARTITION": str(topics.reply_partition),
    }
    log = stage.folder / f"{peer.name}-{port}.log"
    running = stage.start(Running(peer.command(peer.run), log, peer.variables | told, peer.folder))
    return Gateway(peer.name, port, running, topics, peer.warm_up_s).wait_until_ready()


# --- both ------------------------------------------------------------------------------------------------------------


def known_names() -> list[str]:
    """Every gateway that can be asked for, fastgw first."""
    return [*VARIANTS, *peers()]


def prepare(name: str) -> None:
    """Build what a gateway needs before anything is started.

    Raises:
        Unavailable: it cannot run here.
    """
    if name in VARIANTS:
        variant(name)
    elif name in peers():
        build_peer(peers()[name])
    else:
        raise BenchError(f"no gateway {name!r}: known are {', '.join(known_names())}")


def start(stage: Stage, name: str, topics: Topics) -> Gateway:
    """Start a prepared gateway; it is ready when this returns."""
    if name in VARIANTS:
        return start_fastgw(stage, name, variant(name), topics)
    return start_peer(stage, peers()[name], topics)


def version_of(name: str) -> str:
    """What a gateway is made of, in one line, for the result file."""
    if name in VARIANTS:
        return f"fastgw {fastgw.__version__}"
    peer = peers()[name]
    said = [run_to_end(peer.command(command), 60, peer.folder).strip() for command in peer.version]
    return ", ".join(", ".join(text.splitlines()) for text in said)
