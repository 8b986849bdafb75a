"""What a door with a route that streams says to its requests."""

from __future__ import annotations

from fastgw import errors
from fastgw.admission import STREAM, Admission, Refusal
from fastgw.messages import Head

HTTP_VERSION = errors.MALFORMED._replace(name="http_version", status=505, closes=False)
WRONG_LISTENER = errors.MALFORMED._replace(name="wrong_listener", status=501, closes=False)


def as_streaming(verdict: Admission | Refusal, head: Head) -> Admission | Refusal:
    """The verdict about a request for such a route."""
    if isinstance(verdict, Refusal):
        return verdict
    if head.cannot_stream:
        return Refusal(WRONG_LISTENER, "this listener cannot stream", verdict.route_number)
    if head.is_http10:
        return Refusal(HTTP_VERSION, "expected HTTP/1.1: a stream is sent in chunks", verdict.route_number)
    verdict.kind = STREAM
    return verdict
