"""Which clients a route that streams can serve, and in which format."""

from __future__ import annotations

import pytest

from fastgw import config, errors
from fastgw.admission import STREAM, Admission, Refusal
from fastgw.core.routing import Router
from fastgw.http.stream_formats import EventStream, JsonArray, JsonLines, RawBytes
from fastgw.messages import Head
from fastgw.worker.stream_routes import StreamRoutes, encoder_of
from tests.core.test_routing import FakeHeaders

CONFIG = config.loads(
    """
[gateway]
name = "shop"
listen = ["127.0.0.1:8080", { bind = "127.0.0.1:8081", front = "granian" }]
[kafka]
bootstrap = "b:9092"
[[route]]
method = "GET"
path = "/orders"
topic = "orders"
reply = "stream"
[[route]]
method = "GET"
path = "/file"
topic = "orders"
reply = "stream"
items = "bytes"
""",
    "test.toml",
)
ROUTER = Router(CONFIG.routes, CONFIG.limits, ())


def judged(
    path: str = "/orders", accept: str | None = None, is_http10: bool = False, cannot_stream: bool = False
) -> Admission | Refusal:
    headers = FakeHeaders() if accept is None else FakeHeaders(accept=[accept])
    head = Head(
        "GET", path, "", headers, ["shop.test"], 0, False, is_http10=is_http10, cannot_stream=cannot_stream
    )  # fmt: skip
    admission = ROUTER.admit(head)
    assert isinstance(admission, Admission)
    assert admission.kind == STREAM
    return StreamRoutes(CONFIG).refusal(admission) or admission


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/x-ndjson"),
        ("*/*", "application/x-ndjson"),
        ("text/event-stream", "text/event-stream"),
        ("application/json", "application/json"),
        ("application/jsonl;q=0.5, application/json;q=0.4", "application/jsonl"),
    ],
)
def test_the_client_chooses_the_format(accept: str | None, media_type: str) -> None:
    admission = judged(accept=accept)
    assert isinstance(admission, Admission)
    assert admission.media_type == media_type


def test_bytes_have_no_choice() -> None:
    admission = judged("/file", accept="image/png")
    assert isinstance(admission, Admission)
    assert admission.media_type == ""


def test_who_cannot_be_served_is_told_why() -> None:
    refusals = {
        errors.NOT_ACCEPTABLE: judged(accept="image/png"),
        errors.HTTP_VERSION: judged(is_http10=True),
        errors.WRONG_LISTENER: judged(cannot_stream=True),
    }
    for ending, refusal in refusals.items():
        assert isinstance(refusal, Refusal)
        assert (refusal.ending, refusal.route_number) == (ending, 0)
    assert refusals[errors.NOT_ACCEPTABLE].headers == [("vary", "accept")]  # type: ignore[union-attr]
    assert "127.0.0.1:8080" in refusals[errors.WRONG_LISTENER].detail  # type: ignore[union-attr]
    assert "8081" not in refusals[errors.WRONG_LISTENER].detail  # type: ignore[union-attr]


def test_each_media_type_has_its_encoder() -> None:
    assert isinstance(encoder_of("text/event-stream", "", False), EventStream)
    assert isinstance(encoder_of("application/json", "", False), JsonArray)
    lines = encoder_of("application/jsonl", "", True)
    assert isinstance(lines, JsonLines)
    assert lines.head_headers()[0] == ("content-type", "application/jsonl")
    assert lines.end(0, "recorded")
    assert isinstance(encoder_of("", "image/png", False), RawBytes)
