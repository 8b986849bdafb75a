"""The configuration file: what it may say, and what a reader is told about each kind of mistake."""

from __future__ import annotations

import json
import re
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw import config
from fastgw.config import Config
from fastgw.config.kinds import fields_of
from fastgw.errors import ConfigError
from tests.places import REPOSITORY

EXAMPLES = REPOSITORY / "examples"

GATEWAY = '[gateway]\nname = "shop"\n'
KAFKA = '[kafka]\nbootstrap = "localhost:9092"\n'
ROUTE = '[[route]]\nmethod = "POST"\npath = "/orders"\ntopic = "orders"\n'
MINIMAL = GATEWAY + KAFKA + ROUTE
TRUSTING = GATEWAY + 'trusted_proxies = ["10.0.0.0/8"]\n' + KAFKA + ROUTE


def loads(content: str, **environ: str) -> Config:
    return config.loads(content, "shop.toml", environ)


def told_about(content: str, **environ: str) -> list[str]:
    """The lines that are told about a wrong file."""
    with pytest.raises(ConfigError) as caught:
        loads(content, **environ)
    lines = str(caught.value).split("\n")
    assert all(line.isprintable() for line in lines), "nothing that moves the cursor"
    assert lines[0].startswith("shop.toml:")
    return lines


def mistakes(content: str, **environ: str) -> list[str]:
    """What is told about each mistake in a file, without the file's name."""
    lines = told_about(content, **environ)
    if lines[0] == f"shop.toml: {len(lines) - 1} mistakes":
        del lines[0]
    assert "expected" in lines[0]
    assert "got" in lines[0]
    return [line.removeprefix("shop.toml:").removeprefix(" ") for line in lines]


def mistake(content: str, **environ: str) -> str:
    """What is told about the only mistake in a file, without file and line."""
    found = mistakes(content, **environ)
    assert len(found) == 1, found
    return re.sub(r"^\d+: ", "", found[0])


# --- what a file means -----------------------------------------------------------------------------------------------


def test_a_minimal_file_gets_every_default() -> None:
    loaded = loads(MINIMAL)
    assert loaded.gateway.response_topic == "shop.replies"
    assert loaded.gateway.workers == config.cores()
    assert loaded.gateway.listens == (config.Listen(bind="127.0.0.1:8080"),)
    assert loaded.cluster == config.Cluster(group_id="shop")
    assert loaded.admin.listen == "127.0.0.1:9100"
    assert loaded.limits == config.Limits()
    assert loaded.kafka == config.Kafka(bootstrap="localhost:9092")
    (route,) = loaded.routes
    assert (route.number, route.name, route.methods) == (0, "POST /orders", ("POST",))
    assert (route.timeout_ns, route.max_body_bytes, route.max_in_flight) == (5_000_000_000, 1 << 20, 16384)


def test_times_and_sizes_are_kept_in_nanoseconds_and_bytes() -> None:
    loaded = loads(
        GATEWAY
        + 'drain_timeout = "1m"\n[limits]\nmax_body = "64KiB"\nmax_target = 4096\n'
        + KAFKA
        + 'linger = "500us"\nsticky_linger = "0s"\n'
        + ROUTE
        + 'timeout = "1.5s"\n'
    )
    assert loaded.gateway.drain_timeout_ns == 60_000_000_000
    assert (loaded.limits.max_body_bytes, loaded.limits.max_target_bytes) == (65536, 4096)
    assert (loaded.kafka.linger_ms, loaded.kafka.sticky_linger_ms) == (0.5, 0)
    assert (loaded.routes[0].timeout_ns, loaded.routes[0].max_body_bytes) == (1_500_000_000, 65536)


def test_listeners_are_strings_or_tables() -> None:
    table = '[[listen]]\nbind = "[::]:8443"\ntls_cert = "a.pem"\ntls_key = "b.pem"\nhttp = "2"\n'
    (listen,) = loads(MINIMAL + table).gateway.listens
    assert listen == config.Listen(bind="[::]:8443", tls_cert="a.pem", tls_key="b.pem", http="2")
    mixed = 'listen = ["0.0.0.0:80", "unix:/run/shop.sock", { bind = "h:1", front = "granian" }]\n'
    binds = [listen.bind for listen in loads(GATEWAY + mixed + KAFKA + ROUTE).gateway.listens]
    assert binds == ["0.0.0.0:80", "unix:/run/shop.sock", "h:1"]


@pytest.mark.parametrize(("mode", "kept"), [("0660", 0o660), ("600", 0o600), ("0777", 0o777)])
def test_a_unix_socket_has_a_mode_and_a_group(mode: str, kept: int) -> None:
    table = f'[[listen]]\nbind = "unix:/run/shop.sock"\nmode = "{mode}"\ngroup = "www-data"\n'
    (listen,) = loads(MINIMAL + table).gateway.listens
    assert (listen.mode, listen.group) == (kept, "www-data")


@pytest.mark.parametrize(
    ("settings", "is_express"),
    [
        ("", True),
        ('http = "1"', True),
        ('http = "2"', False),
        ('tls_cert = "a.pem"\ntls_key = "b.pem"', False),
        ('front = "granian"', False),
        ('front = "express"', True),
    ],
)
def test_the_express_front_is_taken_where_it_can_do_all_that_is_asked_for(settings: str, is_express: bool) -> None:
    (listen,) = loads(MINIMAL + f'[[listen]]\nbind = "a:1"\n{settings}\n').gateway.listens
    assert listen.is_express is is_express


def test_header_names_and_hosts_are_compared_in_lower_case() -> None:
    loaded = loads(
        GATEWAY + 'hosts = ["Shop.Example"]\n' + KAFKA + ROUTE + 'request_headers = ["X-Trace"]\nkey = "header.X-Id"\n'
    )
    assert loaded.gateway.hosts == ("shop.example",)
    assert loaded.routes[0].request_headers == ("x-trace",)
    assert loaded.routes[0].key == "header.x-id"


def test_many_workers_share_the_slots_that_an_id_can_name() -> None:
    loaded = loads(GATEWAY + "workers = 64\n" + KAFKA + ROUTE)
    assert loaded.gateway.slots == 8192
    assert loaded.routes[0].max_in_flight == 8192


