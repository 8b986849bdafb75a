"""Answers that are the gateway's own: an `Ending` becomes an `application/problem+json` body (RFC 9457) and headers."""

from __future__ import annotations

import msgspec

from fastgw import errors
from fastgw.errors import Ending
from fastgw.messages import HeaderList

TYPE_PREFIX = "urn:fastgw:problem:"
_ENCODE = msgspec.json.Encoder().encode

# Endings that say "not now": the client is told when to come back. One second is what a canary, a drained
# sibling or a respawned worker needs; a computed value has to wait for admission by measured capacity.
_RETRY_AFTER = ("retry-after", "1")
_RETRY_LATER = frozenset(
    {
        errors.TABLE_FULL,
        errors.IN_FLIGHT_CAP,
        errors.QUEUE_FULL,
        errors.DRAINING,
        errors.NOT_READY,
        errors.NOT_SENT,
        errors.CONNECTION_CAP,
        errors.NO_CONSUMER,
        errors.BACKLOG,
    }
)

# After these the rest of the request may still be on the wire, so the connection cannot carry another one.
_CLOSE = ("connection", "close")
_CLOSES_CONNECTION = frozenset(
    {errors.DRAINING, errors.BODY_TIMEOUT, errors.BODY_TOO_LARGE, errors.LENGTH_REQUIRED, errors.MALFORMED}
)


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
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
        Problem(
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
    if ending in _RETRY_LATER:
        headers.append(_RETRY_AFTER)
    if ending in _CLOSES_CONNECTION:
        headers.append(_CLOSE)
    if extra:
        headers.extend(extra)
    return ending.status, headers, body, request_id
