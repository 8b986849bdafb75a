"""The configuration: one TOML file, one list of settings, one frozen `Config` that everything else receives.

The classes below are that list. What a setting is called, what it takes, what it does without being set and what it is
for stand together, once; the reader, `fastgw schema` and the README's reference are made from them (see `kinds`).
Times are kept in nanoseconds (`_ns`) and sizes in bytes; the file has "5s" and "1MiB". Clashes between settings are
found in one place, `_check`.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from fastgw._ctable import UNROUTED
from fastgw.config import toml_text, units
from fastgw.config import values as spelling
from fastgw.config.kinds import (
    WRONG,
    Kind,
    Mistake,
    Mistakes,
    Setting,
    between,
    choice,
    did_you_mean,
    expand,
    integer,
    list_of,
    parsed,
    read_fields,
    read_section,
    section_reference,
    section_schema,
    shown,
    text,
    type_of,
    under,
    yes_or_no,
)
from fastgw.config.units import NS_PER_MS, NS_PER_S
from fastgw.errors import ConfigError

ROUTES_MAX = UNROUTED  # their numbers are rows of the counters in shared memory; the row after them is of no route
ACCEPT_BACKLOG = 1024  # connections that may wait for each listening socket; net.core.somaxconn bounds it
SLOTS_MAX = 1 << 20  # the table slot in a correlation id has 20 bits
WORKERS_MAX = 128  # two process ranges per worker, numbered in 8 bits
BODY_MEMORY_BYTES, CONNECTION_BODY_MEMORY_BYTES = 64 << 20, 16 << 20
METHODS = spelling.METHODS

# --- kinds of values that are fastgw's own ---------------------------------------------------------------------------

_CLIENT_KIND = "a table of librdkafka properties"


def _read_client(value: Any, path: str) -> dict[str, str | int | float | bool]:
    if not isinstance(value, dict):
        raise Mistake(path, _CLIENT_KIND, type_of(value))
    mistakes = Mistakes()
    for name, item in value.items():
        if item is WRONG:
            mistakes.told_before += 1
            continue
        with mistakes:
            _check_property(name, item, under(path, name))
    mistakes.raise_any()
    return {name: str(item) if isinstance(item, str) else item for name, item in value.items()}


def _check_property(name: str, item: Any, where: str) -> None:
    """Any value may be a secret: no message holds one."""
    if isinstance(item, dict):
        # [kafka.client] security.protocol = "SSL" without quotes is TOML for nested tables.
        raise Mistake(where, "a string, number or boolean", "a table", "quote property names that hold dots")
    # JSON, which hands the configuration on, has no infinity.
    if not isinstance(item, str | int | float | bool) or (isinstance(item, float) and not math.isfinite(item)):
        raise Mistake(where, "a string, number or boolean", type_of(item))
    owner = spelling.owner_of_property(name)
    if owner is not None:
        raise Mistake(where, "a property that is free to be set", "one that is not", owner)


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


def _read_fraction(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Mistake(path, _FRACTION_KIND, shown(value))
    return float(value)


_FRACTION_KIND = "a number from 0 to 1"
_FRACTION = Kind(_FRACTION_KIND, _read_fraction, {"type": "number", "minimum": 0, "maximum": 1}, shown)


def _read_cors(value: Any, path: str) -> Cors:
    if value == "off":
        return Cors(origins=())
    cors = Cors(**read_section(Cors, value, path))
    _check_cors(cors, path)
    return cors


_TOPIC = text("a topic name", spelling.topic, pattern=spelling.TOPIC_PATTERN)
_HEADERS = list_of(text("a header name", spelling.copied_header), "a list of header names")
_HOSTS = list_of(text("a host name", spelling.host), "a list of host names")
_ANSWER_HEADERS = list_of(text("a header name", spelling.answer_header), "a list of header names")
_METHOD = choice(*METHODS, instead=spelling.no_single_method)
_PATH = text('a path such as "/orders/{id}"', spelling.path)
_SERVERS = text('brokers such as "kafka-1:9092,kafka-2:9092"', spelling.servers)
_FILE = text("a file name", spelling.file_name)
_GROUP = text("a group's name or number", spelling.group)
_MODE = parsed(
    'an octal string such as "0660"',
    (str,),
    spelling.file_mode,
    {"type": "string", "pattern": spelling.FILE_MODE_PATTERN},
    lambda kept: shown(f"{kept:04o}"),
)
_CLIENT_TIME = _duration("100ms", "10m")
_PROXIES = list_of(text('a network such as "10.0.0.0/8", or "unix"', spelling.trusted_proxy), "a list of networks")
_BIND = text('an address such as "0.0.0.0:8080" or "unix:/run/shop.sock"', spelling.bind)
_ORIGINS = list_of(
    text('an origin such as "https://app.example.com"', spelling.origin),
    '"*" or a list of origins',
    alone=True,
    least=1,
)
_SWITCH = parsed("true or false", (bool,), bool, {"type": "boolean"})
_ANY_HEADERS = list_of(text("a header name", spelling.header), "a list of header names")
_METHODS = list_of(_METHOD, "a list of methods")
_CORS = Kind(
    '"off", or a table as `[cors]`',
    _read_cors,
    {"anyOf": [{"const": "off"}, {"$ref": "#/properties/cors"}]},
    lambda kept: "null" if kept is None else "{}",
)
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

    bind: Annotated[str, Setting(
        "Where to listen: `host:port`, or `unix:` and a path. `0.0.0.0` is every IPv4 address, `[::]` every address of "
        "both families, `localhost` both `127.0.0.1` and `::1`; another name is all of its addresses.",
        _BIND, restart=True)]
    front: Annotated[str, Setting(
        "The HTTP implementation. `auto` takes `express` (plain HTTP/1.1 at the lowest cost) where that is all that is "
        "asked for, and `granian` for TLS and for `http = \"2\"`.",
        choice("auto", "granian", "express"))] = "auto"
    http: Annotated[str, Setting(
        "The HTTP versions that are spoken. `auto`: 1.1, with TLS also 2; on `granian` 2 without TLS as well.",
        choice("auto", "1", "2"))] = "auto"
    proxy_protocol: Annotated[bool, Setting(
        "Every connection begins with a PROXY protocol header, version 1 or 2, of one of `gateway.trusted_proxies`; "
        "one without is refused. `express` only.", yes_or_no())] = False
    tls_cert: Annotated[str, Setting("PEM file with the certificate chain; together with `tls_key`.", _FILE)] = ""
    tls_key: Annotated[str, Setting("PEM file with the private key.", _FILE)] = ""
    tls_min: Annotated[str, Setting("The oldest TLS version that is accepted.", choice("1.2", "1.3"))] = "1.2"
    mode: Annotated[int | None, Setting(
        "Rights of a Unix socket's file; who may write to it may connect.", _MODE,
        default="what the umask leaves", restart=True)] = None
    group: Annotated[str, Setting(
        "Group of a Unix socket's file, by name or number.", _GROUP,
        default="that of the process", restart=True)] = ""

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
        _HOSTS)] = ()
    trusted_proxies: Annotated[tuple[str, ...], Setting(
        "The networks of the proxies in front of this gateway; `unix` for whoever connects to a Unix socket. They are "
        "believed about who the client is, and nobody else.", _PROXIES)] = ()
    forwarded: Annotated[str, Setting(
        "The headers in which trusted proxies name the client: `X-Forwarded-For` and `-Proto`, or `Forwarded` "
        "(RFC 7239).", choice("x-forwarded", "forwarded", "off"))] = "x-forwarded"
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
        "Time between two requests of a connection.",
        _CLIENT_TIME)] = 75 * NS_PER_S
    write_timeout_ns: Annotated[int, Setting(
        "Time for a client to take its answer (`granian`: not on Unix sockets).", _CLIENT_TIME)] = 20 * NS_PER_S
    body_memory_bytes: Annotated[int, Setting(
        "Bytes of request bodies that one worker holds while they come in (503 beyond it).", _size("64KiB", "64GiB"),
        default="`64MiB`, or one body of the largest `max_body`")] = BODY_MEMORY_BYTES
    connection_body_memory_bytes: Annotated[int, Setting(
        "The same for one connection; HTTP/2 has many bodies on one (503 beyond it).", _size("64KiB", "64GiB"),
        default="`16MiB`, or one body of the largest `max_body`")] = CONNECTION_BODY_MEMORY_BYTES
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

    def __repr__(self) -> str:
        # Passwords are in there, and a repr ends up in logs and tracebacks.
        return f"<Kafka {self.bootstrap!r} client={sorted(self.client)}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("bootstrap", self.bootstrap), ("client", sorted(self.client))]


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
    hosts: Annotated[tuple[str, ...], Setting(
        "The hosts that clients of this port may name besides loopback names and the address that they connect to "
        "(421 for others, against DNS rebinding). Without port.", _HOSTS)] = ()


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """The access log: one JSON line for each request. What somebody must act on is in the gateway's log without it."""

    access: Annotated[str, Setting(
        "Which requests have a line: `errors` are those whose status is 400 or more, clients that left (499) included.",
        choice("off", "errors", "all"))] = "off"
    sample: Annotated[float, Setting(
        "`all`: the part of the requests below 400 that has a line, such as 0.01; errors always have one.",
        _FRACTION)] = 1.0
    access_file: Annotated[str, Setting(
        "Where the lines go: `stdout`, `stderr`, or a file, which is opened anew when it was moved away.",
        text("stdout, stderr or a file name", spelling.file_name))] = "stdout"
    access_target: Annotated[str, Setting(
        "What of the target is in a line: `path`; `full`, with the query, which may hold secrets; `none`: the route "
        "alone.", choice("none", "path", "full"))] = "path"


