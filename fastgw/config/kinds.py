"""What a setting is: name, type, default, check and one line of text in one place, as an annotation of its field.

`config` lists the settings; from that one list this module makes the reader of the file, the JSON Schema and the
Markdown reference. It knows no setting by name.

    class Limits(msgspec.Struct, frozen=True):
        max_body_bytes: Annotated[int, Setting("Largest request body.", size("1B", "512MiB"))] = 1 << 20
"""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import msgspec


class Mistake(ValueError):
    """One value in the file is wrong; the caller adds the file's name."""

    def __init__(self, path: str, expected: str, got: str, hint: str = "") -> None:
        super().__init__(path, expected, got, hint)
        self.path, self.expected, self.got, self.hint = path, expected, got, hint

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{where}expected {self.expected}, got {self.got}{hint}"


class Mistakes(ValueError):
    """All mistakes that were found. In a `with` block it takes up the mistake that ends the block, and goes on.

    Attributes:
        told_before: how often something was met that somebody else has told about (`WRONG`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Mistake] = []
        self.told_before = 0

    @property
    def count(self) -> int:
        return len(self.found) + self.told_before

    def __str__(self) -> str:
        return "; ".join(map(str, self.found))

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, Mistakes):
            self.found += error.found
            self.told_before += error.told_before
        elif isinstance(error, Mistake):
            self.found.append(error)
        else:
            return False
        return True

    def raise_any(self) -> None:
        if self.count:
            raise self


class _Wrong:
    """Stands for a value that a mistake has been told about."""


WRONG = _Wrong()


class FromEnvironment(str):
    """A string that holds an expanded variable: numbers may come this way, too."""

    __slots__ = ()


class SecretFromEnvironment(FromEnvironment):
    """One whose variable has the name of a secret."""

    __slots__ = ()


@dataclass(frozen=True)
class Kind:
    """How one sort of value is read from the file and shown in the reference."""

    name: str  # the type column of the reference
    read: Callable[[Any, str], Any]  # (value, its path) -> the value kept; raises Mistake
    schema: dict[str, Any]
    show: Callable[[Any], str] = lambda kept: shown(kept)  # the kept value as it would be written in the file


@dataclass(frozen=True)
class Setting:
    """One setting; stands in the `Annotated` type of the field that keeps its value."""

    text: str
    kind: Kind
    key: str = ""  # its name in the file; empty: the field's name without its unit
    default: str = ""  # what the reference says about a default that is computed
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
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+").fullmatch


@cache
def fields_of(section: type[msgspec.Struct]) -> tuple[Field, ...]:
    """The settings of a section in the order in which they were written down."""
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


# --- reading -------------------------------------------------------------------------------------------------------


HIDDEN = "a value that is not shown, as it may be a secret"
# `key` alone is where a route finds its record key; joined to another word it opens something.
_SECRET_WORD = re.compile(
    r"pass(?:word|wd|phrase)|pwd|secret|token|credential|jaas|\bpem\b|private|assertion|[a-z0-9_-]key|key[a-z0-9_.-]",
    re.IGNORECASE,
).search
_SECRET_TEXT = re.compile(r"-----BEGIN |password\s*=|secret\s*=", re.IGNORECASE).search
_USER_AND_PASSWORD = re.compile(r"[^\s/@,:]+:[^\s/@,]+@")  # of an URL, or before a broker's name


def looks_secret(name: str) -> bool:
    """Whether what has this name, or this path, may be a secret."""
    return _SECRET_WORD(name) is not None


def holds_secret(text: str) -> bool:
    """Whether there is one in it, as far as such things can be recognised."""
    return _SECRET_TEXT(text) is not None or _USER_AND_PASSWORD.search(text) is not None


def shown_at(path: str, value: Any) -> str:
    """The value of a key for a message, unless it may be a secret."""
    return HIDDEN if path.startswith("kafka.client") or looks_secret(path) else shown(value)


def type_of(value: Any) -> str:
    """What sort of thing stands where another was expected, without any text in it: it may hold anything."""
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list | tuple) else shown(value)


def shown(value: Any, limit: int = 60) -> str:
    """A value as a reader of the file would recognise it, on one line."""
    if isinstance(value, SecretFromEnvironment):
        return HIDDEN
    if isinstance(value, str):
        if _SECRET_TEXT(value):
            return HIDDEN
        value = _USER_AND_PASSWORD.sub("…@", value)
        text = value if len(value) <= limit else value[:limit] + "…"
        return json.dumps(text, ensure_ascii=not text.isprintable())
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, int | float):
        # Past 60 digits nobody reads on, and past 4,300 Python refuses to print.
        return "a very large number" if isinstance(value, int) and value.bit_length() > 200 else str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(item) for item in value) + "]" if len(value) <= 8 else "a list"
    return f"a {type(value).__name__}"


def under(path: str, key: str) -> str:
    """The path of `key` in the table at `path`, quoted where TOML would quote it."""
    key = key if _BARE_KEY(key) else shown(key)
    return f"{path}.{key}" if path else key


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a word that is not known, or nothing."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower()[:80], by_lower, n=1, cutoff=0.6)
    return f'did you mean "{by_lower[close[0]]}"?' if close else ""


def read_section(section: type[msgspec.Struct], value: Any, path: str) -> dict[str, Any]:
    """The values of a section's fields, as arguments for its constructor; what the file leaves out is left out.

    Raises:
        Mistakes: unknown keys, missing ones, and values that their settings do not take.
    """
    mistakes = Mistakes()
    kept = read_fields(section, value, path, mistakes)
    mistakes.raise_any()
    return kept


def read_fields(section: type[msgspec.Struct], value: Any, path: str, mistakes: Mistakes) -> dict[str, Any]:
    """As `read_section`, but gives what is right, and adds to `mistakes` what is wrong."""
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


_VARIABLE = re.compile(r"\$(?:\$(?=\{)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\{)")


def expand(value: Any, environ: Mapping[str, str], mistakes: Mistakes, path: str = "") -> Any:
    """The same tree with `${NAME}` and `${NAME:-default}` replaced in its strings; `$${` stands for `${`.

    A variable that is not set and has no default, or a `${` that opens nothing, is added to `mistakes`; `WRONG` takes
    the place of the string.
    """
    if isinstance(value, dict):
        return {key: expand(item, environ, mistakes, under(path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, environ, mistakes, f"{path}[{at}]") for at, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    with mistakes:
        return _expanded(value, environ, path)
    return WRONG


def _expanded(value: str, environ: Mapping[str, str], path: str) -> FromEnvironment:
    kind = FromEnvironment

    def replaced(match: re.Match[str]) -> str:
        nonlocal kind
        if match[0] == "$$":
            return "$"
        if match[1] is None:
            raise Mistake(path, "${NAME} or ${NAME:-default}", shown_at(path, value), "write $${ for a plain ${")
        if looks_secret(match[1]):
            kind = SecretFromEnvironment
        found = environ.get(match[1])
        if not found and match[2] is not None:
            return match[2]
        if found is None:
            hint = f"set it, or write ${{{match[1]}:-default}}"
            raise Mistake(path, f"the environment variable {match[1]}", "none of that name", hint)
        if not found.isascii() and any("\ud800" <= character <= "\udfff" for character in found):
            raise Mistake(path, f"UTF-8 text in the environment variable {match[1]}", "other bytes")
        return found

    text = _VARIABLE.sub(replaced, value)
    return kind(text)


# --- kinds ---------------------------------------------------------------------------------------------------------


def parsed(
    name: str,
    types: tuple[type, ...],
    convert: Callable[[Any], Any],
    schema: dict[str, Any],
    show: Callable[[Any], str] = shown,
) -> Kind:
    """A kind of value that is one of `types` and that `convert` takes (its ValueError becomes the hint)."""

    def read(value: Any, path: str) -> Any:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise Mistake(path, name, shown_at(path, value))
        try:
            return convert(value)
        except ValueError as error:
            raise Mistake(path, name, shown_at(path, value), str(error)) from None

    return Kind(name, read, schema, show)


def text(name: str, check: Callable[[str], str] = str, **schema: Any) -> Kind:
    """A string; `check` gives back the string to keep or raises ValueError with a hint."""
    return parsed(name, (str,), lambda value: check(str(value)), {"type": "string", **schema})


def choice(*words: str, instead: Callable[[str], str] = lambda _value: "") -> Kind:
    """One of a few words; `instead` may know better than a comparison of letters what was meant by another one."""

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
    """A quantity that is written as text with a unit and kept as a number, within bounds given as such text."""
    least, most = map(parse, bounds)

    def check(value: Any) -> int:
        number = parse(value)
        if not least <= number <= most:
            raise ValueError(f"it must lie between {bounds[0]} and {bounds[1]}")
        return number

    return parsed(name, types, check, schema, lambda kept: shown(show(kept)))


def _read_once(item: Kind, value: Any, path: str, before: Iterable[Any]) -> Any:
    kept = item.read(value, path)
    if kept in before:
        raise Mistake(path, "each value once", shown_at(path, value), "it stands there twice")
    return kept


def list_of(item: Kind, name: str, *, alone: bool = False, least: int = 0) -> Kind:
    """A list without repetition, kept as a tuple; with `alone`, a single value may stand for a list of one.

    Args:
        least: how many entries it must have.
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


# --- schema and reference ------------------------------------------------------------------------------------------


def section_schema(section: type[msgspec.Struct]) -> dict[str, Any]:
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
    """The schema with room for `${NAME}` where it asks for a number, for one of some words, or for a pattern."""
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


def section_reference(title: str, section: type[msgspec.Struct]) -> str:
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
