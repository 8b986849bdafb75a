"""Dashboard, alerts and the page about them speak of metrics that the gateway has, by labels and values that it has."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from fastgw import config, errors, state_file, table
from fastgw._ctable import UNOWNED
from fastgw.admin import metrics
from fastgw.admin.metrics import ServiceState
from fastgw.admin.pages import Admin
from fastgw.admin.store_state import store_state
from fastgw.messages import Cut, ReplyDisposition
from tests.actors.tables import answer
from tests.places import REPOSITORY
from tests.surroundings import PROMTOOL

DEPLOY = REPOSITORY / "deploy"
DASHBOARD = DEPLOY / "grafana/fastgw.json"
ALERTS = DEPLOY / "prometheus/alerts.yaml"
ALERT_TESTS = DEPLOY / "prometheus/alerts.test.yaml"
PAGE = REPOSITORY / "docs/observability.md"

# Labels that Prometheus adds.
TARGET_LABELS = {"job", "instance"}
# Of labels that hold constants of the gateway: what they can be.
VALUES = {
    "ending": {ending.name for ending in errors.ENDINGS},
    "outcome": {outcome.value for outcome in errors.Outcome},
    "fate": {fate.name.lower() for fate in ReplyDisposition},
    "reason": {cut.name.lower() for cut in Cut},
    "phase": set(metrics.PHASE_NAMES.values()),
    "result": set(state_file.RESULTS),
    "class": {"1xx", "2xx", "3xx", "4xx", "5xx"},
}
SUFFIXES = ("_bucket", "_sum", "_count")


def base(name: str) -> str:
    """The family of a series of a histogram."""
    for suffix in SUFFIXES:
        if name == "fastgw_request_duration_seconds" + suffix:
            return name.removesuffix(suffix)
    return name


@pytest.fixture(scope="module")
def served() -> dict[str, set[str]]:
    """What /metrics has when all of it has something to say: name -> its labels."""
    fd, shared = table.create(0xABCDEF, 1, 512)
    os.close(fd)
    shared.write_map(bytes([0, UNOWNED]))
    shared.register(0, 1000, 0, 0)
    shared.count(0, 0, errors.ANSWERED.number)
    answer(shared.open_range(0), 0, started_ns=1, times_ns=(2, 3), ended_ns=4)
    service = ServiceState("group", "topic", (0,), "there", "")
    supervisor = state_file.of_this_process("shop", Path("fastgw.toml"), 0.0)
    text = metrics.render(shared, {0: "POST /orders"}, 0, [service], supervisor, "", store_state(shared, 0))
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(base(sample.name), set()).update(sample.labels)
    return found


class Use(NamedTuple):
    """One selector of an expression."""

    where: str
    metric: str
    matchers: dict[str, str]  # label -> the values that it asks for, with | between them


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """All queries of dashboard and alerts, with where they stand."""
    shown = dashboard()
    for panel in shown["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']!r}", target["expr"]
    for variable in shown["templating"]["list"][1:]:
        yield f"variable {variable['name']}", variable["definition"]
    for annotation in shown["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    for rule in rules():
        yield f"alert {rule['alert']}", rule["expr"]


def uses() -> Iterator[Use]:
    for where, expression in expressions():
        for name, matchers in re.findall(r"\b(fastgw_\w+)(?:\{([^}]*)\})?", expression):
            asked = dict(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', matchers))
            yield Use(where, name, asked)


def test_every_metric_that_is_shown_exists(served: dict[str, set[str]]) -> None:
    unknown = [(use.where, use.metric) for use in uses() if base(use.metric) not in served]
    assert not unknown


def test_every_label_and_value_that_is_asked_for_exists(served: dict[str, set[str]]) -> None:
    for use in uses():
        labels = served[base(use.metric)] | TARGET_LABELS
        assert use.matchers.keys() <= labels, use
        for label, asked in use.matchers.items():
            if label in VALUES:
                for value in asked.split("|"):
                    assert any(re.fullmatch(value, one) for one in VALUES[label]), use


def test_labels_that_are_grouped_by_or_written_exist(served: dict[str, set[str]]) -> None:
    for where, expression in expressions():
        labels = set().union(*(served[base(name)] for name in re.findall(r"\bfastgw_\w+", expression))) | TARGET_LABELS
        for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
            assert {label.strip() for label in grouped.split(",")} <= labels, where


def test_every_metric_is_on_the_dashboard(served: dict[str, set[str]]) -> None:
    assert set(served) == {base(use.metric) for use in uses() if not use.where.startswith("alert ")} | {
        "fastgw_worker_generation",
        "fastgw_request_duration_seconds",
        "fastgw_slots",
    }


def test_failing_requests_are_those_that_somebody_has_to_act_on() -> None:
    alarming = {ending.name for ending in errors.ENDINGS if ending.alarming}
    asked = [
        set(use.matchers["ending"].split("|")) for use in uses() if "topic_unknown" in use.matchers.get("ending", "")
    ]
    assert len(asked) >= 2  # dashboard and alerts
    assert all(each == alarming for each in asked)


def test_alerts_ask_for_endings_that_are_there_before_their_first_event() -> None:
    common = {errors.ENDINGS[number].name for number in metrics.COMMON | metrics.COMMON_UNROUTED}
    matchers = [use.matchers.get("ending", "") for use in uses() if use.where.startswith("alert ")]
    asked = {ending for matcher in matchers for ending in matcher.split("|")} - {"", "cancelled.*"}
    assert {"expired", "table_full", "backlog", "connection_cap"} <= asked <= common


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert at["x"] + at["w"] <= 24, panel["title"]


# --- the page --------------------------------------------------------------------------------------------------------


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables below a heading, but for their heads."""
    _, _, below = PAGE.read_text().partition(f"\n## {heading}\n")
    section = below.partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_page_has_every_metric_with_its_labels(served: dict[str, set[str]]) -> None:
    shown = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in rows("Metrics") if "fastgw_" in row[0]}
    wanted = {name: labels - {"le"} for name, labels in served.items()}
    assert shown == wanted


