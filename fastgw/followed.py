"""What the store tells a worker about streams. `mesh.store_frames` carries it between the two."""

from __future__ import annotations

import msgspec

FollowedRecord = tuple[int, list[tuple[str, bytes]], bytes]
"""One record of a stream: its offset, its headers without the id, its value."""

# Why nothing more will come.
OVERTAKEN = "overtaken"  # the log does not have the records any more
TOO_LARGE = "too large"  # a record fits in no frame
REPLAY_CAP = "replay cap"  # the store serves as many replays as it may
SCAN_CAP = "scan cap"  # the store has read as much as it may for one replay

LIVE = -1  # a position: of the records that are appended from now on
RECORD_BYTES = 64  # what a record counts besides its value, so that empty records are not free


def size_of(value: bytes) -> int:
    """What a record with this value takes of its follower's credit."""
    return len(value) + RECORD_BYTES


class StreamTopic(msgspec.Struct, array_like=True, frozen=True):
    """The topic of streams as the store of this node reads it."""

    topic_id: bytes  # its Kafka topic id, 16 bytes; zeros on a broker that has none, or before it is known
    partitions: int  # 0: not known yet
    homes: list[int]  # the partitions that this node owns and whose new records the store reads
