"""What each setting takes, what it does without being set, and what is told of a wrong value."""

from __future__ import annotations

import msgspec
import pytest

from fastgw import config
from fastgw.config.kinds import fields_of
from fastgw.config.units import NS_PER_S
from fastgw.errors import ConfigError
from tests.config.files import (
    GATEWAY,
    KAFKA,
    MINIMAL,
    ROUTE,
    SECTIONS,
    TRUSTING,
    assert_told,
    loads,
    mistake,
    told_about,
    told_in_one_line,
)


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


def test_connections_are_kept_for_longer_than_the_pools_of_proxies_and_clients_keep_them() -> None:
    """Otherwise a request may be sent on a connection that is just being ended: nginx 60 s, Go's net/http 90 s."""
    assert config.Limits().idle_timeout_ns > 90 * NS_PER_S


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


MISTAKES = {
    # wrong types
    "[gateway]\nname = 5\n" + KAFKA + ROUTE: ["gateway.name:", "a name", "got 5"],
    GATEWAY + 'workers = "two"\n' + KAFKA + ROUTE: ["gateway.workers:", "a whole number", 'got "two"'],
    GATEWAY + "workers = true\n" + KAFKA + ROUTE: ["gateway.workers:", "a whole number", "got true"],
    GATEWAY + "workers = 2.5\n" + KAFKA + ROUTE: ["gateway.workers:", "got 2.5"],
    GATEWAY + "workers = 0\n" + KAFKA + ROUTE: ["gateway.workers:", "from 1 to 128", "got 0"],
    GATEWAY + f"workers = {'9' * 4000}\n" + KAFKA + ROUTE: ["gateway.workers:", "a very large number"],
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
    MINIMAL + '[[listen]]\nbind = "a:1"\nfront = "granit"\n': ["listen[0].front:", 'did you mean "granian"?'],
    # names and addresses
    '[gateway]\nname = "my shop"\n' + KAFKA + ROUTE: ["gateway.name:", "a-z A-Z 0-9"],
    GATEWAY + 'listen = [":8080"]\n' + KAFKA + ROUTE: ["gateway.listen[0].bind:", '"0.0.0.0:8080"'],
    GATEWAY + 'listen = ["8080"]\n' + KAFKA + ROUTE: ["gateway.listen[0].bind:", "write host and port"],
    GATEWAY + 'listen = ["a:65536"]\n' + KAFKA + ROUTE: ["gateway.listen[0].bind:", "write host and port"],
    GATEWAY + 'listen = ["unix:shop.sock"]\n' + KAFKA + ROUTE: ["gateway.listen[0].bind:", "absolute path"],
    GATEWAY + 'hosts = ["shop.example:80"]\n' + KAFKA + ROUTE: ["gateway.hosts[0]:", "port"],
    GATEWAY + '[kafka]\nbootstrap = "a:b"\n' + ROUTE: ["kafka.bootstrap:", '"host:port"'],
    MINIMAL + '[admin]\nlisten = "unix:/a"\n': ["admin.listen:", "host and port"],
    # clashes
    GATEWAY + 'listen = ["a:1", "b:1", "a:1"]\n' + KAFKA + ROUTE: ["gateway.listen[2]:", "twice"],
    MINIMAL + '[[listen]]\nbind = "unix:/s"\nmode = "0o660"\n': ["listen[0].mode:", '"0660"', "three octal digits"],
    MINIMAL + '[[listen]]\nbind = "unix:/s"\nmode = "0680"\n': ["listen[0].mode:", "three octal digits"],
    MINIMAL + '[[listen]]\nbind = "unix:/s"\nmode = 660\n': [
        "listen[0].mode:",
        'an octal string such as "0660", got 660',
    ],
    MINIMAL + '[[listen]]\nbind = "unix:/s"\ngroup = "a b"\n': ["listen[0].group:", "/etc/group"],
    # routes
    MINIMAL.replace("/orders", "orders"): ["route[0].path:", "starts with /"],
    MINIMAL.replace("/orders", "/a//b"): ["route[0].path:", "empty segment"],
    MINIMAL.replace("/orders", "/a/../b"): ["route[0].path:", ".."],
    MINIMAL.replace("/orders", "/a b"): ["route[0].path:", "without space"],
    MINIMAL.replace("/orders", "/a/x{id}"): ["route[0].path:", "a whole segment"],
    MINIMAL.replace("/orders", "/{a-b}"): ["route[0].path:", "letters, digits"],
    MINIMAL.replace("/orders", "/{a}/{a}"): ["route[0].path:", "a name of its own"],
    MINIMAL + '[compression]\nencodings = ["br"]\n': ["compression.encodings[0]:", '"zstd" or "gzip"'],
    MINIMAL + '[compression]\ntypes = ["json"]\n': ["compression.types[0]:", '"text/*"'],
    MINIMAL + '[compression]\ntypes = ["*"]\n': ["compression.types[0]:", "application/*+json"],
    MINIMAL + '[compression]\nmax_size = "2MiB"\n': ["compression.max_size:", "between 1KiB and 1MiB"],
    MINIMAL + 'compress = "no"\n': ["route[0].compress:", "true or false"],
    MINIMAL + 'key = "body./id"\nkey_partitioner = "murmur3"\n': ["route[0].key_partitioner:", '"murmur2"?'],
    MINIMAL + 'key = "cookie.id"\n': ["route[0].key:", "header.x-customer"],
    MINIMAL + 'key = "body.id"\n': ["route[0].key:", "body./id"],
    MINIMAL + 'response_headers = ["Content-Length"]\n': ["route[0].response_headers[0]:", "never copied"],
    MINIMAL + 'response_headers = ["Fastgw-Outcome"]\n': [
        "route[0].response_headers[0]:",
        "only the gateway may set it",
    ],
    MINIMAL + 'request_headers = ["a b"]\n': ["route[0].request_headers[0]:", "not a header name"],
    # what other routers call a pattern
    MINIMAL.replace("/orders", "/hello/*"): ["route[0].path:", 'write "/hello/{rest...}"'],
    MINIMAL.replace("/orders", "/*"): ["route[0].path:", 'write "/{rest...}"'],
    MINIMAL.replace("/orders", "/hello/**"): ["route[0].path:", 'write "/hello/{rest...}"'],
    MINIMAL.replace("/orders", "/files/*name"): ["route[0].path:", 'write "/files/{name...}"'],
    MINIMAL.replace("/orders", "/files/:name*"): ["route[0].path:", "{name...} as the last one"],
    MINIMAL.replace("/orders", "/a/*/c"): ["route[0].path:", "one whole segment write {name}"],
    MINIMAL.replace("/orders", "/a/*.json"): ["route[0].path:", "one whole segment write {name}"],
    MINIMAL.replace("/orders", "/a/b*"): ["route[0].path:", "one whole segment write {name}"],
    MINIMAL.replace("/orders", "/a/:id/b"): ["route[0].path:", 'for a parameter write "{id}"'],
    MINIMAL.replace("/orders", "/a/:id?"): ["route[0].path:", "write only the path"],
    MINIMAL.replace("/orders", "/a/<id>"): ["route[0].path:", 'for a parameter write "{id}"'],
    MINIMAL.replace("/orders", "/a/<int:order-id>"): ["route[0].path:", 'for a parameter write "{order_id}"'],
    MINIMAL.replace("/orders", "/a/<path:file>"): ["route[0].path:", '"{file...}" as the last segment'],
    MINIMAL.replace("/orders", "/a/{file:path}"): ["route[0].path:", '"{file...}" as the last segment'],
    MINIMAL.replace("/orders", "/a/{*file}"): ["route[0].path:", '"{file...}" as the last segment'],
    MINIMAL.replace("/orders", "/a/{proxy+}"): ["route[0].path:", '"{proxy...}" as the last segment'],
    MINIMAL.replace("/orders", "/a/{id:[0-9]+}"): ["route[0].path:", 'for a parameter write "{id}"'],
    MINIMAL.replace("/orders", "/a/{id:int}"): ["route[0].path:", 'for a parameter write "{id}"'],
    MINIMAL.replace("/orders", "/a/[0-9]+"): ["route[0].path:", "a path is not a regular expression"],
    MINIMAL.replace("/orders", "/a/(x|y)"): ["route[0].path:", "a path is not a regular expression"],
    MINIMAL.replace("/orders", "^/a/b"): ["route[0].path:", "a path is not a regular expression"],
    MINIMAL.replace("/orders", "~ ^/a"): ["route[0].path:", "a path is not a regular expression"],
    MINIMAL.replace("/orders", "/a/b$"): ["route[0].path:", "a path is not a regular expression"],
    MINIMAL.replace("/orders", "/a/(.*)"): ["route[0].path:", "{name...}"],
    MINIMAL.replace("/orders", "https://shop.test:1/a/b"): ["route[0].path:", 'only the path, "/a/b"', "gateway.hosts"],
    MINIMAL.replace("/orders", "http://shop.test"): ["route[0].path:", 'only the path, "/"'],
    MINIMAL.replace("/orders", "POST /a"): ["route[0].path:", 'only the path, "/a"', 'method = "POST"'],
    MINIMAL.replace("/orders", "/a?b={c}"): ["route[0].path:", "the query does not choose the route"],
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
    GATEWAY + 'hosts = ["*"]\n' + KAFKA + ROUTE: ["gateway.hosts[0]:", "an empty gateway.hosts allows any host"],
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
}


