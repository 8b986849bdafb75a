"""What a route that streams offers its clients: which of them it can serve, and in which format."""

from __future__ import annotations

from fastgw import errors
from fastgw.admission import RESUME, Admission, Refusal
from fastgw.config import Config
from fastgw.core.resumed import last_event_id
from fastgw.core.stream import Encoder  # the protocol of what `encoder_of` returns
from fastgw.http import negotiation
from fastgw.http.stream_formats import EVENT_STREAM, JSON, OFFERS, EventStream, JsonArray, JsonLines, RawBytes


class StreamRoutes:
    """The routes of one configuration that stream."""

    def __init__(self, cfg: Config) -> None:
        self._is_json = {route.number: route.items == "json" for route in cfg.routes if route.streams}
        self._resuming = {route.number for route in cfg.routes if route.resume}
        self._express = " or ".join(listen.bind for listen in cfg.gateway.listens if listen.is_express)

    def refusal(self, admission: Admission) -> Refusal | None:
        """Why this client cannot be served. None: it can, and the admission has the media type of its answer."""
        head, number = admission.headers, admission.route_number
        if head.cannot_stream:
            detail = f"this listener cannot stream answers; use {self._express}"
            return Refusal(errors.WRONG_LISTENER, detail, number)
        if head.is_http10:
            return Refusal(errors.HTTP_VERSION, "expected HTTP/1.1: a stream is sent in chunks", number)
        if not self._is_json[number]:
            return None
        # A client that comes back gets events, whatever it prefers: nothing else has a position.
        is_back = number in self._resuming and bool(last_event_id(head))
        offers = (EVENT_STREAM,) if is_back else OFFERS
        accept = head.get("accept")
        chosen = negotiation.chosen(accept, offers)
        if chosen is None:
            why = negotiation.why_none(accept, offers)
            return Refusal(errors.NOT_ACCEPTABLE, why, number, list(negotiation.VARY_ACCEPT))
        admission.media_type = chosen
        if is_back:
            admission.kind = RESUME
        return None


def encoder_of(media_type: str, content_type: str, end_line: bool) -> Encoder:
    """The encoder of one answer.

    Args:
        media_type: chosen for the client; "": the service's own.
        content_type: of the service.
        end_line: see `JsonLines`.
    """
    if not media_type:
        return RawBytes(content_type)
    if media_type == EVENT_STREAM:
        return EventStream()
    return JsonArray() if media_type == JSON else JsonLines(media_type, end_line)
