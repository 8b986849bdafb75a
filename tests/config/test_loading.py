"""From a file to a configuration: its text, its TOML, its variables, and what is told about all that is wrong in it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw import config
from fastgw.config import Config
from fastgw.config.kinds import fields_of
from fastgw.errors import ConfigError
from tests.config.files import (
    CLIENT,
    GATEWAY,
    KAFKA,
    MINIMAL,
    REQUIRED,
    ROUTE,
    SECTIONS,
    assert_told,
    loads,
    mistake,
    mistakes,
    told_about,
    told_in_one_line,
    toml,
)
from tests.places import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_the_examples_are_sound(path: Path) -> None:
    assert config.load(path, {}).routes


MISTAKES = {
    # bad TOML
    MINIMAL + "[gateway\n": ["9: column 9", "TOML"],
    'name = "a"\nname = "b"': ["2: column", "TOML"],
    "a = " + "[" * 100_000: ["TOML", "too deeply"],
    MINIMAL + "[a" + ".a" * 3_000 + "]\n": ["too deeply"],
    # wrong types
    GATEWAY + f"workers = {'9' * 9000}\n" + KAFKA + ROUTE: ["TOML", "limit"],
    # environment
    GATEWAY.replace("shop", "${SHOP_NAME}") + KAFKA + ROUTE: ["gateway.name:", "SHOP_NAME", "${SHOP_NAME:-default}"],
    MINIMAL + 'request_headers = ["${X"]\n': ["route[0].request_headers[0]:", "${NAME}"],
}


@told_in_one_line(MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_place(content: str, told: list[str]) -> None:
    assert_told(content, told)


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


def test_a_wrong_value_from_the_environment_is_told_as_it_came() -> None:
    message = mistake(GATEWAY + 'workers = "${N}"\n' + KAFKA + ROUTE, N="lots")
    assert message == 'gateway.workers: expected a whole number from 1 to 128, got "lots"'


def test_an_environment_that_is_no_text_is_refused() -> None:
    assert "UTF-8 text in the environment variable N" in mistake(MINIMAL.replace("shop", "${N}"), N="\udcff")


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


# --- secrets ---------------------------------------------------------------------------------------------------------

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
        # gateway.secrets
        GATEWAY + 'secrets = ["hunter2"]\n' + KAFKA + ROUTE,
        GATEWAY + 'secrets = "hunter2"\n' + KAFKA + ROUTE,
        GATEWAY + 'secrets = [["hunter2"], {x = "hunter2"}]\n' + KAFKA + ROUTE,
        GATEWAY + 'secrets = ["${P}"]\n' + KAFKA + ROUTE,
        GATEWAY + 'secrets = ["${P:-x}", "${hunter2"]\n' + KAFKA + ROUTE,
        GATEWAY + f'secrets = ["{"hunter2" * 5}", "{"hunter2" * 5}"]\n' + KAFKA + ROUTE,
        GATEWAY + "secrets = [hunter2]\n" + KAFKA + ROUTE,
        GATEWAY + 'secrets = [\n    "hunter1",\n    "hunter2" "x",\n]\n' + KAFKA + ROUTE,
        GATEWAY + 'secrets = [\n    "hunter2\n]\n' + KAFKA + ROUTE,
        '[gateway]\nname = "shop"\nsecret = "hunter2"\n' + KAFKA + ROUTE,
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


def test_a_configuration_shown_by_mistake_keeps_its_secrets() -> None:
    loaded = loads(CLIENT + '"sasl.password" = "hunter2"\n' + ROUTE)
    assert SECRET not in repr(loaded)
    assert SECRET not in repr(loaded.kafka)
    assert SECRET not in str(loaded.kafka.__rich_repr__())
    assert "sasl.password" in repr(loaded.kafka)
    loaded = loads(GATEWAY + f'secrets = ["{"hunter2" * 5}"]\n' + KAFKA + ROUTE)
    assert SECRET not in repr(loaded) + repr(loaded.gateway) + str(loaded.gateway.__rich_repr__())
    assert repr(loaded.gateway) == "<Gateway 'shop' secrets=1>"


def test_secrets_come_from_the_environment_and_travel_to_the_other_processes() -> None:
    old, new = "o" * 32, "\u00fc" * 16
    loaded = loads(GATEWAY + 'secrets = ["${NEW}", "${OLD}"]\n' + KAFKA + ROUTE, NEW=new, OLD=old)
    assert loaded.gateway.secrets == (new, old)
    assert config.from_json(config.to_json(loaded)).gateway.secrets == (new, old)
    assert loads(MINIMAL).gateway.secrets == ()


def test_a_secret_that_is_too_short_is_told_its_size_and_how_to_make_one() -> None:
    told = mistake(GATEWAY + 'secrets = ["${A}", "${B}"]\n' + KAFKA + ROUTE, A="a" * 32, B="\u00fc" * 15)
    assert told.startswith("gateway.secrets[1]: expected a secret of at least 32 bytes, got a value that is not shown")
    assert told.endswith("this one has 30 bytes; `openssl rand -base64 32` prints a new one")


# --- all mistakes at once, each with its line ------------------------------------------------------------------------


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
        'shop.toml:3: column 18: expected TOML, got: more characters after a value; write text in quotes, such as "5s"',
        "    drain_timeout = 5s",
        "                     ^",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("name = shop", "write text in quotes"),
        ("name: 5", "write ="),
        ("name", "write key = value"),
        ("name =", "no value"),
        ("name = True", "write true or false"),
        ("name = None", "leave out a key"),
        ('name = "shop', 'without its closing "'),
        ("name = 'shop", "without its closing quote"),
        ('name = """shop', "without its closing quotes"),
        ('name = "C:\\path"', "write \\\\"),
        ('name = "a" "b"', "its own line"),
        ('name = ["a" "b"]', "a comma or a ]"),
        ("name = { a = 1 b = 2 }", "a comma or a }"),
        ("[gateway", "write [name]"),
        ("[[route]", "write [[name]]"),
        ("= 5", "neither a key"),
        ("a = 1\na = 2", "its table already has"),
        ("[a]\n[a]", "a second [a]"),
        ("[route]\n[route]", "write [[route]] for each route"),
        ("a = { b = 1 }\n[a.c]", "write its keys in one table"),
        ("a = 2024-13-99", ""),
    ],
)
def test_a_mistake_in_the_toml_is_told_in_plain_words(line: str, words: str) -> None:
    lines = told_about(line)
    assert words in lines[0]
    assert re.match(r"shop\.toml:[12]: column \d+: expected TOML, got: ", lines[0])
    assert lines[2].strip() == "^"


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


def tables(name: str) -> st.SearchStrategy[Any]:
    known = st.sampled_from([field.key for field in fields_of(SECTIONS[name])])
    table = st.dictionaries(known | st.text(max_size=5), VALUES, max_size=6)
    sound = {"gateway": {"name": "shop"}, "kafka": {"bootstrap": "a:1"}}.get(name, {})
    table = table.map(lambda drawn: {**drawn, **sound})
    route = st.just({"method": "GET", "path": "/", "topic": "t"})
    return st.lists(table | route, max_size=3) if name in ("listen", "route") else table


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
