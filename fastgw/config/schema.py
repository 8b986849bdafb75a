"""The sections of the configuration file and their settings; `Config` holds all sections.

Name, type, default and description of a setting are declared together, once. The reader, `fastgw schema` and the
reference in docs/configuration.md are made from these declarations (see `kinds`). Times are kept in nanoseconds (`_ns`)
and sizes in bytes; the file has "5s" and "1MiB". `checks` finds conflicts between settings.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from fastgw._ctable import UNROUTED
from fastgw.config import values
from fastgw.config.cpus import cores
from fastgw.config.kinds import (
    Kind,
    Setting,
    choice,
    duration,
    duration_ms,
    fraction,
    integer,
    list_of,
    parsed,
    read_section,
    size,
    text,
    yes_or_no,
)
from fastgw.config.librdkafka import PROPERTIES
from fastgw.config.mistakes import shown
from fastgw.config.units import NS_PER_MS, NS_PER_S
from fastgw.tokens import SECRET_BYTES_MIN

# Route numbers are rows of the counters in shared memory. Two rows are not for routes of the file: the last one is for
# requests without a route, the one before for status URLs.
TICKETS_NUMBER = UNROUTED - 1
ROUTES_MAX = TICKETS_NUMBER
ACCEPT_BACKLOG = 1024  # connections that may wait for each listening socket; net.core.somaxconn limits it
SLOTS_MAX = 1 << 20  # the table slot in a correlation id has 20 bits
WORKERS_MAX = 128  # two process ranges per worker, numbered in 8 bits
BODY_MEMORY_BYTES, CONNECTION_BODY_MEMORY_BYTES = 64 << 20, 16 << 20
# Larger than those for bodies: a worker reads requests as it has room, but replies come in the service's time, and many
# at once after a pause.
ANSWER_MEMORY_BYTES, CONNECTION_ANSWER_MEMORY_BYTES = 128 << 20, 32 << 20
METHODS = values.METHODS
TAKE_OVER_MARGIN_NS = 5 * NS_PER_S
WORK_TIMEOUT_NS = 3600 * NS_PER_S  # of a route whose answers can be deferred


def default_workers() -> int:
    """One per core, at most WORKERS_MAX."""
    return min(cores(), WORKERS_MAX)


def _read_listen(value: Any, path: str) -> Listen:
    if isinstance(value, str):
        value = {"bind": value}
    return Listen(**read_section(Listen, value, path))


def read_cors(value: Any, path: str) -> Cors:
    """Reads `[cors]` or the `cors` of a route.

    Raises:
        Mistake, Mistakes: the value is not a table, or has wrong values.
    """
    if value == "off":
        return Cors(origins=())
    return Cors(**read_section(Cors, value, path))


_TOPIC = text("a topic name", values.topic, pattern=values.TOPIC_PATTERN)
_SECRETS = list_of(text(f"a secret of at least {SECRET_BYTES_MIN} bytes", values.secret), "a list of secrets")
_HEADERS = list_of(text("a header name", values.copied_header), "a list of header names")
_HOSTS = list_of(text("a host name", values.host), "a list of host names")
_ANSWER_HEADERS = list_of(text("a header name", values.answer_header), "a list of header names")
_METHOD = choice(*values.METHODS, instead=values.no_single_method)
_PATH = text('a path such as "/orders/{id}"', values.path)
_SERVERS = text('brokers such as "kafka-1:9092,kafka-2:9092"', values.servers)
_FILE = text("a file name", values.file_name)
_GROUP = text("a group's name or number", values.group)
_MODE = parsed(
    'an octal string such as "0660"',
    (str,),
    values.file_mode,
    {"type": "string", "pattern": values.FILE_MODE_PATTERN},
    lambda kept: shown(f"{kept:04o}"),
)
_CLIENT_TIME = duration("100ms", "10m")
_PROXIES = list_of(text('a network such as "10.0.0.0/8", or "unix"', values.trusted_proxy), "a list of networks")
_BIND = text('an address such as "0.0.0.0:8080" or "unix:/run/shop.sock"', values.bind)
_ORIGINS = list_of(
    text('an origin such as "https://app.example.com"', values.origin),
    '"*" or a list of origins',
    alone=True,
    least=1,
)
_SWITCH = parsed("true or false", (bool,), bool, {"type": "boolean"})
_ANY_HEADERS = list_of(text("a header name", values.header), "a list of header names")
_METHODS = list_of(_METHOD, "a list of methods")
_CORS = Kind(
    '"off", or a table as `[cors]`',
    read_cors,
    {"anyOf": [{"const": "off"}, {"$ref": "#/properties/cors"}]},
    lambda kept: "null" if kept is None else "{}",
)
# The table form is a definition of the whole schema (`json_schema`).
_LISTEN_SCHEMA = {"anyOf": [_BIND.schema, {"$ref": "#/$defs/listen"}]}
LISTENS = list_of(
    Kind("an address or a table", _read_listen, _LISTEN_SCHEMA, lambda kept: shown(kept.bind)),
    "a list of addresses or tables",
)


# fmt: off


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """One listening address. A plain string in `gateway.listen` is short for a table with only `bind`."""

    bind: Annotated[str, Setting(
        "Where to listen: `host:port`, or `unix:` and a path. `0.0.0.0` is every IPv4 address, `[::]` every IPv4 and "
        "IPv6 address, `localhost` both `127.0.0.1` and `::1`; another name is all of its addresses.",
        _BIND, restart=True)]
    front: Annotated[str, Setting(
        "The HTTP implementation. `auto` chooses `granian` for TLS and for `http = \"2\"`, and otherwise `express` "
        "(plain HTTP/1.1 at the lowest cost).",
        choice("auto", "granian", "express"))] = "auto"
    http: Annotated[str, Setting(
        "The supported HTTP versions. `auto`: 1.1, with TLS also 2; with `granian` also 2 without TLS.",
        choice("auto", "1", "2"))] = "auto"
    proxy_protocol: Annotated[bool, Setting(
        "Every connection must begin with a PROXY protocol header, version 1 or 2, from one of "
        "`gateway.trusted_proxies`; others are refused. `express` only.", yes_or_no())] = False
    tls_cert: Annotated[str, Setting("PEM file with the certificate chain; together with `tls_key`.", _FILE)] = ""
    tls_key: Annotated[str, Setting("PEM file with the private key.", _FILE)] = ""
    tls_min: Annotated[str, Setting("The oldest TLS version that is accepted.", choice("1.2", "1.3"))] = "1.2"
    mode: Annotated[int | None, Setting(
        "Permissions of a Unix socket's file; users with write permission can connect.", _MODE,
        default="what the umask leaves", restart=True)] = None
    group: Annotated[str, Setting(
        "Group of a Unix socket's file, by name or number.", _GROUP,
        default="that of the process", restart=True)] = ""

    @property
    def is_express(self) -> bool:
        """Whether the express front serves this address, not granian."""
        return self.front == "express" or (self.front == "auto" and not self.tls_cert and self.http != "2")


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """This gateway: its name, its addresses, its processes."""

    name: Annotated[str, Setting(
        "Its name; the response topic and the consumer group are named after it.", text("a name", values.topic),
        restart=True)]
    response_topic: Annotated[str, Setting(
        "The topic to which every service sends its replies.", _TOPIC, default='`name` + `".replies"`',
        restart=True)] = ""
    listens: Annotated[tuple[Listen, ...], Setting(
        "Where to listen: strings, or tables (see `[[listen]]`).", LISTENS, key="listen", restart=True,
    )] = (Listen(bind="127.0.0.1:8080"),)
    workers: Annotated[int, Setting(
        "Worker processes.", integer(1, WORKERS_MAX), default="one per core", restart=True,
    )] = msgspec.field(default_factory=default_workers)
    slots: Annotated[int, Setting(
        "Requests that can wait at the same time, per worker process.", integer(16, SLOTS_MAX // 2),
        default="`16384`, fewer above 32 workers", restart=True)] = 0
    drain_timeout_ns: Annotated[int, Setting(
        "How long a stopping process waits for its open requests.", duration("0s", "1h"))] = 10 * NS_PER_S
    hosts: Annotated[tuple[str, ...], Setting(
        "The hosts that this gateway serves, without port; empty: any host.",
        _HOSTS)] = ()
    trusted_proxies: Annotated[tuple[str, ...], Setting(
        "The networks of the proxies in front of this gateway; `unix` for every client of a Unix socket. Only these "
        "proxies may name the client of a request.", _PROXIES)] = ()
    forwarded: Annotated[str, Setting(
        "The headers in which trusted proxies name the client: `X-Forwarded-For` and `-Proto`, or `Forwarded` "
        "(RFC 7239).", choice("x-forwarded", "forwarded", "off"))] = "x-forwarded"
    ready_wait_ns: Annotated[int, Setting(
        "How long /readyz waits for a store that reads its topics for the first time.",
        duration("0s", "1h"))] = 120 * NS_PER_S
    secrets: Annotated[tuple[str, ...], Setting(
        "Secrets of at least 32 bytes that sign and recognize what the gateway hands out and writes to its own topics. "
        "The first one signs, and all of them are recognized. The same on every node.", _SECRETS)] = ()
    run_dir: Annotated[str, Setting(
        "Directory for the sockets between the processes.", text("a directory", values.file_name),
        default="chosen at start", restart=True)] = ""

    def __post_init__(self) -> None:
        if not self.response_topic:
            msgspec.structs.force_setattr(self, "response_topic", f"{self.name}.replies")
        if not self.slots:
            msgspec.structs.force_setattr(self, "slots", min(16384, SLOTS_MAX // (2 * self.workers)))

    def __repr__(self) -> str:
        # A repr ends up in logs and tracebacks.
        return f"<Gateway {self.name!r} secrets={len(self.secrets)}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("name", self.name), ("secrets", len(self.secrets))]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of requests, replies and connections."""

    max_body_bytes: Annotated[int, Setting("Largest request body (413 beyond it).", size("0B", "512MiB"))] = 1 << 20
    max_header_bytes: Annotated[int, Setting(
        "Total size of the request headers (431 beyond it).", size("1KiB", "1MiB"))] = 64 << 10
    max_target_bytes: Annotated[int, Setting(
        "Total size of path and query (414 beyond it).", size("64B", "64KiB"))] = 8192
    max_reply_bytes: Annotated[int, Setting(
        "Largest body of a service's reply (502 beyond it).", size("1KiB", "15MiB"))] = 8 << 20
    # HAProxy and Node's HTTP client accept 16 KiB, AWS's load balancer 32, Envoy 60; nginx 4 or 8 by default.
    max_reply_headers_bytes: Annotated[int, Setting(
        "Total size of the headers copied from a reply (502 beyond it).",
        size("1KiB", "1MiB"))] = 16 << 10
    header_timeout_ns: Annotated[int, Setting("Time to receive the request headers.", _CLIENT_TIME)] = 10 * NS_PER_S
    body_timeout_ns: Annotated[int, Setting(
        "Time to receive the body (408 beyond it).", _CLIENT_TIME)] = 10 * NS_PER_S
    # Longer than the pools of clients and proxies keep a connection, so that theirs end first: otherwise a request
    # could meet the end of its connection. nginx keeps one for 60 s, Go's net/http for 90.
    idle_timeout_ns: Annotated[int, Setting(
        "Time between two requests on a connection. Should be longer than the clients' own.",
        _CLIENT_TIME)] = 120 * NS_PER_S
    write_timeout_ns: Annotated[int, Setting(
        "Time for a client to read its answer; its connection ends at most a tenth of it, or 1s, later (`granian`: not "
        "on Unix sockets).", _CLIENT_TIME)] = 20 * NS_PER_S
    body_memory_bytes: Annotated[int, Setting(
        "Memory of one worker for incoming request bodies (503 beyond it).", size("64KiB", "64GiB"),
        default="`64MiB`, or one body of the largest `max_body`")] = BODY_MEMORY_BYTES
    connection_body_memory_bytes: Annotated[int, Setting(
        "The same for one connection, which with HTTP/2 can carry many bodies (503 beyond it).", size("64KiB", "64GiB"),
        default="`16MiB`, or one body of the largest `max_body`")] = CONNECTION_BODY_MEMORY_BYTES
    answer_memory_bytes: Annotated[int, Setting(
        "Memory of one worker for answers that clients have not read; a larger reply is dropped (502).",
        size("64KiB", "64GiB"), default="`128MiB`")] = ANSWER_MEMORY_BYTES
    connection_answer_memory_bytes: Annotated[int, Setting(
        "The same for one HTTP/2 connection, which can carry many answers (502 beyond it).", size("64KiB", "64GiB"),
        default="`32MiB`")] = CONNECTION_ANSWER_MEMORY_BYTES
    max_connections: Annotated[int, Setting("Open connections per worker and listener.", integer(1, 1_000_000))] = 16384