def test_librdkafka_properties_pass_with_their_types() -> None:
    client = (
        '[kafka.client]\n"security.protocol" = "SSL"\n"socket.keepalive.enable" = true\n"queued.min.messages" = 5\n'
    )
    assert loads(GATEWAY + KAFKA + client + ROUTE).kafka.client == {
        "security.protocol": "SSL",
        "socket.keepalive.enable": True,
        "queued.min.messages": 5,
    }


def test_values_come_from_the_environment() -> None:
    content = (
        '[gateway]\nname = "${NAME}"\nworkers = "${N:-3}"\n[kafka]\nbootstrap = "${A}:9092,${B:-b}:9092"\n'
        '[kafka.client]\n"sasl.password" = "$${A}"\n' + ROUTE
    )
    loaded = loads(content, NAME="shop", A="a", B="")
    assert (loaded.gateway.name, loaded.gateway.workers) == ("shop", 3)
    assert loaded.kafka.bootstrap == "a:9092,b:9092"
    assert loaded.kafka.client == {"sasl.password": "${A}"}
    assert loads(content, NAME="shop", A="a", N="7").gateway.workers == 7


def test_a_literal_beside_a_parameter_is_not_ambiguous() -> None:
    paths = ["/a/{x}", "/a/b", "/a/{x}/c", "/a/b/{y}", "/{z}/b", "/", "/a/"]
    routes = "".join(f'[[route]]\nmethod = "GET"\npath = "{path}"\ntopic = "t"\n' for path in paths)
    assert [route.number for route in loads(GATEWAY + KAFKA + routes).routes] == list(range(len(paths)))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_the_examples_are_sound(path: Path) -> None:
    assert config.load(path, {}).routes


