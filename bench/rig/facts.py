"""What a result file says about the machine and the versions, so that a figure can be judged later."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fastgw
from bench.rig import gateways
from bench.rig.native import HERE
from bench.rig.processes import BenchError, run_to_end

LIBRARIES = ("granian", "confluent-kafka", "uvloop", "httptools", "orjson", "msgspec")


def machine() -> dict[str, Any]:
    """The machine, without its name."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "load_before": [round(value, 2) for value in os.getloadavg()],
    }


def cpu_name() -> str:
    """What the processor calls itself."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def versions(names: Sequence[str], kafka: str) -> dict[str, str]:
    """Versions of everything that takes part."""
    found = {"python": platform.python_version(), "fastgw": fastgw.__version__, "commit": commit(), "kafka": kafka}
    for library in LIBRARIES:
        found[library] = _installed(library)
    found["java"] = _first_line("java", "-version")
    found["wrk"] = _first_line("wrk", "-v")
    for name in names:
        if name not in gateways.VARIANTS:
            found[name] = gateways.version_of(name)
    return found


def commit() -> str:
    """The checkout's commit, with a plus when files differ from it; empty without git."""
    try:
        short = run_to_end(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], 10).strip()
        changed = run_to_end(["git", "-C", str(HERE), "status", "--porcelain", "--untracked-files=no"], 10).strip()
    except BenchError:
        return ""
    return short + ("+" if changed else "")


def _installed(library: str) -> str:
    try:
        return version(library)
    except ModuleNotFoundError:
        return ""


def _first_line(*command: str) -> str:
    # Some tools tell their version on stderr, or with an exit status of their own.
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return ""
    return (done.stdout + done.stderr).partition("\n")[0].strip()