class Kafka(msgspec.Struct, frozen=True, kw_only=True):
    """The connection to Kafka."""

    bootstrap: Annotated[str, Setting("Bootstrap brokers: `host:port`, several separated by commas.", _SERVERS)]
    linger_ms: Annotated[float, Setting(
        "How long a request waits for others in its batch. With `native`, requests without `key` do not wait at low "
        "load and wait up to 5ms longer at high load.",
        duration_ms("0s", "1s"))] = 1.0
    sticky_linger_ms: Annotated[int, Setting(
        "How long records without key go to the same partition.", duration_ms("0s", "10s", whole=True))] = 2
    fetch_wait_ns: Annotated[int, Setting(
        "How long a broker may hold a fetch without data; 1ms to 5ms on the embedded broker.",
        duration("1ms", "10s"))] = 100 * NS_PER_MS
    link: Annotated[str, Setting(
        "How librdkafka is used: `native` (cheaper, fewer unknown outcomes), `public` (the API of confluent-kafka), "
        "`auto` (`native` where it works).",
        choice("auto", "native", "public"))] = "auto"
    client: Annotated[dict[str, str | int | float | bool], Setting(
        "Any other librdkafka property, for producer and consumer.", PROPERTIES)] = {}

    def __repr__(self) -> str:
        # `client` may contain passwords, and a repr ends up in logs and tracebacks.
        return f"<Kafka {self.bootstrap!r} client={sorted(self.client)}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("bootstrap", self.bootstrap), ("client", sorted(self.client))]


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """How several gateway nodes share one response topic."""

    mode: Annotated[str, Setting(
        "`single`: this node reads every partition; `static`: it is node i of n; `group`: nodes join and leave a "
        "consumer group.",
        choice("single", "static", "group"), restart=True)] = "single"
    node_index: Annotated[int, Setting(
        "This node's number, from 0 (`static` only).", integer(0, 4095), restart=True)] = 0
    node_count: Annotated[int, Setting("The number of nodes (`static` only).", integer(1, 4096), restart=True)] = 1
    group_id: Annotated[str, Setting(
        "The consumer group of the nodes. Its offsets say how far each response partition was handled (not with "
        "`single`).", text("a group name", values.label),
        default="`gateway.name`", restart=True)] = ""
    session_timeout_ns: Annotated[int, Setting(
        "Time after which a dead node loses its partitions (`group` only).", duration("1s", "10m"),
        restart=True)] = 6 * NS_PER_S