# --- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = {
    # bad TOML
    MINIMAL + "[gateway\n": ["9: column 9", "TOML"],
    'name = "a"\nname = "b"': ["2: column", "TOML"],
    "a = " + "[" * 100_000: ["TOML", "too deeply"],
    MINIMAL + "[a" + ".a" * 3_000 + "]\n": ["too deeply"],
    # tables
    "": ["gateway:", "[gateway] table", "none"],
    GATEWAY + ROUTE: ["kafka:", "none"],
    GATEWAY + KAFKA: ["route:", "[[route]]"],
    GATEWAY + KAFKA + "[route]\nx=1": ["route:", "one or more [[route]] tables", "a table"],
    "gateway = 5\n" + KAFKA + ROUTE: ["gateway:", "a table", "got 5"],
    "route = [1]\n" + GATEWAY + KAFKA: ["route[0]:", "a table", "got 1"],
    # unknown keys, at each level
    MINIMAL + "[gatway]\n": ["gatway:", 'did you mean "gateway"?'],
    MINIMAL + "[zzz]\n": ["zzz:", "[[route]]", "[kafka]"],
    GATEWAY + "worker = 2\n" + KAFKA + ROUTE: ["gateway.worker:", 'did you mean "workers"?'],
    MINIMAL + 'timout = "5s"\n': ["route[0].timout:", 'did you mean "timeout"?'],
    MINIMAL + '"Time out" = "5s"\n': ['route[0]."Time out":', 'did you mean "timeout"?'],
    MINIMAL + "zzz = 1\n": ["route[0].zzz:", "known here: name, method, path"],
    MINIMAL + '[[listen]]\nbind = "a:1"\nport = 3\n': ["listen[0].port:", "an unknown one"],
    GATEWAY + 'listen = [{ bnd = "a:1" }]\n' + KAFKA + ROUTE: ["gateway.listen[0].bnd:", 'did you mean "bind"?'],
    MINIMAL + "[limits]\nmax_bodi = 3\n": ["limits.max_bodi:", 'did you mean "max_body"?'],
    MINIMAL + '[cluster]\nmod = "single"\n': ["cluster.mod:", 'did you mean "mode"?'],
    MINIMAL + '[admin]\nlisten_on = ""\n': ["admin.listen_on:", 'did you mean "listen"?'],
    # missing keys
    "[gateway]\n" + KAFKA + ROUTE: ["gateway.name:", "required"],
    GATEWAY + "[kafka]\n" + ROUTE: ["kafka.bootstrap:", "required"],
    GATEWAY + KAFKA + '[[route]]\nmethod = "GET"\npath = "/"\n': ["route[0].topic:", "required"],
    # wrong types
    "[gateway]\nname = 5\n" + KAFKA + ROUTE: ["gateway.name:", "a name", "got 5"],
    GATEWAY + 'workers = "two"\n' + KAFKA + ROUTE: ["gateway.workers:", "a whole number", 'got "two"'],
    GATEWAY + "workers = true\n" + KAFKA + ROUTE: ["gateway.workers:", "a whole number", "got true"],
    GATEWAY + "workers = 2.5\n" + KAFKA + ROUTE: ["gateway.workers:", "got 2.5"],
    GATEWAY + "workers = 0\n" + KAFKA + ROUTE: ["gateway.workers:", "from 1 to 128", "got 0"],
    GATEWAY + f"workers = {'9' * 4000}\n" + KAFKA + ROUTE: ["gateway.workers:", "a very large number"],
    GATEWAY + f"workers = {'9' * 9000}\n" + KAFKA + ROUTE: ["TOML", "limit"],
    GATEWAY + "name2 = 1979-05-27\n" + KAFKA + ROUTE: ["gateway.name2:"],
    GATEWAY + "hosts = 1979-05-27\n" + KAFKA + ROUTE: ["gateway.hosts:", "got a date"],
    GATEWAY + 'listen = "0.0.0.0:1"\n' + KAFKA + ROUTE: ["gateway.listen:", "a list"],
    MINIMAL + "request_headers = [1]\n": ["route[0].request_headers[0]:", "a header name", "got 1"],
    MINIMAL + 'request_headers = ["a", "A"]\n': ["route[0].request_headers[1]:", "twice"],
    # durations and sizes
    MINIMAL + 'timeout = "5 parsecs"\n': ["route[0].timeout:", '"5s" or "250ms"', 'got "5 parsecs"'],
    MINIMAL + "timeout = 5\n": ["route[0].timeout:", "a duration", "got 5"],
    MINIMAL + 'timeout = "5ms"\n': ["route[0].timeout:", "between 10ms and 1h"],
    GATEWAY + KAFKA + 'sticky_linger = "1.5ms"\n' + ROUTE: ["kafka.sticky_linger:", "whole milliseconds"],
    MINIMAL + 'max_body = "1 potato"\n': ["route[0].max_body:", "a size", "KiB"],
    MINIMAL + "max_body = -1\n": ["route[0].max_body:", "not negative"],
    # words
    MINIMAL + 'partitioner = "murmur"\n': ["route[0].partitioner:", '"murmur2"', 'did you mean "murmur2"?'],
    MINIMAL + 'dialect = "spring"\n': ["route[0].dialect:", '"plain"', 'got "spring"'],
    ROUTE.replace("POST", "post") + GATEWAY + KAFKA: ["route[0].method:", 'did you mean "POST"?'],
    ROUTE.replace('"POST"', '["GET", "GOT"]') + GATEWAY + KAFKA: ["route[0].method[1]:", 'did you mean "GET"?'],
    MINIMAL + '[[listen]]\nbind = "a:1"\nfront = "express"\nhttp = "2"\n': ["listen[0].front:", "HTTP/2 is set"],
    MINIMAL + '[[listen]]\nbind = "a:1"\nfront = "express"\ntls_cert = "c"\ntls_key = "k"\n': ["TLS is set"],
    MINIMAL + '[[listen]]\nbind = "a:1"\nfront = "granit"\n': ["listen[0].front:", 'did you mean "granian"?'],
    # names and addresses
    '[gateway]\nname = "my shop"\n' + KAFKA + ROUTE: ["gateway.name:", "a-z A-Z 0-9"],
    f'[gateway]\nname = "{"n" * 245}"\n' + KAFKA + ROUTE: ["gateway.response_topic:", "249"],
    GATEWAY + 'listen = [":8080"]\n' + KAFKA + ROUTE: ["gateway.listen[0].bind:", '"0.0.0.0:8080"'],
    GATEWAY + 'listen = ["8080"]\n' + KAFKA + ROUTE: ["gateway.listen[0].bind:", "write host and port"],
    GATEWAY + 'listen = ["a:65536"]\n' + KAFKA + ROUTE: ["gateway.listen[0].bind:", "write host and port"],
    GATEWAY + 'listen = ["unix:shop.sock"]\n' + KAFKA + ROUTE: ["gateway.listen[0].bind:", "absolute path"],
    GATEWAY + "listen = []\n" + KAFKA + ROUTE: ["gateway.listen:", "at least one"],
    GATEWAY + 'hosts = ["shop.example:80"]\n' + KAFKA + ROUTE: ["gateway.hosts[0]:", "port"],
    GATEWAY + '[kafka]\nbootstrap = "a:b"\n' + ROUTE: ["kafka.bootstrap:", '"host:port"'],
    MINIMAL + '[admin]\nlisten = "unix:/a"\n': ["admin.listen:", "host and port"],
    # clashes
    GATEWAY + 'listen = ["a:1", "b:1", "a:1"]\n' + KAFKA + ROUTE: ["gateway.listen[2]:", "twice"],
    GATEWAY + 'listen = ["a:1", { bind = "a:1", http = "2" }]\n' + KAFKA + ROUTE: [
        "gateway.listen[1]:",
        "another address than gateway.listen[0]",
    ],
    GATEWAY + 'listen = ["127.0.0.1:9100"]\n' + KAFKA + ROUTE: ["gateway.listen[0]:", "admin.listen"],
    GATEWAY + 'listen = ["[::]:1", "0.0.0.0:1"]\n' + KAFKA + ROUTE: ["gateway.listen[1]:", "than gateway.listen[0]"],
    GATEWAY + 'listen = ["127.0.0.1:1", "localhost:1"]\n' + KAFKA + ROUTE: ["gateway.listen[1]:", "gateway.listen[0]"],
    GATEWAY + 'listen = ["localhost:9100"]\n' + KAFKA + ROUTE: ["gateway.listen[0]:", "admin.listen"],
    MINIMAL + '[[listen]]\nbind = "a:1"\nmode = "0660"\n': [
        "listen[0].mode:",
        'unless bind is a Unix socket, got bind = "a:1"',
    ],
    MINIMAL + '[[listen]]\nbind = "a:1"\ngroup = "www"\n': ["listen[0].group:", "unless bind is a Unix socket"],
    MINIMAL + '[[listen]]\nbind = "unix:/s"\nmode = "0o660"\n': ["listen[0].mode:", '"0660"', "three octal digits"],
    MINIMAL + '[[listen]]\nbind = "unix:/s"\nmode = "0680"\n': ["listen[0].mode:", "three octal digits"],
    MINIMAL + '[[listen]]\nbind = "unix:/s"\nmode = 660\n': [
        "listen[0].mode:",
        'an octal string such as "0660", got 660',
    ],
    MINIMAL + '[[listen]]\nbind = "unix:/s"\ngroup = "a b"\n': ["listen[0].group:", "/etc/group"],
    GATEWAY + 'listen = ["a:1"]\n' + KAFKA + ROUTE + '[[listen]]\nbind = "b:1"\n': [
        "gateway.listen:",
        "[[listen]]",
        "both",
    ],
    MINIMAL + '[[listen]]\nbind = "a:1"\ntls_cert = "c.pem"\n': ["listen[0].tls_key:", "tls_cert is set"],
    MINIMAL + '[[listen]]\nbind = "a:1"\ntls_key = "k.pem"\n': ["listen[0].tls_cert:", "tls_key is set"],
    GATEWAY + "workers = 100\nslots = 32768\n" + KAFKA + ROUTE: ["gateway.slots:", "at most 5242", "workers = 100"],
    MINIMAL + "[cluster]\nnode_count = 3\n": ["cluster.node_count:", '"static"', '"single"'],
    MINIMAL + '[cluster]\nmode = "static"\nnode_count = 3\nnode_index = 3\n': ["cluster.node_index:", "count from 0"],
    GATEWAY + KAFKA + '[kafka.client]\n"message.max.bytes" = 1000\n' + ROUTE: ['"message.max.bytes":', "max_body"],
    GATEWAY + KAFKA + '[kafka.client]\n"message.max.bytes" = "1000"\n' + ROUTE: ['"message.max.bytes":', "max_body"],
    MINIMAL.replace('"orders"', '"shop.replies"'): ["route[0].topic:", "gateway.response_topic"],
    # librdkafka properties
    GATEWAY + KAFKA + '[kafka.client]\n"acks" = 1\n' + ROUTE: ["kafka.client.acks:", "whether the request is recorded"],
    GATEWAY + KAFKA + '[kafka.client]\n"linger.ms" = 1\n' + ROUTE: [
        'kafka.client."linger.ms":',
        "kafka.linger sets it",
    ],
    GATEWAY + KAFKA + '[kafka.client]\n"group.id" = "x"\n' + ROUTE: ['"group.id":', "cluster.group_id"],
    GATEWAY + KAFKA + '[kafka.client]\n"group.protocol" = "x"\n' + ROUTE: ['"group.protocol":', "cluster.mode"],
    GATEWAY + KAFKA + '[kafka.client]\n"isolation.level" = "read_uncommitted"\n' + ROUTE: [
        'kafka.client."isolation.level":',
        "aborted",
    ],
    GATEWAY + KAFKA + '[kafka.client]\n"allow.auto.create.topics" = true\n' + ROUTE: [
        'kafka.client."allow.auto.create.topics":',
        "`fastgw topics`",
    ],
    GATEWAY + KAFKA + '[kafka.client]\n"topic.acks" = 1\n' + ROUTE: ['kafka.client."topic.acks":', "recorded"],
    GATEWAY + KAFKA + '[kafka.client]\n"topic.blacklist" = "orders"\n' + ROUTE: ["blacklist", "see its topics"],
    GATEWAY + KAFKA + '[kafka.client]\n"fetch.min.bytes" = 100\n' + ROUTE: ["fetch.min.bytes", "must not wait"],
    GATEWAY + KAFKA + '[kafka.client]\nerror_cb = "x"\n' + ROUTE: ["kafka.client.error_cb:", "callbacks"],
    GATEWAY + KAFKA + '[kafka.client]\nsecurity.protocol = "SSL"\n' + ROUTE: ["kafka.client.security:", "quote"],
    GATEWAY + KAFKA + "[kafka.client]\na = [1]\n" + ROUTE: ["kafka.client.a:", "got a list"],
    GATEWAY + KAFKA + "client = 3\n" + ROUTE: ["kafka.client:", "librdkafka properties", "got 3"],
    # routes
    GATEWAY + KAFKA + ROUTE + ROUTE: ["route[1]:", "route[0]", "POST /orders"],
    GATEWAY
    + KAFKA
    + ROUTE.replace("/orders", "/a/{x}")
    + ROUTE.replace("/orders", "/a/{y}").replace('"POST"', '["GET", "POST"]'): ["route[1]:", "route[0]", "POST /a/{y}"],
    MINIMAL + 'name = "a"\n' + ROUTE.replace("POST", "GET") + 'name = "a"\n': ["route[1].name:", "route[0].name"],
    MINIMAL.replace("/orders", "orders"): ["route[0].path:", "starts with /"],
    MINIMAL.replace("/orders", "/a//b"): ["route[0].path:", "empty segment"],
    MINIMAL.replace("/orders", "/a/../b"): ["route[0].path:", ".."],
    MINIMAL.replace("/orders", "/a b"): ["route[0].path:", "without space"],
    MINIMAL.replace("/orders", "/a/x{id}"): ["route[0].path:", "a whole segment"],
    MINIMAL.replace("/orders", "/{a-b}"): ["route[0].path:", "letters, digits"],
    MINIMAL.replace("/orders", "/{a}/{a}"): ["route[0].path:", "a name of its own"],
    MINIMAL + 'key = "path.id"\n': ["route[0].key:", "a parameter of the route's path"],
    MINIMAL + '[compression]\nencodings = ["br"]\n': ["compression.encodings[0]:", '"zstd" or "gzip"'],
    MINIMAL + '[compression]\ntypes = ["json"]\n': ["compression.types[0]:", '"text/*"'],
    MINIMAL + '[compression]\ntypes = ["*"]\n': ["compression.types[0]:", "application/*+json"],
    MINIMAL + '[compression]\nmin_size = "512KiB"\n': ["compression.min_size:", 'compression.max_size = "256KiB"'],
    MINIMAL + '[compression]\nmax_size = "2MiB"\n': ["compression.max_size:", "between 1KiB and 1MiB"],
    MINIMAL + 'compress = "no"\n': ["route[0].compress:", "true or false"],
    MINIMAL + 'key_partitioner = "murmur2"\n': ["route[0].key_partitioner:", "unless the route has a key"],
    MINIMAL + 'key = "body./id"\nkey_partitioner = "murmur3"\n': ["route[0].key_partitioner:", '"murmur2"?'],
    MINIMAL + 'key = "body./id"\n' + ROUTE.replace("POST", "PUT") + 'key = "body./id"\nkey_partitioner = "murmur2"\n': [
        "route[1].key_partitioner:",
        '"crc32", as route[0] has it',
    ],
    MINIMAL + 'key = "cookie.id"\n': ["route[0].key:", "header.x-customer"],
    MINIMAL + 'key = "body.id"\n': ["route[0].key:", "body./id"],
    MINIMAL + 'response_headers = ["Content-Length"]\n': ["route[0].response_headers[0]:", "never copied"],
    MINIMAL + 'response_headers = ["Fastgw-Outcome"]\n': ["route[0].response_headers[0]:", "no service in its place"],
    MINIMAL + 'request_headers = ["a b"]\n': ["route[0].request_headers[0]:", "not a header name"],
    GATEWAY + KAFKA + "".join(f'[[route]]\nmethod="GET"\npath="/{n}"\ntopic="t"\n' for n in range(2049)): [
        "route:",
        "2047",
    ],
    # what other routers call a pattern
    MINIMAL.replace("/orders", "/hello/*"): ["route[0].path:", 'write "/hello/{rest...}"'],
    MINIMAL.replace("/orders", "/*"): ["route[0].path:", 'write "/{rest...}"'],
    MINIMAL.replace("/orders", "/hello/**"): ["route[0].path:", 'write "/hello/{rest...}"'],
    MINIMAL.replace("/orders", "/files/*name"): ["route[0].path:", 'write "/files/{name...}"'],
    MINIMAL.replace("/orders", "/files/:name*"): ["route[0].path:", "{name...} as its last"],
    MINIMAL.replace("/orders", "/a/*/c"): ["route[0].path:", "one whole segment write {name}"],
    MINIMAL.replace("/orders", "/a/*.json"): ["route[0].path:", "one whole segment write {name}"],
    MINIMAL.replace("/orders", "/a/b*"): ["route[0].path:", "one whole segment write {name}"],
    MINIMAL.replace("/orders", "/a/:id/b"): ["route[0].path:", 'for a parameter write "{id}"'],
    MINIMAL.replace("/orders", "/a/:id?"): ["route[0].path:", "write the path alone"],
    MINIMAL.replace("/orders", "/a/<id>"): ["route[0].path:", 'for a parameter write "{id}"'],
    MINIMAL.replace("/orders", "/a/<int:order-id>"): ["route[0].path:", 'for a parameter write "{order_id}"'],
    MINIMAL.replace("/orders", "/a/<path:file>"): ["route[0].path:", '"{file...}" as the last segment'],
    MINIMAL.replace("/orders", "/a/{file:path}"): ["route[0].path:", '"{file...}" as the last segment'],
    MINIMAL.replace("/orders", "/a/{*file}"): ["route[0].path:", '"{file...}" as the last segment'],
    MINIMAL.replace("/orders", "/a/{proxy+}"): ["route[0].path:", '"{proxy...}" as the last segment'],
    MINIMAL.replace("/orders", "/a/{id:[0-9]+}"): ["route[0].path:", 'for a parameter write "{id}"'],
    MINIMAL.replace("/orders", "/a/{id:int}"): ["route[0].path:", 'for a parameter write "{id}"'],
    MINIMAL.replace("/orders", "/a/[0-9]+"): ["route[0].path:", "a path is no pattern"],
    MINIMAL.replace("/orders", "/a/(x|y)"): ["route[0].path:", "a path is no pattern"],
    MINIMAL.replace("/orders", "^/a/b"): ["route[0].path:", "a path is no pattern"],
    MINIMAL.replace("/orders", "~ ^/a"): ["route[0].path:", "a path is no pattern"],
    MINIMAL.replace("/orders", "/a/b$"): ["route[0].path:", "a path is no pattern"],
    MINIMAL.replace("/orders", "/a/(.*)"): ["route[0].path:", "{name...}"],
    MINIMAL.replace("/orders", "https://shop.test:1/a/b"): ["route[0].path:", 'alone, "/a/b"', "gateway.hosts"],
    MINIMAL.replace("/orders", "http://shop.test"): ["route[0].path:", 'alone, "/"'],
    MINIMAL.replace("/orders", "POST /a"): ["route[0].path:", 'alone, "/a"', 'method = "POST"'],
    MINIMAL.replace("/orders", "/a?b={c}"): ["route[0].path:", "a query does not choose the route"],
    ROUTE.replace("POST", "ANY") + GATEWAY + KAFKA: ["route[0].method:", "name each method"],
    ROUTE.replace("POST", "*") + GATEWAY + KAFKA: ["route[0].method:", "name each method"],
    ROUTE.replace('"POST"', '["*"]') + GATEWAY + KAFKA: ["route[0].method[0]:", "name each method"],
    ROUTE.replace("POST", "get, POST") + GATEWAY + KAFKA: ["route[0].method:", 'write a list: ["GET", "POST"]'],
    ROUTE.replace("POST", "GET|POST") + GATEWAY + KAFKA: ["route[0].method:", 'write a list: ["GET", "POST"]'],
    ROUTE.replace('"POST"', "[]") + GATEWAY + KAFKA: ["route[0].method:", "a method or a list of methods", "got []"],
    MINIMAL + 'request_headers = ["*"]\n': ["route[0].request_headers[0]:", "name each header"],
    MINIMAL + 'request_headers = ["X-*"]\n': ["route[0].request_headers[0]:", "name each header"],
    MINIMAL + 'response_headers = ["*"]\n': ["route[0].response_headers[0]:", "name each header"],
    MINIMAL + 'response_headers = ["X-A:"]\n': ["route[0].response_headers[0]:", "without its colon"],
    MINIMAL + 'key = "header.*"\n': ["route[0].key:", "header.x-customer"],
    MINIMAL + 'key = "body.customer.id"\n': ["route[0].key:", '"body./customer/id"'],
    MINIMAL + 'key = "path.{id}"\n': ["route[0].key:", '"path.id"'],
    GATEWAY + 'hosts = ["*"]\n' + KAFKA + ROUTE: ["gateway.hosts[0]:", "in gateway.hosts an empty list takes any"],
    GATEWAY + 'hosts = ["*.shop.test"]\n' + KAFKA + ROUTE: ["gateway.hosts[0]:", "name each host"],
    GATEWAY + 'listen = ["*:8080"]\n' + KAFKA + ROUTE: ["gateway.listen[0].bind:", '"0.0.0.0:8080"'],
    GATEWAY + 'listen = ["http://a:8080"]\n' + KAFKA + ROUTE: ["gateway.listen[0].bind:", "without a scheme"],
    # proxies
    GATEWAY + 'trusted_proxies = ["10.0.0.1/8"]\n' + KAFKA + ROUTE: ["gateway.trusted_proxies[0]:", '"10.0.0.0/8"'],
    GATEWAY + 'trusted_proxies = ["lb.internal"]\n' + KAFKA + ROUTE: ["gateway.trusted_proxies[0]:", '"::1/128"'],
    GATEWAY + 'trusted_proxies = ["fe80::1%eth0"]\n' + KAFKA + ROUTE: ["gateway.trusted_proxies[0]:", '"unix"'],
    GATEWAY + 'trusted_proxies = ["10.0.0.0/33"]\n' + KAFKA + ROUTE: ["gateway.trusted_proxies[0]:", '"10.0.0.0/8"'],
    GATEWAY + 'trusted_proxies = ["10.0.0.1", "::ffff:10.0.0.1"]\n' + KAFKA + ROUTE: ["[1]:", "twice"],
    GATEWAY + 'trusted_proxies = "10.0.0.1"\n' + KAFKA + ROUTE: ["gateway.trusted_proxies:", "a list of networks"],
    GATEWAY + 'forwarded = "x-forwarded-for"\n' + KAFKA + ROUTE: ["gateway.forwarded:", 'did you mean "x-forwarded"?'],
    MINIMAL + '[[listen]]\nbind = "a:1"\nproxy_protocol = 1\n': ["listen[0].proxy_protocol:", "true or false", "got 1"],
    MINIMAL + '[[listen]]\nbind = "a:1"\nproxy_protocol = true\n': [
        "gateway.trusted_proxies:",
        "because listen[0].proxy_protocol is set",
    ],
    TRUSTING + '[[listen]]\nbind = "a:1"\nproxy_protocol = true\nfront = "granian"\n': [
        "listen[0].proxy_protocol:",
        "an express listener",
        'front = "granian"',
    ],
    TRUSTING + '[[listen]]\nbind = "a:1"\nproxy_protocol = true\nhttp = "2"\n': ["proxy_protocol:", 'http = "2"'],
    TRUSTING + '[[listen]]\nbind = "a:1"\nproxy_protocol = true\ntls_cert = "c"\ntls_key = "k"\n': [
        "proxy_protocol:",
        "plain HTTP/1.1",
        "tls_cert",
    ],
    # environment
    GATEWAY.replace("shop", "${SHOP_NAME}") + KAFKA + ROUTE: ["gateway.name:", "SHOP_NAME", "${SHOP_NAME:-default}"],
    MINIMAL + 'request_headers = ["${X"]\n': ["route[0].request_headers[0]:", "${NAME}"],
}


