"""Links lead somewhere, the site can be built, and both renderers (GitHub's and the site's) see the same lists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, REPOSITORY, all_pages, anchors, links, navigation, prose, relative

pytestmark = pytest.mark.slow

OTHERS = [path for path in (REPOSITORY / "deploy/README.md", REPOSITORY / "bench/README.md") if path.exists()]
PAGES = [*all_pages(), *OTHERS]
ITEM = re.compile(r"^\s*(?:[-*+]|1[.)])\s")  # no other number can begin a list within a paragraph
# Names of files in the text; a pattern or a place to fill in is none.
NAMED_FILE = re.compile(r"`((?:fastgw|tests|bench|deploy|examples)/[\w./-]+\.\w+)`")


def name_of(page: Path) -> str:
    return relative(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = []
    for line, target in links(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists():
            wrong.append(f"{relative(page)}:{line}: {target}: there is no such file")
        elif anchor and anchor not in anchors(there):
            wrong.append(f"{relative(page)}:{line}: {target}: {relative(there)} has no such heading")
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_an_empty_line_stands_before_each_list_and_table(page: Path) -> None:
    """Without it Markdown for Python, and so the site, sees no list and no table."""
    wrong = []
    before, inside = "", False  # the line before; whether a list or a table has begun in this paragraph
    for number, line in prose(page):
        if not line.strip():
            inside = False
        elif ITEM.match(line) or line.startswith("|"):
            if before.strip() and not inside and not before.startswith(("#", "<!--")):
                wrong.append(f"{relative(page)}:{number}: {line}")
            inside = True
        before = line
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_is_named_exists(page: Path) -> None:
    wrong = [
        f"{relative(page)}:{number}: {name}"
        for number, line in prose(page)
        for name in NAMED_FILE.findall(line)
        if not (REPOSITORY / name).exists()
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_site_can_be_built(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "site" / "index.html").exists()


def test_every_page_is_in_the_navigation() -> None:
    assert sorted(navigation()) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