EVENT = re.compile(
    r"""(?:\blog\.(?:debug|info|warning|error|exception)|\.broke|\(log\.info\ if\ expected\ else\ log\.error\))
        \(\s*"([^"{%]+)"
    """,
    re.VERBOSE,
)
# These reach the log by a variable.
MORE_EVENTS = {
    "kafka client", "kafka statistics", "kafka consumer command failed",
    "cannot position the reply consumer, trying again",
}  # fmt: skip


def events() -> set[str]:
    """What the processes of a gateway log; the SDK's services have a log of their own."""
    package = REPOSITORY / "fastgw"
    sources = [path for path in package.rglob("*.py") if not str(path.relative_to(package)).startswith("service")]
    return {event for path in sources for event in EVENT.findall(path.read_text())} | MORE_EVENTS


def test_the_page_has_every_event_of_the_log() -> None:
    shown = {event for row in rows("The gateway's log") for event in re.findall(r"`([^`]+)`", row[0])}
    assert shown == events()


def test_the_page_has_every_alert() -> None:
    shown = [(row[0].strip("`"), row[1]) for row in rows("Alerts")]
    assert shown == [(rule["alert"], rule["labels"]["severity"]) for rule in rules()]


def test_the_page_has_everything_that_status_shows() -> None:
    fd, shared = table.create(0xABCDEF, 1, 512)
    os.close(fd)
    loaded = config.loads((REPOSITORY / "examples/shop.toml").read_text())
    shown = {
        name for row in rows("Health pages") if row[0][:2] != "`/" for name in re.findall(r"`([a-z_]+)`", row[0])
    }  # fmt: skip
    assert shown == Admin(shared, loaded, lambda: 0).status().keys()


def test_the_page_has_every_fate() -> None:
    shown = {row[0].strip("`") for row in rows("Metrics") if "fastgw_" not in row[0]}
    assert shown - {"fate"} == VALUES["fate"]


# --- what Prometheus says --------------------------------------------------------------------------------------------


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(PROMTOOL), *map(str, arguments)]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )  # fmt: skip


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", ALERTS)
    assert done.returncode == 0, done.stdout


@pytest.mark.needs("promtool")
def test_each_alert_fires_and_is_silent_when_it_should() -> None:
    done = promtool("test", "rules", ALERT_TESTS)
    assert done.returncode == 0, done.stdout
    tried = ALERT_TESTS.read_text()
    assert all(rule["alert"] in tried for rule in rules())


@pytest.mark.needs("promtool")
def test_promtool_takes_every_query_of_the_dashboard(tmp_path: Path) -> None:
    panels = [panel for panel in dashboard()["panels"] if "targets" in panel]
    queries = [target["expr"].replace("$__rate_interval", "5m") for panel in panels for target in panel["targets"]]
    queries += [annotation["expr"] for annotation in dashboard()["annotations"]["list"]]
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    done = promtool("check", "rules", tmp_path / "rules.yaml")
    assert done.returncode == 0, done.stdout
