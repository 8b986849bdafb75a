"""What runs is what is read: the modules that Cython compiles are compiled, from the sources as they are now."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.places import PACKAGE

pytestmark = pytest.mark.compiled

TYPED = [path.with_suffix(".py") for path in PACKAGE.rglob("*.pxd") if path.with_suffix(".py").exists()]
SOURCES = sorted([*PACKAGE.rglob("*.pyx"), *TYPED])


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_module_that_is_imported_was_built_from_this_source(source):
    built = Path(importlib.import_module(".".join(source.relative_to(PACKAGE.parent).with_suffix("").parts)).__file__)
    assert built.suffix == ".so", f"{source.name} runs as Python: `make check` builds it"
    newest = max(path.stat().st_mtime for path in (source, source.with_suffix(".pxd")) if path.exists())
    assert built.stat().st_mtime >= newest, f"{source.name} was changed since it was built: `make check` builds it"


def test_the_hot_path_is_among_them():
    hot = {"admission", "door", "exchange", "batching", "connection", "routing"}
    hot |= {"native_link", "plain", "arrival_rate"}
    assert hot <= {source.stem for source in SOURCES}
