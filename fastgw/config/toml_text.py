"""Line numbers of the keys of a TOML file, and plain explanations of TOML syntax errors.

tomllib returns values without their positions. `lines_of` reads the same text again when a mistake has to be reported.
tomllib has accepted this text before, so `lines_of` need not check the syntax.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from contextlib import suppress

from fastgw.config.mistakes import holds_secret, looks_secret, under

LINE_SHOWN_MAX = 100

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*')"""
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*").match
_PARTS = re.compile(_PART).findall
_HEADER = re.compile(rf"\[(\[?)[ \t]*({_PART}(?:[ \t]*\.[ \t]*{_PART})*)[ \t]*\]\]?").match
_NOTHING = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*").match  # blanks, line ends and comments
_EQUALS = re.compile(r"[ \t]*=[ \t]*").match
_SCALAR = re.compile(
    r'''"""(?:\\.|[^\\])*?""""{0,2}|\'\'\'.*?\'\'\'\'{0,2}|"(?:\\.|[^"\\])*"|'[^']*'|[^,\]}\n#]+''', re.DOTALL
).match


def lines_of(content: str) -> dict[str, int]:
    """Path of each table, key and list entry -> the line of its first occurrence, counted from 1.

    Paths are those of `settings.under`: `route[0].path`, `kafka.client."sasl.password"`.
    """
    scanner = _Scanner(content)
    with suppress(_Lost, ValueError):  # a syntax error: the lines before it are known
        scanner.scan()
    return scanner.lines


def line_of(lines: dict[str, int], path: str) -> int | None:
    """The line of `path`, or of the nearest enclosing element, such as the table in which a key is missing."""
    end = len(path)
    while end > 0 and path[:end] not in lines:
        end = max(path.rfind(".", 0, end), path.rfind("[", 0, end))
    return lines[path[:end]] if end > 0 else None


class _Lost(Exception):
    pass


class _Scanner:
    def __init__(self, content: str) -> None:
        self.lines: dict[str, int] = {}
        self._text = content
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", content)]
        self._entries: dict[str, int] = {}  # path of a list of tables -> the entry that is being written

    def scan(self) -> None:
        table = ""
        while self._skip_nothing():
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip_nothing(self) -> bool:
        """Skips blanks, line ends and comments; returns whether any text is left."""
        match = _NOTHING(self._text, self._at)
        assert match is not None
        self._at = match.end()
        return self._at < len(self._text)

    def _take(self, match: re.Match[str] | None) -> re.Match[str]:
        if match is None:
            raise _Lost
        self._at = match.end()
        return match

    def _found(self, path: str) -> str:
        self.lines.setdefault(path, bisect_right(self._ends, self._at - 1) + 1)
        return path

    def _header(self) -> str:
        start = self._at
        match = self._take(_HEADER(self._text, self._at))
        after, self._at = self._at, start
        path = ""
        parts = _names(match[2])
        for place, part in enumerate(parts):
            path = self._found(under(path, part))
            if match[1] and place == len(parts) - 1:
                self._entries[path] = self._entries.get(path, -1) + 1
            if path in self._entries:
                path = self._found(f"{path}[{self._entries[path]}]")
        self._at = after
        return path

    def _pair(self, table: str) -> None:
        match = _KEY(self._text, self._at)
        if match is None:
            raise _Lost
        path = table
        for part in _names(match[0]):
            path = self._found(under(path, part))
        self._at = match.end()
        self._take(_EQUALS(self._text, self._at))
        self._value(path)

    def _value(self, path: str) -> None:
        opening = self._text[self._at : self._at + 1]
        if opening == "[":
            self._at += 1
            entry = 0
            while self._goes_on("]"):
                self._value(self._found(f"{path}[{entry}]"))
                entry += 1
        elif opening == "{":
            self._at += 1
            while self._goes_on("}"):
                self._pair(path)
        else:
            self._take(_SCALAR(self._text, self._at))

    def _goes_on(self, closing: str) -> bool:
        """Skips commas, and `closing` if it follows; returns whether another entry follows."""
        while self._skip_nothing():
            if self._text[self._at] not in (",", closing):
                return True
            self._at += 1
            if self._text[self._at - 1] == closing:
                return False
        raise _Lost


def _names(key: str) -> list[str]:
    return [tomllib.loads(f"k = {part}")["k"] if part[0] in "\"'" else part for part in _PARTS(key)]


# --- explanations of TOML syntax errors -------------------------------------------------------------------------------

_AT = re.compile(r"^(.*) \(at (?:line (\d+), column (\d+)|end of document)\)$", re.DOTALL).match