class Cors(msgspec.Struct, frozen=True, kw_only=True):
    """Which web pages may call the gateway (CORS). Preflights are answered here, without a record."""

    origins: Annotated[tuple[str, ...], Setting(
        'The pages\' origins, letter by letter as browsers send them; `"*"` is any.', _ORIGINS)]
    methods: Annotated[tuple[str, ...], Setting(
        "The methods that a preflight allows.", _METHODS, default="those of the path's routes")] = ()
    headers: Annotated[tuple[str, ...], Setting(
        "Request headers that pages may send, besides `content-type`, `prefer`, `traceparent`, `tracestate`, "
        "`x-request-id` and the route's `request_headers`.", _ANY_HEADERS)] = ()
    expose: Annotated[tuple[str, ...], Setting(
        "Headers of answers that pages may read, besides `fastgw-outcome`, `retry-after`, `x-request-id` and the "
        "route's `response_headers`.", _ANY_HEADERS)] = ()
    credentials: Annotated[bool, Setting(
        'Whether pages may send cookies and client certificates; not together with `"*"`.', _SWITCH)] = False
    max_age_ns: Annotated[int, Setting(
        "How long a browser may remember the answer to a preflight.", _duration("0s", "24h"))] = 600 * NS_PER_S
    private_network: Annotated[bool, Setting(
        "Whether pages of public networks may reach a gateway in a private one (Private Network Access).",
        _SWITCH)] = False


