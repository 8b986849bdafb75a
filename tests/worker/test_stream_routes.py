"""Which clients a route that streams can serve, and in which format."""

from __future__ import annotations

import pytest

from fastgw import config, errors
from fastgw.admission import RESUME, STREAM, Admission, Refusal
from fastgw.core.resumed import last_event_id
from fastgw.core.routing import Router
from fastgw.http.stream_formats import EventStream, JsonArray, JsonLines, RawBytes
from fastgw.messages import Head
from fastgw.worker.stream_routes import StreamRoutes, encoder_of
from tests.core.test_routing import FakeHeaders

CONFIG = config.loads(
    """
[gateway]
name = "shop"
secrets = ["a secret of at least 32 bytes, for tests"]
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
[[route]]
method = "GET"
path = "/lasting"
topic = "orders"
reply = "stream"
resume = true
[store]
dir = "/tmp/store"
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


def came_back(path: str, accept: str | None, query: str = "", **headers: str) -> Admission | Refusal:
    fields = {name.replace("_", "-"): [value] for name, value in headers.items()}
    fields |= {} if accept is None else {"accept": [accept]}
    admission = ROUTER.admit(Head("GET", path, query, FakeHeaders(**fields), ["shop.test"], 0, False))
    assert isinstance(admission, Admission)
    return StreamRoutes(CONFIG).refusal(admission) or admission


@pytest.mark.parametrize("accept", [None, "*/*", "text/event-stream", "application/x-ndjson, text/event-stream;q=0.1"])
@pytest.mark.parametrize(
    "back", [{"last_event_id": "a.1.2"}, {"query": "last_event_id=a.1.2"}, {"query": "page=1&last_event_id=a.1.2"}]
)
def test_a_client_that_comes_back_gets_events_and_never_a_new_stream(accept, back):
    admission = came_back("/lasting", accept, **back)
    assert isinstance(admission, Admission)
    assert (admission.kind, admission.media_type) == (RESUME, "text/event-stream")
    assert last_event_id(admission.headers) == "a.1.2"


def test_a_client_that_comes_back_and_accepts_no_events_is_told_so():
    refusal = came_back("/lasting", "application/x-ndjson", last_event_id="a.1.2")
    assert isinstance(refusal, Refusal)
    assert (refusal.ending, refusal.headers) == (errors.NOT_ACCEPTABLE, [("vary", "accept")])


@pytest.mark.parametrize(
    ("path", "back"),
    [("/lasting", {}), ("/lasting", {"last_event_id": ""}), ("/lasting", {"query": "my_last_event_id=1"}),
     ("/orders", {"last_event_id": "a.1.2"})],
)  # fmt: skip
def test_without_a_position_or_on_a_route_that_has_none_a_stream_begins(path, back):
    admission = came_back(path, "text/event-stream", **back)
    assert isinstance(admission, Admission)
    assert admission.kind == STREAM
