"""Error codes that the links handle, by number. Negative codes are librdkafka's own."""

from __future__ import annotations

from collections.abc import Mapping

from fastgw import errors
from fastgw.errors import Ending

QUEUE_FULL = -184
FATAL = -150
PURGED = frozenset({-152, -151})  # a purged record, from the queue or in flight

REFUSALS: Mapping[int, Ending] = {
    10: errors.RECORD_TOO_LARGE,  # MSG_SIZE_TOO_LARGE
    18: errors.RECORD_TOO_LARGE,  # RECORD_LIST_TOO_LARGE
    3: errors.TOPIC_UNKNOWN,  # UNKNOWN_TOPIC_OR_PART
    17: errors.TOPIC_UNKNOWN,  # TOPIC_EXCEPTION
    -188: errors.TOPIC_UNKNOWN,  # _UNKNOWN_TOPIC
    -190: errors.TOPIC_UNKNOWN,  # _UNKNOWN_PARTITION
    29: errors.NOT_AUTHORIZED,  # TOPIC_AUTHORIZATION_FAILED
    31: errors.NOT_AUTHORIZED,  # CLUSTER_AUTHORIZATION_FAILED
    87: errors.REFUSED_SEND,  # INVALID_RECORD
}
"""Errors that librdkafka reports only for records that are in no log."""
