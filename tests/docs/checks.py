"""Blocks that are not run: what a tool, a parser or a file of the repository says about each language."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.docs.pages import REPOSITORY, Block
from tests.surroundings import HAPROXY, NGINX

COMMAND_S = 60

# A fragment of a configuration is checked together with what it lacks of this.
MINIMAL: dict[str, Any] = {
    "gateway": {"name": "example"},
    "kafka": {"bootstrap": "127.0.0.1:9092"},
    "route": [{"method": "POST", "path": "/example", "topic": "example"}],
}
NGINX_AROUND = "daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
HAPROXY_AROUND = "defaults\n    mode http\n    timeout connect 1s\n    timeout client 1m\n    timeout server 1m\n"


class CheckFailed(Exception):
    """What is wrong with a block."""


def check(block: Block, folder: Path) -> None:
    """Check a block that is not run.

    Raises:
        CheckFailed: what is wrong with it.
    """
    checker = CHECKERS.get(block.language)
    if checker is None:
        raise CheckFailed(
            f"no check for a block in {block.language!r}: give it a title and run it, or say why it is not run"
        )
    checker(block, folder)


def _anything(_block: Block, _folder: Path) -> None:
    pass


def _python(block: Block, _folder: Path) -> None:
    try:
        ast.parse(block.text)
    except SyntaxError as error:
        raise CheckFailed(str(error)) from None


def _json(block: Block, _folder: Path) -> None:
    try:
        json.loads(block.text)
    except json.JSONDecodeError as error:
        raise CheckFailed(str(error)) from None


def _yaml(block: Block, _folder: Path) -> None:
    try:
        list(yaml.safe_load_all(block.text))
    except yaml.YAMLError as error:
        raise CheckFailed(str(error)) from None


def _text(_block: Block, _folder: Path) -> None:
    raise CheckFailed("a text block is what the sh block directly before it prints; give drawings no language")


def _toml(block: Block, folder: Path) -> None:
    try:
        fragment = tomllib.loads(block.text)
    except tomllib.TOMLDecodeError as error:
        raise CheckFailed(str(error)) from None
    whole = folder / f"fragment-{block.line}.toml"
    whole.write_text(to_toml(completed(fragment)))
    _run([sys.executable, "-m", "fastgw", "check", whole], folder)


def completed(fragment: dict[str, Any]) -> dict[str, Any]:
    """A fragment with what it lacks to be a configuration."""
    whole = {**MINIMAL, **fragment}
    for table in ("gateway", "kafka"):
        whole[table] = MINIMAL[table] | whole[table]
    if isinstance(whole["route"], list):
        whole["route"] = [MINIMAL["route"][0] | route for route in whole["route"]]
    return whole


def to_toml(tables: dict[str, Any]) -> str:
    """A configuration as TOML, each table on a line of its own."""
    return "".join(f"{name} = {_value(value)}\n" for name, value in tables.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_value(inner)}' for key, inner in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _ini(block: Block, folder: Path) -> None:
    """A part of a file under deploy/, or a unit that systemd takes."""
    if _is_quoted(block):
        return
    if not re.search(r"^(ExecStart|ListenStream|OnCalendar|OnUnitActiveSec)=", block.text, re.MULTILINE):
        # A drop-in: tried with the unit that it is for.
        unit = folder / "fastgw.service"
        unit.write_text((REPOSITORY / "deploy/systemd/fastgw.service").read_text() + "\n" + block.text)
    else:
        ending = next(
            ending
            for key, ending in (
                ("ListenStream", "socket"),
                ("OnCalendar", "timer"),
                ("OnUnit", "timer"),
                ("", "service"),
            )
            if key in block.text
        )
        unit = folder / f"example.{ending}"
        unit.write_text(block.text)
        if ending != "service":
            (folder / "example.service").write_text("[Service]\nExecStart=/bin/true\n")
    unit.write_text(re.sub(r"/\S*/bin/fastgw", sys.executable, unit.read_text()))
    _run(["systemd-analyze", "verify", "--man=no", unit], folder, quiet=True)


def _haproxy(block: Block, folder: Path) -> None:
    text = block.text if re.search(r"^defaults", block.text, re.MULTILINE) else HAPROXY_AROUND + block.text
    if not re.search(r"^\s+bind\s", text, re.MULTILINE):
        text += "\nlisten other\n    bind 127.0.0.1:1\n"
    config = folder / "haproxy.cfg"
    config.write_text(text)
    _run([HAPROXY, "-c", "-f", config], folder)


def _nginx(block: Block, folder: Path) -> None:
    text = block.text
    first = next(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")).split()[0]
    if first in ("location", "proxy_pass", "proxy_set_header"):
        text = f"server {{ listen 127.0.0.1:1;\n{text}\n}}"
    if not re.search(r"^(http|stream|events)\b", text, re.MULTILINE):
        text = f"http {{\n{text}\n}}"
    if not re.search(r"^events\b", text, re.MULTILINE):
        text = f"events {{}}\n{text}"
    config = folder / "nginx.conf"
    config.write_text(NGINX_AROUND.format(folder=folder) + text)
    _run([NGINX, "-t", "-e", folder / "error.log", "-p", folder, "-c", config], folder)


def _quoted(block: Block, _folder: Path) -> None:
    if not _is_quoted(block):
        raise CheckFailed("no tool checks it, and it is no part of a file under deploy/ or examples/")


def _is_quoted(block: Block) -> bool:
    wanted = _lines(block.text)
    for folder in ("deploy", "examples"):
        for path in (REPOSITORY / folder).rglob("*"):
            if path.is_file() and path.suffix != ".md" and wanted in _lines(path.read_text(errors="replace")):
                return True
    return False


def _lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def _run(command: list[Any], folder: Path, quiet: bool = False) -> None:
    done = subprocess.run(
        [*map(str, command)], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=COMMAND_S, check=False,
    )  # fmt: skip
    if done.returncode or (quiet and done.stdout):
        raise CheckFailed(done.stdout.strip() or f"exit code {done.returncode}")


CHECKERS: dict[str, Callable[[Block, Path], None]] = {
    "": _anything,  # drawings
    "http": _anything,
    "mermaid": _anything,  # a browser draws it
    "python": _python,
    "json": _json,
    "yaml": _yaml,
    "text": _text,
    "toml": _toml,
    "ini": _ini,
    "haproxy": _haproxy,
    "nginx": _nginx,
    "dockerfile": _quoted,
    "diff": _anything,
}
