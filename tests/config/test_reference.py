"""What editors and people are told of the settings."""

from __future__ import annotations

import json
import tomllib

from fastgw import config
from fastgw.config.kinds import fields_of
from tests.config.files import (
    MINIMAL,
    SECTIONS,
    loads,
    toml,
)


def test_the_schema_knows_every_setting_and_nothing_else() -> None:
    schema = json.loads(json.dumps(config.json_schema()))
    tables_of = {**schema["properties"], **schema["$defs"]}
    for name, section in SECTIONS.items():
        assert list(tables_of[name]["properties"]) == [field.key for field in fields_of(section)]
        assert tables_of[name]["additionalProperties"] is False


def test_the_defaults_of_the_schema_are_what_the_reader_takes() -> None:
    for name in ("gateway", "limits", "kafka", "cluster", "admin"):
        for key, setting in config.json_schema()["properties"][name]["properties"].items():
            if "default" not in setting:
                continue
            tree = tomllib.loads(MINIMAL)
            tree.setdefault(name, {})[key] = setting["default"]
            content = "\n".join(f"{table} = {toml(value)}" for table, value in tree.items())
            assert loads(content) == loads(MINIMAL), f"{name}.{key}"


def test_the_reference_has_a_row_for_every_setting() -> None:
    reference = config.markdown_reference()
    for section in SECTIONS.values():
        for field in fields_of(section):
            assert f"| `{field.key}` |" in reference
            assert field.setting.text.endswith("."), "a sentence"
