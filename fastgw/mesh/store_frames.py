"""Frames between a worker and the store of its node.

`framing` has the format of a frame; a body is MessagePack, an array of the fields below in their order. A later version
may append fields: readers ignore those that they do not know, and give defaults to missing ones.

    worker                                         store
      HELLO    layout, secret              ──>
                                           <──     TOPICS   identity and partitions of its topics, whether they are read
      WATCH    number, kind, key ...       ──>
                                           <──     STATE    number, what is known now
                                           <──     STATE    number, again when it changes
      KEY_WATCH  number, key, lane         ──>
                                           <──     KEY_STATE    number, what is known of the key now
                                           <──     KEY_STATE    number, again whenever it changes
      HOLDING_WATCH  number, key, id ...   ──>             STATE frames follow, as of WATCH
      UNWATCH  number                      ──>

                                           <──     STREAMS     the topic of streams, and the partitions that are read
      FOLLOW   number, id, from where ...  ──>
                                           <──     FOLLOWING   number, the first offset that will be delivered
                                           <──     ITEMS       number, records, as long as there is credit
      CREDIT   number, bytes               ──>
                                           <──     FOLLOW_END  number, why nothing more will come
      UNFOLLOW number                      ──>

A watch is registered before its first STATE is made, so no change between the two is missed. Its number is chosen by
the worker, and means something on this connection only; the same holds for follows. Both end with the connection.
Nothing is dropped: a side that is too far behind is disconnected, and the worker connects and registers its watches and
follows again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from fastgw.followed import FollowedRecord, StreamTopic
from fastgw.kept_replies import KeyState, State, Topics
from fastgw.mesh.framing import MAX_FRAME_BYTES, FrameError, FrameReader

LAYOUT: Final = 1  # of these frames; a store refuses a worker of another layout by closing the connection


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """The first frame of a worker."""

    layout: int
    secret_id: bytes = b""  # of the secret under which it signs (`Secrets.ids`); empty: it has none


class Watch(msgspec.Struct, array_like=True, frozen=True):
    """Follow a request whose reply is kept."""

    number: int
    correlation_id: bytes
    partition: int  # its home in `<name>.later`
    until_ms: int  # records appended at this time or later do not count (epoch); 0: no limit
    route: str = ""  # of a request that is sent now; empty: the watch is about one that was sent before


class KeyWatch(msgspec.Struct, array_like=True, frozen=True):
    """Follow an idempotency key."""

    number: int  # no other watch of this connection has it, of whatever kind
    key_hash: bytes  # 32 bytes
    lane: int
    route: str  # for `KeyState.kept`


class HoldingWatch(msgspec.Struct, array_like=True, frozen=True):
    """Follow what becomes of a request with an idempotency key and of its further attempts. The store tells `State`."""

    number: int
    key_hash: bytes  # 32 bytes
    lane: int
    first_id: bytes  # of the attempt that found the key free
    until_ms: int  # that attempt cannot be answered at this time or later (epoch)


class Unwatch(msgspec.Struct, array_like=True, frozen=True):
    """The end of a watch of any kind."""

    number: int


class Follow(msgspec.Struct, array_like=True, frozen=True):
    """Deliver the records of one id."""

    number: int
    correlation_id: bytes
    partition: int  # its home in `<name>.streams`
    position: int  # the first offset to be delivered; `followed.LIVE`: records that are appended from now on
    credit: int  # bytes that may be sent before the first CREDIT
    is_replay: bool = False  # it is for a client that comes back: how many of them are served has a limit


class Credit(msgspec.Struct, array_like=True, frozen=True):
    """So many more bytes may be sent."""

    number: int
    credit: int


class Unfollow(msgspec.Struct, array_like=True, frozen=True):
    """The end of a follow."""

    number: int


class Following(msgspec.Struct, array_like=True, frozen=True):
    """Every record of the id from this offset on will be delivered."""

    number: int
    start: int


class Items(msgspec.Struct, array_like=True, frozen=True):
    """Records of a followed id, in the order of the log."""

    number: int
    records: list[FollowedRecord]


class FollowEnd(msgspec.Struct, array_like=True, frozen=True):
    """Nothing more will be delivered; `why` is one of the reasons in `followed`."""

    number: int
    why: str


Frame = (
    Hello | Topics | Watch | Unwatch | State | KeyWatch | KeyState | HoldingWatch
    | Follow | Credit | Unfollow | StreamTopic | Following | Items | FollowEnd
)  # fmt: skip

# The kinds 1 to 15 are for frames between workers.
KINDS: Final[Mapping[type[msgspec.Struct], int]] = {
    Hello: 16, Topics: 17, Watch: 18, Unwatch: 19, State: 20, KeyWatch: 21, KeyState: 22,
    Follow: 25, Credit: 26, Unfollow: 27, StreamTopic: 28, Following: 29, Items: 30, FollowEnd: 31,
    HoldingWatch: 40,
}  # fmt: skip

_OF_WORKERS = (Hello, Watch, Unwatch, KeyWatch, HoldingWatch, Follow, Credit, Unfollow)
_OF_STORES = (Topics, State, KeyState, StreamTopic, Following, Items, FollowEnd)

_pack = msgspec.msgpack.Encoder().encode
_HEAD = struct.Struct(">IB")  # length and kind


def socket_path(run_dir: Path) -> Path:
    """The path of the socket on which the store listens."""
    return run_dir / "store.sock"


def encode(frame: Frame) -> bytes:
    """The frame, its length included.

    Raises:
        FrameError: it would be longer than MAX_FRAME_BYTES.
    """
    body = _pack(frame)
    length = 1 + len(body)
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"frame length: expected at most {MAX_FRAME_BYTES} bytes, got {length}")
    return _HEAD.pack(length, KINDS[type(frame)]) + body


def reader(of_worker: bool) -> FrameReader[Any]:
    """A reader of the frames that a worker sends, or of those that a store sends."""
    kinds: tuple[type[msgspec.Struct], ...] = _OF_WORKERS if of_worker else _OF_STORES
    return FrameReader({KINDS[kind]: _decoder(kind) for kind in kinds})


def _decoder(kind: type[msgspec.Struct]) -> Callable[[memoryview], Any]:
    unpack = msgspec.msgpack.Decoder(kind).decode

    def decode(frame: memoryview) -> Any:
        try:
            return unpack(frame[1:])
        except (msgspec.DecodeError, ValueError) as error:
            raise FrameError(f"{kind.__name__.lower()}: {error}") from error

    return decode
