"""What the store tells a worker about replies that are kept. `mesh.store_frames` carries it between the two."""

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


class Topics(msgspec.Struct, array_like=True, frozen=True):
    """The topic of kept replies as the store sees it."""

    later_id: bytes  # its Kafka topic id, 16 bytes; zeros on a broker that has none
    later_partitions: int  # 0: not known yet
    is_ready: bool  # whether every partition has been read to its end
    is_full: bool = False  # whether new requests must be refused, because the store has no room for their replies


class State(msgspec.Struct, array_like=True, frozen=True):
    """What the store knows about the request of a watch. The fields after `known` are those of its reply."""

    number: int  # of the watch
    known: int  # a `Known`
    partition: int = -1
    offset: int = -1
    headers: list[tuple[str, bytes]] = []
    value: bytes = b""
