"""Who may import whom: imports point down only, never sideways, type-only ones and cimports included.

The floors are those of the design; a new module must be given one here before it can be used.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "fastgw"

FLOORS = {
    0: "errors ids messages units settings spelling deadlines request_path",
    1: "config kafka_wire mesh_wire http1_wire problem admission pace proxy_protocol throttle client_lines state_file",
    2: "cors compression table exchange intake partitions metrics record_key canary kafka_client http1_connection "
    "spread reload",
    3: "http_granian http_express kafka_link kafka_native journal access_log mesh_links membership admin topics "
    "memory_trim listeners systemd children standby host_survey consumers entrance",
    4: "worker agent holdings worker_slots",
    5: "supervisor doctor",
    6: "demo demo_services reload_request",
    7: "cli",
    8: "__main__",
}
FLOOR: dict[str, float] = {module: floor for floor, modules in FLOORS.items() for module in modules.split()}

# Stands before a connection until its PROXY protocol header has come.
FLOOR["proxied_connection"] = FLOOR["http1_connection"] + 0.5

# The clients of a front are watched from half a floor below it: it holds sockets, but knows no HTTP and no Kafka.
FLOOR["slow_clients"] = FLOOR["http_granian"] - 0.5

# One idea of what an address is, for those who read the configuration and for those who read requests.
FLOOR |= {"addresses": FLOOR["spelling"] - 0.5, "forwarding": FLOOR["messages"] + 0.5}

# HTTP around what the admin port says.
FLOOR["admin_server"] = FLOOR["admin"] + 0.5

# Checks at a reload what the agent checks at the start, and says so alike.
FLOOR["checker"] = FLOOR["agent"] + 0.5

# Is part of what a front is given.
FLOOR["body_memory"] = FLOOR["admission"] - 0.5

# Names the keys of a file as the settings do.
FLOOR["toml_text"] = FLOOR["settings"] + 0.5

# Has a lock and a timer, and is written to by whoever has a Kafka client.
FLOOR["client_log"] = FLOOR["kafka_link"] - 0.5

# Keeps for the access log what it wants to know at a request's end.
FLOOR["notes"] = FLOOR["access_log"] + 0.5

# What is asked about groups, for those who look at topics and at services.
FLOOR["groups"] = FLOOR["topics"] - 0.5

# Looks further at what `topics` looks at first.
FLOOR["kafka_survey"] = FLOOR["topics"] + 0.5

# Judges the processes in the slots, with the patience that is kept there.
FLOOR["vital_signs"] = FLOOR["worker_slots"] + 0.5

# Hands records to the native producer, and is what the link sends through.
FLOOR["flights"] = FLOOR["kafka_native"] - 0.25

# A native module stands half a floor under the one that gives it to the others in Python.
FLOOR |= {"_ids": FLOOR["ids"] - 0.5}
FLOOR |= {"_klink": FLOOR["kafka_native"] - 0.5, "_http1": FLOOR["http1_wire"] - 0.5}

# Read by those who cannot listen where they want to.
FLOOR["port_holder"] = FLOOR["listeners"] - 0.5

# The table's limits are limits of the configuration.
FLOOR["_ctable"] = FLOOR["config"] - 0.5

# One choice between two modules of a floor stands half a floor above them.
FLOOR |= {"kafka_choice": FLOOR["kafka_native"] + 0.5}


class Beside(NamedTuple):
    """A module beside the floors: who may use it, what it may use."""

    used_from: int  # lowest floor that may import it
    may_import: int  # highest floor that it may import; NOTHING of fastgw at all
    place: int = 0  # among those of one family (service, service_*): the higher imports the lower


NOTHING = -1
BESIDE = {
    "logs": Beside(used_from=4, may_import=NOTHING),
    "broker": Beside(used_from=6, may_import=NOTHING),
    "service_messages": Beside(used_from=6, may_import=1),
    "service_clients": Beside(used_from=6, may_import=1),
    "service_work": Beside(used_from=6, may_import=1, place=1),
    "service": Beside(used_from=6, may_import=1, place=2),
}

PURE_UP_TO = 2
WORLD = {"socket", "asyncio", "threading", "time", "uvloop", "granian", "confluent_kafka"}

ONLY_IN = {
    "granian": {"http_granian"},
    "confluent_kafka": {
        "kafka_link",
        "kafka_native",
        "topics",
        "kafka_survey",
        "membership",
        "consumers",
        "groups",
        "service",
        "broker",
    },
}

CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+(?P<source>[\w.]+)\s+c?import\s+(?P<names>.+)|c?import\s+(?P<plain>[\w.]+))")


class Import(NamedTuple):
    """One imported module, and where it is asked for."""

    importer: str
    line: int
    text: str
    imported: str  # "fastgw.ids" or "socket"; "fastgw" alone for the package itself

    def __str__(self) -> str:
        return f"fastgw/{self.importer}: line {self.line}: {self.text.strip()}"

    @property
    def module(self) -> str:
        return self.importer.partition(".")[0]

    @property
    def of_ours(self) -> str:
        """Name of the module of fastgw that is imported, empty for others and for the package itself."""
        package, _, module = self.imported.partition(".")
        return module.partition(".")[0] if package == "fastgw" else ""


def python_imports(name: str, text: str) -> Iterator[Import]:
    """Every import of a .py or .pyi file, wherever it stands."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = sources(("fastgw." * bool(node.level) + (node.module or "")).rstrip("."), node.names)
        else:
            continue
        for imported in found:
            yield Import(name, node.lineno, lines[node.lineno - 1], imported)


