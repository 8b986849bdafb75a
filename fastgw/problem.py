"""Answers that are the gateway's own: an `Ending` becomes an `application/problem+json` body (RFC 9457) and headers."""

from __future__ import annotations

import msgspec

from fastgw.errors import Ending
from fastgw.messages import HeaderList

TYPE_PREFIX = "urn:fastgw:problem:"
_ENCODE = msgspec.json.Encoder().encode

_CLOSE = ("connection", "close")


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """The problem body; only a problem of the SDK may lack the `request_id`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    outcome: str
    retryable: bool
    request_id: str | None = None


def answer(
    ending: Ending, detail: str, request_id: bytes, extra: HeaderList | None = None
) -> tuple[int, HeaderList, bytes, bytes]:
    """The HTTP answer for a request that ended without an answer of the service.

    Args:
        ending: the row of the outcome table.
        detail: one sentence: what was expected, what was got, what to do.
        request_id: the correlation id, or `ids.refusal_id()` where there is none.
        extra: further headers, such as `allow`.

    Returns:
        What `messages.Answer` takes: status, headers, body, request id.
    """
    shown_id = request_id.decode("ascii")
    body = _ENCODE(
        ProblemDocument(
            type=TYPE_PREFIX + ending.name,
            title=ending.title,
            status=ending.status,
            # A lone surrogate, which whoever made the sentence took over from somewhere, is in no valid JSON.
            detail=detail if detail.isascii() else detail.encode(errors="backslashreplace").decode(),
            instance=f"urn:uuid:{shown_id}",
            outcome=ending.outcome.value,
            retryable=ending.retryable,
            request_id=shown_id,
        )
    )
    headers = [
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
        ("fastgw-outcome", ending.outcome.value),
    ]
    if ending.retry_after_s:
        headers.append(("retry-after", str(ending.retry_after_s)))
    if ending.closes:
        headers.append(_CLOSE)
    if extra:
        headers.extend(extra)
    return ending.status, headers, body, request_id
