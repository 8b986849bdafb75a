"""How settings are declared: the annotation of a field has its type, check, default and description.

`schema` lists the settings. This module reads the file according to that list, and `reference` makes the JSON Schema
and the Markdown reference from it. This module knows no setting by name.

    class Limits(msgspec.Struct, frozen=True):
        max_body_bytes: Annotated[int, Setting("Largest request body.", size("1B", "512MiB"))] = 1 << 20
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import msgspec

from fastgw.config import units
from fastgw.config.mistakes import (
    WRONG,
    FromEnvironment,
    Mistake,
    Mistakes,
    did_you_mean,
    shown,
    shown_at,
    type_of,
    under,
)
from fastgw.config.units import NS_PER_MS


@dataclass(frozen=True)
class Kind:
    """How one type of value is read from the file and shown in the reference."""

    name: str  # the type column of the reference
    read: Callable[[Any, str], Any]  # (value, its path) -> the value to keep; raises Mistake
    schema: dict[str, Any]
    show: Callable[[Any], str] = lambda kept: shown(kept)  # the kept value as text for the file


@dataclass(frozen=True)
class Setting:
    """One setting, as an annotation of the field that keeps its value."""

    text: str
    kind: Kind
    key: str = ""  # name in the file; empty: the field's name without its unit
    default: str = ""  # description of a computed default, for the reference
    restart: bool = False  # a reload cannot change it


class Field(NamedTuple):
    """A field of a section, with the setting that fills it."""

    name: str
    key: str
    setting: Setting
    required: bool
    default: Any  # of a required field: None


_UNIT = re.compile(r"_(?:ns|ms|bytes)$")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}").fullmatch


@cache
def fields_of(section: type[msgspec.Struct]) -> tuple[Field, ...]:
    """The settings of a section in the order of their declaration."""
    found = []
    hints = typing.get_type_hints(section, include_extras=True)
    for field in msgspec.structs.fields(section):
        notes = getattr(hints[field.name], "__metadata__", ())
        setting = next((note for note in notes if isinstance(note, Setting)), None)
        if setting is None:
            continue
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        key = setting.key or _UNIT.sub("", field.name)
        found.append(Field(field.name, key, setting, field.required, None if field.required else default))
    return tuple(found)


def read_section(section: type[msgspec.Struct], value: Any, path: str) -> dict[str, Any]:
    """The values of a section's fields, as arguments for its constructor. Keys missing in the file are left out.

    Raises:
        Mistakes: unknown keys, missing keys, and invalid values.
    """
    mistakes = Mistakes()
    kept = read_fields(section, value, path, mistakes)
    mistakes.raise_any()
    return kept


def read_fields(section: type[msgspec.Struct], value: Any, path: str, mistakes: Mistakes) -> dict[str, Any]:
    """Like `read_section`, but returns the valid values and adds the errors to `mistakes`."""
    if value is WRONG:
        mistakes.told_before += 1
        return {}
    if not isinstance(value, dict):
        mistakes.found.append(Mistake(path, "a table", type_of(value)))
        return {}
    fields = fields_of(section)
    known = [field.key for field in fields]
    for key in value:
        if key not in known:
            hint = did_you_mean(key, known) or "known here: " + ", ".join(known)
            mistakes.found.append(Mistake(under(path, key), "a known key", "an unknown one", hint))
    kept = {}
    for field in fields:
        where = under(path, field.key)
        if field.key not in value:
            if field.required:
                mistakes.found.append(Mistake(where, field.setting.kind.name, "nothing", "this setting is required"))
        elif value[field.key] is WRONG:
            mistakes.told_before += 1
        else:
            with mistakes:
                kept[field.name] = field.setting.kind.read(value[field.key], where)
    return kept


# --- kinds ---------------------------------------------------------------------------------------------------------


def parsed(
    name: str,
    types: tuple[type, ...],
    convert: Callable[[Any], Any],
    schema: dict[str, Any],
    show: Callable[[Any], str] = shown,
) -> Kind:
    """A value of one of `types` that `convert` accepts. The text of its ValueError becomes the hint."""

    def read(value: Any, path: str) -> Any:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise Mistake(path, name, shown_at(path, value))
        try:
            return convert(value)
        except ValueError as error:
            raise Mistake(path, name, shown_at(path, value), str(error)) from None

    return Kind(name, read, schema, show)


def text(name: str, check: Callable[[str], str] = str, **schema: Any) -> Kind:
    """A string. `check` returns the string to keep, or raises ValueError with a hint."""
    return parsed(name, (str,), lambda value: check(str(value)), {"type": "string", **schema})


def choice(*words: str, instead: Callable[[str], str] = lambda _value: "") -> Kind:
    """One of a few words. For another word `instead` may return a better hint than the most similar word."""

    def check(value: str) -> str:
        if value not in words:
            raise ValueError(instead(value) or did_you_mean(value, words))
        return value

    name = " or ".join(filter(None, [", ".join(map(shown, words[:-1])), shown(words[-1])]))
    return parsed(name, (str,), lambda value: check(str(value)), {"enum": list(words)})


def yes_or_no() -> Kind:
    """true or false."""

    def check(value: bool | str) -> bool:
        if value not in (True, False, "true", "false"):
            raise ValueError
        return value in (True, "true")

    return parsed("true or false", (bool, FromEnvironment), check, {"type": "boolean"})


def integer(least: int, most: int) -> Kind:
    """A whole number from `least` to `most`."""

    def check(value: int | str) -> int:
        if isinstance(value, str) and not _WHOLE_NUMBER(value):
            raise ValueError
        if not least <= (number := int(value)) <= most:
            raise ValueError
        return number

    name = f"a whole number from {least} to {most}"
    return parsed(name, (int, FromEnvironment), check, {"type": "integer", "minimum": least, "maximum": most})


def between(
    name: str,
    types: tuple[type, ...],
    parse: Callable[[Any], int],
    show: Callable[[int], str],
    bounds: tuple[str, str],
    schema: dict[str, Any],
) -> Kind:
    """A quantity that is written as text with a unit and kept as a number. The bounds are such texts, too."""
    least, most = map(parse, bounds)

    def check(value: Any) -> int:
        number = parse(value)
        if not least <= number <= most:
            raise ValueError(f"it must be between {bounds[0]} and {bounds[1]}")
        return number

    return parsed(name, types, check, schema, lambda kept: shown(show(kept)))


def duration(least: str, most: str) -> Kind:
    """A duration, kept in nanoseconds."""
    schema = {"type": "string", "pattern": units.DURATION_PATTERN}
    return between(
        'a duration such as "5s" or "250ms"',
        (str,),
        units.parse_duration_ns,
        units.format_duration,
        (least, most),
        schema,
    )


def duration_ms(least: str, most: str, *, whole: bool = False) -> Kind:
    """A duration that is kept in milliseconds, with or without fractions, as librdkafka needs it."""
    inner = duration(least, most)

    def read(value: Any, path: str) -> int | float:
        duration_ns = inner.read(value, path)
        if whole and duration_ns % NS_PER_MS:
            raise Mistake(path, "whole milliseconds", shown(value))
        return int(duration_ns // NS_PER_MS) if whole else float(duration_ns / NS_PER_MS)

    return Kind(inner.name, read, inner.schema, lambda kept: inner.show(round(kept * NS_PER_MS)))


def size(least: str, most: str) -> Kind:
    """A size, kept in bytes."""
    schema = {"anyOf": [{"type": "string", "pattern": units.SIZE_PATTERN}, {"type": "integer", "minimum": 0}]}
    return between(
        'a size such as "1MiB" or "64KiB"', (str, int), units.parse_bytes, units.format_bytes, (least, most), schema
    )


def fraction() -> Kind:
    """A number from 0 to 1."""
    name = "a number from 0 to 1"

    def read(value: Any, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise Mistake(path, name, shown(value))
        return float(value)

    return Kind(name, read, {"type": "number", "minimum": 0, "maximum": 1}, shown)


def _read_once(item: Kind, value: Any, path: str, before: Iterable[Any]) -> Any:
    kept = item.read(value, path)
    if kept in before:
        raise Mistake(path, "each value once", shown_at(path, value), "it is listed twice")
    return kept


def list_of(item: Kind, name: str, *, alone: bool = False, least: int = 0) -> Kind:
    """A list without duplicates, kept as a tuple. With `alone`, a single value stands for a list of one.

    Args:
        least: the minimum number of entries.
    """

    def read(value: Any, path: str) -> tuple[Any, ...]:
        if alone and isinstance(value, str):
            return (item.read(value, path),)
        if not isinstance(value, list) or len(value) < least:
            raise Mistake(path, name, shown_at(path, value))
        mistakes = Mistakes()
        kept: list[Any] = []
        for at, entry in enumerate(value):
            if entry is WRONG:
                mistakes.told_before += 1
                continue
            with mistakes:
                kept.append(_read_once(item, entry, f"{path}[{at}]", kept))
        mistakes.raise_any()
        return tuple(kept)

    many = {"type": "array", "items": item.schema, "uniqueItems": True, **({"minItems": least} if least else {})}
    schema = {"anyOf": [item.schema, many]} if alone else many
    return Kind(name, read, schema, lambda kept: "[" + ", ".join(item.show(entry) for entry in kept) + "]")
