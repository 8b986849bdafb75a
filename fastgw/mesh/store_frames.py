"""Frames between a worker and the store of its node.

`framing` has the format of a frame; a body is MessagePack, an array of the fields below in their order. A later version
may append fields: readers ignore those that they do not know, and give defaults to missing ones.

    worker                                         store
      HELLO    layout                      ──>
                                           <──     TOPICS   identity and partitions of its topics, whether they are read
      WATCH    number, kind, key ...       ──>
                                           <──     STATE    number, what is known now
                                           <──     STATE    number, again when it changes
      KEY_WATCH  number, key, lane         ──>
                                           <──     KEY_STATE    number, what is known of the key now
                                           <──     KEY_STATE    number, again whenever it changes
      UNWATCH  number                      ──>

A watch is registered before its first STATE is made, so no change between the two is missed. Its number is chosen by
the worker, and means something on this connection only. Watches end with the connection. Nothing is dropped: a side
that is too far behind is disconnected, and the worker connects and registers its watches again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from fastgw.kept_replies import KeyState, State, Topics
from fastgw.mesh.framing import LENGTH, MAX_FRAME_BYTES, FrameError, FrameReader

LAYOUT: Final = 1  # of these frames; a store refuses a worker of another layout by closing the connection


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """The first frame of a worker."""

    layout: int


class Watch(msgspec.Struct, array_like=True, frozen=True):
    """Follow a request whose reply is kept."""

    number: int
    correlation_id: bytes
    partition: int  # its home in `<name>.later`
    until_ms: int  # records appended at this time or later do not count (epoch); 0: no limit


class KeyWatch(msgspec.Struct, array_like=True, frozen=True):
    """Follow an idempotency key."""

    number: int  # no other watch of this connection has it, of whatever kind
    key_hash: bytes  # 32 bytes
    lane: int
    route: str  # for `KeyState.kept`


class Unwatch(msgspec.Struct, array_like=True, frozen=True):
    """The end of a watch of any kind."""

    number: int


Frame = Hello | Topics | Watch | Unwatch | State | KeyWatch | KeyState

# The kinds 1 to 15 are for frames between workers.
KINDS: Final[Mapping[type[msgspec.Struct], int]] = {
    Hello: 16,
    Topics: 17,
    Watch: 18,
    Unwatch: 19,
    State: 20,
    KeyWatch: 21,
    KeyState: 22,
}

_pack = msgspec.msgpack.Encoder().encode


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
    return b"".join((LENGTH.pack(length), bytes((KINDS[type(frame)],)), body))


def reader(of_worker: bool) -> FrameReader[Any]:
    """A reader of the frames that a worker sends, or of those that a store sends."""
    kinds = (Hello, Watch, Unwatch, KeyWatch) if of_worker else (Topics, State, KeyState)
    return FrameReader({KINDS[kind]: _decoder(kind) for kind in kinds})


def _decoder(kind: type[msgspec.Struct]) -> Callable[[memoryview], Any]:
    unpack = msgspec.msgpack.Decoder(kind).decode

    def decode(frame: memoryview) -> Any:
        try:
            return unpack(frame[1:])
        except (msgspec.DecodeError, ValueError) as error:
            raise FrameError(f"{kind.__name__.lower()}: {error}") from error

    return decode
