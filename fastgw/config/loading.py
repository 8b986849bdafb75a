"""Reads a file into a `Config`: text, TOML, `${VARIABLES}`, sections, conflicts between settings.

The supervisor passes the result to its children as JSON (`to_json`, `from_json`), so that all processes of a gateway
use the same configuration.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fastgw.config import checks, draft, toml_text
from fastgw.config.mistakes import (
    WRONG,
    FromEnvironment,
    Mistake,
    Mistakes,
    SecretFromEnvironment,
    looks_secret,
    shown_at,
    under,
)
from fastgw.config.schema import Config
from fastgw.errors import ConfigError

# Limits the output for a file that is not a configuration at all.
MISTAKES_TOLD_MAX = 20


def load(path: Path | str, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: the text has one line for each mistake, with file, line number, key, what was expected and what was
            found. For a TOML syntax error the faulty line follows, with a caret.
    """
    source = str(path)
    return _read(_text_of(path, source), source, environ, files=True)


def loads(content: str, source: str = "fastgw.toml", environ: Mapping[str, str] = os.environ) -> Config:
    """Check a configuration given as text, without checking the files that it names.

    Raises:
        ConfigError: as `load`.
    """
    return _read(content, source, environ, files=False)


def _text_of(path: Path | str, source: str) -> str:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ConfigError(_no_file(source, "no such file; `fastgw demo` needs none")) from None
    except OSError as error:
        raise ConfigError(_no_file(source, str(error.strerror))) from None
    except ValueError as error:  # a NUL in the name
        raise ConfigError(_no_file(source, str(error))) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}: line {line}: expected UTF-8 text, got byte 0x{data[error.start]:02x}") from None


def _no_file(source: str, reason: str) -> str:
    return f"{one_line(source)}: expected a configuration file, got: {reason}"


def _read(content: str, source: str, environ: Mapping[str, str], *, files: bool) -> Config:
    tree = _parsed(content, source)
    mistakes = Mistakes()
    try:
        read = draft.read_draft(expand(tree, environ, mistakes), mistakes)
        mistakes.found += checks.clashes(read)
        if files:
            mistakes.found += checks.unusable_files(read)
    except RecursionError:
        raise ConfigError(f"{source}: expected a configuration, got tables nested too deeply") from None
    if mistakes.found:
        raise ConfigError(_told(mistakes.found, content, source))
    return draft.finished(read, source)


def _parsed(content: str, source: str) -> dict[str, Any]:
    try:
        # Without a final newline tomllib reports a mistake in the last line as "at end of document".
        return tomllib.loads(content + "\n")
    except RecursionError:
        raise ConfigError(f"{source}: expected TOML, got brackets nested too deeply") from None
    except ValueError as error:
        raise ConfigError(_no_toml(content, source, str(error))) from None


def _told(found: Sequence[Mistake], content: str, source: str) -> str:
    """Each mistake on a line, in the order of the file: `file:line: key: expected ..., got ...`."""
    lines = toml_text.lines_of(content)
    placed = [(toml_text.line_of(lines, mistake.path), mistake) for mistake in found]
    placed.sort(key=lambda one: one[0] or 0)
    told = [one_line(f"{source}:{line}: {mistake}" if line else f"{source}: {mistake}") for line, mistake in placed]
    if len(told) == 1:
        return told[0]
    more = [f"... and {len(told) - MISTAKES_TOLD_MAX} more"] if len(told) > MISTAKES_TOLD_MAX else []
    return "\n".join([one_line(f"{source}: {len(told)} mistakes"), *told[:MISTAKES_TOLD_MAX], *more])


def _no_toml(content: str, source: str, message: str) -> str:
    line, words = toml_text.explain(content, message)
    told = f"{source}:{line}: {words}" if line else f"{source}: {words}"
    return "\n".join(map(one_line, told.split("\n")))


def one_line(message: str) -> str:
    """The message with `?` for each unprintable character, such as a line break."""
    return "".join(character if character.isprintable() else "?" for character in message)


# --- ${VARIABLES} ----------------------------------------------------------------------------------------------------

_VARIABLE = re.compile(r"\$(?:\$(?=\{)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\{)")


def expand(value: Any, environ: Mapping[str, str], mistakes: Mistakes, path: str = "") -> Any:
    """The same tree with `${NAME}` and `${NAME:-default}` replaced in its strings; `$${` stands for `${`.

    A variable that is not set and has no default is added to `mistakes`, and so is a `${` that begins no variable.
    `WRONG` then replaces the string.
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


# --- hand-over between processes -------------------------------------------------------------------------------------


def to_json(config: Config) -> bytes:
    """The configuration for another process of this gateway; `from_json` reads it."""
    return msgspec.json.encode(config)


def from_json(data: bytes) -> Config:
    """What `to_json` was given.

    Raises:
        ConfigError: the bytes are no configuration of this version.
    """
    try:
        return msgspec.json.decode(data, type=Config)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(one_line(f"handed-over configuration: expected what to_json wrote, got: {error}")) from None
