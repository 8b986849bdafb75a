"""Which package may import which; type-only imports and cimports count as well.

The table below is the architecture. A new package needs a row here before it can be used.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.places import PACKAGE

ROOT = "root"  # the modules that stand directly in fastgw/

# A package may import itself, the root, and the packages on the right.
MAY_IMPORT = {
    ROOT: "",
    "config": "",
    "dialects": "",
    "core": "config dialects",
    "http": "config",
    "kafka": "config dialects",
    "mesh": "",
    "store": "config dialects kafka mesh",
    "worker": "config dialects core http kafka mesh",
    "admin": "config mesh",
    "agent": "config kafka admin mesh",
    "supervisor": "config",
    "service": "dialects",
    "doctor": "config kafka",
    "demo": "service",
    "cli": "config dialects core http kafka mesh worker admin agent store supervisor service doctor demo",
}
BELONGS_TO = {"__main__": "cli"}  # modules of the root that are part of a package

# What happens to a request is decided without I/O: time is an argument.
WITHOUT_IO = {"core", "dialects"}
IO = {"socket", "asyncio", "threading", "time", "uvloop", "granian", "confluent_kafka"}

# Each library is known to those packages and modules only.
KNOWN_TO = {
    "granian": {"http.granian"},
    "lmdb": {"store.engine"},
    "confluent_kafka": {
        "kafka",
        "agent",
        "doctor.kafka",
        "service",
        "demo.broker",
        "store.announcement",
        "store.log_values",
        "store.split_replies",
        "store.stream_reader",
        "store.topic",
        "store.topic_reader",
    },
}

CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+(?P<source>[\w.]+)\s+c?import\s+(?P<names>.+)|c?import\s+(?P<plain>[\w.]+))")


class Import(NamedTuple):
    """One imported module, and where it is asked for. `importer` and ours in `imported` are relative to fastgw."""

    importer: str  # "core.exchange"
    line: int
    text: str
    imported: str  # "fastgw.ids", "socket"; "fastgw" alone for the package itself

    def __str__(self) -> str:
        return f"fastgw.{self.importer}: line {self.line}: {self.text.strip()}"

    @property
    def of_ours(self) -> str:
        """The module of fastgw that is imported, without "fastgw."; empty for others and for fastgw itself."""
        return self.imported.removeprefix("fastgw.") if self.imported.startswith("fastgw.") else ""


def package_of(module: str) -> str:
    first, _, rest = module.partition(".")
    return first if rest or first in MAY_IMPORT else BELONGS_TO.get(first, ROOT)


def is_module(name: str) -> bool:
    path = PACKAGE / name.replace(".", "/")
    return path.is_dir() or any(path.with_suffix(ending).exists() for ending in (".py", ".pyx", ".pyi"))


def names_of(source: str, names: list[str]) -> list[str]:
    """What `from source import names` imports: `from fastgw import ids` is an import of fastgw.ids."""
    if source.partition(".")[0] != "fastgw":
        return [source]
    inside = [f"{source}.{name}" for name in names]
    return [full if is_module(full.removeprefix("fastgw.")) else source for full in inside]


def absolute(source: str, level: int, importer: str) -> str:
    """The module that a relative import means."""
    if not level:
        return source
    parts = ["fastgw", *importer.split(".")][:-level]
    return ".".join([*parts, *([source] if source else [])])


def python_imports(importer: str, text: str) -> Iterator[Import]:
    """Every import of a .py or .pyi file, wherever it stands."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = absolute(node.module or "", node.level, importer)
            found = names_of(source, [alias.name for alias in node.names])
        else:
            continue
        for imported in found:
            yield Import(importer, node.lineno, lines[node.lineno - 1], imported)


