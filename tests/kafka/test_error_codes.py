"""The error codes that the links tell apart."""

from __future__ import annotations

from confluent_kafka import KafkaError

from fastgw import errors
from fastgw.errors import Outcome
from fastgw.kafka.error_codes import FATAL, PURGED, QUEUE_FULL, REFUSALS


def test_the_error_codes_are_those_of_the_protocol():
    names = {
        KafkaError.MSG_SIZE_TOO_LARGE: errors.RECORD_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE: errors.RECORD_TOO_LARGE,
        KafkaError.UNKNOWN_TOPIC_OR_PART: errors.TOPIC_UNKNOWN,
        KafkaError.TOPIC_EXCEPTION: errors.TOPIC_UNKNOWN,
        KafkaError._UNKNOWN_TOPIC: errors.TOPIC_UNKNOWN,
        KafkaError._UNKNOWN_PARTITION: errors.TOPIC_UNKNOWN,
        KafkaError.TOPIC_AUTHORIZATION_FAILED: errors.NOT_AUTHORIZED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED: errors.NOT_AUTHORIZED,
        KafkaError.INVALID_RECORD: errors.REFUSED_SEND,
    }
    assert names == REFUSALS
    assert (KafkaError._QUEUE_FULL, KafkaError._FATAL) == (QUEUE_FULL, FATAL)
    assert {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT} == PURGED
    assert {ending.outcome for ending in REFUSALS.values()} == {Outcome.NOT_RECORDED}