class Compression(msgspec.Struct, frozen=True, kw_only=True):
    """Compression of answers, for clients that send `Accept-Encoding`. Off while `encodings` is empty."""

    encodings: Annotated[tuple[str, ...], Setting(
        "What is offered; of those that a client likes equally the first is taken.",
        list_of(choice("zstd", "gzip"), "a list of encodings"))] = ()
    min_size_bytes: Annotated[int, Setting(
        "Smaller answers stay as they are.", _size("0B", "1MiB"), key="min_size")] = 1024
    # On the loop: see compression.py for what it costs.
    max_size_bytes: Annotated[int, Setting(
        "Larger answers stay as they are: while one is compressed (256KiB: 3 ms with gzip, 1 with zstd), all others of "
        "its worker wait.", _size("1KiB", "1MiB"), key="max_size")] = 256 << 10
    types: Annotated[tuple[str, ...], Setting(
        "The content types; a `*` stands for anything.",
        list_of(text("a content type", spelling.content_type), "a list of content types", least=1))] = (
            "application/json", "application/*+json", "application/xml", "application/*+xml", "application/javascript",
            "image/svg+xml", "text/*",
        )


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route: which requests go to which topic."""

    number: int = 0  # row of the counters; given in file order, kept over a reload
    name: Annotated[str, Setting(
        "Its name in metrics and logs.", text("a name", spelling.label), default="method and path")] = ""
    methods: Annotated[tuple[str, ...], Setting(
        "The HTTP method, or a list of them.", list_of(_METHOD, "a method or a list of methods", alone=True, least=1),
        key="method")]
    path: Annotated[str, Setting(
        "The path; `{name}` stands for one segment, and `{name...}` at the end for the rest of the path, which may be "
        "empty.", _PATH)]
    topic: Annotated[str, Setting("The request topic of the service.", _TOPIC)]
    head: Annotated[bool, Setting(
        "Whether HEAD is taken wherever GET is. The record says HEAD, and no content is sent.", _SWITCH)] = True
    timeout_ns: Annotated[int, Setting(
        "How long a request waits for its reply (504 beyond it).", _duration("10ms", "1h"))] = 5 * NS_PER_S
    key: Annotated[str, Setting(
        "The record key, where the service needs order per entity: `path.<name>`, `header.<name>`, "
        "`body.<JSON pointer>`. It is taken as it was written; 400 where it is missing or empty.",
        text("where to find the record key", spelling.record_key))] = ""
    key_partitioner: Annotated[str, Setting(
        "Which hash of `key` chooses the partition of the request's record: `crc32` as librdkafka, `murmur2` as Java's "
        "clients and Kafka Streams, `fnv1a` as Sarama. For topics that are joined with others by key.",
        choice("crc32", "murmur2", "fnv1a"))] = "crc32"
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
    response_headers: Annotated[tuple[str, ...], Setting(
        "Reply headers that are copied to the answer.", _ANSWER_HEADERS)] = ()
    max_body_bytes: Annotated[int, Setting(
        "Largest request body of this route.", _size("0B", "512MiB"), default="`limits.max_body`")] = 1 << 20
    max_in_flight: Annotated[int, Setting(
        "Requests of this route that may wait at once, per worker. The routes share half of the slots evenly, and no "
        "other route takes those; the other half is there for whoever comes first.", integer(1, SLOTS_MAX),
        default="`gateway.slots`")] = 16384
    compress: Annotated[bool, Setting(
        "Whether `[compression]` is for this route. Not for answers in which a secret stands beside what a stranger "
        "can choose (BREACH).", _SWITCH)] = True
    cors: Annotated[Cors | None, Setting(
        "Which web pages may call this route; a table stands for the whole of `[cors]`.", _CORS,
        default="`[cors]`")] = None
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
    log: Log = Log()
    cors: Cors | None = None
    compression: Compression = Compression()
    routes: tuple[Route, ...]
    source: str = ""  # the file's name, for messages


_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "gateway": Gateway,
    "listen": Listen,
    "limits": Limits,
    "kafka": Kafka,
    "cluster": Cluster,
    "admin": Admin,
    "log": Log,
    "cors": Cors,
    "compression": Compression,
    "route": Route,
}
_TABLE_LISTS = ("listen", "route")
_REQUIRED = ("gateway", "kafka", "route")
_SectionT = TypeVar("_SectionT", Limits, Kafka, Cluster, Admin, Log, Compression)

# --- reading ---------------------------------------------------------------------------------------------------------


def load(path: Path | str, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: for each mistake a line that names the file, the line in it, the key, what was expected and what
            was got; for a mistake in the TOML itself the line follows, with a caret.
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
    return _read(content, source, environ, files=True)


def loads(content: str, source: str = "fastgw.toml", environ: Mapping[str, str] = os.environ) -> Config:
    """Check a configuration that is already text; files that it names are not looked at.

    Raises:
        ConfigError: as `load`.
    """
    return _read(content, source, environ, files=False)


def _read(content: str, source: str, environ: Mapping[str, str], *, files: bool) -> Config:
    try:
        # Without a last newline tomllib calls a mistake in the last line one at the "end of document".
        tree = tomllib.loads(content + "\n")
    except RecursionError:
        raise ConfigError(f"{source}: expected TOML, got brackets nested too deeply") from None
    except ValueError as error:
        raise ConfigError(_no_toml(content, source, str(error))) from None
    mistakes = Mistakes()
    try:
        parts = _read_parts(expand(tree, environ, mistakes), mistakes)
        mistakes.found += _clashes(parts)
        if files:
            mistakes.found += _unreadable_files(parts)
            mistakes.found += _unwritable_access_file(parts.log) if parts.log else []
    except RecursionError:
        raise ConfigError(f"{source}: expected a configuration, got tables nested too deeply") from None
    if mistakes.found:
        raise ConfigError(_told(mistakes.found, content, source))
    return _joined(parts, source)


# Who has more is told about these first: a file that is no configuration at all fills no screen.
MISTAKES_TOLD_MAX = 20


def _told(found: Sequence[Mistake], content: str, source: str) -> str:
    """Each mistake on a line, in the order of the file: `file:line: key: expected ..., got ...`."""
    lines = toml_text.lines_of(content)
    placed = [(toml_text.line_of(lines, mistake.path), mistake) for mistake in found]
    placed.sort(key=lambda one: one[0] or 0)
    told = [one_line(f"{source}:{line}: {mistake}" if line else f"{source}: {mistake}") for line, mistake in placed]
    if len(told) == 1:
        return told[0]
    more = [f"... and {len(told) - MISTAKES_TOLD_MAX} more"] if len(told) > MISTAKES_TOLD_MAX else []
    return "\n".join([one_line(f"{source}: {len(told)} mistakes"), *told[:MISTAKES_TOLD_MAX], *more])


def _no_toml(content: str, source: str, message: str) -> str:
    line, words = toml_text.explain(content, message)
    told = f"{source}:{line}: {words}" if line else f"{source}: {words}"
    return "\n".join(map(one_line, told.split("\n")))


def one_line(message: str) -> str:
    """The message without anything that would break the line."""
    return "".join(character if character.isprintable() else "?" for character in message)


class _Parts(msgspec.Struct, kw_only=True):
    """What could be read of a file: a section that has a mistake is None. Routes are by their place in the file."""

    gateway: Gateway | None
    limits: Limits | None
    kafka: Kafka | None
    cluster: Cluster | None
    admin: Admin | None
    log: Log | None
    cors: Cors | None  # there is none, or it has a mistake
    compression: Compression | None
    routes: dict[int, Route]
    sound_routes: set[int]  # the others have defaults where their mistakes are
    listen_path: str


def _read_parts(tree: dict[str, Any], mistakes: Mistakes) -> _Parts:
    for key in tree:
        if key not in _SECTIONS:
            tables = [f"[[{name}]]" if name in _TABLE_LISTS else f"[{name}]" for name in _SECTIONS]
            hint = did_you_mean(key, _SECTIONS) or "known here: " + ", ".join(tables)
            mistakes.found.append(Mistake(under("", key), "a known table", "an unknown one", hint))
    for name in _REQUIRED:
        if name not in tree:
            expected = f"a [[{name}]] table" if name in _TABLE_LISTS else f"a [{name}] table"
            mistakes.found.append(Mistake(name, expected, "none"))
    gateway = _gateway(tree, mistakes)
    limits = _section(Limits, tree, "limits", mistakes)
    group_id = gateway.name if gateway else ""
    cors = None
    if "cors" in tree and tree["cors"] is not WRONG:
        with mistakes:
            cors = _read_cors(tree["cors"], "cors")
    parts = _Parts(
        gateway=gateway,
        limits=limits,
        kafka=_section(Kafka, tree, "kafka", mistakes) if "kafka" in tree else None,
        cluster=_section(Cluster, tree, "cluster", mistakes, group_id=group_id),
        admin=_section(Admin, tree, "admin", mistakes),
        log=_section(Log, tree, "log", mistakes),
        cors=cors,
        compression=_section(Compression, tree, "compression", mistakes),
        routes={},
        sound_routes=set(),
        listen_path="listen" if "listen" in tree else "gateway.listen",
    )
    if "route" in tree:
        _read_routes(tree["route"], parts, mistakes)
    return parts


def _section(
    section: type[_SectionT], tree: dict[str, Any], name: str, mistakes: Mistakes, **inherited: Any
) -> _SectionT | None:
    with mistakes:
        return section(**{**inherited, **read_section(section, tree.get(name, {}), name)})
    return None


def _gateway(tree: dict[str, Any], mistakes: Mistakes) -> Gateway | None:
    if "gateway" not in tree:
        return None
    before = mistakes.count
    values = read_fields(Gateway, tree["gateway"], "gateway", mistakes)
    if "listen" in tree and tree["listen"] is not WRONG:
        with mistakes:
            if "listens" in values:
                raise Mistake("gateway.listen", "addresses either here or in [[listen]]", "both")
            values["listens"] = _LISTENS.read(tree["listen"], "listen")
    return Gateway(**values) if mistakes.count == before else None


def _read_routes(value: Any, parts: _Parts, mistakes: Mistakes) -> None:
    if value is WRONG:
        return
    if not isinstance(value, list) or not value:
        mistakes.found.append(Mistake("route", "one or more [[route]] tables", type_of(value)))
        return
    gateway, limits = parts.gateway, parts.limits
    inherited: dict[str, Any] = {"max_body_bytes": limits.max_body_bytes} if limits else {}
    inherited |= {"max_in_flight": gateway.slots} if gateway else {}
    inherited["cors"] = parts.cors
    for number, table in enumerate(value):
        before = mistakes.count
        values = read_fields(Route, table, f"route[{number}]", mistakes)
        if {"methods", "path", "topic"} <= values.keys():
            parts.routes[number] = Route(number=number, **{**inherited, **values})
            if mistakes.count == before:
                parts.sound_routes.add(number)


def _with_head(routes: Iterable[Route]) -> tuple[Route, ...]:
    """HEAD wherever GET is (RFC 9110, 9.1), but where a route of the same path has it or GET's route wants none."""
    routes = tuple(routes)
    taken = {_shape(route.path) for route in routes if "HEAD" in route.methods}
    return tuple(
        msgspec.structs.replace(route, methods=(*route.methods, "HEAD"))
        if route.head and "GET" in route.methods and _shape(route.path) not in taken
        else route
        for route in routes
    )