def cython_imports(importer: str, text: str) -> Iterator[Import]:
    """Imports and cimports of a .pyx or .pxd file, one a line as they are written there."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := CYTHON_IMPORT.match(line):
            source = found["source"] or found["plain"]
            bare = source.lstrip(".")
            source = absolute(bare, len(source) - len(bare), importer)
            names = [part.split()[0] for part in (found["names"] or "").strip("(), ").split(",") if part]
            for imported in names_of(source, names) if found["source"] else [source]:
                yield Import(importer, number, line, imported)


def imports_of(path: Path) -> list[Import]:
    reader = python_imports if path.suffix in (".py", ".pyi") else cython_imports
    return list(reader(".".join(path.relative_to(PACKAGE).with_suffix("").parts), path.read_text()))


SOURCES = sorted(path for ending in ("py", "pyi", "pyx", "pxd") for path in PACKAGE.rglob(f"*.{ending}"))
IMPORTS = [found for path in SOURCES for found in imports_of(path)]


def offence(found: Import) -> str:
    """Why an import breaks the rules; empty when it does not."""
    package, library = package_of(found.importer), found.imported.partition(".")[0]
    known_to = KNOWN_TO.get(library, set())
    if known_to and not known_to & {package, found.importer}:
        return f"only {', '.join(sorted(known_to))} may know {library}"
    if library in IO and package in WITHOUT_IO:
        return f"{package} knows no socket, loop, thread or clock"
    if not found.of_ours:
        return ""
    if found.importer == "__init__":
        return "every module may import the package itself, so it may import none"
    other = package_of(found.of_ours)
    if other not in {package, ROOT, *MAY_IMPORT[package].split()}:
        return f"{package} may import: itself, root {MAY_IMPORT[package]}".rstrip()
    return ""


def test_every_package_has_a_row() -> None:
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert packages == MAY_IMPORT.keys() - {ROOT}


def test_packages_import_what_their_row_allows() -> None:
    offences = [f"{found}\n    {why}" for found in IMPORTS if (why := offence(found))]
    assert not offences, "\n" + "\n".join(offences)


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for found in IMPORTS:
        if found.of_ours and found.of_ours != found.importer:  # a .pyx cimports its own .pxd
            graph.setdefault(found.importer, set()).add(found.of_ours)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]), pytrace=False)


@pytest.mark.parametrize(
    ("importer", "text", "why"),
    [
        ("core.exchange", "import socket", "core knows no socket"),
        ("core.exchange", "def f():\n    from time import monotonic_ns", "core knows no socket, loop, thread or clock"),
        (
            "core.exchange",
            "if TYPE_CHECKING:\n    from fastgw.http.front import Front",
            "core may import: itself, root",
        ),
        ("core.exchange", "from fastgw import table, errors", ""),
        ("core.exchange", "from fastgw.worker import door", "core may import"),
        ("core.exchange", "from .. import worker", "core may import"),
        ("core.exchange", "from . import routing", ""),
        ("core.exchange", "from fastgw import __version__", ""),
        ("http.connection", "from fastgw.config import Limits", ""),
        ("http.connection", "from fastgw.core.exchange import Exchange", "http may import: itself, root config"),
        ("http.express", "import granian", "only http.granian may know granian"),
        ("http.granian", "from granian.server.embed import Server", ""),
        ("worker.worker", "import confluent_kafka.admin", "only agent, demo.broker, doctor.kafka, kafka, service"),
        ("kafka._klink", "from fastgw._ctable cimport SlotRange", ""),
        ("kafka._klink", "from fastgw.core.exchange cimport Exchange", "kafka may import"),
        ("_ctable", "from fastgw.core cimport exchange", "root may import: itself, root"),
        ("_ctable", "from .table import attach", ""),
        ("__init__", "from fastgw.ids import parse", "so it may import none"),
        ("__main__", "from fastgw.cli import main", ""),
        ("service.service", "from fastgw.config import Route", "service may import: itself, root dialects"),
        ("demo.broker", "from fastgw.service import Service", ""),
        ("ids", "import fastgw.logs", ""),
    ],
)
def test_the_rules_see_what_they_must(importer: str, text: str, why: str) -> None:
    reader = cython_imports if "cimport" in text else python_imports
    offences = [offence(found) for found in reader(importer, text)]
    if why:
        assert any(why in told for told in offences)
    else:
        assert not any(offences)
