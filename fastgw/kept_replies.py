"""What the store tells a worker about kept replies and idempotency keys. `mesh.store_frames` carries it."""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Known(IntEnum):
    """What the store knows about a request."""

    OPEN = 0  # nothing has decided it yet
    ANSWERED = 1  # the reply is there
    CANCELLED = 2
    EXPIRED = 3  # the time of its work is over, and no reply came before
    RESTORING = 4  # the store has not read its topic yet
    BEHIND = 5  # the store cannot read on: a transaction is open, or Kafka does not answer
    RELEASED = 6  # of a key: its holder gave up before it sent anything


class Topics(msgspec.Struct, array_like=True, frozen=True):
    """The topic of kept replies as the store sees it."""

    later_id: bytes  # its Kafka topic id, 16 bytes; zeros on a broker that has none
    later_partitions: int  # 0: not known yet
    is_ready: bool  # whether every partition has been read to its end
    is_full: bool = False  # whether new requests must be refused, because the store has no room for their replies
    other_lanes: int = 0  # a number of lanes that other nodes use for idempotency keys and this one does not; 0: none
    newer_layout: int = 0  # the format of records that another node writes and this one cannot read; 0: there is none
    full_routes: tuple[str, ...] = ()  # names of routes that have as many deferred requests as they may


class State(msgspec.Struct, array_like=True, frozen=True):
    """What the store knows about the request of a watch. The fields after `known` are those of its reply."""

    number: int  # of the watch
    known: int  # a `Known`
    partition: int = -1
    offset: int = -1
    headers: list[tuple[str, bytes]] = []
    value: bytes = b""
    left_bytes: int = 0  # size of a reply that is too large to be handed over; 0: it is all here


class KeyKnown(IntEnum):
    """What the store knows about an idempotency key, or what has just happened to it."""

    FREE = 0
    HELD = 1  # a request with this key may be under way
    ANSWERED = 2  # the reply is there
    FREED = 3  # it has become free: by a reply of 500 or more, or because its holder gave up before it sent anything
    LOST = 4  # a claim does not hold the key; the state before this one says who does
    RESTORING = 5  # the store has not read its lane yet
    BEHIND = 6  # the store cannot read on: a transaction is open, or Kafka does not answer
    NEWER_LAYOUT = 7  # another node writes records that this one cannot read


class KeyState(msgspec.Struct, array_like=True, frozen=True):
    """What the store knows about the key of a watch. The fields from `partition` on are those of a reply."""

    number: int  # of the watch
    known: int  # a `KeyKnown`
    # HELD, FREED: the ids of the holding, the holder's first; ANSWERED: the id that was answered; LOST: the claim's.
    ids: tuple[bytes, ...] = ()
    fingerprint: bytes = b""  # of the request that holds the key, or held it
    attempt: int = 0  # of the holder
    take_over_in_ms: int = 0  # HELD: after this time another attempt can win
    kept: int = 0  # FREE, FREED: the keys of the route that are held or answered
    partition: int = -1
    offset: int = -1  # FREED: -1 if nothing was sent
    headers: list[tuple[str, bytes]] = []
    value: bytes = b""
    first_id: bytes = b""  # HELD: of the attempt that found the key free
    first_ms: int = 0  # HELD: when its claim was appended
    left_bytes: int = 0  # as in `State`


def without_reply(state: State | KeyState) -> State | KeyState:
    """The same, but of the reply only its size."""
    size = len(state.value) + sum(len(name) + len(value) for name, value in state.headers)
    return msgspec.structs.replace(state, headers=[], value=b"", left_bytes=size)