def _joined(parts: _Parts, source: str) -> Config:
    assert parts.gateway is not None
    assert parts.limits is not None
    assert parts.kafka is not None
    assert parts.cluster is not None
    assert parts.admin is not None
    assert parts.log is not None
    assert parts.compression is not None
    return Config(
        gateway=parts.gateway,
        limits=_with_body_memory(parts.limits, parts.routes.values()),
        kafka=parts.kafka,
        cluster=parts.cluster,
        admin=parts.admin,
        log=parts.log,
        cors=parts.cors,
        compression=parts.compression,
        routes=_with_head(parts.routes.values()),
        source=source,
    )


def _with_body_memory(limits: Limits, routes: Iterable[Route]) -> Limits:
    """The defaults grow until they hold one body of the largest size."""
    largest = _largest_body_bytes(limits, routes)
    return msgspec.structs.replace(
        limits,
        body_memory_bytes=max(limits.body_memory_bytes, largest),
        connection_body_memory_bytes=max(limits.connection_body_memory_bytes, largest),
    )


def _largest_body_bytes(limits: Limits, routes: Iterable[Route]) -> int:
    return max([limits.max_body_bytes, *(route.max_body_bytes for route in routes)])


# --- clashes between settings ----------------------------------------------------------------------------------------


def _clashes(parts: _Parts) -> Iterator[Mistake]:
    """Everything that no setting can know alone: each mistake names both sides of the clash.

    Where a side has a mistake of its own, nothing is said of its clashes: they might be gone with it.
    """
    if parts.gateway:
        yield from _gateway_clashes(parts.gateway)
    if parts.gateway and parts.admin:
        yield from _listen_clashes(parts.gateway.listens, parts.admin, parts.listen_path)
    if parts.gateway:
        yield from _proxy_clashes(parts.gateway, parts.listen_path)
    if parts.cluster:
        yield from _cluster_clashes(parts.cluster)
    if parts.kafka and parts.limits:
        yield from _size_clashes(parts.kafka, parts.limits, [parts.routes[number] for number in parts.sound_routes])
    if len(parts.routes) > ROUTES_MAX:
        yield Mistake("route", f"at most {ROUTES_MAX} routes", str(len(parts.routes)))
    for number, route in parts.routes.items():
        yield from _route_clashes(route, f"route[{number}]", parts.gateway)
    if parts.compression and parts.compression.min_size_bytes > parts.compression.max_size_bytes:
        most = units.format_bytes(parts.compression.max_size_bytes)
        got = shown(units.format_bytes(parts.compression.min_size_bytes))
        yield Mistake("compression.min_size", f"at most compression.max_size = {shown(most)}", got)
    yield from _ambiguities(parts.routes)
    yield from _partitioner_clashes(parts.routes)


