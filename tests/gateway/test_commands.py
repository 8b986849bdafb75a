"""The commands as an operator meets them: one clear line and exit code 2 for every mistake, and what they say when all
is well. Which mistakes there are in a file is the subject of tests/config."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from fastgw import __version__
from tests.actors.commands import assert_one_line, fastgw, finish, start
from tests.ports import free_port

pytestmark = pytest.mark.slow

CONFIG = """
[gateway]
name = "shop"
response_topic = "{replies}"
listen = ["127.0.0.1:{port}"]
workers = 2
[admin]
listen = "127.0.0.1:{admin}"
[kafka]
bootstrap = "{bootstrap}"
[[route]]
method = "POST"
path = "/orders"
topic = "{orders}"
"""


@pytest.fixture
def write(tmp_path):
    """Writes a configuration, with other values where they are named; returns its path."""

    def write(more="", **changes):
        names = {"replies": "shop.replies", "orders": "orders", "bootstrap": "127.0.0.1:1"}
        path = tmp_path / f"{secrets.token_hex(4)}.toml"
        path.write_text(CONFIG.format(**{"port": free_port(), "admin": free_port(), **names, **changes}) + more)
        return path

    return write


# What is wrong with the file is told alike by every command that reads it.

FILE_COMMANDS = [("check",), ("check", "--live"), ("run",), ("topics",)]
JUDGES = [("check",), ("run",)]

MISTAKES = {
    "an unknown key": ('timout = "5s"\n', ["route[0].timout", 'did you mean "timeout"?']),
    "a wrong type": ("max_in_flight = true\n", ["route[0].max_in_flight", "a whole number", "got true"]),
    "an ambiguous route": (
        '[[route]]\nmethod = "GET"\npath = "/{a}"\ntopic = "t"\n'
        '[[route]]\nmethod = "GET"\npath = "/{b}"\ntopic = "t"\n',
        ["route[2]", "route[1]"]),
    "a variable that is not set": ('key = "header.${FASTGW_TEST_UNSET}"\n', ["route[0].key", "FASTGW_TEST_UNSET"]),
    "a property that librdkafka does not know": (
        '[kafka.client]\n"no.such.property" = "x"\n', ["kafka.client", "no.such.property"]),
    "a value that librdkafka does not take": (
        '[kafka.client]\n"security.protocol" = "carrier pigeon"\n', ["kafka.client", "security.protocol"]),
}  # fmt: skip


@pytest.mark.parametrize(("more", "parts"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_file_is_one_line(write, more, parts):
    path = write(more)
    started = [start(*command, path) for command in JUDGES]
    for process in started:
        assert_one_line(finish(process), str(path), *parts)


def test_a_file_that_is_no_toml_is_told_with_its_line(write):
    code, _, err = fastgw("check", write("[gateway\n"))
    assert code == 2
    told, line, caret = err.splitlines()
    assert ":15: column 9: expected TOML" in told
    assert (line, caret) == ("    [gateway", "            ^")


def test_several_mistakes_are_a_line_each(write):
    path = write('timout = "5s"\nmax_in_flight = true\n')
    code, _, err = fastgw("check", path)
    assert code == 2
    assert err.startswith(f"fastgw: {path}: 2 mistakes\n{path}:15: route[0].timout: expected")
    assert err.count("\n") == 3


@pytest.mark.parametrize("what", ["nothing", "a directory", "no text"])
def test_a_file_that_cannot_be_read_is_one_line_of_every_command(tmp_path, what):
    path = tmp_path / "shop.toml"
    if what == "a directory":
        path.mkdir()
    elif what == "no text":
        path.write_bytes(b"\xff\xfe")
    started = [start(*command, path) for command in FILE_COMMANDS]
    for process in started:
        assert_one_line(finish(process), str(path))


@pytest.fixture
def certificate(tmp_path):
    """(certificate file, key file), good ones."""
    issued = trustme.CA().issue_cert("localhost")
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    files[0].write_bytes(issued.cert_chain_pems[0].bytes())
    files[1].write_bytes(issued.private_key_pem.bytes())
    return files


@pytest.mark.parametrize("wrong", ["missing", "noise", "of another pair", "encrypted"])
def test_a_certificate_that_cannot_serve_is_one_line(write, certificate, wrong):
    cert, key = certificate
    if wrong == "missing":
        key.unlink()
    elif wrong == "noise":
        cert.write_bytes(b"\x30\x82" + bytes(100))
    elif wrong == "of another pair":
        key.write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    elif wrong == "encrypted":
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        locked = serialization.BestAvailableEncryption(b"password")
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    listen = f'[[listen]]\nbind = "127.0.0.1:{free_port()}"\ntls_cert = "{cert}"\ntls_key = "{key}"\n'
    path = write(listen)
    path.write_text(re.sub(r"\nlisten = \[.*\]", "", path.read_text()))
    started = [start(*command, path) for command in JUDGES]
    for process in started:
        assert_one_line(finish(process), str(path), "listen[0].tls_")


# What is wrong around it.


@pytest.mark.parametrize(("which", "setting"), [("port", "gateway.listen"), ("admin", "admin.listen")])
def test_an_address_in_use_is_named_with_who_has_it_and_what_to_do(write, which, setting):
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        port = foreign.getsockname()[1]
        says = f"address 127.0.0.1:{port} in use by process {os.getpid()} ("
        assert_one_line(fastgw("run", write(**{which: port})), says, f"end that process, or change {setting}")


@pytest.mark.parametrize(
    ("bind", "parts"),
    [
        ("unix:/no/such/place/shop.sock", ["/no/such/place/shop.sock"]),
        ("unix:/" + "long" * 30, ["unix:/longlong"]),
        ("192.0.2.1:8080", ["192.0.2.1:8080"]),
        ("no-such-host.invalid:8080", ["no-such-host.invalid"]),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_named(write, bind, parts):
    path = write()
    path.write_text(re.sub(r"\nlisten = \[.*\]", f'\nlisten = ["{bind}"]', path.read_text()))
    assert_one_line(fastgw("run", path), *parts)


def test_a_broker_that_cannot_be_reached_is_one_line(write):
    path = write(bootstrap=f"127.0.0.1:{free_port()}")
    started = [start(*command, path) for command in (("check", "--live"), ("run",), ("topics",))]
    for process in started:
        assert_one_line(finish(process), "kafka.bootstrap", "127.0.0.1", "expected a broker within 5 s")


def test_a_topic_that_is_missing_is_one_line_with_the_command_that_makes_it(write, kafka_bootstrap, make_topics):
    topics = make_topics({"replies": 4, "orders": 1})
    for names, missing, who in [
        ({**topics, "orders": "no-such-orders"}, "no-such-orders", 'route "POST /orders"'),
        ({**topics, "replies": "no-such-replies"}, "no-such-replies", "the response topic"),
    ]:
        path = write(bootstrap=kafka_bootstrap, **names)
        for process in [start("check", "--live", path), start("run", path)]:
            assert_one_line(finish(process), missing, who, f"`fastgw topics {path}`")


def test_too_few_partitions_for_the_workers_are_one_line(write, kafka_bootstrap, make_topics):
    path = write(bootstrap=kafka_bootstrap, **make_topics({"replies": 1, "orders": 1}))
    for process in [start("check", "--live", path), start("run", path)]:
        assert_one_line(finish(process), "at least 2 partitions, one for each worker, got 1", f"`fastgw topics {path}`")


# When all is well.


def test_check_says_what_would_be_started_and_needs_no_broker(write):
    path = write()
    code, out, err = fastgw("check", path)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: 1 route, 2 workers on 127.0.0.1:")
    assert out.count("\n") == 1


def test_check_warns_about_a_single_secret_of_several_nodes(write):
    path = write('[cluster]\nmode = "group"\n')
    path.write_text(path.read_text().replace("[admin]", f'secrets = ["{"hunter2" * 5}"]\n[admin]'))
    code, out, err = fastgw("check", path)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].startswith(f"warning: {path}: gateway.secrets: expected two secrets")
    assert "hunter2" not in out


def test_topics_makes_what_is_missing_and_then_check_live_and_run_are_content(write, kafka_bootstrap, kafka_admin):
    names = {name: f"{name}-{'long' * 25}-{secrets.token_hex(4)}" for name in ("replies", "orders")}
    path = write(bootstrap=kafka_bootstrap, **names)
    try:
        code, out, err = fastgw("topics", path)
        assert (code, err) == (0, "")
        assert f"created {names['replies']}: 8 partitions" in out
        assert f"created {names['orders']}: 4 partitions" in out
        code, out, _ = fastgw("topics", path)
        assert code == 0
        assert out.count("exists ") == 2
        code, out, err = fastgw("check", "--live", path)
        assert (code, err) == (0, "")
        row = next(line.split() for line in out.splitlines() if line.startswith(names["orders"]))
        assert row == [names["orders"], "4", "1", "1"], "in a pipe nothing is wrapped"
        assert "warning" not in out
    finally:
        for future in kafka_admin.delete_topics(list(names.values())).values():
            future.result(30)


def test_topics_gives_a_response_topic_more_partitions_when_it_has_too_few(write, kafka_bootstrap, make_topics):
    names = make_topics({"replies": 1, "orders": 1})
    path = write(bootstrap=kafka_bootstrap, **names)
    code, out, _ = fastgw("topics", path)
    assert code == 0
    assert f"grew {names['replies']}: 8 partitions" in out
    assert f"exists {names['orders']}: 1 partitions" in out
    assert fastgw("check", "--live", path)[0] == 0


def test_check_live_warns_of_what_is_unwise_and_goes_on(write, kafka_bootstrap, make_topics):
    names = make_topics({"replies": 6, "orders": 1})
    code, out, err = fastgw("check", "--live", write(bootstrap=kafka_bootstrap, **names))
    assert (code, err) == (0, "")
    assert f"warning: topic {names['replies']}: 6 partitions; a power of two is recommended" in out


def test_the_version_is_told():
    assert fastgw("--version") == (0, f"fastgw {__version__}\n", "")


@pytest.mark.parametrize("command", ["run", "check", "topics", "demo", "broker", "schema"])
def test_every_command_explains_itself(command):
    code, out, err = fastgw(command, "--help")
    assert (code, err) == (0, "")
    assert "Usage: fastgw " + command in out
    assert command in fastgw("--help")[1]


def test_the_schema_is_json(write):
    code, out, _ = fastgw("schema")
    assert code == 0
    assert json.loads(out)["title"] == "fastgw configuration"


@pytest.mark.parametrize("arguments", [["rum"], ["run", "--no-such-option"], ["check", "a", "b"]])
def test_a_command_line_that_is_wrong_is_exit_code_2_with_a_hint(arguments):
    code, out, err = fastgw(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: " in err
