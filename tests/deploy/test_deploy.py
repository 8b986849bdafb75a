"""The files of deploy/ are true: systemd takes them, and their figures fit those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import typer.main

from fastgw import config
from fastgw.cli import main
from fastgw.config import Gateway, Limits, units
from fastgw.supervisor.worker_slots import PATIENCE
from tests.places import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
GUIDE = REPOSITORY / "docs" / "deployment.md"
EXPOSURE_MAX = 20  # tenths
NS_PER_S = units.NS_PER_S


def unit(name: str) -> dict[str, list[str]]:
    """Every setting of a unit file with all its values in order; an empty value takes back those before it."""
    found = defaultdict(list)
    for line in (DEPLOY / "systemd" / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            continue
        if value:
            found[key].append(value)
        else:
            found[key] = []
    return found


SERVICE, SOCKET = unit("fastgw.service"), unit("fastgw.socket")


def seconds(key: str) -> float:
    return units.parse_duration_ns(SERVICE[key][-1]) / NS_PER_S


# What systemd itself says. It looks for the programs that a unit names, so they get names of programs that are here.


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, Path]:
    for name in ("fastgw.service", "fastgw.socket"):
        text = (DEPLOY / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/fastgw/bin/fastgw", sys.executable))
    return {name.name: name for name in tmp_path.iterdir()}


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.needs("systemd-analyze")
def test_systemd_finds_nothing_to_say_about_the_units(installed: dict[str, Path]) -> None:
    done = systemd_analyze("verify", "--man=no", *installed.values())
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.needs("systemd-analyze")
def test_a_mistake_in_a_unit_would_be_found(installed: dict[str, Path]) -> None:
    text = installed["fastgw.service"].read_text()
    installed["fastgw.service"].write_text(text.replace("KillMode=mixed", "KillMode=mixde"))
    assert "mixde" in systemd_analyze("verify", "--man=no", installed["fastgw.service"]).stdout


@pytest.mark.needs("systemd-analyze")
def test_the_service_is_locked_up(installed: dict[str, Path]) -> None:
    done = systemd_analyze("security", "--offline=true", f"--threshold={EXPOSURE_MAX}", installed["fastgw.service"])
    assert done.returncode == 0, done.stdout
    told = re.search(r"exposure level for fastgw.service: ([0-9.]+)", done.stdout)
    assert told, done.stdout
    assert float(told[1]) * 10 <= EXPOSURE_MAX


# What the code says.


def test_the_service_is_started_by_a_command_that_there_is() -> None:
    program, command, config = SERVICE["ExecStart"][0].split()
    assert program == "/opt/fastgw/bin/fastgw"
    assert command in typer.main.get_command(main.app).commands  # type: ignore[attr-defined]
    assert config.startswith("/etc/" + SERVICE["ConfigurationDirectory"][0])


CONFIG_PATH = SERVICE["ExecStart"][0].split()[-1]


def test_the_reload_is_a_command_that_says_what_came_of_it_before_systemd_loses_patience() -> None:
    program, command, *options = SERVICE["ExecReload"][0].split()
    assert program == SERVICE["ExecStart"][0].split()[0]
    known = typer.main.get_command(main.app).commands[command]  # type: ignore[attr-defined]
    parsed = known.make_context(command, [option.replace("$MAINPID", "1") for option in options]).params
    assert parsed == {"pid": 1, "timeout": 70.0, "config": Path(CONFIG_PATH)}
    assert parsed["timeout"] < seconds("TimeoutStartSec")


def test_only_the_supervisor_speaks_to_systemd_and_gets_its_signals() -> None:
    told = {key: SERVICE[key] for key in ("Type", "NotifyAccess", "KillMode", "ExecReload", "Restart", "OOMPolicy")}
    assert told == {
        "Type": ["notify"],
        "NotifyAccess": ["main"],
        "KillMode": ["mixed"],
        "ExecReload": [f"/opt/fastgw/bin/fastgw reload --pid $MAINPID --timeout 70 {CONFIG_PATH}"],
        "Restart": ["always"],
        "OOMPolicy": ["continue"],
    }
    assert SERVICE["StartLimitIntervalSec"] == ["0"]


def test_the_start_is_given_the_time_that_the_supervisor_gives_to_agent_and_workers() -> None:
    assert seconds("TimeoutStartSec") > 2 * PATIENCE.start


def test_the_end_is_given_the_time_of_a_drain() -> None:
    drain_s = Gateway(name="shop").drain_timeout_ns / NS_PER_S
    assert seconds("TimeoutStopSec") > drain_s + PATIENCE.drain_more + PATIENCE.agent_stop


def test_the_watchdog_outlasts_a_hung_worker_and_the_start_of_its_successor() -> None:
    assert seconds("WatchdogSec") > PATIENCE.hung + PATIENCE.start


def test_the_descriptors_suffice_for_twice_the_default_of_connections_and_for_what_the_guide_says() -> None:
    allowed = int(SERVICE["LimitNOFILE"][0])
    assert allowed > 2 * Limits().max_connections
    beyond = re.search(r"goes beyond ([0-9,]+)", GUIDE.read_text())
    assert beyond
    assert int(beyond[1].replace(",", "")) < allowed


def test_the_ports_of_the_socket_unit_are_laid_out_for_each_worker_and_its_queue_is_that_of_our_own() -> None:
    assert len(SOCKET["ListenStream"]) > 1
    assert len(set(SOCKET["ListenStream"])) == 1
    assert SOCKET["ReusePort"] == ["yes"]
    assert SOCKET["Backlog"] == [str(config.ACCEPT_BACKLOG)]


def test_the_kernel_lets_the_queues_be_as_long_as_they_are_asked_for() -> None:
    lines = (DEPLOY / "sysctl.d" / "90-fastgw.conf").read_text().splitlines()
    wanted = dict(line.split(" = ") for line in lines if line and not line.startswith("#"))
    assert int(wanted["net.core.somaxconn"]) >= config.ACCEPT_BACKLOG
    for name in wanted:
        assert Path("/proc/sys", name.replace(".", "/")).exists(), name


def test_every_command_that_the_guide_shows_exists() -> None:
    commands = typer.main.get_command(main.app).commands  # type: ignore[attr-defined]
    shown = re.findall(r"/bin/fastgw (\w+)", GUIDE.read_text())
    assert shown
    assert set(shown) <= set(commands)