def _gateway_clashes(gateway: Gateway) -> Iterator[Mistake]:
    most = SLOTS_MAX // (2 * gateway.workers)
    if gateway.slots > most:
        yield Mistake("gateway.slots", f"at most {most} with gateway.workers = {gateway.workers}", str(gateway.slots))
    if not spelling.is_topic(gateway.response_topic):
        yield Mistake("gateway.response_topic", "at most 249 characters", shown(gateway.response_topic))
    if not gateway.listens:
        yield Mistake("gateway.listen", "at least one address", "none")


def _listen_clashes(listens: Iterable[Listen], admin: Admin, list_path: str) -> Iterator[Mistake]:
    taken = dict.fromkeys(spelling.listened_on(admin.listen), "admin.listen") if admin.listen else {}
    for at, listen in enumerate(listens):
        path = f"{list_path}[{at}]"
        if bool(listen.tls_cert) != bool(listen.tls_key):
            missing, given = ("tls_key", "tls_cert") if listen.tls_cert else ("tls_cert", "tls_key")
            yield Mistake(f"{path}.{missing}", f"a PEM file, because {given} is set", "nothing")
        if listen.front == "express" and (listen.tls_cert or listen.http == "2"):
            wanted = "TLS" if listen.tls_cert else "HTTP/2"
            yield Mistake(f"{path}.front", f'"auto" or "granian", because {wanted} is set', '"express"')
        for name in ("mode", "group"):
            if getattr(listen, name) not in (None, "") and not listen.bind.startswith("unix:"):
                yield Mistake(f"{path}.{name}", "nothing, unless bind is a Unix socket", f"bind = {shown(listen.bind)}")
        addresses = spelling.listened_on(listen.bind)
        if found := [taken[address] for address in addresses if address in taken]:
            yield Mistake(path, f"another address than {found[0]}", shown(listen.bind))
        taken = dict.fromkeys(addresses, path) | taken