@told_in_one_line(MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_place(content: str, told: list[str]) -> None:
    assert_told(content, told)


@pytest.mark.parametrize(
    "path",
    ["/v1/orders:batch", "/$metadata", "/a(1)", "/a+b", "/a,b;c=d", "/@me", "/a.b", "/~user", "/a/", "/!", "/x&y='z'"],
)
def test_what_only_looks_a_little_like_a_pattern_is_a_literal_path(path: str) -> None:
    assert loads(MINIMAL.replace("/orders", path)).routes[0].path == path


def test_a_long_or_wild_value_stays_on_one_short_line() -> None:
    message = mistake(MINIMAL + f'timeout = "\\n\\u001b[2J{"x" * 1000}"\n')
    assert len(message) < 250


def test_where_a_route_finds_its_key_is_no_secret() -> None:
    assert 'got "cookie.id"' in mistake(MINIMAL + 'key = "cookie.id"\n')
    assert any("key = body.id" in line for line in told_about(MINIMAL + "key = body.id\n"))


def test_answers_have_a_request_id_already():
    text = (
        '[gateway]\nname = "s"\n[kafka]\nbootstrap = "k:9092"\n[[route]]\nmethod = "POST"\npath = "/o"\ntopic = "o"\n'
    )
    with pytest.raises(ConfigError, match=r"the gateway sets it in every answer"):
        config.loads(f'{text}response_headers = ["X-Request-Id"]')
    assert config.loads(f'{text}request_headers = ["X-Request-Id"]').routes[0].request_headers == ("x-request-id",)


def test_every_field_of_every_section_is_a_setting() -> None:
    for section in SECTIONS.values():
        names = {field.name for field in msgspec.structs.fields(section)} - {"number"}
        assert names == {field.name for field in fields_of(section)}


MIB = 1 << 20


@pytest.mark.parametrize(
    ("limits", "route", "worker_bytes", "connection_bytes"),
    [
        ("", "", 64 * MIB, 16 * MIB),
        ('max_body = "20MiB"\n', "", 64 * MIB, 20 * MIB),
        ('max_body = "100MiB"\n', "", 100 * MIB, 100 * MIB),
        ("", 'max_body = "100MiB"\n', 100 * MIB, 100 * MIB),
        ('body_memory = "80MiB"\nconnection_body_memory = "2MiB"\n', "", 80 * MIB, 2 * MIB),
    ],
)
def test_the_memory_for_bodies_has_room_for_one_of_the_largest(limits, route, worker_bytes, connection_bytes) -> None:
    loaded = loads(GATEWAY + "[limits]\n" + limits + KAFKA + ROUTE + route)
    assert loaded.limits.body_memory_bytes == worker_bytes
    assert loaded.limits.connection_body_memory_bytes == connection_bytes


def test_the_memory_for_answers_has_room_for_several_of_the_largest() -> None:
    limits = loads(MINIMAL).limits
    assert (limits.answer_memory_bytes, limits.connection_answer_memory_bytes) == (128 * MIB, 32 * MIB)
    assert limits.connection_answer_memory_bytes >= 4 * limits.max_reply_bytes
