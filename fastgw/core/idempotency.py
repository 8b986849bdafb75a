"""The header `Idempotency-Key`, and what two requests with the same key are compared by.

draft-ietf-httpapi-idempotency-key-header-07: the value is a string of RFC 9651, section 3.3.3, such as `"8e03978e"`.
Many clients send it without quotes, so that is accepted, too, and means the same key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from fastgw.messages import Headers
from fastgw.request_path import on_record

HEADER: Final = "idempotency-key"
KEY_BYTES_MAX: Final = 255

# RFC 9651, section 4.2.5: visible ASCII and spaces; only the quote and the backslash are escaped.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"').fullmatch
# Visible ASCII, but nothing that could be the rest of a quoted string, a list (RFC 9651, 3.1) or parameters (3.1.2).
_BARE = re.compile(r"[!#-+\--:<-\[\]-~]+").fullmatch
_ESCAPE = re.compile(r"\\(.)").sub


class BadKey(ValueError):
    """The header `Idempotency-Key` has no key; the text says what was expected and what was got."""


def key_of(headers: Headers) -> str | None:
    """The request's idempotency key, ASCII; None if it has no such header.

    Raises:
        BadKey: there are several lines, the value is no string, or the key is empty or longer than `KEY_BYTES_MAX`.
    """
    lines = headers.get_all(HEADER)
    if not lines:
        return None
    if len(lines) > 1:
        raise BadKey(f"expected one Idempotency-Key, got {len(lines)}")
    value = lines[0].strip(" \t")
    if len(value) > 2 * KEY_BYTES_MAX + 2:  # every character escaped, and the quotes
        raise BadKey(f"expected an Idempotency-Key of at most {KEY_BYTES_MAX} bytes, got a longer one")
    quoted = _QUOTED(value)
    if quoted is None and not _BARE(value):
        raise BadKey('expected an Idempotency-Key of visible ASCII in quotes, such as "8e03978e", got another text')
    key = _ESCAPE(r"\1", quoted[1]) if quoted is not None else value
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise BadKey(f"expected an Idempotency-Key of 1 to {KEY_BYTES_MAX} bytes, got {len(key)}")
    return key


def key_hash(route: str, subject: str, key: str) -> bytes:
    """The key within its scope, 32 bytes: clients of two routes, or two subjects, can use the same key.

    Args:
        route: the name of the route.
        subject: who asks; empty without authentication.
    """
    return _digest(route.encode(), subject.encode(), key.encode())


def fingerprint(
    method: str, path: str, query: str, body: bytes, header_names: Sequence[str], headers: Headers
) -> bytes:
    """What requests with the same key must have in common, 32 bytes: SHA-256 over all of it.

    Args:
        path: as received; two spellings with escapes of the same path are the same.
        query: as received.
        header_names: lower case, in the order of the configuration. A header that is missing differs from an empty one.
    """
    parts = [method.encode(), on_record(path), query.encode(), body]
    for name in header_names:
        value = headers.get(name)
        parts += (name.encode(), b"-" if value is None else b"+" + value.encode("latin-1", "replace"))
    return _digest(*parts)


def _digest(*parts: bytes) -> bytes:
    """SHA-256 over the parts, each with its length: parts that are cut elsewhere have another digest."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
