"""Promise: any stream of bytes from a worker or from a store, cut anywhere, gives frames or a FrameError; the cuts make
no difference; a frame that was read is written as one that is read the same. Whatever the frames say, the follows of
the store hold no more than their limits, and nothing is left of a connection that has ended."""

from __future__ import annotations

from typing import Any

from fastgw.followed import LIVE
from fastgw.kept_replies import KeyKnown, KeyState, Known, State, Topics
from fastgw.mesh import store_frames
from fastgw.mesh.framing import FrameError, FrameReader
from fastgw.mesh.store_frames import Credit, Follow, FollowEnd, Hello, HoldingWatch, KeyWatch, Unfollow, Unwatch, Watch
from fastgw.store.follows import QUEUES_BYTES, Follows, Seen
from tests.fuzz.drawing import Draw

ID = b"00000000-0000-8000-8000-000000000001"
_FRAMES = [
    Hello(1),
    Watch(1, ID, 3, 1_800_000_000_000, "POST /o"),
    KeyWatch(2, bytes(32), 3, "POST /o"),
    HoldingWatch(3, bytes(32), 3, ID, 1_800_000_000_000),
    Unwatch(1),
    Follow(1, ID, 0, LIVE, 1000),
    Follow(2, ID, 1, 1, 0),
    Follow(3, ID, 0, 0, 1000, True),
    Credit(2, 1 << 20),
    Unfollow(1),
]
_OF_STORE = [
    Topics(bytes(16), 8, True, newer_layout=2, full_routes=("POST /o",)),
    State(1, Known.ANSWERED, 3, 9, [("status", b"200")], b"done"),
    State(1, Known.ANSWERED, 3, 9, left_bytes=1 << 30),
    KeyState(2, KeyKnown.HELD, (ID,), bytes(32), 1, 5000, first_id=ID, first_ms=1),
    FollowEnd(1, "deleted"),
]
SEEDS = [b"\1\1" + b"".join(map(store_frames.encode, _FRAMES)), b"\1\7" + store_frames.encode(_FRAMES[5])]
SEEDS += [b"\1\0\0\0\0\x02\xc8x", b"\1\1GET / HTTP/1.1\r\n"]
SEEDS += [b"\0\1" + b"".join(map(store_frames.encode, _OF_STORE))]


class Worker:
    """A connection that only counts."""

    def __init__(self) -> None:
        self.sent = 0

    def send(self, frame: bytes) -> None:
        self.sent += len(frame)


def feed(reader: FrameReader[Any], parts: list[bytes]) -> tuple[list[Any], bool]:
    """All frames of a stream, and whether it broke."""
    frames: list[Any] = []
    for part in parts:
        try:
            frames += reader.feed(part)
        except FrameError as error:
            return frames + list(error.before), True
    return frames, False


def target(data: bytes) -> None:
    draw = Draw(data)
    of_worker, step = bool(draw.number(1)), 1 + draw.number(40)
    stream = draw.rest()
    frames, broke = feed(store_frames.reader(of_worker), [stream])
    parts = [stream[at : at + step] for at in range(0, len(stream), step)]
    assert feed(store_frames.reader(of_worker), parts) == (frames, broke)
    for frame in frames:
        assert store_frames.reader(of_worker).feed(store_frames.encode(frame)) == [frame]
    if of_worker:
        _obey(frames)


def _obey(frames: list[Any]) -> None:
    """Let a store do what the frames say, while records come."""
    follows, worker = Follows(lambda: None, lambda: None, lambda: None, max_replays=2, max_scan_bytes=300), Worker()
    follows.owns([0, 1])
    follows.located(bytes(16), 2, {0: 0, 1: 0}, [])
    for offset, frame in enumerate(frames):
        if isinstance(frame, Follow):
            follows.follow(worker, frame)
        elif isinstance(frame, Credit):
            follows.credit(worker, frame)
        elif isinstance(frame, Unfollow):
            follows.unfollow(worker, frame)
        seen = [Seen(partition, ID, (offset, [], b"value")) for partition in (0, 1)]
        follows.took(seen, {0: offset + 1, 1: offset + 1})
        scan = follows.next_scan()
        if scan is not None:
            follows.scanned(scan, [one for one in seen if one.partition == scan.partition], offset + 1)
    assert 0 <= follows.queued_bytes <= QUEUES_BYTES
    follows.gone(worker)
    assert (len(follows), follows.behind, follows.queued_bytes) == (0, 0, 0)
