"""The path of a request, as it came: split first, then decoded, each segment once.

A percent-encoded slash is a character of its segment and separates nothing (RFC 3986, 2.2). So a proxy that looks at
the path before the gateway and the service that looks at it behind the gateway see the same segments.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_to_bytes

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})").search
# `+` is not among the characters that stay: some decoders, such as Java's URLDecoder, take it for a space.
_STAYS_ALL = re.compile(r"[A-Za-z0-9\-._~!$&'()*,;=:@/]*").fullmatch
_CHANGES = re.compile(r"%([0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~!$&'()*,;=:@/]").sub
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class BadPath(ValueError):
    """No route can match this path; the text says what was expected."""


def decoded_segments(path: str) -> list[str]:
    """What stands between the slashes of a path, each decoded by itself.

    Bytes that are not UTF-8 become lone surrogates, which are in no path template.

    Raises:
        BadPath: it does not begin with a slash, has characters that no target has, an escape that is none, a NUL, or
            `.` or `..` between slashes, escaped ones included: those who resolve these and those who do not would see
            different paths.
    """
    if not path.startswith("/"):
        raise BadPath("expected a path that starts with '/'")
    if not path.isascii() or not path.isprintable() or " " in path:
        raise BadPath("expected a path of printable ASCII, everything else percent-encoded")
    segments = path[1:].split("/")
    if "%" in path:
        if _BAD_ESCAPE(path):
            raise BadPath("expected two hexadecimal digits behind every '%' of the path")
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
    """A path, or a part of one, as it stands on records: ASCII that every percent-decoder turns into what was sent.

    Escapes are as RFC 3986, 6.2.2 normalizes them: in upper case, and none for letters, digits and `-._~`.
    """
    return (path if _STAYS_ALL(path) else _CHANGES(_respelled, path)).encode("ascii")


def decoded(part: str) -> bytes:
    """The bytes that a part of a path stands for."""
    return unquote_to_bytes(part)


def _respelled(found: re.Match[str]) -> str:
    digits = found[1]
    if digits is None:
        return "".join(f"%{byte:02X}" for byte in found[0].encode())
    character = chr(int(digits, 16))
    return character if character in _UNRESERVED else f"%{digits.upper()}"
