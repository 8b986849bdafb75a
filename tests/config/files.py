"""Files to read, and what is told about those with a mistake."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from fastgw import config
from fastgw.config import Config
from fastgw.errors import ConfigError

GATEWAY = '[gateway]\nname = "shop"\n'
KAFKA = '[kafka]\nbootstrap = "localhost:9092"\n'
ROUTE = '[[route]]\nmethod = "POST"\npath = "/orders"\ntopic = "orders"\n'
MINIMAL = GATEWAY + KAFKA + ROUTE
TRUSTING = GATEWAY + 'trusted_proxies = ["10.0.0.0/8"]\n' + KAFKA + ROUTE
CLIENT = GATEWAY + KAFKA + "[kafka.client]\n"

SECTIONS: dict[str, Any] = {
    "gateway": config.Gateway, "listen": config.Listen, "limits": config.Limits, "kafka": config.Kafka,
    "cluster": config.Cluster, "admin": config.Admin, "route": config.Route,
}  # fmt: skip
REQUIRED = ("gateway", "kafka", "route")


def loads(content: str, **environ: str) -> Config:
    return config.loads(content, "shop.toml", environ)


def told_about(content: str, **environ: str) -> list[str]:
    """The lines that are told about a wrong file."""
    with pytest.raises(ConfigError) as caught:
        loads(content, **environ)
    lines = str(caught.value).split("\n")
    assert all(line.isprintable() for line in lines), "nothing that moves the cursor"
    assert lines[0].startswith("shop.toml:")
    return lines


def mistakes(content: str, **environ: str) -> list[str]:
    """What is told about each mistake in a file, without the file's name."""
    lines = told_about(content, **environ)
    if lines[0] == f"shop.toml: {len(lines) - 1} mistakes":
        del lines[0]
    assert "expected" in lines[0]
    assert "got" in lines[0]
    return [line.removeprefix("shop.toml:").removeprefix(" ") for line in lines]


def mistake(content: str, **environ: str) -> str:
    """What is told about the only mistake in a file, without file and line."""
    found = mistakes(content, **environ)
    assert len(found) == 1, found
    return re.sub(r"^\d+: ", "", found[0])


def told_in_one_line(wrong: dict[str, list[str]]) -> pytest.MarkDecorator:
    """A test for each file, with what its line has to hold."""
    return pytest.mark.parametrize(("content", "told"), wrong.items(), ids=[told[0] for told in wrong.values()])


def assert_told(content: str, told: list[str]) -> None:
    found = mistakes(content)
    assert any(all(part in line for part in told) for line in found), found
    if told[0].endswith(":"):
        assert any(told[0] in line.partition(" expected")[0] for line in found), "the path comes first"


def toml(value: Any) -> str:
    """An inline TOML value."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(str(value), f"{value!r}".replace("e", "e"))
    return json.dumps(value)