def _proxy_clashes(gateway: Gateway, list_path: str) -> Iterator[Mistake]:
    for at, listen in enumerate(gateway.listens):
        path = f"{list_path}[{at}].proxy_protocol"
        if not listen.proxy_protocol:
            continue
        if not listen.is_express:  # granian reads its sockets itself, and knows no such header
            wanted = 'front = "granian"' if listen.front == "granian" else 'http = "2"'
            got = "true together with " + ("tls_cert" if listen.tls_cert else wanted)
            yield Mistake(path, "an express listener", got, "let the proxy speak plain HTTP/1.1 to it")
        if not gateway.trusted_proxies:
            expected = f"the networks that may send the header, because {path} is set"
            yield Mistake("gateway.trusted_proxies", expected, "none", 'such as ["10.0.0.0/8"]')


def _cluster_clashes(cluster: Cluster) -> Iterator[Mistake]:
    if cluster.mode != "static" and (cluster.node_index or cluster.node_count > 1):
        name = "node_count" if cluster.node_count > 1 else "node_index"
        yield Mistake(f"cluster.{name}", 'nothing, unless cluster.mode = "static"', f'cluster.mode = "{cluster.mode}"')
    elif cluster.node_index >= cluster.node_count:
        expected = f"less than cluster.node_count = {cluster.node_count}"
        yield Mistake("cluster.node_index", expected, str(cluster.node_index), "nodes count from 0")


