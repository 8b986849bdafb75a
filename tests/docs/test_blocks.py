"""The runner of blocks: what it reads of a page, what it runs, what it says of a mistake."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.docs import checks, play
from tests.docs.pages import Block, PageError, anchors, blocks, links, slug_of


def page(folder: Path, *lines: str) -> Path:
    path = folder / "page.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def do(folder: Path, *lines: str) -> None:
    path = page(folder, *lines)
    with play.Play(path, blocks(path), folder, "127.0.0.1:19092") as one:
        one.run()


def failure(folder: Path, *lines: str) -> str:
    with pytest.raises(pytest.fail.Exception) as failed:
        do(folder, *lines)
    return str(failed.value)


def test_blocks_have_language_title_and_what_is_expected(tmp_path: Path) -> None:
    path = page(
        tmp_path, '```python title="a.py"', "1", "```", "", "<!-- test: exit code 2 -->", "```sh", "python a.py", "```",
        "", "```text", "out", "```", "", "Words.", "", '    ``` sh title="b.sh"', "    x", "    ```",
    )  # fmt: skip
    file, command, indented = blocks(path)
    assert file == Block(path, 1, "python", "a.py", "1\n")
    assert command == Block(path, 6, "sh", "", "python a.py\n", exit_code=2, expected="out\n")
    assert (indented.title, indented.text) == ("b.sh", "x\n")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["```sh", "true"], "page.md:1: the fence is not closed"),
        (["", "<!-- test: never -->", "```sh", "```"], "page.md:2: not understood: 'never'"),
        (["<!-- test: repeat -->", "Words."], "page.md:1: no block directly behind this comment"),
    ],
)
def test_a_page_that_cannot_be_read_is_named(tmp_path: Path, lines: list[str], says: str) -> None:
    with pytest.raises(PageError, match=says):
        blocks(page(tmp_path, *lines))


def test_what_is_expected_must_be_printed(tmp_path: Path) -> None:
    do(tmp_path, "```sh", "printf 'a\\nb\\nc 12 d\\n'", "```", "```text", "a", "...", "c ... d", "```")


def test_what_is_not_printed_is_shown_with_page_and_line(tmp_path: Path) -> None:
    says = failure(tmp_path, "Words.", "", "```sh", "echo one", "```", "```text", "two", "```")
    assert says.startswith("page.md:3 (sh): does not print what the page says:\ntwo\n")
    assert says.endswith("one\n")


def test_a_command_that_fails_is_shown(tmp_path: Path) -> None:
    assert failure(tmp_path, "```sh", "echo oh; false", "echo not here", "```").endswith(
        "exit code 1, expected 0:\noh\n"
    )


def test_a_text_block_that_no_command_prints_is_a_mistake(tmp_path: Path) -> None:
    assert "directly before it" in failure(tmp_path, "```sh", "true", "```", "Words.", "```text", "x", "```")


def test_files_are_written_used_and_grow(tmp_path: Path) -> None:
    do(
        tmp_path, '```sh title="a/b.sh"', "echo 1", "```", "<!-- test: append -->", '```sh title="a/b.sh"', "echo 2",
        "```", "```sh", "sh a/b.sh", "```", "```text", "1", "2", "```",
    )  # fmt: skip


def test_a_file_that_nothing_uses_is_a_mistake(tmp_path: Path) -> None:
    assert "nothing below uses this file" in failure(tmp_path, '```go title="main.go"', "```", "```sh", "true", "```")


def test_addresses_are_those_of_the_test_in_commands_and_in_what_is_expected(tmp_path: Path) -> None:
    path = page(tmp_path, "```sh", "echo 127.0.0.1:9092 localhost:8080 127.0.0.1:8080 10.0.0.1:8080", "```")
    with play.Play(path, blocks(path), tmp_path, "kafka:1") as one:
        one.run()
        kafka, by_name, by_number, elsewhere = one._running[0].said.split()
    assert (kafka, elsewhere) == ("kafka:1", "10.0.0.1:8080")
    assert by_name.startswith("localhost:")
    assert by_name.partition(":")[2] == by_number.partition(":")[2] != "8080"


def test_a_page_with_a_broker_of_its_own_gets_a_free_port_for_it(tmp_path: Path) -> None:
    path = page(tmp_path, "```sh", "echo fastgw broker --listen 127.0.0.1:9092", "```")
    with play.Play(path, blocks(path), tmp_path, "kafka:1") as one:
        one.run()
        assert "kafka:1" not in one._running[0].said
        assert "9092" not in one._running[0].said


def test_a_configuration_gets_an_admin_port_of_its_own(tmp_path: Path) -> None:
    do(
        tmp_path, '```toml title="x.toml"', "[gateway]", "```", "```sh",
        "grep -c '^.admin.$' x.toml; grep 'listen = \"127.0.0.1:9100\"' x.toml || echo none", "```", "```text", "1",
        'listen = "127.0.0.1:9100"', "```",
    )  # fmt: skip


def test_a_command_in_the_background_is_awaited_and_ended(tmp_path: Path) -> None:
    path = page(
        tmp_path, '<!-- test: background, until "up 8080" -->', "```sh", "echo up 8080; exec sleep 100", "```",
        "```sh", "true", "```",
    )  # fmt: skip
    with play.Play(path, blocks(path), tmp_path, "") as one:
        one.run()
        process = one._running[0].process
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM


def test_a_background_command_is_stopped_where_readers_do_it(tmp_path: Path) -> None:
    trap = "trap 'echo bye > ended; exit 0' INT; echo up; while :; do sleep 0.05; done"
    do(
        tmp_path, '<!-- test: background, until "up" -->', "```sh", trap, "```", "<!-- test: stop trap -->",
        "```sh", "cat ended", "```", "```text", "bye", "```",
    )  # fmt: skip
    assert "nothing with 'x' in it" in failure(tmp_path / "other", "<!-- test: stop x -->", "```sh", "true", "```")


def test_a_background_command_that_ends_is_shown(tmp_path: Path) -> None:
    says = failure(tmp_path, '<!-- test: background, until "up" -->', "```sh", "echo down; exit 3", "```")
    assert "ended with exit code 3, without 'up':\ndown" in says


def test_a_repeated_command_may_fail_at_first(tmp_path: Path) -> None:
    do(tmp_path, "<!-- test: repeat -->", "```sh", "test -e there || { touch there; false; }", "```")


def test_make_only_says_whether_it_knows_a_target(tmp_path: Path) -> None:
    do(tmp_path, "```sh", "make test", "make soak ARGS=x", "```", "```text", "```")
    assert "No rule to make target" in failure(tmp_path / "other", "```sh", "make unheard-of", "```")


def test_blocks_that_are_not_run_are_left_out(tmp_path: Path) -> None:
    do(tmp_path, "<!-- test: not run, needs root -->", "```sh", "false", "```")


@pytest.fixture(autouse=True)
def other_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()


GOOD = [
    ("toml", '[[route]]\nmethod = "GET"\npath = "/a/{b}"\ntopic = "t"\n[cors]\norigins = ["https://a.example"]\n'),
    ("toml", '[gateway]\nhosts = ["a.example"]\n'),
    ("json", '{"a": 1}'),
    ("yaml", "a: 1\n---\nb: 2\n"),
    ("python", "async def f(): return 1"),
    ("http", "GET / HTTP/1.1"),
    ("", "-->"),
    ("haproxy", "backend shop\n    server a 127.0.0.1:1\n"),
    ("nginx", "location / { proxy_pass http://127.0.0.1:1; }"),
    ("ini", "[Service]\nLimitNOFILE=100000\n"),
]
BAD = [
    ("toml", "[gateway]\nnam = 1\n", "nam"),
    ("toml", "x", "end of document"),
    ("json", "{a}", "line 1"),
    ("yaml", "a: [", "line 1"),
    ("python", "def", "invalid syntax"),
    ("cobol", "", "no check for a block in 'cobol'"),
    ("haproxy", "backend shop\n    servr a 127.0.0.1:1\n", "servr"),
    ("nginx", "location / { proxy_pas x; }", "proxy_pas"),
    ("ini", "[Service]\nLimitNOFILES=100000\n", "LimitNOFILES"),
    ("dockerfile", "FROM nowhere", "no part of a file"),
]
TOOLS = {"haproxy": "haproxy", "nginx": "nginx", "ini": "systemd-analyze"}


def case(language: str, *rest: str) -> object:
    marks = [pytest.mark.needs(TOOLS[language])] if language in TOOLS else []
    return pytest.param(language, *rest, marks=marks)


@pytest.mark.parametrize(("language", "text"), [case(*each) for each in GOOD])
def test_a_block_without_mistakes_passes(tmp_path: Path, language: str, text: str) -> None:
    checks.check(Block(tmp_path / "page.md", 1, language, "", text), tmp_path)


@pytest.mark.parametrize(("language", "text", "says"), [case(*each) for each in BAD])
def test_a_block_with_a_mistake_does_not(tmp_path: Path, language: str, text: str, says: str) -> None:
    with pytest.raises(checks.CheckFailed, match=says):
        checks.check(Block(tmp_path / "page.md", 1, language, "", text), tmp_path)


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("What clients are told", "what-clients-are-told"),
        ("`[gateway]`: its name", "gateway-its-name"),
        ("TLS, HTTP/2 & more", "tls-http2--more"),
        ("See [the tutorial](tutorial.md)", "see-the-tutorial"),
    ],
)
def test_anchors_are_those_of_github(heading: str, anchor: str) -> None:
    assert slug_of(heading) == anchor


def test_headings_and_links_are_found_outside_of_code(tmp_path: Path) -> None:
    path = page(tmp_path, "# One", "# One", "```sh", "# not one", "```", "[a](b.md#c) `[d](e)` ![f](g.png)")
    assert anchors(path) == {"one", "one-1"}
    assert [target for _, target in links(path)] == ["b.md#c", "g.png"]
