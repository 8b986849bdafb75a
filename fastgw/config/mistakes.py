"""What is wrong in a file, as its author is told: where, what was expected, what was got, and never a secret."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any


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


_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+").fullmatch
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