class Admin(msgspec.Struct, frozen=True, kw_only=True):
    """The admin port: /livez, /readyz, /metrics, /status."""

    listen: Annotated[str, Setting(
        "Address of the admin port; an empty string switches it off.",
        text('an address such as "127.0.0.1:9100"', values.host_port_or_nothing), restart=True)] = "127.0.0.1:9100"
    hosts: Annotated[tuple[str, ...], Setting(
        "Further allowed values of the Host header, without port. Loopback names and the address of the connection are "
        "always allowed; others get 421, against DNS rebinding.", _HOSTS)] = ()


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """The access log: one JSON line for each request. Problems that need action are always in the gateway's log."""

    access: Annotated[str, Setting(
        "Which requests are logged. `errors`: status 400 or more, including clients that disconnected (499).",
        choice("off", "errors", "all"))] = "off"
    sample: Annotated[float, Setting(
        "With `all`, the fraction of requests with a status below 400 that are logged, such as 0.01. Errors are always "
        "logged.",
        fraction())] = 1.0
    access_file: Annotated[str, Setting(
        "Target of the lines: `stdout`, `stderr`, or a file, which is reopened after it was moved.",
        text("stdout, stderr or a file name", values.file_name))] = "stdout"
    access_target: Annotated[str, Setting(
        "What a line shows of the target: `path`; `full`: path and query, which may contain secrets; `none`: only the "
        "route.", choice("none", "path", "full"))] = "path"


