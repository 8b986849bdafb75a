"""The result file: one JSON document a run, with everything that is needed to judge it later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.rig import facts, gateways
from bench.rig.native import HERE
from bench.rig.processes import BenchError

FORMAT = "fastgw-bench-1"
RESULTS = HERE / "results"  # not in git


def envelope(kind: str, names: Sequence[str], kafka: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The head of a result file: when, on what, with which versions and settings. Taken before the load begins."""
    peers = gateways.peers()
    return {
        "format": FORMAT,
        "kind": kind,
        "started": now(),
        "machine": facts.machine(),
        "versions": facts.versions(names, kafka),
        "settings": settings,
        "peers": {name: peers[name].settings for name in names if name in peers},
    }


def save(document: dict[str, Any], folder: Path | None = None) -> Path:
    """Write a result file into a folder of its own; give that folder."""
    document["finished"] = now()
    if folder is None:
        folder = RESULTS / f"{document['kind']}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(document, indent=1) + "\n")
    return folder


def load(path: Path) -> dict[str, Any]:
    """A result file, or the one in a folder.

    Raises:
        BenchError: there is none, or it is of another format.
    """
    file = path / "result.json" if path.is_dir() else path
    try:
        document: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"{file}: {error}") from None
    if document.get("format") != FORMAT:
        raise BenchError(f"{file}: expected format {FORMAT}, got {document.get('format')}")
    return document


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
