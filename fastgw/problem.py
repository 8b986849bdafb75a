"""Responses of the gateway itself: turns an `Ending` into an `application/problem+json` body (RFC 9457) and headers."""

from __future__ import annotations

import msgspec

from fastgw.errors import Ending
from fastgw.messages import HeaderList

TYPE_PREFIX = "urn:fastgw:problem:"
_ENCODE = msgspec.json.Encoder().encode

_CLOSE = ("connection", "close")


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """The problem body. Only problems that the service SDK writes may lack the `request_id`."""

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
    """The HTTP response for a request that the service did not answer.

    Args:
        ending: the row of the outcome table.
        detail: one sentence: what was expected, what was received, what to do.
        request_id: the correlation id, or `ids.refusal_id()` if the request has none.
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
            # The detail may quote text with lone surrogates, which valid JSON cannot contain.
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
