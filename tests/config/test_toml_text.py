"""Where each key of a TOML file stands."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.config.mistakes import under
from fastgw.config.toml_text import explain, line_of, lines_of

DOCUMENT = (
    '''# a comment with [brackets] = 1
a = 1
b.c = 2            # dotted
b."d e".'f.g' = "= [x]\\" # no comment"

[t]                # a table
text = """
not = "a key"
[not.a.table]
"""
quotes = """a"""""
raw = '''
    + "'''"
    + """
k = 1
"""
    + "'''"
    + """
after = 1979-05-27 07:32:00
list = [ 1, [2, 3],
  "x]", # ], comment
  { y = 1, z = [4] },
]
inline = { p = "}", q.r = 1 }

[ t . "u.v" ]
w = true

[[many]]
n = 1
[many.sub]
m = 1
[[many.deep]]
o = 1
[[many.deep]]
o = 2

[[many]]
n = 2
[[many.deep]]
o = 3
last = 1"""
)
EXPECTED = {
    "a": 2, "b": 3, "b.c": 3, 'b."d e"': 4, 'b."d e"."f.g"': 4, "t": 6, "t.text": 7, "t.quotes": 11, "t.raw": 12,
    "t.after": 15, "t.list": 16, "t.list[0]": 16, "t.list[1]": 16, "t.list[1][0]": 16, "t.list[1][1]": 16,
    "t.list[2]": 17, "t.list[3]": 18, "t.list[3].y": 18, "t.list[3].z": 18, "t.list[3].z[0]": 18, "t.inline": 20,
    "t.inline.p": 20, "t.inline.q": 20, "t.inline.q.r": 20, 't."u.v"': 22, 't."u.v".w': 23, "many": 25,
    "many[0]": 25, "many[0].n": 26, "many[0].sub": 27, "many[0].sub.m": 28, "many[0].deep": 29, "many[0].deep[0]": 29,
    "many[0].deep[0].o": 30, "many[0].deep[1]": 31, "many[0].deep[1].o": 32, "many[1]": 34, "many[1].n": 35,
    "many[1].deep": 36, "many[1].deep[0]": 36, "many[1].deep[0].o": 37, "many[1].deep[0].last": 38,
}  # fmt: skip


def paths_of(value: Any, path: str = "") -> set[str]:
    """The path of everything in a tree that tomllib made."""
    inner: dict[str, Any] = {}
    if isinstance(value, dict):
        inner = {under(path, key): item for key, item in value.items()}
    elif isinstance(value, list):
        inner = {f"{path}[{at}]": item for at, item in enumerate(value)}
    return set(inner).union(*(paths_of(item, place) for place, item in inner.items()))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_each_key_has_the_line_in_which_it_first_stands(newline: str) -> None:
    document = DOCUMENT.replace("\n", newline)
    assert paths_of(tomllib.loads(document)) == set(EXPECTED)
    assert lines_of(document) == EXPECTED


def test_what_is_missing_has_the_line_of_what_is_around_it() -> None:
    lines = lines_of(DOCUMENT)
    assert line_of(lines, "many[1].deep[0].none") == 36
    assert line_of(lines, "many[1].none[3].x") == 34
    assert line_of(lines, "man") is None


# json.dumps spells what is beyond with two surrogates, which TOML does not take.
LETTERS = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"])
KEYS = st.text(LETTERS, max_size=4) | st.sampled_from(["a", "b", "c-d", "a.b", "[x]", '"', "#"])
SCALARS = (
    st.booleans().map(json.dumps)
    | st.integers(-9, 99).map(str)
    | st.sampled_from(['"""\n[a]\nb = 1\n"""', "'''x'''", '"""a""""', "'a]b'", "1979-05-27 07:32:00", "inf", '""'])
    | st.text(LETTERS, max_size=8).map(json.dumps)
)
BLANKS = st.sampled_from(["", " ", "\n", " # ] } = x\n", "\r\n\t"])


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    sort = draw(st.integers(0, 2 if depth else 0))
    if sort == 0:
        return draw(SCALARS)
    inner = draw(st.lists(values(depth - 1), max_size=3))
    if sort == 1:
        return "[" + ",".join(draw(BLANKS) + one + draw(BLANKS) for one in inner) + draw(BLANKS) + "]"
    keys = draw(st.lists(KEYS, min_size=len(inner), max_size=len(inner), unique=True))
    return "{" + ", ".join(f"{json.dumps(key)} = {one}" for key, one in zip(keys, inner, strict=True)) + "}"


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[str, int]]:
    """A document of pairs, and the line of each key."""
    document, lines = "", {}
    for key in draw(st.lists(KEYS, max_size=5, unique=True)):
        document += draw(BLANKS.filter(lambda blank: blank.endswith("\n") or not blank.strip()))
        lines[under("", key)] = document.count("\n") + 1
        document += f"{json.dumps(key)} = {draw(values())}\n"
    return document, lines


@given(documents())
def test_every_key_and_entry_that_tomllib_finds_has_its_line(drawn: tuple[str, dict[str, int]]) -> None:
    document, expected = drawn
    lines = lines_of(document)
    assert set(lines) == paths_of(tomllib.loads(document))
    assert expected.items() <= lines.items()


@given(st.text(max_size=60))
@example('"\\ud800" = 1')
def test_no_text_at_all_raises_anything(document: str) -> None:
    assert all(line >= 1 for line in lines_of(document).values())


@pytest.mark.parametrize(
    "line",
    [
        '[kafka]\nbootstrap = "user:hunter2@k:9092',
        '[kafka]\nclient = {"sasl.username" = "hunter2" "x" = 1}',
        '[kafka]\nclient.x = "hunter2',
        'kafka.client = {"sasl.username" = "hunter2" "x" = 1}',
        '[kafka.client]\n"sasl.username" = "hunter2',
        '[kafka.client]\n"sasl.oauthbearer.config" = "principal=hunter2',
        "[kafka.client]\nuser: hunter2",
    ],
)
def test_a_line_in_which_any_value_may_be_a_secret_is_not_shown(line: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError) as caught:
        tomllib.loads(line + "\n")
    at, words = explain(line + "\n", str(caught.value))
    assert at == line.count("\n") + 1
    assert "hunter2" not in words
    assert "may contain a secret" in words
