"""A page as the tests see it: its fenced blocks in order, what comments say about them, headings and links.

A comment before a block says how it is run; several may stand one after the other:

    <!-- test: background, until "TEXT" -->  the command goes on running; it is waited for until it has said TEXT
    <!-- test: exit code 2 -->               the command ends with this code
    <!-- test: repeat -->                    run again until it ends well and says what is expected, for half a minute
    <!-- test: append -->                    a block with a title is put at the end of the file, which is there already
    <!-- test: run COMMAND -->               a command that readers do not see, run before the block
    <!-- test: stop TEXT -->                 before the block, Ctrl-C for the background command that contains TEXT
    <!-- test: not run, REASON -->           neither run nor checked; the end of the test run lists these
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.places import REPOSITORY

DOCS = REPOSITORY / "docs"

FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+.-]*)\s*(?P<options>[^`]*)$")
TITLE = re.compile(r'title="([^"]+)"')
COMMENT = re.compile(r"^\s*<!--\s*test:\s*(.*?)\s*-->\s*$")
UNTIL = re.compile(r'background, until "(.+)"').fullmatch
EXIT_CODE = re.compile(r"exit code (\d+)").fullmatch
HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
LINK = re.compile(r"(?<!\\)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
CODE_SPAN = re.compile(r"(`+)(.+?)\1")


class PageError(Exception):
    """A page cannot be read; the message names page and line."""


class Block(NamedTuple):
    """One fenced block."""

    page: Path
    line: int  # of the opening fence, from 1
    language: str
    title: str
    text: str
    until: str = ""  # background
    exit_code: int = 0
    repeat: bool = False
    append: bool = False
    before: tuple[str, ...] = ()  # commands that readers do not see
    stops: tuple[str, ...] = ()  # background commands that readers end, by a part of their text
    not_run: str = ""  # the reason
    expected: str | None = None  # of a text block directly behind it

    def __str__(self) -> str:
        named = f"{self.language or 'no language'}, {self.title}" if self.title else self.language or "no language"
        return f"{relative(self.page)}:{self.line} ({named})"


def relative(page: Path) -> str:
    return str(page.relative_to(REPOSITORY)) if page.is_relative_to(REPOSITORY) else page.name


def all_pages() -> list[Path]:
    """The pages whose blocks are run, README first."""
    more = [REPOSITORY / name for name in ("CONTRIBUTING.md", "SECURITY.md")]
    return [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md")), *(page for page in more if page.exists())]


def navigation() -> list[str]:
    """The pages of the site in order, relative to docs/."""
    _, _, rest = (REPOSITORY / "mkdocs.yml").read_text().partition("\nnav:\n")
    nav, _, _ = rest.partition("\n\n")
    return re.findall(r": ([\w/-]+\.md)$", nav, re.MULTILINE)


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in order; a text block behind a command is its `expected` and not a block of its own.

    Raises:
        PageError: a fence that is not closed, a comment that is not understood or has no block.
    """
    found: list[Block] = []
    comments: list[tuple[int, str]] = []
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    previous_end = 0  # the last line that was not empty, if a block ended there
    for number, line in lines:
        if comment := COMMENT.match(line):
            comments.append((number, comment[1]))
        elif fence := FENCE.match(line):
            text = _body(page, number, fence, lines)
            title = TITLE.search(fence["options"])
            block = Block(page, number, fence["language"], title[1] if title else "", text)
            if block.language == "text" and not title and not comments and found and previous_end:
                found[-1] = found[-1]._replace(expected=text)
            else:
                found.append(_with_comments(block, comments))
            comments = []
            previous_end = number if found[-1].language == "sh" and block.language != "text" else 0
            continue
        elif line.strip():
            if comments:
                raise PageError(f"{relative(page)}:{comments[0][0]}: no block directly behind this comment")
            previous_end = 0
    return found


def _body(page: Path, number: int, fence: re.Match[str], lines: Iterator[tuple[int, str]]) -> str:
    body: list[str] = []
    for _, line in lines:
        end = line.strip()
        if end.startswith(fence["fence"]) and not end.strip(fence["fence"][0]):
            return "\n".join(body) + "\n" if body else ""
        body.append(line.removeprefix(fence["indent"]))
    raise PageError(f"{relative(page)}:{number}: the fence is not closed")


def _with_comments(block: Block, comments: list[tuple[int, str]]) -> Block:
    for number, comment in comments:
        if until := UNTIL(comment):
            block = block._replace(until=until[1])
        elif code := EXIT_CODE(comment):
            block = block._replace(exit_code=int(code[1]))
        elif comment == "repeat":
            block = block._replace(repeat=True)
        elif comment == "append":
            block = block._replace(append=True)
        elif comment.startswith("run "):
            block = block._replace(before=(*block.before, comment.removeprefix("run ")))
        elif comment.startswith("stop "):
            block = block._replace(stops=(*block.stops, comment.removeprefix("stop ")))
        elif comment.startswith("not run, "):
            block = block._replace(not_run=comment.removeprefix("not run, "))
        else:
            raise PageError(f"{relative(block.page)}:{number}: not understood: {comment!r} (see tests/docs/pages.py)")
    return block


def prose(page: Path) -> list[tuple[int, str]]:
    """The lines outside of blocks with their numbers; empty ones stand for blocks."""
    outside: list[tuple[int, str]] = []
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    for number, line in lines:
        if fence := FENCE.match(line):
            _body(page, number, fence, lines)
            outside.append((number, ""))
        else:
            outside.append((number, line))
    return outside


def anchors(page: Path) -> set[str]:
    """What may stand behind a # in a link to this page, as GitHub and the site make it."""
    found: dict[str, int] = {}
    names = set()
    for _, line in prose(page):
        names.update(re.findall(r'<a (?:id|name)="([^"]+)"', line))
        if heading := HEADING.match(line):
            if own := re.search(r"\{\s*#([\w-]+)\s*\}$", heading[2]):
                names.add(own[1])
                continue
            slug = slug_of(heading[2])
            count = found.get(slug, -1) + 1
            found[slug] = count
            names.add(f"{slug}-{count}" if count else slug)
    return names


def slug_of(heading: str) -> str:
    """GitHub's anchor of a heading."""
    plain = LINK_TEXT.sub(r"\1", CODE_SPAN.sub(r"\2", heading))
    plain = re.sub(r"[*]|(?<!\w)_|_(?!\w)", "", plain)
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


LINK_TEXT = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def links(page: Path) -> list[tuple[int, str]]:
    """The targets of all links with their lines."""
    return [
        (number, target)
        for number, line in prose(page)
        for target in LINK.findall(CODE_SPAN.sub(lambda span: "x" * len(span[0]), line))
    ]


def part(page: Path, name: str) -> str:
    """What stands between `<!-- name -->` and `<!-- /name -->`; of several such parts all, one behind the other."""
    found = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page.read_text(), re.DOTALL)
    return "\n\n".join(text.strip() for text in found)
