"""The SDK is for programs of others: it brings what it needs and nothing of the gateway's own servers and commands."""

from __future__ import annotations

import subprocess
import sys

NOT_OF_THE_SDK = ("granian", "uvloop", "httptools", "typer", "structlog", "rich", "setproctitle", "zstandard")
OF_OURS = {"service", "dialects"}  # packages; beside them modules of the root

PROGRAM = """
import sys
import fastgw.service
print(*sorted(sys.modules))
"""


def modules() -> list[str]:
    """What is loaded after an import of the SDK in a fresh process."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()


def test_the_sdk_imports_none_of_the_gateways_libraries() -> None:
    loaded = {name.partition(".")[0] for name in modules()}
    assert "confluent_kafka" in loaded, "it was imported at all"
    assert loaded.isdisjoint(NOT_OF_THE_SDK)


def test_the_sdk_imports_no_other_package_of_the_gateway() -> None:
    packages = {name.split(".")[1] for name in modules() if name.startswith("fastgw.") and name.count(".") > 1}
    assert packages <= OF_OURS
