"""Descriptions of the settings: the JSON Schema for editors and the Markdown reference (`fastgw schema`)."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from fastgw.config.kinds import Field, fields_of
from fastgw.config.schema import REQUIRED, ROUTES_MAX, SECTIONS, TABLE_LISTS


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the file, for editors."""
    tables = {name: _section_schema(section) for name, section in SECTIONS.items()}
    defs = {"listen": tables["listen"], "route": tables["route"]}
    properties: dict[str, Any] = {name: table for name, table in tables.items() if name not in defs}
    properties["listen"] = {"type": "array", "items": {"$ref": "#/$defs/listen"}, "minItems": 1}
    properties["route"] = {"type": "array", "items": {"$ref": "#/$defs/route"}, "minItems": 1, "maxItems": ROUTES_MAX}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fastgw configuration",
        "type": "object",
        "properties": properties,
        "required": list(REQUIRED),
        "additionalProperties": False,
        "$defs": defs,
    }


def markdown_reference() -> str:
    """The configuration reference of docs/configuration.md."""
    titles = {name: f"[[{name}]]" if name in TABLE_LISTS else f"[{name}]" for name in SECTIONS}
    return "\n".join(_section_reference(titles[name], section) for name, section in SECTIONS.items())


def _section_schema(section: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of one table of the file."""
    properties = {}
    for field in fields_of(section):
        default = {} if field.required else _schema_default(field)
        properties[field.key] = {
            **_or_variable(field.setting.kind.schema),
            "description": field.setting.text,
            **default,
        }
    required = [field.key for field in fields_of(section) if field.required]
    return {
        "type": "object",
        "description": (section.__doc__ or "").splitlines()[0],
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _or_variable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema extended by `${NAME}`, if it demands a number, one of some words, or a pattern."""
    if "items" in schema:
        return {**schema, "items": _or_variable(schema["items"])}
    if schema.get("type") in ("integer", "boolean") or "enum" in schema or "pattern" in schema:
        return {"anyOf": [schema, {"type": "string", "pattern": r"\$\{"}]}
    if "anyOf" in schema and all("$ref" not in one for one in schema["anyOf"]):
        return {"anyOf": [_or_variable(one) for one in schema["anyOf"]]}
    return schema


def _schema_default(field: Field) -> dict[str, Any]:
    if field.setting.default:
        return {}  # computed from other settings or from the machine
    written = field.setting.kind.show(field.default)
    return {"default": json.loads(written)}


def _section_reference(title: str, section: type[msgspec.Struct]) -> str:
    """One table of the file as Markdown: a heading, a sentence, a row for each setting."""
    rows = [f"### `{title}`", "", (section.__doc__ or "").splitlines()[0], ""]
    rows += ["| key | value | default | what it does |", "| --- | --- | --- | --- |"]
    for field in fields_of(section):
        setting = field.setting
        default = "*required*" if field.required else setting.default or f"`{setting.kind.show(field.default)}`"
        restart = " Needs a restart." if setting.restart else ""
        row = [f"`{field.key}`", setting.kind.name, default, setting.text + restart]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(rows) + "\n"
