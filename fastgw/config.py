"""The configuration: one TOML file, one list of settings, one frozen `Config` that everything else receives.

The classes below are that list. What a setting is called, what it takes, what it does without being set and what it is
for stand together, once; the reader, `fastgw schema` and the README's reference are made from them (see `settings`).
Times are kept in nanoseconds (`_ns`) and sizes in bytes; the file has "5s" and "1MiB". Clashes between settings are
found in one place, `_check`.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fastgw import spelling, units
from fastgw.errors import ConfigError
from fastgw.settings import (
    Kind,
    Mistake,
    Setting,
    between,
    choice,
    did_you_mean,
    expand,
    integer,
    list_of,
    read_section,
    section_reference,
    section_schema,
    shown,
    text,
    under,
)
from fastgw.units import NS_PER_MS, NS_PER_S

ROUTES_MAX = 2048  # rows of the counters in shared memory
SLOTS_MAX = 1 << 20  # the table slot in a correlation id has 20 bits
WORKERS_MAX = 128  # two process ranges per worker, numbered in 8 bits
METHODS = spelling.METHODS

# --- kinds of values that are fastgw's own ---------------------------------------------------------------------------

_CLIENT_KIND = "a table of librdkafka properties"


def _read_client(value: Any, path: str) -> dict[str, str | int | float | bool]:
    if not isinstance(value, dict):
        raise Mistake(path, _CLIENT_KIND, shown(value))
    for name, item in value.items():
        where = under(path, name)
        if isinstance(item, dict):
            # [kafka.client] security.protocol = "SSL" without quotes is TOML for nested tables.
            raise Mistake(where, "a string, number or boolean", "a table", "quote property names that hold dots")
        # JSON, which hands the configuration on, has no infinity.
        if not isinstance(item, str | int | float | bool) or (isinstance(item, float) and not math.isfinite(item)):
            raise Mistake(where, "a string, number or boolean", shown(item))
        owner = spelling.owner_of_property(name)
        if owner is not None:
            raise Mistake(where, "a property that is free to be set", "one that is not", owner)
    return {name: str(item) if isinstance(item, str) else item for name, item in value.items()}


def _show_client(kept: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{shown(name)}: {shown(item)}" for name, item in kept.items()) + "}"


_PROPERTIES = Kind(
    _CLIENT_KIND,
    _read_client,
    {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
    _show_client,
)


def _duration(least: str, most: str) -> Kind:
    schema = {"type": "string", "pattern": units.DURATION_PATTERN}
    return between(
        'a duration such as "5s" or "250ms"',
        (str,),
        units.parse_duration_ns,
        units.format_duration,
        (least, most),
        schema,
    )


def _duration_ms(least: str, most: str, *, whole: bool = False) -> Kind:
    """A duration that is kept in milliseconds, with or without fractions, because librdkafka wants it so."""
    inner = _duration(least, most)

    def read(value: Any, path: str) -> int | float:
        duration_ns = inner.read(value, path)
        if whole and duration_ns % NS_PER_MS:
            raise Mistake(path, "whole milliseconds", shown(value))
        return int(duration_ns // NS_PER_MS) if whole else float(duration_ns / NS_PER_MS)

    return Kind(inner.name, read, inner.schema, lambda kept: inner.show(round(kept * NS_PER_MS)))


def _size(least: str, most: str) -> Kind:
    schema = {"anyOf": [{"type": "string", "pattern": units.SIZE_PATTERN}, {"type": "integer", "minimum": 0}]}
    return between(
        'a size such as "1MiB" or "64KiB"', (str, int), units.parse_bytes, units.format_bytes, (least, most), schema
    )


def _read_listen(value: Any, path: str) -> Listen:
    if isinstance(value, str):
        value = {"bind": value}
    return Listen(**read_section(Listen, value, path))


_TOPIC = text("a topic name", spelling.topic, pattern=spelling.TOPIC_PATTERN)
_HEADERS = list_of(text("a header name", spelling.copied_header), "a list of header names")
_METHOD = choice(*METHODS, instead=spelling.no_single_method)
_PATH = text('a path such as "/orders/{id}"', spelling.path)
_SERVERS = text('brokers such as "kafka-1:9092,kafka-2:9092"', spelling.servers)
_FILE = text("a file name", spelling.file_name)
_CLIENT_TIME = _duration("100ms", "10m")
_BIND = text('an address such as "0.0.0.0:8080" or "unix:/run/shop.sock"', spelling.bind)
# The table form is a definition of the whole schema (`json_schema`).
_LISTEN_SCHEMA = {"anyOf": [_BIND.schema, {"$ref": "#/$defs/listen"}]}
_LISTENS = list_of(
    Kind("an address or a table", _read_listen, _LISTEN_SCHEMA, lambda kept: shown(kept.bind)),
    "a list of addresses or tables",
)


def cores() -> int:
    """How many workers fit this machine: the cores this process may run on."""
    return min(len(os.sched_getaffinity(0)), WORKERS_MAX)


# --- the settings ----------------------------------------------------------------------------------------------------
# fmt: off


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """One address that is listened on. A plain string in `gateway.listen` stands for its `bind`."""

    bind: Annotated[str, Setting("Where to listen: `host:port`, or `unix:` and a path.", _BIND, restart=True)]
    front: Annotated[str, Setting(
        "The HTTP implementation. `auto` takes `express` (plain HTTP/1.1 at the lowest cost) where that is all that is "
        "asked for, and `granian` for TLS and for `http = \"2\"`.",
        choice("auto", "granian", "express"))] = "auto"
    http: Annotated[str, Setting(
        "The HTTP versions that are spoken. `auto`: 1.1, with TLS also 2; on `granian` 2 without TLS as well.",
        choice("auto", "1", "2"))] = "auto"
    tls_cert: Annotated[str, Setting("PEM file with the certificate chain; together with `tls_key`.", _FILE)] = ""
    tls_key: Annotated[str, Setting("PEM file with the private key.", _FILE)] = ""
    tls_min: Annotated[str, Setting("The oldest TLS version that is accepted.", choice("1.2", "1.3"))] = "1.2"

    @property
    def is_express(self) -> bool:
        """The express front serves it, not granian."""
        return self.front == "express" or (self.front == "auto" and not self.tls_cert and self.http != "2")


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """This gateway: its name, where it listens, how many processes it has."""

    name: Annotated[str, Setting("Topics and groups are named after it.", text("a name", spelling.topic), restart=True)]
    response_topic: Annotated[str, Setting(
        "The topic on which every service replies.", _TOPIC, default='`name` + `".replies"`', restart=True)] = ""
    listens: Annotated[tuple[Listen, ...], Setting(
        "Where to listen: strings, or tables (see `[[listen]]`).", _LISTENS, key="listen", restart=True,
    )] = (Listen(bind="127.0.0.1:8080"),)
    workers: Annotated[int, Setting(
        "Worker processes.", integer(1, WORKERS_MAX), default="one per core", restart=True,
    )] = msgspec.field(default_factory=cores)
    slots: Annotated[int, Setting(
        "Requests that can wait at once, per worker process.", integer(16, SLOTS_MAX // 2),
        default="`16384`, fewer above 32 workers", restart=True)] = 0
    drain_timeout_ns: Annotated[int, Setting(
        "How long a stopping process waits for its open requests.", _duration("0s", "1h"))] = 10 * NS_PER_S
    hosts: Annotated[tuple[str, ...], Setting(
        "The hosts that are served, without port; empty serves any.",
        list_of(text("a host name", spelling.host), "a list of host names"))] = ()
    run_dir: Annotated[str, Setting(
        "Directory for the sockets between the processes.", text("a directory", spelling.file_name),
        default="chosen at start", restart=True)] = ""

    def __post_init__(self) -> None:
        if not self.response_topic:
            msgspec.structs.force_setattr(self, "response_topic", f"{self.name}.replies")
        if not self.slots:
            msgspec.structs.force_setattr(self, "slots", min(16384, SLOTS_MAX // (2 * self.workers)))


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What no request may exceed."""

    max_body_bytes: Annotated[int, Setting("Largest request body (413 beyond it).", _size("0B", "512MiB"))] = 1 << 20
    max_header_bytes: Annotated[int, Setting(
        "All request headers together (431 beyond it).", _size("1KiB", "1MiB"))] = 64 << 10
    max_target_bytes: Annotated[int, Setting("Path and query together (414 beyond it).", _size("64B", "64KiB"))] = 8192
    max_reply_bytes: Annotated[int, Setting(
        "Largest body of a service's reply (502 beyond it).", _size("1KiB", "15MiB"))] = 8 << 20
    # HAProxy and Node's HTTP client take 16 KiB, AWS's load balancer 32, Envoy 60; nginx 4 or 8 unless it is told.
    max_reply_headers_bytes: Annotated[int, Setting(
        "Headers that an answer takes over from its reply, together (502 beyond it).",
        _size("1KiB", "1MiB"))] = 16 << 10
    header_timeout_ns: Annotated[int, Setting("Time for the headers to come in.", _CLIENT_TIME)] = 10 * NS_PER_S
    body_timeout_ns: Annotated[int, Setting(
        "Time for the body to come in (408 beyond it).", _CLIENT_TIME)] = 10 * NS_PER_S
    idle_timeout_ns: Annotated[int, Setting(
        "Time between two requests of a connection (`express`; `granian` takes `header_timeout` for it).",
        _CLIENT_TIME)] = 75 * NS_PER_S
    write_timeout_ns: Annotated[int, Setting(
        "Time for a client to take its answer (`granian`: not on Unix sockets).", _CLIENT_TIME)] = 20 * NS_PER_S
    max_connections: Annotated[int, Setting("Open connections per worker and listener.", integer(1, 1_000_000))] = 16384