@pytest.mark.parametrize(("content", "told"), MISTAKES.items(), ids=[told[0] for told in MISTAKES.values()])
def test_a_mistake_is_told_in_one_line_with_its_place(content: str, told: list[str]) -> None:
    found = mistakes(content)
    assert any(all(part in line for part in told) for line in found), found
    if told[0].endswith(":"):
        assert any(told[0] in line.partition(" expected")[0] for line in found), "the path comes first"


@pytest.mark.parametrize(
    "path",
    ["/v1/orders:batch", "/$metadata", "/a(1)", "/a+b", "/a,b;c=d", "/@me", "/a.b", "/~user", "/a/", "/!", "/x&y='z'"],
)
def test_what_only_looks_a_little_like_a_pattern_is_a_literal_path(path: str) -> None:
    assert loads(MINIMAL.replace("/orders", path)).routes[0].path == path


def test_a_wrong_value_from_the_environment_is_told_as_it_came() -> None:
    message = mistake(GATEWAY + 'workers = "${N}"\n' + KAFKA + ROUTE, N="lots")
    assert message == 'gateway.workers: expected a whole number from 1 to 128, got "lots"'


def test_an_environment_that_is_no_text_is_refused() -> None:
    assert "UTF-8 text in the environment variable N" in mistake(MINIMAL.replace("shop", "${N}"), N="\udcff")


