"""A log that cannot flood."""

from __future__ import annotations

import logging

import pytest

from fastgw.service.log import ClientLog, Warnings
from tests.waiting import eventually


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


def test_errors_about_two_brokers_are_two_kinds(caplog: pytest.LogCaptureFixture) -> None:
    log = Warnings()
    with caplog.at_level(logging.WARNING, "fastgw.service"):
        for broker in ("k:1/1", "k:2/2", "k:1/1"):
            log.warn("kafka_error", f"code=_TRANSPORT {broker}: down", "_TRANSPORT", broker)
        log.sum_up(at_end=True)
    assert caplog.messages == [
        "kafka_error code=_TRANSPORT k:1/1: down",
        "kafka_error code=_TRANSPORT k:2/2: down",
        "kafka_error _TRANSPORT k:1/1: 1 more lines like this were held back",
    ]


def client_lines(told: ClientLog, times: int) -> None:
    """What librdkafka says, as confluent-kafka hands it on."""
    for attempt in range(times):
        told.log(logging.ERROR, "%s [%s] %s", "COMMITFAIL", "orders#consumer-1", f"[thrd:main]: k:1/1: no {attempt}")
        told.log(logging.WARNING, "%s [%s] %s", "REQTMOUT", "orders#producer-2", f"[thrd:k:1/1]: k:1/1: {attempt}")
        told.log(logging.ERROR, "%s [%s] %s", "FAIL", "orders#producer-2", "which comes as an error as well")


def test_a_client_says_each_kind_of_thing_once_and_the_rest_is_counted_at_the_end(caplog) -> None:
    told = ClientLog(logging.getLogger("fastgw.test.client"))
    with caplog.at_level(logging.INFO, "fastgw.test.client"):
        client_lines(told, 50)
        told.sum_up()
        assert caplog.messages == [
            "kafka_client client=orders#consumer-1 code=COMMITFAIL k:1/1: no 0",
            "kafka_client client=orders#producer-2 code=REQTMOUT k:1/1: 0",
        ], "they may still go on"
        told.sum_up(at_end=True)
    assert caplog.record_tuples[2:] == [
        (
            "fastgw.test.client",
            logging.ERROR,
            "kafka_client COMMITFAIL k:1/1: 49 more lines like this were held back",
        ),
        (
            "fastgw.test.client",
            logging.WARNING,
            "kafka_client REQTMOUT k:1/1: 49 more lines like this were held back",
        ),
    ]


def test_a_kind_that_goes_on_has_a_line_each_period_with_the_count(caplog: pytest.LogCaptureFixture) -> None:
    told = ClientLog(logging.getLogger("fastgw.test.client"), period_ns=50_000_000)

    def told_again() -> bool:
        client_lines(told, 1)
        return any("more like it)" in message for message in caplog.messages)

    with caplog.at_level(logging.INFO, "fastgw.test.client"):
        eventually(told_again)


def test_debug_lines_are_for_those_who_ask_and_come_all(caplog: pytest.LogCaptureFixture) -> None:
    told = ClientLog(logging.getLogger("fastgw.test.client"))
    with caplog.at_level(logging.DEBUG, "fastgw.test.client"):
        for _ in range(50):
            told.log(logging.DEBUG, "%s [%s] %s", "BROKER", "orders#producer-1", "[thrd:x]: state")
    assert len(caplog.messages) == 50