class Kafka(msgspec.Struct, frozen=True, kw_only=True):
    """How Kafka is reached."""

    bootstrap: Annotated[str, Setting("Brokers to start from: `host:port`, several with commas.", _SERVERS)]
    linger_ms: Annotated[float, Setting(
        "How long a request waits for others in its batch. `native`: without `key` not at all while few come, and up "
        "to 5ms more while many do.",
        _duration_ms("0s", "1s"))] = 1.0
    sticky_linger_ms: Annotated[int, Setting(
        "How long records without key stay on one partition.", _duration_ms("0s", "10s", whole=True))] = 2
    fetch_wait_ns: Annotated[int, Setting(
        "How long a broker may hold a fetch without data; 1ms to 5ms on the embedded broker.",
        _duration("1ms", "10s"))] = 100 * NS_PER_MS
    link: Annotated[str, Setting(
        "How librdkafka is used: `native` (cheaper, knows more records' fate), `public` (confluent-kafka's API), "
        "`auto` (native where it works).",
        choice("auto", "native", "public"))] = "auto"
    client: Annotated[dict[str, str | int | float | bool], Setting(
        "Any other librdkafka property, for producer and consumer.", _PROPERTIES)] = {}


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """How several gateway nodes share one response topic."""

    mode: Annotated[str, Setting(
        "`single`: this node has every partition; `static`: it is node i of n; `group`: nodes come and go.",
        choice("single", "static", "group"), restart=True)] = "single"
    node_index: Annotated[int, Setting(
        "This node's number, from 0 (`static` only).", integer(0, 4095), restart=True)] = 0
    node_count: Annotated[int, Setting("How many nodes there are (`static` only).", integer(1, 4096), restart=True)] = 1
    group_id: Annotated[str, Setting(
        "The consumer group of the nodes (`group` only).", text("a group name", spelling.label),
        default="`gateway.name`", restart=True)] = ""
    session_timeout_ns: Annotated[int, Setting(
        "How soon a dead node is noticed (`group` only).", _duration("1s", "10m"), restart=True)] = 6 * NS_PER_S


