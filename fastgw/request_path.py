"""The path of a request: split into segments first, then each segment is decoded once.

A percent-encoded slash belongs to its segment and is not a separator (RFC 3986, 2.2). So a proxy in front of the
gateway and the service behind it see the same segments.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_to_bytes

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})").search
# `+` is escaped: some decoders, such as Java's URLDecoder, read it as a space.
_STAYS_ALL = re.compile(r"[A-Za-z0-9\-._~!$&'()*,;=:@/]*").fullmatch
_CHANGES = re.compile(r"%([0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~!$&'()*,;=:@/]").sub
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class BadPath(ValueError):
    """No route can match this path; the text says what was expected."""


def decoded_segments(path: str) -> list[str]:
    """The segments of a path, each decoded.

    Bytes that are not UTF-8 become lone surrogates, which match no path template.

    Raises:
        BadPath: the path does not begin with a slash, has illegal characters, a malformed escape, a NUL, or a segment
            `.` or `..`, also escaped: proxies that resolve these and services that do not would see different paths.
    """
    if not path.startswith("/"):
        raise BadPath("expected a path that starts with '/'")
    if not path.isascii() or not path.isprintable() or " " in path:
        raise BadPath("expected a path of printable ASCII; other characters must be percent-encoded")
    segments = path[1:].split("/")
    if "%" in path:
        if _BAD_ESCAPE(path):
            raise BadPath("expected two hexadecimal digits after every '%' of the path")
        if "%00" in path:
            raise BadPath("expected no NUL in the path")
        segments = [unquote(segment, errors="surrogateescape") if "%" in segment else segment for segment in segments]
        parts = "/".join(segments).split("/")
    else:
        parts = segments
    if "." in parts or ".." in parts:
        raise BadPath("expected a path without '.' and '..' segments")
    return segments


def on_record(path: str) -> bytes:
    """A path, or a part of it, for records: ASCII that every percent-decoder decodes to the original bytes.

    Escapes are normalized (RFC 3986, 6.2.2): in upper case, and none for letters, digits and `-._~`.
    """
    return (path if _STAYS_ALL(path) else _CHANGES(_respelled, path)).encode("ascii")


def decoded(part: str) -> bytes:
    """The decoded bytes of a part of a path."""
    return unquote_to_bytes(part)


def _respelled(found: re.Match[str]) -> str:
    digits = found[1]
    if digits is None:
        return "".join(f"%{byte:02X}" for byte in found[0].encode())
    character = chr(int(digits, 16))
    return character if character in _UNRESERVED else f"%{digits.upper()}"
