"""The pages name everything of a kind: pages, record headers, attributes, endings, states, lies, packages."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastgw
from fastgw import errors
from fastgw.dialects import plain, streams
from fastgw.service import Request, Service
from fastgw.service.service import Counts
from tests.docs.pages import DOCS, links, navigation
from tests.faults.key_oracle import KeyLie
from tests.faults.oracle import Lie
from tests.places import PACKAGE, REPOSITORY
from tests.source.test_imports import MAY_IMPORT, ROOT

HEADER_NAME = re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*").fullmatch
# Where headers of records are written or read. Other packages use these names.
OF_RECORDS = ("dialects", "core", "service", "forwarding.py")
OF_ANSWERS = {"fastgw-outcome", "x-request-id"}  # of HTTP, not of records


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", DOCS / "index.md"], ids=lambda page: page.stem)
def test_every_page_of_the_navigation_is_linked(page: Path) -> None:
    there = {(page.parent / target.partition("#")[0]).resolve() for _, target in links(page)}
    missing = [name for name in navigation() if (DOCS / name).resolve() not in {*there, page}]
    assert not missing


# --- record headers --------------------------------------------------------------------------------------------------


def test_the_protocol_names_every_header_of_a_record() -> None:
    named = set(re.findall(r"`([a-z][a-z0-9_-]*)", (DOCS / "protocol.md").read_text()))
    assert header_names() - named == set()


def test_the_search_for_headers_finds_those_of_each_kind() -> None:
    assert header_names() >= {
        "correlation_id", "http_method", "http_client_address", "idempotency_attempt", "answer_expired", "stream_until",
        "cancel", "fastgw_hops", "fastgw_mac", "traceparent", "etag", *streams.OF_REPLIES,
    }  # fmt: skip


def header_names() -> set[str]:
    """The names that the code writes on records or looks for; names that depend on a route are left out."""
    found = {*plain.FORWARDED_ALWAYS, *plain.REPRESENTATION}
    for place in OF_RECORDS:
        path = PACKAGE / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            tree = ast.parse(file.read_text())
            found.update(_in_pairs(tree))
            found.update(_read_by_name(tree))
            if place == "dialects":
                found.update(_constants(tree))
    return {name for name in found if HEADER_NAME(name)} - OF_ANSWERS


def _in_pairs(tree: ast.AST) -> Iterator[str]:
    """Of `("name", b"value")`, also with a value that is formatted or encoded here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2 and _is_bytes(node.elts[1]):
            yield from _text(node.elts[0])


def _is_bytes(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_bytes(node.left)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr == "encode"
    return isinstance(node, ast.Constant) and isinstance(node.value, bytes)


def _read_by_name(tree: ast.AST) -> Iterator[str]:
    """Of `self._text("name")` in `fastgw.service.Request`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_text":
            for argument in node.args:
                yield from _text(argument)


def _constants(tree: ast.Module) -> Iterator[str]:
    """Of `NAME = "name"` and `ONE, TWO = "one", "two"` at the top of a module."""
    for node in tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        for one in value.elts if isinstance(value, ast.Tuple) else [value]:
            yield from _text(one)


def _text(node: ast.AST | None) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


# --- services, clients, faults ---------------------------------------------------------------------------------------


def test_the_page_about_services_names_every_attribute_of_a_request() -> None:
    text = (DOCS / "services.md").read_text()
    own = vars(Request(b"", {}))
    attributes = [name for name in [*own, *vars(Request)] if not name.startswith("_")]
    assert len(attributes) > 15
    assert [name for name in attributes if f"`{name}`" not in text and f"`{name}()`" not in text] == []


def test_the_page_about_services_names_every_argument_and_count_of_a_service() -> None:
    text = (DOCS / "services.md").read_text()
    arguments = [name for name in inspect.signature(Service).parameters if name != "topic"]
    assert [name for name in [*arguments, *Counts._fields] if f"| `{name}` |" not in text] == []


def test_every_ending_has_a_cause_and_a_remedy() -> None:
    _, _, causes = (DOCS / "outcomes.md").read_text().partition("## Causes and remedies")
    rows = [line for line in causes.splitlines() if line.startswith("| `")]
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert [row.name for row in errors.ENDINGS if row is not errors.ANSWERED and row.name not in explained] == []


def test_the_page_about_guarantees_explains_every_kind_of_lie() -> None:
    text = (DOCS / "guarantees.md").read_text()
    kinds = [kind.name.lower().replace("_", " ") for kind in [*Lie, *KeyLie]]
    assert [kind for kind in kinds if text.count(f"\n| {kind} |") < kinds.count(kind)] == []


# --- the code --------------------------------------------------------------------------------------------------------


def test_the_architecture_names_every_state_of_a_slot() -> None:
    (states,) = re.findall(r"enum ct_state \{(.*?)\};", (PACKAGE / "_ctable.h").read_text(), re.DOTALL)
    page = (DOCS / "architecture.md").read_text()
    names = [name for name in re.findall(r"CT_(\w+) =", states) if name != "STATES"]
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"\b{name}\b", page)] == []


def test_the_code_map_is_the_table_of_imports() -> None:
    _, _, page = (DOCS / "contributing.md").read_text().partition("## Code map")
    code_map, _, _ = page.partition("\n## ")
    rows = re.findall(r"^\| `(\w+)/?`(?: \(root\))? \|([\w, ]*)\|", code_map, re.MULTILINE)
    shown: dict[str, set[str]] = {}
    for package, cell in rows:
        name = ROOT if package == "fastgw" else package
        short = {"all above": {*shown}, "all": {*MAY_IMPORT} - {name}}
        shown[name] = short.get(cell.strip()) or {one.strip() for one in cell.split(",") if one.strip()}
    assert shown == {
        package: {*allowed.split(), ROOT} - {package} if package != ROOT else set()
        for package, allowed in MAY_IMPORT.items()
    }


def test_the_tour_of_the_package_names_what_is_there() -> None:
    tour = fastgw.__doc__ or ""
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert [name for name in packages if f"{name}/" not in tour] == []
    named = re.findall(r"[a-z_]+(?:/[a-z_]+)*(?:/|\.py|\.md)", tour)
    assert [name for name in named if not ((PACKAGE / name).exists() or (REPOSITORY / name).exists())] == []