class Admin(msgspec.Struct, frozen=True, kw_only=True):
    """The port for operators: /livez, /readyz, /metrics, /status."""

    listen: Annotated[str, Setting(
        "Its address; an empty string switches it off.",
        text('an address such as "127.0.0.1:9100"', spelling.host_port_or_nothing), restart=True)] = "127.0.0.1:9100"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route: which requests go to which topic."""

    number: int = 0  # row of the counters; given in file order, kept over a reload
    name: Annotated[str, Setting(
        "Its name in metrics and logs.", text("a name", spelling.label), default="method and path")] = ""
    methods: Annotated[tuple[str, ...], Setting(
        "The HTTP method, or a list of them.", list_of(_METHOD, "a method or a list of methods", alone=True, least=1),
        key="method")]
    path: Annotated[str, Setting("The path; `{name}` stands for one segment.", _PATH)]
    topic: Annotated[str, Setting("The request topic of the service.", _TOPIC)]
    timeout_ns: Annotated[int, Setting(
        "How long a request waits for its reply (504 beyond it).", _duration("10ms", "1h"))] = 5 * NS_PER_S
    key: Annotated[str, Setting(
        "The record key, where the service needs order per entity: `path.<name>`, `header.<name>`, "
        "`body.<JSON pointer>`.", text("where to find the record key", spelling.record_key))] = ""
    partitioner: Annotated[str, Setting(
        "How the service's Kafka client chooses the reply's partition.",
        choice("auto", "murmur2", "crc32", "fnv1a", "header"))] = "auto"
    spread: Annotated[str, Setting(
        "Records without key: `batch` is cheaper, `even` keeps every consumer busy.",
        choice("auto", "batch", "even"))] = "auto"
    service_group: Annotated[str, Setting(
        "The service's consumer group. With it, requests are refused at once (503) while nobody of it is there, or "
        "while its backlog is longer than they can wait.", text("a group name", spelling.label))] = ""
    request_headers: Annotated[tuple[str, ...], Setting("HTTP headers that are copied to the record.", _HEADERS)] = ()
    response_headers: Annotated[tuple[str, ...], Setting("Reply headers that are copied to the answer.", _HEADERS)] = ()
    max_body_bytes: Annotated[int, Setting(
        "Largest request body of this route.", _size("0B", "512MiB"), default="`limits.max_body`")] = 1 << 20
    max_in_flight: Annotated[int, Setting(
        "Requests of this route that may wait at once, per worker. The routes share half of the slots evenly, and no "
        "other route takes those; the other half is there for whoever comes first.", integer(1, SLOTS_MAX),
        default="`gateway.slots`")] = 16384
    dialect: Annotated[str, Setting("How requests and replies look as records.", choice("plain"))] = "plain"

    def __post_init__(self) -> None:
        if not self.name:
            msgspec.structs.force_setattr(self, "name", f"{','.join(self.methods)} {self.path}")


# fmt: on


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be configured, checked; see `load`."""

    gateway: Gateway
    limits: Limits = Limits()
    kafka: Kafka
    cluster: Cluster = Cluster()
    admin: Admin = Admin()
    routes: tuple[Route, ...]
    source: str = ""  # the file's name, for messages