def test_a_long_or_wild_value_stays_on_one_short_line() -> None:
    message = mistake(MINIMAL + f'timeout = "\\n\\u001b[2J{"x" * 1000}"\n')
    assert len(message) < 250


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file"),
        (b"\xff\xfe", "line 1: expected UTF-8 text, got byte 0xff"),
        (b"a = 1\nb = \n", "shop.toml:2: column 5"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_by_name(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "shop.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        config.load(path)
    assert str(caught.value).startswith(f"{path}:")


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directory"):
        config.load(tmp_path)


def test_certificate_files_are_looked_for_when_a_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(MINIMAL + '[[listen]]\nbind = "a:1"\ntls_cert = "none.pem"\ntls_key = "none.key"\n')
    with pytest.raises(ConfigError, match=r'listen\[0\].tls_cert: expected a file that can be read, got "none'):
        config.load(path)


# --- secrets ---------------------------------------------------------------------------------------------------------

CLIENT = GATEWAY + KAFKA + "[kafka.client]\n"
SECRET = "hunter2"


@pytest.mark.parametrize(
    "content",
    [
        CLIENT + '"sasl.password" = ["hunter2"]\n' + ROUTE,
        CLIENT + '"sasl.password" = { x = "hunter2" }\n' + ROUTE,
        CLIENT + 'sasl.password = "hunter2"\n' + ROUTE,
        CLIENT + '"sasl.password" = "${hunter2"\n' + ROUTE,
        CLIENT + '"sasl.password" = "hunter2${"\n' + ROUTE,
        CLIENT + '"sasl.password" = [["${P}"]]\n' + ROUTE,
        CLIENT + 'logger = "hunter2"\n' + ROUTE,
        GATEWAY + KAFKA + 'client = "sasl.password=hunter2"\n' + ROUTE,
        GATEWAY + KAFKA + 'client = ["sasl.password", "hunter2"]\n' + ROUTE,
        GATEWAY + 'kafka = "hunter2"\n[kafkaa]\n' + ROUTE,
        'kafka = "bootstrap=a:1;password=hunter2"\n' + GATEWAY + ROUTE,
        'kafka = ["hunter2"]\n' + GATEWAY + ROUTE,
        'kafka = "${P}"\n' + GATEWAY + ROUTE,
        GATEWAY + '[kafka]\nbootstrap = "user:hunter2@a:9092"\n' + ROUTE,
        GATEWAY + '[kafka]\nbootstrap = "SASL_SSL://user:hunter2@a:9092"\n' + ROUTE,
        GATEWAY + '[kafka]\nbootstrap = "${KAFKA_PASSWORD} b"\n' + ROUTE,
        GATEWAY.replace('"shop"', '"${API_KEY}"') + KAFKA + ROUTE,
        MINIMAL + '[[listen]]\nbind = "a:1"\ntls_cert = "c"\ntls_key = ["hunter2"]\n',
        MINIMAL + 'password = "hunter2"\n',
        # no TOML: the line is told, but not what is in it
        CLIENT + '"sasl.password" = hunter2\n' + ROUTE,
        CLIENT + '"sasl.password" = "hunter2\n' + ROUTE,
        CLIENT + '"sasl.password" = "\\hunter2"\n' + ROUTE,
        CLIENT + '"sasl.password" = "x" hunter2\n' + ROUTE,
        CLIENT + '"sasl.jaas.config" = """\nuser = me\nhunter2 \\q\n"""\n' + ROUTE,
        CLIENT + '"ssl.key.pem" = """\nabc==\nhunter2 \\q\n"""\n' + ROUTE,
        GATEWAY + KAFKA + 'client = { "sasl.password" = "a", "b" hunter2 }\n' + ROUTE,
        MINIMAL + "api_key = hunter2\n",
    ],
)
def test_no_message_tells_a_secret(content: str) -> None:
    environ = {"P": SECRET, "KAFKA_PASSWORD": SECRET + " x", "API_KEY": SECRET + " x"}
    assert not any(SECRET in line for line in told_about(content, **environ))


@pytest.mark.parametrize("text", ["-----BEGIN PRIVATE KEY-----hunter2", 'username="a" password="hunter2"'])
def test_no_message_tells_a_text_that_is_a_secret_by_itself(tmp_path: Path, text: str) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(MINIMAL + f"[[listen]]\nbind = 'a:1'\ntls_cert = 'c'\ntls_key = '{text}'\nfront = '{text}'\n")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert SECRET not in str(caught.value)


def test_where_a_route_finds_its_key_is_no_secret() -> None:
    assert 'got "cookie.id"' in mistake(MINIMAL + 'key = "cookie.id"\n')
    assert any("key = body.id" in line for line in told_about(MINIMAL + "key = body.id\n"))


def test_a_configuration_shown_by_mistake_keeps_its_secrets() -> None:
    loaded = loads(CLIENT + '"sasl.password" = "hunter2"\n' + ROUTE)
    assert SECRET not in repr(loaded)
    assert SECRET not in repr(loaded.kafka)
    assert SECRET not in str(loaded.kafka.__rich_repr__())
    assert "sasl.password" in repr(loaded.kafka)


# --- all mistakes at once, each with its line ------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    content = """[gateway]
name = "shop"
workers = "two"
hosts = ["a", "b:1", 3]
zzz = 1

[limits]
max_body = "x"

[kafka]
bootstrap = "${NOWHERE}"

[kafka.client]
"acks" = 1
"group.id" = "x"

[[route]]
method = "GET"
path = "/a"

[[route]]
method = ["GET", "GOT"]
path = "/hello/*"
topic = "t"

[[route]]
method = "GET"
path = "/b"
topic = "t"
timeout = 5

[[route]]
method = "GET"
path = "/b"
topic = "t"
key = "path.id"

[cluster]
node_count = 3

[zzz]
"""
    found = mistakes(content)
    assert told_about(content)[0] == "shop.toml: 16 mistakes"
    assert [line.partition(": expected")[0] for line in found] == [
        "3: gateway.workers",
        "4: gateway.hosts[1]",
        "4: gateway.hosts[2]",
        "5: gateway.zzz",
        "8: limits.max_body",
        "11: kafka.bootstrap",
        "14: kafka.client.acks",
        '15: kafka.client."group.id"',
        "17: route[0].topic",
        "22: route[1].method[1]",
        "23: route[1].path",
        "30: route[2].timeout",
        "32: route[3]",
        "36: route[3].key",
        "39: cluster.node_count",
        "41: zzz",
    ]


def test_a_file_without_end_of_mistakes_fills_no_screen() -> None:
    routes = "".join(f"[[route]]\nmethod='GET'\npath='/{n}'\n" for n in range(50))
    lines = told_about(GATEWAY + KAFKA + routes)
    assert (len(lines), lines[-1]) == (22, "... and 30 more")


def test_a_variable_that_is_not_set_hides_no_other_mistake_and_is_told_once() -> None:
    found = mistakes(GATEWAY + 'workers = "${N}"\nslots = 1\n' + KAFKA + ROUTE + 'response_headers = ["${H}", "a b"]\n')
    assert [re.sub(r": expected.*", "", line) for line in found] == [
        "3: gateway.workers",
        "4: gateway.slots",
        "11: route[0].response_headers[0]",
        "11: route[0].response_headers[1]",
    ]


def test_a_mistake_in_the_toml_is_told_with_its_line_and_a_caret() -> None:
    assert told_about(GATEWAY + "drain_timeout = 5s\n") == [
        'shop.toml:3: column 18: expected TOML, got: a value that goes on as text; text stands in quotes, such as "5s"',
        "    drain_timeout = 5s",
        "                     ^",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("name = shop", "text stands in quotes"),
        ("name: 5", "write ="),
        ("name", "write key = value"),
        ("name =", "no value"),
        ("name = True", "write true or false"),
        ("name = None", "leave a key out"),
        ('name = "shop', 'without its closing "'),
        ("name = 'shop", "without its closing quote"),
        ('name = """shop', "without its closing quotes"),
        ('name = "C:\\path"', "write \\\\"),
        ('name = "a" "b"', "a line of its own"),
        ('name = ["a" "b"]', "a comma or a ]"),
        ("name = { a = 1 b = 2 }", "a comma or a }"),
        ("[gateway", "write [name]"),
        ("[[route]", "write [[name]]"),
        ("= 5", "something else than a"),
        ("a = 1\na = 2", "twice in its table"),
        ("[a]\n[a]", "a second [a]"),
        ("[route]\n[route]", "write [[route]] for each route"),
        ("a = { b = 1 }\n[a.c]", "put its keys into one table"),
        ("a = 2024-13-99", ""),
    ],
)
def test_a_mistake_in_the_toml_is_told_in_plain_words(line: str, words: str) -> None:
    lines = told_about(line)
    assert words in lines[0]
    assert re.match(r"shop\.toml:[12]: column \d+: expected TOML, got: ", lines[0])
    assert lines[2].strip() == "^"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"), ("10.0.0.1", "10.0.0.1/32"), ("::1", "::1/128"), ("unix", "unix"),
        ("2001:DB8::/32", "2001:db8::/32"), ("::ffff:10.0.0.0/104", "10.0.0.0/8"), ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)  # fmt: skip
