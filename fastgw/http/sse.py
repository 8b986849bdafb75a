"""Server-sent events as bytes (WHATWG HTML, 9.2). Everything is UTF-8.

Rules of that section which decide how these bytes look:

- A line ends with LF, CR or CRLF. So data with such a character becomes several `data:` lines, and the client joins
  them with LF.
- Data that is empty is not dispatched. An event with an id and without data only moves the client's position.
- An `id:` without value makes the client forget its position; an id with NUL is ignored.
- The client connects again after a clean end as well as after a broken one, with its last id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

COMMENT = b":\n\n"  # keeps the connection alive; the client ignores it

_line_ends = re.compile(rb"\r\n|\r|\n").split


def event(data: bytes, name: bytes = b"", event_id: bytes | None = None) -> bytes:
    """One event.

    Args:
        data: its text; without text it only moves the client's position.
        name: its type, one line; b"" is `message`.
        event_id: the client's position after it, without NUL, CR and LF. None: unchanged; b"": the client has no
            position any more.
    """
    lines = []
    if event_id is not None:
        lines.append(b"id: %b\n" % event_id if event_id else b"id:\n")
    if name:
        lines.append(b"event: %b\n" % name)
    if data:
        lines += [b"data: %b\n" % line for line in _line_ends(data)]
    return b"%b\n" % b"".join(lines)


def messages(items: Iterable[bytes], first_index: int, id_prefix: bytes) -> bytes:
    """Events of the type `message`, one for each item.

    Args:
        items: not empty, without CR and LF.
        first_index: of the first item.
        id_prefix: the id of an item is this prefix and its index, in decimal; b"": they have no id.
    """
    if not id_prefix:
        return b"".join([b"data: %b\n\n" % item for item in items])
    numbered = enumerate(items, first_index)
    return b"".join([b"id: %b%d\ndata: %b\n\n" % (id_prefix, index, item) for index, item in numbered])


def retry(delay_ms: int) -> bytes:
    """Makes the client wait this long before it connects again."""
    return b"retry: %d\n\n" % delay_ms