class Cors(msgspec.Struct, frozen=True, kw_only=True):
    """Which web pages may call the gateway (CORS). The gateway answers preflights itself, without a record."""

    origins: Annotated[tuple[str, ...], Setting(
        'The origins of the pages, exactly as browsers send them; `"*"`: any origin.', _ORIGINS)]
    methods: Annotated[tuple[str, ...], Setting(
        "The methods that a preflight allows.", _METHODS, default="methods of the path's routes")] = ()
    headers: Annotated[tuple[str, ...], Setting(
        "Request headers that pages may send, besides `content-type`, `prefer`, `idempotency-key`, `last-event-id`, "
        "`traceparent`, `tracestate`, `x-request-id` and the route's `request_headers`.", _ANY_HEADERS)] = ()
    expose: Annotated[tuple[str, ...], Setting(
        "Response headers that pages may read, besides `fastgw-outcome`, `retry-after`, `location`, "
        "`preference-applied`, `idempotency-replayed`, `x-request-id` and the route's `response_headers`.",
        _ANY_HEADERS)] = ()
    credentials: Annotated[bool, Setting(
        'Whether pages may send cookies and client certificates; not together with `"*"`.', _SWITCH)] = False
    max_age_ns: Annotated[int, Setting(
        "How long a browser may cache the answer to a preflight.", duration("0s", "24h"))] = 600 * NS_PER_S
    private_network: Annotated[bool, Setting(
        "Whether pages from public networks may call a gateway in a private network (Private Network Access).",
        _SWITCH)] = False


