"""Settings that do not go together, and files that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastgw import config
from fastgw.errors import ConfigError
from tests.config.files import (
    GATEWAY,
    KAFKA,
    MINIMAL,
    ROUTE,
    TRUSTING,
    assert_told,
    loads,
    mistake,
    mistakes,
    told_in_one_line,
)

KEEPING = GATEWAY + 'secrets = ["a secret of at least 32 characters"]\n'
STORE = '[store]\ndir = "store"\n'

MISTAKES = {
    # memory
    GATEWAY + '[limits]\nmax_body = "2MiB"\nbody_memory = "1MiB"\n' + KAFKA + ROUTE: [
        "limits.body_memory:",
        "at least the largest max_body, 2097152 bytes",
    ],
    GATEWAY + '[limits]\nconnection_body_memory = "1MiB"\n' + KAFKA + ROUTE + 'max_body = "2MiB"\n': [
        "limits.connection_body_memory:",
        "at least the largest max_body, 2097152 bytes",
    ],
    GATEWAY + '[limits]\nanswer_memory = "1MiB"\n' + KAFKA + ROUTE: [
        "limits.answer_memory:",
        "at least limits.max_reply, 8388608 bytes",
    ],
    GATEWAY + '[limits]\nmax_reply = "2MiB"\nconnection_answer_memory = "1MiB"\n' + KAFKA + ROUTE: [
        "limits.connection_answer_memory:",
        "at least limits.max_reply, 2097152 bytes",
    ],
    # words
    MINIMAL + '[[listen]]\nbind = "a:1"\nfront = "express"\nhttp = "2"\n': ["listen[0].front:", "HTTP/2 is set"],
    MINIMAL + '[[listen]]\nbind = "a:1"\nfront = "express"\ntls_cert = "c"\ntls_key = "k"\n': ["TLS is set"],
    # streams
    MINIMAL + "cancel = true\n": ["route[0].cancel:", 'false, unless reply = "stream" or later = true'],
    MINIMAL + "end_line = true\n": ["route[0].end_line:", 'false, unless reply = "stream"'],
    MINIMAL + "resume = true\n": ["route[0].resume:", 'false, unless reply = "stream"'],
    MINIMAL + 'reply = "stream"\nresume = true\n': ["gateway.secrets:", "hands out positions"],
    GATEWAY + f'secrets = ["{"s" * 32}"]\n' + KAFKA + ROUTE + 'reply = "stream"\nresume = true\nitems = "bytes"\n': [
        "route[0].resume:",
        'items = "bytes"',
    ],
    MINIMAL + 'reply = "stream"\nmax_duration = "1s"\n': ["route[0].max_duration:", 'at least timeout = "5s"'],
    GATEWAY + 'listen = [{ bind = "a:1", front = "granian" }]\n' + KAFKA + ROUTE + 'reply = "stream"\n': [
        "gateway.listen:",
        "at least one express listener",
    ],
    MINIMAL + '[streams]\ntopic = "shop.replies"\n': ["streams.topic:", "gateway.response_topic"],
    MINIMAL + '[streams]\ntopic = "orders"\n': ["route[0].topic:", "another topic than streams.topic"],
    # names and addresses
    f'[gateway]\nname = "{"n" * 245}"\n' + KAFKA + ROUTE: ["gateway.response_topic:", "249"],
    GATEWAY + "listen = []\n" + KAFKA + ROUTE: ["gateway.listen:", "at least one"],
    # clashes
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
    MINIMAL + '[[listen]]\nbind = "a:1"\ntls_cert = "c.pem"\n': ["listen[0].tls_key:", "tls_cert is set"],
    MINIMAL + '[[listen]]\nbind = "a:1"\ntls_key = "k.pem"\n': ["listen[0].tls_cert:", "tls_key is set"],
    GATEWAY + "workers = 100\nslots = 32768\n" + KAFKA + ROUTE: ["gateway.slots:", "at most 5242", "workers = 100"],
    MINIMAL + "[cluster]\nnode_count = 3\n": ["cluster.node_count:", '"static"', '"single"'],
    MINIMAL + '[cluster]\nmode = "static"\nnode_count = 3\nnode_index = 3\n': ["cluster.node_index:", "count from 0"],
    GATEWAY + KAFKA + '[kafka.client]\n"message.max.bytes" = 1000\n' + ROUTE: ['"message.max.bytes":', "max_body"],
    GATEWAY + KAFKA + '[kafka.client]\n"message.max.bytes" = "1000"\n' + ROUTE: ['"message.max.bytes":', "max_body"],
    MINIMAL.replace('"orders"', '"shop.replies"'): ["route[0].topic:", "gateway.response_topic"],
    # routes
    GATEWAY + KAFKA + ROUTE + ROUTE: ["route[1]:", "route[0]", "POST /orders"],
    GATEWAY
    + KAFKA
    + ROUTE.replace("/orders", "/a/{x}")
    + ROUTE.replace("/orders", "/a/{y}").replace('"POST"', '["GET", "POST"]'): ["route[1]:", "route[0]", "POST /a/{y}"],
    MINIMAL + 'name = "a"\n' + ROUTE.replace("POST", "GET") + 'name = "a"\n': ["route[1].name:", "route[0].name"],
    MINIMAL + 'key = "path.id"\n': ["route[0].key:", "a parameter of the route's path"],
    MINIMAL + '[compression]\nmin_size = "512KiB"\n': ["compression.min_size:", 'compression.max_size = "256KiB"'],
    MINIMAL + 'key_partitioner = "murmur2"\n': ["route[0].key_partitioner:", "unless the route has a key"],
    MINIMAL + 'key = "body./id"\n' + ROUTE.replace("POST", "PUT") + 'key = "body./id"\nkey_partitioner = "murmur2"\n': [
        "route[1].key_partitioner:",
        '"crc32", as route[0] has it',
    ],
    GATEWAY + KAFKA + "".join(f'[[route]]\nmethod="GET"\npath="/{n}"\ntopic="t"\n' for n in range(2049)): [
        "route:",
        "2046",
    ],
    # proxies
    MINIMAL + '[[listen]]\nbind = "a:1"\nproxy_protocol = true\n': [
        "gateway.trusted_proxies:",
        "because listen[0].proxy_protocol is set",
    ],
    TRUSTING + '[[listen]]\nbind = "a:1"\nproxy_protocol = true\nfront = "granian"\n': [
        "listen[0].proxy_protocol:",
        "an express listener",
        'front = "granian"',
    ],
    # idempotency keys
    MINIMAL + 'idempotency = "accept"\n': ["gateway.secrets:", "a secret", 'route[0] has idempotency = "accept"'],
    KEEPING + KAFKA + ROUTE + 'idempotency = "require"\n': [
        "store.dir:",
        "a directory for the store",
        'route[0] has idempotency = "require"',
    ],
    KEEPING + KAFKA + STORE + ROUTE + 'idempotency = "accept"\nwork_timeout = "1s"\n': [
        "route[0].work_timeout:",
        'at least timeout = "5s"',
    ],
    KEEPING + KAFKA + STORE + ROUTE + 'idempotency = "accept"\nwork_timeout = "25h"\n': [
        "route[0].work_timeout:",
        'at most later.keep = "24h"',
    ],
    MINIMAL + 'fingerprint_headers = ["x-a"]\n': ["route[0].fingerprint_headers:", 'idempotency = "off"'],
    TRUSTING + '[[listen]]\nbind = "a:1"\nproxy_protocol = true\nhttp = "2"\n': ["proxy_protocol:", 'http = "2"'],
    TRUSTING + '[[listen]]\nbind = "a:1"\nproxy_protocol = true\ntls_cert = "c"\ntls_key = "k"\n': [
        "proxy_protocol:",
        "plain HTTP/1.1",
        "tls_cert",
    ],
}


@told_in_one_line(MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_place(content: str, told: list[str]) -> None:
    assert_told(content, told)


def test_a_literal_beside_a_parameter_is_not_ambiguous() -> None:
    paths = ["/a/{x}", "/a/b", "/a/{x}/c", "/a/b/{y}", "/{z}/b", "/", "/a/"]
    routes = "".join(f'[[route]]\nmethod = "GET"\npath = "{path}"\ntopic = "t"\n' for path in paths)
    assert [route.number for route in loads(GATEWAY + KAFKA + routes).routes] == list(range(len(paths)))


def test_certificate_files_are_looked_for_when_a_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(MINIMAL + '[[listen]]\nbind = "a:1"\ntls_cert = "none.pem"\ntls_key = "none.key"\n')
    with pytest.raises(ConfigError, match=r'listen\[0\].tls_cert: expected a file that can be read, got "none'):
        config.load(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('[[listen]]\nbind = "a:1"\ntls_cert = "c.pem"\n[admin]\nlisten = 5\n', ["listen[0].tls_key", "admin.listen"]),
        ('[[listen]]\nbind = "127.0.0.1:9100"\n[admin]\nlisten = 5\n', ["admin.listen"]),
        ('[cluster]\nmode = "one"\nnode_count = 3\n', ["cluster.mode"]),
    ],
)
def test_a_section_with_a_mistake_of_its_own_is_compared_with_nothing(content: str, told: list[str]) -> None:
    assert [re.sub(r"^\d+: ", "", line).partition(":")[0] for line in mistakes(MINIMAL + content)] == told


CORS = '[cors]\norigins = "*"\n'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (CORS + "credentials = true\n", "cors.credentials: expected false"),
        ('[cors]\norigins = ["*", "https://a.test"]\n', 'cors.origins: expected either "*" or a list of origins'),
        ('[cors]\norigins = ["https://a.test"]\ncredentials = true\n', ""),
        (CORS, ""),
    ],
)
def test_only_listed_pages_may_send_cookies(content: str, told: str) -> None:
    if told:
        assert told in mistake(MINIMAL + content)
    else:
        loads(MINIMAL + content)


def test_the_cors_table_of_a_route_is_checked_where_it_stands() -> None:
    own = 'cors = { origins = "*", credentials = true }\n'
    assert mistake(MINIMAL + own).startswith("route[0].cors.credentials: expected false")
    assert mistake(MINIMAL + CORS + "credentials = true\n").startswith("cors.credentials"), "once, not for each route"


# --- warnings --------------------------------------------------------------------------------------------------------

TWO = '["' + "a" * 32 + '", "' + "b" * 32 + '"]'
ONE = '["' + "a" * 32 + '"]'


@pytest.mark.parametrize(
    ("secrets", "mode", "warns"),
    [(ONE, "group", True), (TWO, "group", False), ("[]", "group", False), (ONE, "single", False)],
)
def test_a_single_secret_of_several_nodes_is_warned_about(secrets: str, mode: str, warns: bool) -> None:
    loaded = loads(f'{GATEWAY}secrets = {secrets}\n{KAFKA}{ROUTE}[cluster]\nmode = "{mode}"\n')
    warnings = [str(warning) for warning in config.warnings_about(loaded)]
    told = (
        'gateway.secrets: expected two secrets, because cluster.mode = "group", got one; the nodes cannot all replace'
    )
    assert [warning.startswith(told) for warning in warnings] == [True] * warns


def test_streams_need_neither_a_secret_nor_a_directory() -> None:
    streaming = loads(MINIMAL + 'reply = "stream"\n')
    assert (streaming.needs_store, streaming.keeps_replies, streaming.tickets) == (True, False, None)
    assert streaming.streams.topic == f"{streaming.gateway.name}.streams"


def test_a_route_that_streams_does_not_defer_its_answers() -> None:
    kept = GATEWAY + f'secrets = ["{"s" * 32}"]\n' + KAFKA + ROUTE
    with pytest.raises(ConfigError, match=r"route\[0\]\.later: expected false"):
        loads(kept + 'reply = "stream"\nlater = true\n[store]\ndir = "store"\n')


def test_a_route_that_streams_takes_no_idempotency_keys() -> None:
    kept = GATEWAY + f'secrets = ["{"s" * 32}"]\n' + KAFKA + ROUTE
    with pytest.raises(ConfigError, match=r'route\[0\]\.idempotency: expected "off"'):
        loads(kept + 'reply = "stream"\nidempotency = "accept"\n[store]\ndir = "store"\n')
