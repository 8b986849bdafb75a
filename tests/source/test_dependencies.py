"""What is imported is declared: pyproject.toml names every package, also those that come along with another today."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.places import REPOSITORY

OURS = {"fastgw", "tests", "bench", "prepare"}
# Packages of the extras "bench" and "fuzz", which are not installed everywhere, where the module's name is another.
DISTRIBUTION_OF = {"hdrh": "hdrhistogram"}
EXTRAS_FOR = {"fastgw": (), "tests": ("dev",), "tests/fuzz": ("dev", "fuzz"), "bench": ("dev", "bench")}


def imported(text: str) -> Iterator[str]:
    """The packages that a source imports, wherever the import stands in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def foreign(text: str) -> set[str]:
    return set(imported(text)) - OURS - set(sys.stdlib_module_names)


def sources(folder: str) -> list[Path]:
    """Its Python files, without those of a folder that has extras of its own and of programs that stand alone."""
    inner = [REPOSITORY / name for name in EXTRAS_FOR if name.startswith(f"{folder}/")] + [REPOSITORY / "bench/peers"]
    found = (REPOSITORY / folder).rglob("*.py")
    return [path for path in found if not any(path.is_relative_to(other) for other in inner)]


def plain(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(extras: tuple[str, ...]) -> set[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {plain(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in named}


def distributions_of(module: str, installed: dict[str, list[str]]) -> set[str]:
    return {plain(name) for name in installed.get(module) or [DISTRIBUTION_OF.get(module, module)]}


@pytest.mark.parametrize("folder", EXTRAS_FOR)
def test_every_package_that_is_imported_is_declared(folder: str) -> None:
    named, installed = declared(EXTRAS_FOR[folder]), dict(packages_distributions())
    assert sources(folder)
    missing = [
        f"{path.relative_to(REPOSITORY)} imports {module}"
        for path in sources(folder)
        for module in sorted(foreign(path.read_text()))
        if not distributions_of(module, installed) & named
    ]
    assert not missing, "declare these in pyproject.toml:\n" + "\n".join(missing)


def test_the_constraints_of_ci_have_a_version_of_every_package() -> None:
    lines = (REPOSITORY / ".ci/constraints.txt").read_text().splitlines()
    pinned = {plain(name) for name, equal, _ in (line.partition("==") for line in lines) if equal}
    missing = declared(("dev", "bench")) - pinned
    assert not missing, f"`make pin` adds {', '.join(sorted(missing))}"


def test_imports_are_found_wherever_they_stand() -> None:
    text = "import os, rich.table\ndef f():\n    from docker.errors import X\nfrom . import y\nfrom fastgw import ids\n"
    assert foreign(text) == {"rich", "docker"}