class Compression(msgspec.Struct, frozen=True, kw_only=True):
    """Compression of answers, for clients that send `Accept-Encoding`. Off while `encodings` is empty."""

    encodings: Annotated[tuple[str, ...], Setting(
        "The offered encodings. If a client accepts several equally, the first in this list is used.",
        list_of(choice("zstd", "gzip"), "a list of encodings"))] = ()
    min_size_bytes: Annotated[int, Setting(
        "Smaller answers are not compressed.", size("0B", "1MiB"), key="min_size")] = 1024
    # Compression runs on the event loop: compression.py has its cost.
    max_size_bytes: Annotated[int, Setting(
        "Larger answers are not compressed: while one is compressed (256KiB: 3 ms with gzip, 1 ms with zstd), all "
        "other requests of the worker wait.", size("1KiB", "1MiB"), key="max_size")] = 256 << 10
    types: Annotated[tuple[str, ...], Setting(
        "The content types to compress; a `*` stands for any characters.",
        list_of(text("a content type", values.content_type), "a list of content types", least=1))] = (
            "application/json", "application/*+json", "application/xml", "application/*+xml", "application/javascript",
            "image/svg+xml", "text/*",
        )


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """The store of this node: one process that keeps replies on disk. It runs only if a route needs it."""

    dir: Annotated[str, Setting(
        "Directory of the store's files. It may be deleted while the gateway does not run: the store reads its topics "
        "again.", text("a directory", values.file_name),
        default="a directory named after the gateway in `$STATE_DIRECTORY` (systemd)", restart=True)] = ""
    max_bytes: Annotated[int, Setting(
        "Largest size of the files. Above 90 % of it, new requests that need the store get 503.",
        size("16MiB", "16384GiB"), key="max_bytes", restart=True)] = 8 << 30
    max_waits: Annotated[int, Setting(
        "Requests of one worker that may wait at status URLs; also, counted for themselves, streams that clients have "
        "resumed.",
        integer(1, 1_000_000))] = 16384
    max_replays: Annotated[int, Setting(
        "Streams that clients of this node have resumed and that are read from the log at the same time.",
        integer(1, 100_000), restart=True)] = 256
    max_scan_bytes: Annotated[int, Setting(
        "Bytes of other streams that may be read for one of them. A client that needs more begins a new stream.",
        size("1MiB", "1024GiB"), key="max_scan_bytes", restart=True)] = 64 << 20


