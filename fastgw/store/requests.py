"""What the records of one request say about it: the first record that counts decides.

A record counts if it is on the request's home partition and was appended before the time for the work was over. So all
stores of all nodes come to the same result, whenever they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from fastgw.kept_replies import Known
from fastgw.store.tables import Kept


class RecordKind(IntEnum):
    """Kinds of records in the topic of kept replies; numbers are part of the tables' layout."""

    REPLY = 0
    CANCELLED = 1
    CLAIM = 2  # of an idempotency key; `keys` has its rules, and those of the next kind
    RELEASED = 3
    LAYOUT = 4  # of a format that this node cannot read; see `layouts`


_DECIDES = {RecordKind.REPLY: Known.ANSWERED, RecordKind.CANCELLED: Known.CANCELLED}


def decided(records: Sequence[Kept], until_ms: int) -> tuple[Known, Kept] | None:
    """The record that decides a request, and what it decides; None: none does yet.

    Args:
        records: of one request on its home partition, in order; the first one is enough.
        until_ms: records appended at this time or later do not count (epoch); 0: no limit.
    """
    for record in records:
        kind = record.entry.kind
        if kind not in _DECIDES:
            continue
        if until_ms and record.entry.timestamp_ms >= until_ms:
            return None  # the broker's clock never goes back within a partition
        return _DECIDES[RecordKind(kind)], record
    return None