_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "gateway": Gateway,
    "listen": Listen,
    "limits": Limits,
    "kafka": Kafka,
    "cluster": Cluster,
    "admin": Admin,
    "route": Route,
}
_TABLE_LISTS = ("listen", "route")
_REQUIRED = ("gateway", "kafka", "route")

# --- reading ---------------------------------------------------------------------------------------------------------


def load(path: Path | str, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: one line that names the file, the key, what was expected and what was got.
    """
    source = str(path)
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, FileNotFoundError):
            reason = "no such file; `fastgw demo` needs none"
        raise ConfigError(f"{one_line(source)}: expected a configuration file, got: {reason}") from None
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}: line {line}: expected UTF-8 text, got byte 0x{data[error.start]:02x}") from None
    config = loads(content, source, environ)
    try:
        _check_files(config)
    except Mistake as mistake:
        raise ConfigError(one_line(f"{source}: {mistake}")) from None
    return config


def loads(content: str, source: str = "fastgw.toml", environ: Mapping[str, str] = os.environ) -> Config:
    """Check a configuration that is already text; files that it names are not looked at.

    Raises:
        ConfigError: as `load`.
    """
    try:
        # Without a last newline tomllib calls a mistake in the last line one at the "end of document".
        tree = tomllib.loads(content + "\n")
    except RecursionError:
        raise ConfigError(f"{source}: expected TOML, got brackets nested too deeply") from None
    except ValueError as error:
        raise ConfigError(one_line(f"{source}: {_toml_mistake(str(error))}")) from None
    try:
        config = _build(expand(tree, environ), source)
        _check(config)
    except RecursionError:
        raise ConfigError(f"{source}: expected a configuration, got tables nested too deeply") from None
    except Mistake as mistake:
        raise ConfigError(one_line(f"{source}: {mistake}")) from None
    return config


def one_line(message: str) -> str:
    """The message without anything that would break the line."""
    return "".join(character if character.isprintable() else "?" for character in message)


_AT = re.compile(r"^(.*) \(at (line \d+, column \d+|end of document)\)$", re.DOTALL).match


def _toml_mistake(message: str) -> str:
    match = _AT(message)
    return f"{match[2]}: expected TOML, got: {match[1]}" if match else f"expected TOML, got: {message}"


def _build(tree: dict[str, Any], source: str) -> Config:
    for key in tree:
        if key not in _SECTIONS:
            tables = [f"[[{name}]]" if name in _TABLE_LISTS else f"[{name}]" for name in _SECTIONS]
            hint = did_you_mean(key, _SECTIONS) or "known here: " + ", ".join(tables)
            raise Mistake(under("", key), "a known table", "an unknown one", hint)
    for name in _REQUIRED:
        if name not in tree:
            raise Mistake(name, f"a [[{name}]] table" if name in _TABLE_LISTS else f"a [{name}] table", "none")
    gateway = Gateway(**_gateway_values(tree))
    limits = Limits(**read_section(Limits, tree.get("limits", {}), "limits"))
    return Config(
        gateway=gateway,
        limits=limits,
        kafka=Kafka(**read_section(Kafka, tree["kafka"], "kafka")),
        cluster=Cluster(**{"group_id": gateway.name, **read_section(Cluster, tree.get("cluster", {}), "cluster")}),
        admin=Admin(**read_section(Admin, tree.get("admin", {}), "admin")),
        routes=tuple(_routes(tree["route"], gateway, limits)),
        source=source,
    )


def _gateway_values(tree: dict[str, Any]) -> dict[str, Any]:
    values = read_section(Gateway, tree["gateway"], "gateway")
    if "listen" in tree:
        if "listens" in values:
            raise Mistake("gateway.listen", "addresses either here or in [[listen]]", "both")
        values["listens"] = _LISTENS.read(tree["listen"], "listen")
    return values


def _routes(value: Any, gateway: Gateway, limits: Limits) -> Iterator[Route]:
    if not isinstance(value, list) or not value:
        raise Mistake("route", "one or more [[route]] tables", shown(value))
    inherited = {"max_body_bytes": limits.max_body_bytes, "max_in_flight": gateway.slots}
    for number, table in enumerate(value):
        yield Route(number=number, **{**inherited, **read_section(Route, table, f"route[{number}]")})


# --- clashes between settings ----------------------------------------------------------------------------------------


def _check(config: Config) -> None:
    """Everything that no setting can know alone.

    Raises:
        Mistake: naming both sides of the clash.
    """
    _check_gateway(config.gateway)
    _check_listens(config)
    _check_cluster(config.cluster)
    _check_sizes(config)
    if len(config.routes) > ROUTES_MAX:
        raise Mistake("route", f"at most {ROUTES_MAX} routes", str(len(config.routes)))
    for at, route in enumerate(config.routes):
        _check_route(route, f"route[{at}]", config.gateway)
    _check_ambiguity(config.routes)


def _check_gateway(gateway: Gateway) -> None:
    most = SLOTS_MAX // (2 * gateway.workers)
    if gateway.slots > most:
        raise Mistake("gateway.slots", f"at most {most} with gateway.workers = {gateway.workers}", str(gateway.slots))
    if not spelling.is_topic(gateway.response_topic):
        raise Mistake("gateway.response_topic", "at most 249 characters", shown(gateway.response_topic))
    if not gateway.listens:
        raise Mistake("gateway.listen", "at least one address", "none")


def _check_listens(config: Config) -> None:
    taken = {config.admin.listen: "admin.listen"} if config.admin.listen else {}
    for at, listen in enumerate(config.gateway.listens):
        path = f"gateway.listen[{at}]"
        if bool(listen.tls_cert) != bool(listen.tls_key):
            missing, given = ("tls_key", "tls_cert") if listen.tls_cert else ("tls_cert", "tls_key")
            raise Mistake(f"{path}.{missing}", f"a PEM file, because {given} is set", "nothing")
        if listen.front == "express" and (listen.tls_cert or listen.http == "2"):
            wanted = "TLS" if listen.tls_cert else "HTTP/2"
            raise Mistake(f"{path}.front", f'"auto" or "granian", because {wanted} is set', '"express"')
        if listen.bind in taken and not listen.bind.endswith(":0"):
            raise Mistake(path, f"another address than {taken[listen.bind]}", shown(listen.bind))
        taken[listen.bind] = path


def _check_cluster(cluster: Cluster) -> None:
    if cluster.mode != "static" and (cluster.node_index or cluster.node_count > 1):
        name = "node_count" if cluster.node_count > 1 else "node_index"
        raise Mistake(f"cluster.{name}", 'nothing, unless cluster.mode = "static"', f'cluster.mode = "{cluster.mode}"')
    if cluster.node_index >= cluster.node_count:
        expected = f"less than cluster.node_count = {cluster.node_count}"
        raise Mistake("cluster.node_index", expected, str(cluster.node_index), "nodes count from 0")


def _check_sizes(config: Config) -> None:
    name = "message.max.bytes"
    most = config.kafka.client.get(name)
    largest = max([config.limits.max_body_bytes, *(route.max_body_bytes for route in config.routes)])
    if isinstance(most, int) and most < largest:
        raise Mistake(under("kafka.client", name), f"at least the largest max_body, {largest}", str(most))


def _check_route(route: Route, path: str, gateway: Gateway) -> None:
    if route.topic == gateway.response_topic:
        raise Mistake(f"{path}.topic", "another topic than gateway.response_topic", shown(route.topic))
    where, _, name = route.key.partition(".")
    if where == "path" and f"{{{name}}}" not in route.path.split("/"):
        raise Mistake(f"{path}.key", "a parameter of the route's path", shown(route.key), f"path = {shown(route.path)}")


def _check_ambiguity(routes: Iterable[Route]) -> None:
    """Two routes that match the same requests equally well: same method, same shape of path."""
    names: dict[str, int] = {}
    shapes: dict[tuple[str, ...], int] = {}
    for at, route in enumerate(routes):
        first = names.setdefault(route.name, at)
        for method in route.methods:
            shape = (method, *("{}" if segment.startswith("{") else segment for segment in route.path.split("/")))
            same = shapes.setdefault(shape, at)
            if same != at:
                got = f"{method} {route.path}"
                raise Mistake(
                    f"route[{at}]", f"requests that route[{same}] does not take", got, "one of the two has to go"
                )
        if first != at:
            raise Mistake(f"route[{at}].name", f"another name than route[{first}].name", shown(route.name))


def _check_files(config: Config) -> None:
    for at, listen in enumerate(config.gateway.listens):
        for name in ("tls_cert", "tls_key"):
            file = getattr(listen, name)
            if file and not os.access(file, os.R_OK):
                raise Mistake(f"gateway.listen[{at}].{name}", "a file that can be read", shown(file))
        if listen.tls_cert:
            _check_certificate(listen, f"gateway.listen[{at}]")


def _check_certificate(listen: Listen, path: str) -> None:
    """A front that cannot use it would only die of it, again and again."""
    import ssl  # most gateways need none, and every command would load it

    try:
        # Without a password OpenSSL would ask for one on the terminal; keys that need one are not taken.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(listen.tls_cert, listen.tls_key, password="")
    except OSError as error:
        expected = "a PEM certificate and, in tls_key, the private key that belongs to it, not encrypted"
        why = str(error.strerror).partition(" (_ssl")[0]
        raise Mistake(f"{path}.tls_cert", expected, f"{shown(listen.tls_cert)}: {why}") from None


# --- hand-over between processes -------------------------------------------------------------------------------------


def to_json(config: Config) -> bytes:
    """The configuration for another process of this gateway; `from_json` reads it."""
    return msgspec.json.encode(config)


def from_json(data: bytes) -> Config:
    """What `to_json` was given.

    Raises:
        ConfigError: the bytes are no configuration of this version.
    """
    try:
        return msgspec.json.decode(data, type=Config)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(one_line(f"handed-over configuration: expected what to_json wrote, got: {error}")) from None


# --- what is made from the settings ----------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the file, for editors."""
    tables = {name: section_schema(section) for name, section in _SECTIONS.items()}
    defs = {"listen": tables["listen"], "route": tables["route"]}
    properties: dict[str, Any] = {name: table for name, table in tables.items() if name not in defs}
    properties["listen"] = {"type": "array", "items": {"$ref": "#/$defs/listen"}, "minItems": 1}
    properties["route"] = {"type": "array", "items": {"$ref": "#/$defs/route"}, "minItems": 1, "maxItems": ROUTES_MAX}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fastgw configuration",
        "type": "object",
        "properties": properties,
        "required": list(_REQUIRED),
        "additionalProperties": False,
        "$defs": defs,
    }


def markdown_reference() -> str:
    """The configuration reference of the README."""
    titles = {name: f"[[{name}]]" if name in _TABLE_LISTS else f"[{name}]" for name in _SECTIONS}
    return "\n".join(section_reference(titles[name], section) for name, section in _SECTIONS.items())