def test_a_network_of_proxies_is_kept_in_one_spelling(written: str, kept: str) -> None:
    assert loads(TRUSTING.replace("10.0.0.0/8", written)).gateway.trusted_proxies == (kept,)


def test_nobody_is_trusted_and_no_header_is_asked_for_unless_it_is_written() -> None:
    gateway = loads(MINIMAL).gateway
    assert gateway.trusted_proxies == ()
    assert gateway.forwarded == "x-forwarded"
    assert not gateway.listens[0].proxy_protocol


@pytest.mark.parametrize(
    ("value", "is_on"), [("true", True), ("false", False), ('"${P}"', True), ('"${Q:-false}"', False)]
)
def test_a_listener_asks_for_the_proxy_protocol(value: str, is_on: bool) -> None:
    listen = f'[[listen]]\nbind = "a:1"\nproxy_protocol = {value}\n'
    assert loads(TRUSTING + listen, P="true").gateway.listens[0].proxy_protocol is is_on


# --- any text at all -------------------------------------------------------------------------------------------------

SCALARS = (
    st.none().map(lambda _: "x")
    | st.text(max_size=20)
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.sampled_from(["5s", "1MiB", "GET", "/a/{b}", "path.b", "${HOME}", "${", "static", "a:1", "unix:/a", "auto"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
SECTIONS = {
    "gateway": config.Gateway, "listen": config.Listen, "limits": config.Limits, "kafka": config.Kafka,
    "cluster": config.Cluster, "admin": config.Admin, "route": config.Route,
}  # fmt: skip


REQUIRED = ("gateway", "kafka", "route")


def tables(name: str) -> st.SearchStrategy[Any]:
    known = st.sampled_from([field.key for field in fields_of(SECTIONS[name])])
    table = st.dictionaries(known | st.text(max_size=5), VALUES, max_size=6)
    sound = {"gateway": {"name": "shop"}, "kafka": {"bootstrap": "a:1"}}.get(name, {})
    table = table.map(lambda drawn: {**drawn, **sound})
    route = st.just({"method": "GET", "path": "/", "topic": "t"})
    return st.lists(table | route, max_size=3) if name in ("listen", "route") else table


def toml(value: Any) -> str:
    """An inline TOML value."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(str(value), f"{value!r}".replace("e", "e"))
    return json.dumps(value)


@given(
    st.fixed_dictionaries(
        {name: tables(name) for name in REQUIRED},
        optional={name: tables(name) for name in SECTIONS if name not in REQUIRED},
    )
)
def test_no_tree_raises_anything_but_config_error(tree: dict[str, Any]) -> None:
    content = "\n".join(f"{name} = {toml(value)}" for name, value in tree.items())
    with suppress(ConfigError):
        loaded = loads(content, HOME="x")
        assert config.from_json(config.to_json(loaded)) == loaded


@given(st.text(max_size=200))
@example("a = 2024-99-99")
@example("\ufeff")
def test_no_text_raises_anything_but_config_error(content: str) -> None:
    with pytest.raises(ConfigError):
        loads(content)


@given(st.binary(max_size=200))
def test_no_bytes_from_another_process_raise_anything_but_config_error(data: bytes) -> None:
    with pytest.raises(ConfigError, match="handed-over"):
        config.from_json(data)


# --- hand-over -------------------------------------------------------------------------------------------------------

CONFIGS = st.builds(
    Config,
    gateway=st.builds(
        config.Gateway,
        name=st.from_regex(r"[a-z]{1,9}", fullmatch=True),
        workers=st.integers(1, 128),
        listens=st.lists(st.builds(config.Listen, bind=st.from_regex(r"[a-z]+:[1-9]", fullmatch=True))).map(tuple),
    ),
    kafka=st.builds(
        config.Kafka,
        bootstrap=st.just("a:1"),
        linger_ms=st.floats(0, 1000),
        client=st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.booleans()),
    ),
    routes=st.lists(
        st.builds(
            config.Route,
            methods=st.lists(st.sampled_from(config.METHODS), min_size=1).map(tuple),
            path=st.text(),
            topic=st.just("t"),
            timeout_ns=st.integers(0, 2**62),
        )
    ).map(tuple),
)


@given(CONFIGS)
def test_a_configuration_survives_the_hand_over(one: Config) -> None:
    assert config.from_json(config.to_json(one)) == one


# --- schema and reference --------------------------------------------------------------------------------------------


def test_the_schema_knows_every_setting_and_nothing_else() -> None:
    schema = json.loads(json.dumps(config.json_schema()))
    tables_of = {**schema["properties"], **schema["$defs"]}
    for name, section in SECTIONS.items():
        assert list(tables_of[name]["properties"]) == [field.key for field in fields_of(section)]
        assert tables_of[name]["additionalProperties"] is False


def test_the_defaults_of_the_schema_are_what_the_reader_takes() -> None:
    for name in ("gateway", "limits", "kafka", "cluster", "admin"):
        for key, setting in config.json_schema()["properties"][name]["properties"].items():
            if "default" not in setting:
                continue
            tree = tomllib.loads(MINIMAL)
            tree.setdefault(name, {})[key] = setting["default"]
            content = "\n".join(f"{table} = {toml(value)}" for table, value in tree.items())
            assert loads(content) == loads(MINIMAL), f"{name}.{key}"


def test_the_reference_has_a_row_for_every_setting() -> None:
    reference = config.markdown_reference()
    for section in SECTIONS.values():
        for field in fields_of(section):
            assert f"| `{field.key}` |" in reference
            assert field.setting.text.endswith("."), "a sentence"


def test_every_field_of_every_section_is_a_setting() -> None:
    for section in SECTIONS.values():
        names = {field.name for field in msgspec.structs.fields(section)} - {"number"}
        assert names == {field.name for field in fields_of(section)}


def test_answers_have_a_request_id_already():
    text = (
        '[gateway]\nname = "s"\n[kafka]\nbootstrap = "k:9092"\n[[route]]\nmethod = "POST"\npath = "/o"\ntopic = "o"\n'
    )
    with pytest.raises(ConfigError, match=r"every answer has one already"):
        config.loads(f'{text}response_headers = ["X-Request-Id"]')
    assert config.loads(f'{text}request_headers = ["X-Request-Id"]').routes[0].request_headers == ("x-request-id",)
