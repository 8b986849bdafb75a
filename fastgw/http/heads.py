"""HTTP/1.1 heads and answers as bytes (RFC 9112): the parsing and writing of the express front, without sockets.

llhttp decides whether a head is valid; results of this module are used only after llhttp has accepted the head. Both
parse the same bytes, so every rule here is at least as strict as llhttp's. If the two could disagree about where an
element begins or ends, the head is refused.

Request headers are searched only on demand: no list of them is made (`RequestHead`, in _http1.pyx). Heads of answers
are made once a second: the same status with the same headers gives the same bytes until the date changes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus

from fastgw import errors
from fastgw.errors import Ending
from fastgw.header_names import OF_THE_GATEWAY
from fastgw.http._http1 import RequestHead
from fastgw.messages import HeaderList

HEAD_END = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE = ("connection", "close")
HEADERS_MAX = 512  # they are cheap here, but some services keep them in tables of fixed size
SMALL_HEAD_BYTES = 4 * HEADERS_MAX  # "a:", CR, LF: a smaller head cannot have too many

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+").fullmatch
_FIELD_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*").fullmatch
_ABSOLUTE = re.compile(r"https?://([^/?]*)([^?]*)(?:\?(.*))?", re.IGNORECASE).fullmatch
_LATER_VERSION = re.compile(rb"(?<= HTTP/1\.)[2-9](?=\r\n)").sub
_UPGRADE = re.compile(rb"(?<=\n)upgrade(?=:)", re.IGNORECASE).sub
_DEFAULT_PORT = re.compile(r":(?:80)?$")

_CACHED_HEADS_MAX, _CACHED_HEAD_BYTES_MAX = 1024, 2048

# The phrases of RFC 9110; Python 3.11 still has those of its predecessors.
_RENAMED = {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}
_REASONS = {status.value: status.phrase for status in HTTPStatus} | _RENAMED


class BadHead(ValueError):
    """The head is refused; the text says what was expected."""


class BadAnswer(ValueError):
    """The core gave an answer that must not be sent; the text says what was expected."""


def complete(head: RequestHead) -> None:
    """Finds path and query of a head that is not plain.

    Raises:
        BadHead: it has a fault, an absolute target whose authority is not the Host, or a target with a fragment.
    """
    if head.fault is not None:
        raise BadHead(head.fault)
    if "#" in head.target:
        raise BadHead("expected a target without fragment")
    if not head.path.startswith("/"):
        head.path, head.query = _absolute(head.target, head.hosts)


def for_llhttp(head: bytes) -> bytes:
    """The same head, with the same length, as HTTP/1.1 without Upgrade, as which the request is served.

    llhttp knows no later minor version, and after an Upgrade it may not read the body.
    """
    return _UPGRADE(b"X-Offer", _LATER_VERSION(b"1", head, count=1))


def _absolute(target: str, hosts: Sequence[str]) -> tuple[str, str]:
    """Path and query of a target in absolute form; other forms are returned unchanged, and the core refuses them."""
    match = _ABSOLUTE(target)
    if match is None:
        if "://" in target:
            raise BadHead("expected a target that is a path or an http URL")
        return target, ""
    authority, path, query = match.groups()
    if len(hosts) == 1 and _DEFAULT_PORT.sub("", authority).lower() != _DEFAULT_PORT.sub("", hosts[0]).lower():
        raise BadHead("expected the target's authority to be the Host")
    return path or "/", query or ""


def excess(
    head: bytes | bytearray, line_bytes_max: int, headers_bytes_max: int, slack: int
) -> tuple[Ending, str] | None:
    """The limit that a head, or its part received so far, exceeds; None if it exceeds none.

    `slack` more bytes are allowed, because the last bytes of a part may belong to its end. If a part exceeds a limit,
    the whole head does too: so the result does not depend on how the head was split.
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
    if head.count(b"\n") > HEADERS_MAX + 2:  # plus the request line and the empty line
        return errors.HEADERS_TOO_LARGE, f"expected at most {HEADERS_MAX} headers"
    return None


def is_token(word: str) -> bool:
    """Whether the word could be a method (RFC 9110, 5.6.2)."""
    return _TOKEN(word) is not None


def ignore(_data: bytes) -> None:
    """Replaces a parser that is no longer used."""


class AnswerHeads:
    """The heads of answers, without request id and length; each is made once a second."""

    __slots__ = ("_date", "made")

    def __init__(self) -> None:
        self._date = b""
        self.made: dict[tuple[object, ...], tuple[bytes, bool]] = {}  # cleared when the date changes

    def set_time(self, epoch_s: float) -> None:
        """Sets the date of the following answers."""
        date = f"date: {formatdate(epoch_s, usegmt=True)}\r\n".encode()
        if date != self._date:
            self._date = date
            self.made.clear()

    def make(self, status: int, headers: HeaderList) -> tuple[bytes, bool]:
        """The head for `status` and `headers`, and whether the answer is plain: may have a body, does not close.

        The head ends after the date. The caller adds `x-request-id`, `content-length` (not for 204 and 304, which have
        no body) and the empty line. Headers that the front writes itself are left out. The result is kept in `made`
        under `(status, *headers)`: look there first.

        Raises:
            BadAnswer: a status that is not final, or a header that could inject another one.
        """
        if not 200 <= status <= 599:  # after an interim status the client would wait for another one
            raise BadAnswer(f"expected a status from 200 to 599, got {status}")
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n"]
        for name, value in headers:
            if not (_TOKEN(name) and _FIELD_VALUE(value)):
                raise BadAnswer(f"expected a header as in RFC 9110, section 5, got {name[:40]!r}: {value[:40]!r}")
            if name not in OF_THE_GATEWAY:
                lines.append(f"{name}: {value}\r\n")
        head = "".join(lines).encode("latin-1", "replace") + self._date  # one character is one byte: obs-text passes
        has_body = status not in (204, 304)
        made = head, has_body and status != 205 and CLOSE not in headers
        if len(head) <= _CACHED_HEAD_BYTES_MAX:
            if len(self.made) >= _CACHED_HEADS_MAX:
                self.made.clear()
            self.made[status, *headers] = made
        return made
