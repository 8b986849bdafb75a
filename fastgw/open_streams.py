"""What a worker tells about the streams that are open. `mesh.status` carries it to the admin port."""

from __future__ import annotations

import msgspec


class OpenStream(msgspec.Struct, array_like=True, frozen=True):
    """One streamed answer under way."""

    route: str
    correlation_id: str
    phase: str  # "waits": the head was not sent; "flows"; "behind": its client has not taken everything
    is_resumed: bool
    items: int  # the number of the next item
    partition: int  # of the topic of streams
    position: int  # the next offset there; -1: not known yet
    buffer_bytes: int  # of records that were written for a client that has not taken everything
    age_ns: int  # since the request, or since it was resumed


class OpenStreams(msgspec.Struct, array_like=True, frozen=True):
    """The streams of one worker."""

    total: int
    oldest: list[OpenStream]