def sources(package: str, names: list[ast.alias]) -> list[str]:
    """What `from package import names` imports: `from fastgw import ids` is an import of fastgw.ids."""
    if package != "fastgw":
        return [package]
    return [f"fastgw.{alias.name}" if is_module(alias.name) else "fastgw" for alias in names]


def is_module(name: str) -> bool:
    return (
        name in FLOOR or name in BESIDE or any((PACKAGE / f"{name}{end}").exists() for end in (".py", ".pyx", ".pyi"))
    )


def cython_imports(name: str, text: str) -> Iterator[Import]:
    """Imports and cimports of a .pyx or .pxd file, one a line as they are written there."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := CYTHON_IMPORT.match(line):
            source = found["source"] or found["plain"]
            if source.startswith("."):
                source = f"fastgw.{source.lstrip('.')}".rstrip(".")
            names = [ast.alias(part.split()[0]) for part in (found["names"] or "").strip("(), ").split(",") if part]
            for imported in sources(source, names) if found["source"] else [source]:
                yield Import(name, number, line, imported)


def imports_of(path: Path) -> list[Import]:
    reader = python_imports if path.suffix in (".py", ".pyi") else cython_imports
    return list(reader(path.name, path.read_text()))


SOURCES = sorted(path for ending in ("py", "pyi", "pyx", "pxd") for path in PACKAGE.glob(f"*.{ending}"))
IMPORTS = [found for path in SOURCES for found in imports_of(path)]


def offence(found: Import) -> str:
    """Why an import breaks the rules; empty when it does not."""
    module, ours = found.module, found.of_ours
    world = found.imported.partition(".")[0]
    if world in ONLY_IN and module not in ONLY_IN[world]:
        return f"only {', '.join(sorted(ONLY_IN[world]))} may know {world}"
    if world in WORLD and FLOOR.get(module, PURE_UP_TO + 1) <= PURE_UP_TO:
        return (
            f"{module} is on floor {FLOOR[module]:g}, and floors 0-{PURE_UP_TO} know no socket, loop, thread or clock"
        )
    if not ours or ours == module:  # a .pyx cimports its own .pxd
        return ""
    if module == "__init__":
        return "everybody may import the package itself, so it may import nobody"
    return offence_inside(module, ours)


def offence_inside(module: str, ours: str) -> str:
    if ours in BESIDE:
        return offence_towards_beside(module, ours)
    if ours not in FLOOR:
        return f"{ours} has no floor"
    if module in BESIDE:
        allowed = BESIDE[module].may_import
        told = "nothing of fastgw" if allowed == NOTHING else f"floors 0-{allowed} only"
        return "" if FLOOR[ours] <= allowed else f"{module} may import {told}"
    if FLOOR[ours] >= FLOOR[module]:
        return f"{ours} is on floor {FLOOR[ours]:g}, {module} on floor {FLOOR[module]:g}: imports point down only"
    return ""


def offence_towards_beside(module: str, ours: str) -> str:
    if module in BESIDE:
        same_family = module.partition("_")[0] == ours.partition("_")[0]
        return "" if same_family and BESIDE[ours].place < BESIDE[module].place else f"{module} may not import {ours}"
    if FLOOR[module] < BESIDE[ours].used_from:
        return f"{ours} stands beside the floors, for modules from floor {BESIDE[ours].used_from} up"
    return ""


def test_every_module_has_a_floor() -> None:
    modules = {path.name.partition(".")[0] for path in SOURCES} - {"__init__"}
    unknown = sorted(modules - FLOOR.keys() - BESIDE.keys())
    assert not unknown, f"give them a floor in {Path(__file__).name}: {', '.join(unknown)}"


def test_imports_point_down_only() -> None:
    known = [found for found in IMPORTS if found.module in FLOOR or found.module in {*BESIDE, "__init__"}]
    offences = [f"{found}\n    {why}" for found in known if (why := offence(found))]
    assert not offences, "\n" + "\n".join(offences)


@pytest.mark.parametrize(
    ("importer", "text", "why"),
    [
        ("ids.py", "import socket", "know no socket"),
        ("table.py", "def f():\n    from time import monotonic_ns", "know no socket, loop, thread or clock"),
        ("_ctable.pyx", "from fastgw.errors cimport Outcome", ""),
        ("_ctable.pyx", "from .table import attach", "table is on floor 2, _ctable on floor 0.5"),
        ("_ctable.pyx", "from fastgw cimport _ctable", ""),
        ("ids.py", "from fastgw._ids import IdMaker", ""),
        ("exchange.py", "if TYPE_CHECKING:\n    from fastgw.table import Table", "imports point down only"),
        ("exchange.py", "from fastgw import table, errors", "table is on floor 2, exchange on floor 2"),
        ("exchange.py", "from . import worker", "worker is on floor 4"),
        ("exchange.py", "from fastgw import __version__", ""),
        ("__init__.py", "from fastgw.ids import parse", "it may import nobody"),
        ("kafka_link.py", "import granian", "only http_granian may know granian"),
        ("http_granian.py", "from granian.server.embed import Server", ""),
        ("worker.py", "import confluent_kafka.admin", "only broker, consumers, groups, kafka_link,"),
        ("service.py", "from fastgw.config import Route", ""),
        ("service.py", "from fastgw.partitions import Map", "floors 0-1 only"),
        ("broker.py", "from fastgw.errors import Ending", "nothing of fastgw"),
        ("worker.py", "from fastgw.service import Service", "from floor 6 up"),
        ("demo.py", "from fastgw.service import Service", ""),
        ("ids.py", "import fastgw.logs", "from floor 4 up"),
        ("service.py", "from fastgw.service_messages import Reply", ""),
        ("service_messages.py", "from fastgw.service import Service", "service_messages may not import service"),
        ("service.py", "from fastgw.broker import run", "service may not import broker"),
        ("ids.py", "from fastgw.never_heard_of import x", "never_heard_of has no floor"),
    ],
)
def test_the_rules_see_what_they_must(importer: str, text: str, why: str) -> None:
    reader = python_imports if importer.endswith(".py") else cython_imports
    offences = [offence(found) for found in reader(importer, text)]
    if why:
        assert any(why in told for told in offences)
    else:
        assert not any(offences)
