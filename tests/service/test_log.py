"""A log that cannot flood."""

from __future__ import annotations

import logging

import pytest

from fastgw.service.log import ClientLogFilter, Warnings


def test_a_warning_that_repeats_is_held_back(caplog: pytest.LogCaptureFixture) -> None:
    log = Warnings()
    with caplog.at_level(logging.WARNING, "fastgw.service"):
        for _ in range(100):
            log.warn("kafka_error", "broker down")
        log.warn("other", "thing")
    assert [record.getMessage() for record in caplog.records] == ["kafka_error broker down", "other thing"]


def test_what_was_held_back_is_counted_when_it_stops_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    ending = Warnings()
    with caplog.at_level(logging.WARNING, "fastgw.service"):
        for _ in range(3):
            ending.warn("kafka_error", "broker down")
        ending.sum_up()
        assert len(caplog.records) == 1, "it may still go on"
        ending.sum_up(at_end=True)
    assert caplog.messages[-1] == "kafka_error: 2 more lines like this were held back"


def test_a_client_says_each_kind_of_thing_once(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("fastgw.test.client")
    log.addFilter(ClientLogFilter())
    for attempt in range(50):
        log.error("%s [%s] %s", "COMMITFAIL", "consumer-1", f"refused {attempt}")
        log.error("%s [%s] %s", "GETPID", "producer-2", f"refused {attempt}")
        log.error("%s [%s] %s", "FAIL", "producer-2", "which comes as an error as well")
        log.error("plain")
    assert caplog.messages == ["COMMITFAIL [consumer-1] refused 0", "GETPID [producer-2] refused 0", "plain"]