def _size_clashes(kafka: Kafka, limits: Limits, routes: Iterable[Route]) -> Iterator[Mistake]:
    name = "message.max.bytes"
    most = kafka.client.get(name)
    largest = _largest_body_bytes(limits, routes)
    if isinstance(most, str):  # librdkafka takes either
        most = int(most) if most.isascii() and most.isdigit() else None
    if isinstance(most, int) and most < largest:
        yield Mistake(under("kafka.client", name), f"at least the largest max_body, {largest}", str(most))
    defaults = {"body_memory": BODY_MEMORY_BYTES, "connection_body_memory": CONNECTION_BODY_MEMORY_BYTES}
    for key, default in defaults.items():
        kept = getattr(limits, f"{key}_bytes")
        if kept < largest and kept != default:
            yield Mistake(f"limits.{key}", f"at least the largest max_body, {largest} bytes", f"{kept} bytes")


def _route_clashes(route: Route, path: str, gateway: Gateway | None) -> Iterator[Mistake]:
    if gateway and route.topic == gateway.response_topic:
        yield Mistake(f"{path}.topic", "another topic than gateway.response_topic", shown(route.topic))
    where, _, name = route.key.partition(".")
    if where == "path" and not {f"{{{name}}}", f"{{{name}...}}"} & set(route.path.split("/")):
        yield Mistake(f"{path}.key", "a parameter of the route's path", shown(route.key), f"path = {shown(route.path)}")


