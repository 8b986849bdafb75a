"""The rest of a stream, for a client that comes back with the id of an event."""

from __future__ import annotations

from fastgw import errors
from fastgw.admission import Admission, Sink
from fastgw.core.plan import Plan
from fastgw.core.resumed import last_event_id
from fastgw.core.stream import RECORDED, Owner, Stream
from fastgw.dialects import streams
from fastgw.dialects.streams import BadItem, End, StreamOrder
from fastgw.followed import REPLAY_CAP, SCAN_CAP
from fastgw.messages import Reply
from fastgw.tokens import StreamPlace


class ResumedStream(Stream):
    """The rest of a stream, for a client that comes back. It has no slot, and nothing was sent for it."""

    def __init__(
        self, owner: Owner, plan: Plan, admission: Admission, sink: Sink, place: StreamPlace, now_ns: int
    ) -> None:
        """`place`: the last event that the client got."""
        super().__init__(owner, plan, admission, sink, place.stream.partition, now_ns, owner.resumed)
        self.raw = place.stream.correlation_id
        self.position = place.offset
        self._start = place.stream.start_offset
        self._place = last_event_id(admission.headers).rsplit(".", 2)[0]
        self.is_replay = True
        self._resumes = self._is_resumed = True
        self._at = place
        self._order = StreamOrder(place.item + 1)
        self.has_items = True  # what has time is the next one

    def begin_again(self, token: int) -> None:
        """Follow the stream."""
        self._token = token
        self._follow = self._owner.store.follow(self)

    def on_following(self, start: int) -> None:
        super().on_following(start)
        self.is_replay = False  # after a restart of the store it goes on as any other stream

    def on_follow_end(self, why: str) -> None:
        has_got_on = self._encoder is not None
        self._is_put_off = why == REPLAY_CAP or (why == SCAN_CAP and has_got_on)
        if self._is_put_off:
            self._fail_follow(errors.REPLAY_CAP, why)
        elif why == SCAN_CAP:
            self._is_lost = True
            self._fail_follow(errors.OVERTAKEN, f"{why}, store.max_scan_bytes of others lie behind its position")
        else:
            super().on_follow_end(why)

    def _take(self, reply: Reply, now_ns: int, out: list[bytes]) -> bool:
        if reply.offset == self._at.offset and self._has_seen_the_end(reply):
            if self._encoder is not None:  # the head has not waited for this: the client asks once more
                self._end_for_now()
                return False
            self._sink.answer(204, [RECORDED], b"", self.raw)  # it makes an `EventSource` stop
            self._exchange.complete(self._token, 204, 0, now_ns)
            return False
        return super()._take(reply, now_ns, out)

    def _begin_with(self, reply: Reply, now_ns: int) -> None:  # noqa: ARG002
        """The head was made from the first record, when the stream began. `EventSource` gives up on another status."""
        self._send_head(200, [RECORDED], now_ns, is_followed=True)

    def _has_seen_the_end(self, reply: Reply) -> bool:
        """Whether the last event that the client got was the end of the stream."""
        try:
            end = streams.decode(reply, self._rules.is_json)
        except BadItem:
            return False
        return isinstance(end, End) and (end.items is None or self._at.item >= end.items.end)