class Later(msgspec.Struct, frozen=True, kw_only=True):
    """Kept replies: those of deferred answers, which have a status URL, and those of idempotent requests."""

    topic: Annotated[str, Setting(
        "The topic of the replies that are kept.", _TOPIC, default='`gateway.name` + `".later"`', restart=True)] = ""
    keep_ns: Annotated[int, Setting(
        "How long a reply is kept, so that its status URL or its idempotency key gives it. A reload can only "
        "raise it.",
        duration("1m", "720h"))] = 24 * 3600 * NS_PER_S
    lanes: Annotated[int, Setting(
        "Partitions of the topic. A topic with another number of lanes needs a new name.", integer(1, 64),
        restart=True)] = 8
    path: Annotated[str, Setting(
        "Prefix of the status URLs.", text('a path such as "/_later"', values.prefix))] = "/_later"
    retry_after_ns: Annotated[int, Setting(
        "How long a client should wait before it asks a status URL again.", duration("1s", "1h"))] = 2 * NS_PER_S


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """Streamed answers: the service replies with many records, and the client gets each as it comes."""

    topic: Annotated[str, Setting(
        "The topic of the records of streams.", _TOPIC, default='`gateway.name` + `".streams"`', restart=True)] = ""
    keep_ns: Annotated[int, Setting(
        "How long these records are kept: clients can resume a stream for so long, and no client can be further "
        "behind.",
        duration("1m", "24h"))] = 3600 * NS_PER_S


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route: sends the matching requests to a topic."""

    number: int = 0  # row of the counters; assigned in file order, kept over a reload
    name: Annotated[str, Setting(
        "Its name in metrics and logs.", text("a name", values.label), default="method and path")] = ""
    methods: Annotated[tuple[str, ...], Setting(
        "The HTTP method, or a list of them.", list_of(_METHOD, "a method or a list of methods", alone=True, least=1),
        key="method")]
    path: Annotated[str, Setting(
        "The path; `{name}` stands for one segment, and `{name...}` at the end for the rest of the path, which may be "
        "empty.", _PATH)]
    topic: Annotated[str, Setting("The request topic of the service.", _TOPIC)]
    head: Annotated[bool, Setting(
        "Whether a route with GET also accepts HEAD. The record says HEAD, and the answer has no content.",
        _SWITCH)] = True
    timeout_ns: Annotated[int, Setting(
        "How long a request waits for its reply (504 beyond it).", duration("10ms", "1h"))] = 5 * NS_PER_S
    key: Annotated[str, Setting(
        "The source of the record key, for services that need order per entity: `path.<name>`, `header.<name>`, "
        "`body.<JSON pointer>`. The value is used unchanged; a missing or empty value gets 400.",
        text("where to find the record key", values.record_key))] = ""
    key_partitioner: Annotated[str, Setting(
        "The hash of `key` that chooses the partition of the request's record: `crc32` (librdkafka), `murmur2` (Java "
        "clients, Kafka Streams), `fnv1a` (Sarama). Matters for topics that are joined with others by key.",
        choice("crc32", "murmur2", "fnv1a"))] = "crc32"
    partitioner: Annotated[str, Setting(
        "How the service's Kafka client chooses the partition of a reply.",
        choice("auto", "murmur2", "crc32", "fnv1a", "header"))] = "auto"
    spread: Annotated[str, Setting(
        "Distribution of records without key: `batch` is cheaper, `even` keeps every consumer busy.",
        choice("auto", "batch", "even"))] = "auto"
    service_group: Annotated[str, Setting(
        "The service's consumer group. If set, requests get 503 at once while the group has no consumer, or while its "
        "backlog is longer than they can wait.", text("a group name", values.label))] = ""
    request_headers: Annotated[tuple[str, ...], Setting("HTTP headers that are copied to the record.", _HEADERS)] = ()
    response_headers: Annotated[tuple[str, ...], Setting(
        "Reply headers that are copied to the HTTP response.", _ANSWER_HEADERS)] = ()
    max_body_bytes: Annotated[int, Setting(
        "Largest request body of this route.", size("0B", "512MiB"), default="`limits.max_body`")] = 1 << 20
    max_in_flight: Annotated[int, Setting(
        "Requests of this route that may wait at the same time, per worker. Half of the slots are reserved, an equal "
        "share for each route; the other half goes to any route, first come, first served.", integer(1, SLOTS_MAX),
        default="`gateway.slots`")] = 16384
    compress: Annotated[bool, Setting(
        "Whether `[compression]` applies to this route. Set false if answers contain a secret next to text that an "
        "attacker can choose (BREACH).", _SWITCH)] = True
    cors: Annotated[Cors | None, Setting(
        "Which web pages may call this route; a table replaces all of `[cors]`.", _CORS,
        default="`[cors]`")] = None
    later: Annotated[bool, Setting(
        "Whether a client may ask for a deferred answer: with `Prefer: respond-async` it gets 202 and a status URL "
        "(`[later]`).", _SWITCH)] = False
    on_timeout: Annotated[str, Setting(
        "What happens at the end of `timeout`: `error` answers 504; `later` answers 202 and a status URL, and sets "
        "`later`.", choice("error", "later"))] = "error"
    work_timeout_ns: Annotated[int, Setting(
        "How long the service may work on a request whose reply is kept.", duration("1s", "720h"),
        default="`1h` with `later`, otherwise `timeout`")] = 0
    idempotency: Annotated[str, Setting(
        "Whether requests have an `Idempotency-Key`: a repeated request is then not sent again, and gets the first "
        "one's answer. `require`: a request without a key gets 400.", choice("off", "accept", "require"))] = "off"
    fingerprint_headers: Annotated[tuple[str, ...], Setting(
        "Headers that requests with the same key must have in common, besides method, path, query and body (422 "
        "otherwise).", _ANY_HEADERS)] = ()
    max_kept: Annotated[int, Setting(
        "Most requests of this route that are kept at the same time (503 beyond it): idempotency keys on all nodes "
        "together, and deferred requests of this node since its store has started.", integer(1, 100_000_000))] = 100_000
    reply: Annotated[str, Setting(
        "How services answer: `single` is one record; `stream` allows many, which the client gets as they come "
        "(`[streams]`).", choice("single", "stream"))] = "single"
    items: Annotated[str, Setting(
        "What a stream is made of: `json` values, which clients get as lines, events or an array; or `bytes`, which "
        "they get unchanged.", choice("json", "bytes"))] = "json"
    resume: Annotated[bool, Setting(
        "Whether clients that read events may come back to a broken stream (`Last-Event-ID`), on any node. Their "
        "leaving does not cancel the work.", _SWITCH)] = False
    cancel: Annotated[bool, Setting(
        "Whether a record that cancels the work is sent to the service when the client of a stream has left, or has "
        "cancelled a deferred request.", _SWITCH)] = False
    end_line: Annotated[bool, Setting(
        "Whether a complete stream of lines ends with a line of the gateway, which has the number of items. A failed "
        "one always does.", _SWITCH)] = False
    head_wait_ns: Annotated[int, Setting(
        "How long the head of a streamed answer waits for the first item. Within this time, a failure is an ordinary "
        "answer with its own status.", duration("0s", "1h"))] = NS_PER_S
    idle_timeout_ns: Annotated[int, Setting(
        "Longest time between two items of a stream; `timeout` is the time for the first one.",
        duration("10ms", "24h"))] = 30 * NS_PER_S
    max_duration_ns: Annotated[int, Setting("Longest time of a whole stream.", duration("1s", "24h"))] = 600 * NS_PER_S
    stream_buffer_bytes: Annotated[int, Setting(
        "What the gateway keeps of one stream while its client is behind. A client that stays behind by so much for "
        "10s is disconnected.", size("4KiB", "64MiB"), key="stream_buffer")] = 256 << 10
    dialect: Annotated[str, Setting("The format of requests and replies as records.", choice("plain"))] = "plain"

    def __post_init__(self) -> None:
        if not self.name:
            msgspec.structs.force_setattr(self, "name", f"{','.join(self.methods)} {self.path}")
        if self.on_timeout == "later":
            msgspec.structs.force_setattr(self, "later", True)
        if not self.work_timeout_ns:
            msgspec.structs.force_setattr(self, "work_timeout_ns", WORK_TIMEOUT_NS if self.later else self.timeout_ns)

    @property
    def needs_store(self) -> bool:
        """Whether replies of this route may be kept."""
        return self.later or self.idempotency != "off"

    @property
    def take_over_ns(self) -> int:
        """How long the first request with an idempotency key has before another attempt may be sent.

        In this time its record is sent or fails (`timeout` bounds that), and its service works.
        """
        return self.work_timeout_ns + self.timeout_ns + TAKE_OVER_MARGIN_NS

    @property
    def streams(self) -> bool:
        """Whether answers of this route may come in pieces."""
        return self.reply == "stream"


# fmt: on


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration, checked; see `load`."""

    gateway: Gateway
    limits: Limits = Limits()
    kafka: Kafka
    cluster: Cluster = Cluster()
    admin: Admin = Admin()
    log: Log = Log()
    cors: Cors | None = None
    compression: Compression = Compression()
    store: Store = Store()
    later: Later = Later()
    streams: Streams = Streams()
    routes: tuple[Route, ...]
    source: str = ""  # the file's name, for messages

    def __post_init__(self) -> None:
        if not self.later.topic:
            topic = f"{self.gateway.name}.later"
            msgspec.structs.force_setattr(self, "later", msgspec.structs.replace(self.later, topic=topic))
        if not self.streams.topic:
            topic = f"{self.gateway.name}.streams"
            msgspec.structs.force_setattr(self, "streams", msgspec.structs.replace(self.streams, topic=topic))

    @property
    def needs_store(self) -> bool:
        """Whether a store process runs."""
        return self.keeps_replies or self.has_streams

    @property
    def keeps_replies(self) -> bool:
        """Whether replies of any route may be kept."""
        return any(route.needs_store for route in self.routes)

    @property
    def resumes(self) -> bool:
        """Whether clients of any route may come back to a stream."""
        return any(route.resume for route in self.routes)

    @property
    def has_streams(self) -> bool:
        """Whether answers of any route may be streamed."""
        return any(route.streams for route in self.routes)

    @property
    def tickets(self) -> Route | None:
        """The route of the status URLs of deferred requests; None: no route has them. It has no topic.

        Web pages may call it as `[cors]` says; they may read the headers of the answers of all routes that it serves.
        """
        serves = [route for route in self.routes if route.later]
        if not serves:
            return None
        path = self.later.path + "/{ticket}"
        shown = dict.fromkeys(name for route in serves for name in route.response_headers)
        return Route(
            number=TICKETS_NUMBER, name=path, methods=("GET", "HEAD", "DELETE"), path=path, topic="", max_body_bytes=0,
            cors=self.cors, response_headers=tuple(shown),
        )  # fmt: skip

    @property
    def route_names(self) -> dict[int, str]:
        """The names of all routes by their numbers, that of the status URLs included."""
        tickets = self.tickets
        return {route.number: route.name for route in (*self.routes, *([tickets] if tickets else []))}

    @property
    def longest_work_ns(self) -> int:
        """The longest time from a request until its reply counts no more, if it is kept; 0: no reply is kept."""
        times = [
            route.work_timeout_ns if route.idempotency == "off" else route.take_over_ns
            for route in self.routes
            if route.needs_store
        ]
        return max(times, default=0)


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "gateway": Gateway,
    "listen": Listen,
    "limits": Limits,
    "kafka": Kafka,
    "cluster": Cluster,
    "admin": Admin,
    "log": Log,
    "cors": Cors,
    "compression": Compression,
    "store": Store,
    "later": Later,
    "streams": Streams,
    "route": Route,
}
TABLE_LISTS = ("listen", "route")
REQUIRED = ("gateway", "kafka", "route")