def explain(content: str, message: str) -> tuple[int | None, str]:
    """Explains tomllib's `message` about `content`: the line number, and a text with the line and a caret.

    A line that may contain a secret is not shown.
    """
    match = _AT(message)
    if match is None:
        return None, f"expected TOML, got: {message}"
    texts = content.split("\n")
    line = min(int(match[2] or len(texts)), len(texts))
    text = texts[line - 1]
    column = int(match[3] or len(text) + 1)
    words = f"column {column}: expected TOML, got: {_in_plain_words(match[1], text, column - 1)}"
    if _may_hold_secret(texts, line):
        return line, f"{words} (the line is not shown because it may contain a secret)"
    return line, f"{words}\n{_pointed_at(text, column - 1)}"


def _in_plain_words(message: str, text: str, at: int) -> str:
    here = text[at:].strip()
    if message == "Invalid value":
        return _no_value(here)
    if message.startswith("Expected newline or end of document"):
        if here[:1].isalnum() or here[:1] in "._-:/%":
            return 'more characters after a value; write text in quotes, such as "5s"'
        return "more characters after a value; each key needs its own line, and a comment begins with #"
    if message.startswith("Expected '=' after a key"):
        return ": after a key; write =" if here.startswith(":") else "a key without a value; write key = value"
    if "Unescaped '\\'" in message:
        return "an invalid escape; in \"…\" write \\\\, or use '…'"
    if match := re.match(r"Cannot declare \((.*?),?\) twice", message):
        name = ".".join(re.findall(r"'([^']*)'", match[1]))
        return f"a second [{name}], or a table inside {{}}; write its keys in one table" + (
            ", or write [[route]] for each route" if name == "route" else ""
        )
    return next((words for start, words in _PLAIN_WORDS.items() if message.startswith(start)), message)


_PLAIN_WORDS = {
    "Illegal character '\\n'": 'a text without its closing "',
    "Found invalid character '\\n'": "a text without its closing quote",
    "Unterminated string": "a text without its closing quotes",
    "Expected \"'": "a text without its closing quotes",
    "Unclosed array": "an unclosed list; a comma or a ] is missing before this",
    "Unclosed inline table": "an unclosed {; a comma or a } is missing before this, in the same line",
    "Expected ']' at the end of a table": "an unclosed table name; write [name]",
    "Expected ']]' at the end of an array": "an unclosed table name; write [[name]]",
    "Invalid initial character for a key part": "no key; keys have letters, digits, _, - or quotes",
    "Invalid statement": "neither a key, a [table] nor a comment",
    "Cannot overwrite a value": "a key that its table already has",
    "Duplicate inline table key": "a key that its table already has",
    "Cannot mutate immutable": "a key for a table that is already closed; write all of its keys in one place",
    "Cannot declare": "a table name that is already used for something else",
    "Invalid hex value": "an escape without its hexadecimal digits",
    "Escaped character is not": "an escape that is not a character",
    "Invalid date or datetime": "an invalid date",
}


def _no_value(here: str) -> str:
    word = re.split(r"[\s,\]}#]", here, maxsplit=1)[0]
    if not word:
        return "no value"
    if word.lower() in ("true", "false", "yes", "no", "on", "off"):
        return "no value; write true or false"
    if word.lower() in ("null", "none", "nil"):
        return "no value; leave out a key without value"
    return "no value; write text in quotes" if word[0].isalpha() or word[0] in "/_.$~*" else "no value"


_BEGINS_KEY = re.compile(rf"\s*({_PART}(?:[ \t]*\.[ \t]*{_PART})*)\s*=\s*[^=\s]").match
_IS_CLIENT = re.compile(r"\s*(?:kafka\s*\.\s*)?client\s*[.=]").match
_BEGINS_TABLE = re.compile(r"\s*\[+\s*[\"'A-Za-z]").match


def _may_hold_secret(texts: list[str], line: int) -> bool:
    """Checks the whole statement of the line: a text of several lines has its key in the first line."""
    begin = next((at for at in range(line - 1, -1, -1) if _BEGINS_KEY(texts[at]) or _BEGINS_TABLE(texts[at])), 0)
    statement = "\n".join(texts[begin:line])
    if looks_secret(statement) or holds_secret(statement):
        return True
    table = next((text for text in reversed(texts[:line]) if _BEGINS_TABLE(text)), "")
    return "client" in table or _IS_CLIENT(statement) is not None  # any value there may be one


def _pointed_at(text: str, at: int) -> str:
    start = max(0, at - LINE_SHOWN_MAX * 3 // 4)
    part = text[start : start + LINE_SHOWN_MAX]
    part = "".join(character if character.isprintable() else " " for character in part)
    return f"    {part.rstrip()}\n    {' ' * (at - start)}^"
