"""Mistakes in a configuration file and their messages: the key, what was expected, what was found; never a secret."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any


class Mistake(ValueError):
    """One wrong value in the file. The caller adds the name of the file."""

    def __init__(self, path: str, expected: str, got: str, hint: str = "") -> None:
        super().__init__(path, expected, got, hint)
        self.path, self.expected, self.got, self.hint = path, expected, got, hint

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{where}expected {self.expected}, got {self.got}{hint}"


class Mistakes(ValueError):
    """Collects mistakes. Used in a `with` statement, it catches and keeps the mistake that the block raises.

    Attributes:
        told_before: number of `WRONG` values met, whose mistakes are already reported.
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
    """Placeholder for a value whose mistake is already reported."""


WRONG = _Wrong()


class FromEnvironment(str):
    """A string with an expanded variable. Settings that take numbers accept it too."""

    __slots__ = ()


class SecretFromEnvironment(FromEnvironment):
    """A string with an expanded variable whose name looks like that of a secret."""

    __slots__ = ()


_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+").fullmatch
HIDDEN = "a value that is not shown because it may be a secret"
# `key` alone is the setting for the record key. Joined to another word it may be a cryptographic key.
_SECRET_WORD = re.compile(
    r"pass(?:word|wd|phrase)|pwd|secret|token|credential|jaas|\bpem\b|private|assertion|[a-z0-9_-]key|key[a-z0-9_.-]",
    re.IGNORECASE,
).search
_SECRET_TEXT = re.compile(r"-----BEGIN |password\s*=|secret\s*=", re.IGNORECASE).search
_USER_AND_PASSWORD = re.compile(r"[^\s/@,:]+:[^\s/@,]+@")  # in a URL, or before a broker's name


def looks_secret(name: str) -> bool:
    """Whether a setting or variable with this name may be a secret."""
    return _SECRET_WORD(name) is not None


def holds_secret(text: str) -> bool:
    """Whether the text contains a recognisable secret."""
    return _SECRET_TEXT(text) is not None or _USER_AND_PASSWORD.search(text) is not None


def shown_at(path: str, value: Any) -> str:
    """The value of a key for a message; hidden if it may be a secret."""
    return HIDDEN if path.startswith("kafka.client") or looks_secret(path) else shown(value)


def type_of(value: Any) -> str:
    """The type of a value that was not expected. Strings are not shown, because they may contain secrets."""
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list | tuple) else shown(value)


def shown(value: Any, limit: int = 60) -> str:
    """A value on one line, as its author would recognise it."""
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
        # More than 60 digits are not readable, and Python refuses to print more than 4,300.
        return "a very large number" if isinstance(value, int) and value.bit_length() > 200 else str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(item) for item in value) + "]" if len(value) <= 8 else "a list"
    return f"a {type(value).__name__}"


def under(path: str, key: str) -> str:
    """The path of `key` in the table at `path`, quoted where TOML would quote it."""
    key = key if _BARE_KEY(key) else shown(key)
    return f"{path}.{key}" if path else key


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint with the most similar known word; empty if none is similar."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower()[:80], by_lower, n=1, cutoff=0.6)
    return f'did you mean "{by_lower[close[0]]}"?' if close else ""
