"""HTTP/1.1 heads and answers as bytes (RFC 9112): what the express front reads and writes, without a socket.

llhttp has the last word on what a head may look like; nothing here is believed before it has agreed. What is read here
is read from the same bytes a second time, so every rule is at least as strict as llhttp's: where the two could differ
in where something begins or ends, the head is refused.

A request pays for the headers that somebody asks for: no list of them is made, each is looked for when its name comes
up. Answers pay for their headers once a second: the same status with the same headers is the same bytes until the
date changes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from fastgw import errors
from fastgw.errors import Ending
from fastgw.messages import Head, HeaderList

HEAD_END = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEADERS_MAX = 512  # they cost little here; some services keep them in tables of fixed size
SMALL_HEAD_BYTES = 4 * HEADERS_MAX  # "a:", CR, LF: a head below it cannot have too many
LENGTH_DIGITS_MAX = 18  # fits 63 bits; nothing honest is longer

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+").fullmatch
_FIELD_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*").fullmatch
_ABSOLUTE = re.compile(r"https?://([^/?]*)([^?]*)(?:\?(.*))?", re.IGNORECASE).fullmatch
_DEFAULT_PORT = re.compile(r":(?:80)?$")

# Written by the front itself, or about one connection only: an answer cannot bring them along.
_NOT_AN_ANSWERS = frozenset({"connection", "content-length", "date", "keep-alive", "transfer-encoding", "upgrade"})
CLOSE = ("connection", "close")
_CACHED_HEADS_MAX = 1024

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class BadHead(ValueError):
    """The head cannot be taken; the text says what was expected."""


class _Needles(dict[str, str]):
    """Header name -> what stands in front of its value in a lower-case head; names come from the configuration."""

    def __missing__(self, name: str) -> str:
        needle = self[name] = f"\n{name}:"
        return needle


_NEEDLES = _Needles()


class LazyHeaders:
    """The headers of one head, found in its text when they are asked for. Satisfies `messages.Headers`.

    A value that is not ASCII is treated as absent, which is what the other front's library does.
    """

    __slots__ = ("_lowered", "_text")

    def __init__(self, text: str, lowered: str) -> None:
        """`text` is the whole head, request line to empty line, one character a byte; `lowered` is `text.lower()`."""
        self._text = text
        self._lowered = lowered

    def __repr__(self) -> str:
        return f"<LazyHeaders {self._text!r}>"

    def get(self, key: str, /) -> str | None:
        """The value of the first header of that name (lower case)."""
        needle = _NEEDLES[key]
        at = self._lowered.find(needle)
        if at < 0:
            return None
        value = _value_from(self._text, at + len(needle))
        if value.isascii():
            return value
        return next(iter(self.get_all(key)), None)

    def get_all(self, key: str, /) -> Sequence[str]:
        """The values of all headers of that name (lower case), in their order."""
        needle = _NEEDLES[key]
        values = []
        at = self._lowered.find(needle)
        while at >= 0:
            start = at + len(needle)
            value = _value_from(self._text, start)
            if value.isascii():
                values.append(value)
            at = self._lowered.find(needle, start)
        return values


def _value_from(text: str, start: int) -> str:
    return text[start : text.find("\r", start)].strip(" \t")


def content_length(text: str, lowered: str) -> int | None:
    """The announced length of the body; None where none is announced.

    Raises:
        BadHead: it is not a number, or one of more digits than any body has bytes.
    """
    at = lowered.find("\ncontent-length:")
    if at < 0:
        return None
    value = _value_from(text, at + 16)
    if not (value.isascii() and value.isdigit() and len(value) <= LENGTH_DIGITS_MAX):
        raise BadHead("expected a Content-Length of decimal digits")
    return int(value)


def request_line(text: str) -> tuple[str, str, str]:
    """Method, target and version.

    Raises:
        BadHead: there are not three words with one blank between them, or the version is none that is spoken here.
    """
    words = text[: text.find("\r")].split(" ")
    if len(words) != 3 or not words[1]:
        raise BadHead("expected a request line of method, target and version with one blank between them")
    if words[2] != "HTTP/1.1" and words[2] != "HTTP/1.0":
        raise BadHead('expected HTTP/1.1 or 1.0; HTTP/2 is for TLS listeners and those with http = "2"')
    return words[0], words[1], words[2]


def head_of(method: str, target: str, headers: LazyHeaders, length: int | None, chunked: bool) -> Head:
    """The head as the core wants it.

    Raises:
        BadHead: an absolute target of another authority than Host, or a target with a fragment.
    """
    hosts = headers.get_all("host")
    path, _, query = target.partition("?")
    if target[0] != "/":
        path, query = _absolute(target, hosts)
    if "%" in path:
        path = unquote_to_bytes(path).decode("utf-8", "replace")
    if "#" in target:
        raise BadHead("expected a target without fragment")
    return Head(method, path, query, headers, hosts, length, chunked, True, True)


def _absolute(target: str, hosts: Sequence[str]) -> tuple[str, str]:
    """Path and query of a target in absolute form; other forms are given back for the core to refuse."""
    match = _ABSOLUTE(target)
    if match is None:
        if "://" in target:
            raise BadHead("expected a target that is a path or an http URL")
        return target, ""
    authority, path, query = match.groups()
    if len(hosts) == 1 and _DEFAULT_PORT.sub("", authority).lower() != _DEFAULT_PORT.sub("", hosts[0]).lower():
        raise BadHead("expected the target's authority to be the Host")
    return path or "/", query or ""


def is_chunked(headers: LazyHeaders, is_http10: bool) -> bool:
    """Of a head with Transfer-Encoding: True.

    Raises:
        BadHead: it is anything but exactly `chunked`, or stands in HTTP/1.0 (RFC 9112, 6.1).
    """
    if is_http10 or [value.lower() for value in headers.get_all("transfer-encoding")] != ["chunked"]:
        raise BadHead("expected no Transfer-Encoding but chunked, and that in HTTP/1.1 only")
    return True


def excess(
    head: bytes | bytearray, line_bytes_max: int, headers_bytes_max: int, slack: int
) -> tuple[Ending, str] | None:
    """What is too large in a head, or in the part of it that has come; None if nothing is.

    `slack` bytes more are let pass: the last ones of a part may belong to the end of it. Said of a part, it would be
    said of the whole: so where the head was cut makes no difference.
    """
    if head[0] != 13 and not is_token(chr(head[0])):
        return errors.MALFORMED, "expected a request line"
    line_end = head.find(b"\r\n")
    line_bytes = len(head) - slack if line_end < 0 else line_end
    if line_bytes > line_bytes_max:
        if b" " not in head[:line_bytes_max]:
            return errors.MALFORMED, "expected a method of reasonable length"
        return errors.TARGET_TOO_LONG, f"expected a request line of at most {line_bytes_max} bytes"
    if line_end >= 0 and len(head) - slack - line_end > headers_bytes_max:
        return errors.HEADERS_TOO_LARGE, f"expected headers of at most {headers_bytes_max} bytes altogether"
    if head.count(b"\n") > HEADERS_MAX + 2:  # and the request line, and the empty one
        return errors.HEADERS_TOO_LARGE, f"expected at most {HEADERS_MAX} headers"
    return None


def is_token(word: str) -> bool:
    """It could be a method (RFC 9110, 5.6.2)."""
    return _TOKEN(word) is not None


class AnswerHeads:
    """The heads of answers up to and including `content-length: `, made once for each second and kind of answer."""

    __slots__ = ("_date", "_made")

    def __init__(self) -> None:
        self._date = b""
        self._made: dict[tuple[object, ...], tuple[bytes, bool]] = {}  # emptied when the date changes

    def set_time(self, epoch_s: float) -> None:
        """Answers are dated with this second from here on."""
        date = f"date: {formatdate(epoch_s, usegmt=True)}\r\n".encode()
        if date != self._date:
            self._date = date
            self._made.clear()

    def get(self, status: int, headers: HeaderList) -> tuple[bytes, bool]:
        """The head for `status` and `headers`, and whether the answer is plain: has a body, and does not say `close`.

        For 204 and 304, which have no body, the head ends behind the date. Headers that are the front's own to write
        are left out, and so are names and values that would not be a header.
        """
        key = (status, *headers)
        return self._made.get(key) or self._make(key, status, headers)

    def _make(self, key: tuple[object, ...], status: int, headers: HeaderList) -> tuple[bytes, bool]:
        if not 200 <= status <= 599:  # the core's mistake; an interim status would make the client wait for another
            status, headers = 500, []
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n"]
        for name, value in headers:
            if name not in _NOT_AN_ANSWERS and _TOKEN(name) and _FIELD_VALUE(value):
                lines.append(f"{name}: {value}\r\n")
        head = "".join(lines).encode("utf-8", "replace") + self._date
        has_body = status != 204 and status != 304
        if has_body:
            head += b"content-length: "
        if len(self._made) >= _CACHED_HEADS_MAX:
            self._made.clear()
        made = self._made[key] = head, has_body and CLOSE not in headers
        return made