def _check_cors(cors: Cors, path: str) -> None:
    for name in ("headers", "expose"):
        if cors.credentials and "*" in getattr(cors, name):
            raise Mistake(f"{path}.{name}", "names, because credentials = true", '"*"', "browsers take it for a name")
    if "*" not in cors.origins:
        return
    if len(cors.origins) > 1:
        raise Mistake(f"{path}.origins", 'either "*" or a list of origins', "both")
    if cors.credentials:
        hint = "any page could act in the name of whoever visits it; list the origins"
        raise Mistake(f"{path}.credentials", 'false, because origins = "*"', "true", hint)


def _partitioner_clashes(routes: Mapping[int, Route]) -> Iterator[Mistake]:
    """One key of one topic goes to one partition, whichever route it comes by."""
    firsts: dict[str, int] = {}
    for number, route in routes.items():
        path = f"route[{number}].key_partitioner"
        if not route.key:
            if route.key_partitioner != "crc32":
                yield Mistake(path, "nothing, unless the route has a key", shown(route.key_partitioner))
            continue
        first = firsts.setdefault(route.topic, number)
        if routes[first].key_partitioner != route.key_partitioner:
            expected = f"{shown(routes[first].key_partitioner)}, as route[{first}] has it for the same topic"
            yield Mistake(path, expected, shown(route.key_partitioner))


def _ambiguities(routes: Mapping[int, Route]) -> Iterator[Mistake]:
    """Two routes that match the same requests equally well: same method, same shape of path."""
    names: dict[str, int] = {}
    shapes: dict[tuple[str, ...], int] = {}
    for at, route in routes.items():
        first = names.setdefault(route.name, at)
        taken = None
        for method in route.methods:
            same = shapes.setdefault((method, *_shape(route.path)), at)
            if same != at and taken is None:
                taken = same
                got = f"{method} {route.path}"
                yield Mistake(
                    f"route[{at}]", f"requests that route[{same}] does not take", got, "one of the two has to go"
                )
        if first != at and taken is None:
            yield Mistake(f"route[{at}].name", f"another name than route[{first}].name", shown(route.name))


def _shape(path: str) -> tuple[str, ...]:
    """The path without the names of its parameters: what two routes have in common that match the same."""
    kinds = {True: "{...}", False: "{}"}
    return tuple(kinds[segment.endswith("...}")] if segment.startswith("{") else segment for segment in path.split("/"))


def _unreadable_files(parts: _Parts) -> Iterator[Mistake]:
    for at, listen in enumerate(parts.gateway.listens if parts.gateway else ()):
        path = f"{parts.listen_path}[{at}]"
        missing = [name for name in ("tls_cert", "tls_key") if _cannot_be_read(getattr(listen, name))]
        for name in missing:
            yield Mistake(f"{path}.{name}", "a file that can be read", shown(getattr(listen, name)))
        if listen.tls_cert and listen.tls_key and not missing:
            yield from _certificate_mistakes(listen, path)


def _unwritable_access_file(log: Log) -> Iterator[Mistake]:
    target = log.access_file
    if log.access == "off" or target in ("stdout", "stderr"):
        return
    folder = os.path.dirname(target) or "."
    if not os.path.isdir(folder):
        yield Mistake("log.access_file", "a file in a directory that exists", shown(target))
    elif os.path.isdir(target) or not os.access(target if os.path.exists(target) else folder, os.W_OK):
        yield Mistake("log.access_file", "a file that can be written", shown(target))


def _cannot_be_read(file: str) -> bool:
    return bool(file) and not os.access(file, os.R_OK)


def _certificate_mistakes(listen: Listen, path: str) -> Iterator[Mistake]:
    """A front that cannot use it would only die of it, again and again."""
    import ssl  # most gateways need none, and every command would load it

    try:
        # Without a password OpenSSL would ask for one on the terminal; keys that need one are not taken.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(listen.tls_cert, listen.tls_key, password="")
    except OSError as error:
        expected = "a PEM certificate and, in tls_key, the private key that belongs to it, not encrypted"
        why = str(error.strerror).partition(" (_ssl")[0]
        yield Mistake(f"{path}.tls_cert", expected, f"{shown(listen.tls_cert)}: {why}")


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
