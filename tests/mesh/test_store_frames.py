"""Frames between workers and store: what is sent arrives, and what is malformed is refused and told."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.kept_replies import KeyKnown, KeyState, Known, State, Topics
from fastgw.mesh import store_frames
from fastgw.mesh.framing import FrameError
from fastgw.mesh.store_frames import Hello, HoldingWatch, KeyWatch, Unwatch, Watch

OF_WORKER = [
    Hello(1),
    Watch(7, b"id", 3, 1000),
    Watch(8, b"", 0, 0),
    Watch(9, b"id", 3, 1, "POST /o"),
    Unwatch(7),
    KeyWatch(9, bytes(32), 3, "POST /o"),
    HoldingWatch(10, bytes(32), 3, b"id", 1000),
]
OF_STORE = [
    Topics(bytes(16), 8, True),
    Topics(bytes(16), 0, False, is_full=True),
    State(7, Known.OPEN),
    Topics(bytes(16), 8, True, other_lanes=4),
    Topics(bytes(16), 8, True, newer_layout=2, full_routes=("POST /o", "GET /o")),
    KeyState(9, KeyKnown.FREE, kept=3),
    KeyState(9, KeyKnown.HELD, (b"id", b"id before"), bytes(32), 2, 15_000),
    KeyState(9, KeyKnown.ANSWERED, (b"id",), bytes(32), 2, 0, 0, 3, 9, [("status", b"200")], b"\x00body"),
    State(7, Known.ANSWERED, 3, 9, [("status", b"200"), ("x", b"\xff")], b"\x00body"),
]


@pytest.mark.parametrize(("of_worker", "frames"), [(True, OF_WORKER), (False, OF_STORE)])
@given(cuts=st.lists(st.integers(0, 200), max_size=5))
def test_frames_arrive_however_they_are_cut(of_worker: bool, frames: list, cuts: list[int]) -> None:
    data, received, at = b"".join(map(store_frames.encode, frames)), [], 0
    reader = store_frames.reader(of_worker)
    for cut in [*sorted(cuts), len(data)]:
        received += reader.feed(data[at:cut])
        at = max(at, cut)
    assert received == frames
    assert reader.skipped == 0


def test_frames_of_the_other_side_are_skipped_and_counted() -> None:
    reader = store_frames.reader(of_worker=True)
    data = b"".join(map(store_frames.encode, [OF_STORE[0], OF_WORKER[1], OF_STORE[2]]))
    assert reader.feed(data) == [OF_WORKER[1]]
    assert reader.skipped == 2


def test_fields_that_a_later_version_appends_are_passed_over() -> None:
    body = msgspec.msgpack.encode([*msgspec.structs.astuple(State(7, 0)), "new"])
    frame = struct.pack(">IB", 1 + len(body), store_frames.KINDS[State]) + body
    assert store_frames.reader(of_worker=False).feed(frame) == [State(7, 0)]


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", msgspec.msgpack.encode([]), msgspec.msgpack.encode(["x"]), msgspec.msgpack.encode({"number": 1})],
)
def test_a_malformed_body_breaks_the_stream_and_what_came_before_counts(body: bytes) -> None:
    reader = store_frames.reader(of_worker=True)
    bad = struct.pack(">IB", 1 + len(body), store_frames.KINDS[Unwatch]) + body
    with pytest.raises(FrameError) as caught:
        reader.feed(store_frames.encode(OF_WORKER[0]) + bad)
    assert caught.value.before == [OF_WORKER[0]]
    with pytest.raises(FrameError):
        reader.feed(b"")


def test_a_value_that_is_too_long_is_refused() -> None:
    with pytest.raises(FrameError, match="expected at most"):
        store_frames.encode(State(1, Known.ANSWERED, value=bytes(17 << 20)))
