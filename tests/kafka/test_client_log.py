"""What becomes of librdkafka's errors and log lines: one format, bounded, and nothing that is no trouble."""

from __future__ import annotations

import logging
import threading

import pytest
from confluent_kafka import KafkaError
from structlog.testing import capture_logs

from fastgw.client_lines import Line, of_error, of_log
from fastgw.kafka.client_log import ClientLog
from tests.waiting import eventually

MS = 1_000_000
REFUSED = "127.0.0.1:9092/1: Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)"


def test_an_error_is_a_warning_with_its_code():
    assert of_error("_TRANSPORT", REFUSED) == Line("warning", "_TRANSPORT", REFUSED)


@pytest.mark.parametrize(("level", "method"), [(0, "error"), (3, "error"), (4, "warning"), (6, "info"), (7, "debug")])
def test_a_log_line_keeps_its_level_and_loses_the_name_of_its_thread(level, method):
    line = of_log(level, "COMMITFAIL", "[thrd:127.0.0.1:9092/1]: 127.0.0.1:9092/1: no")
    assert line == Line(method, "COMMITFAIL", "127.0.0.1:9092/1: no")


def test_what_librdkafka_tries_again_by_itself_is_no_warning():
    text = "Failed to acquire idempotence PID from broker k:1/2: Broker: Coordinator load in progress: retrying"
    assert of_log(4, "GETPID", text) == Line("info", "GETPID", text)


def test_connections_that_were_closed_are_no_trouble_and_what_comes_as_an_error_is_not_told_twice():
    assert of_error("_ALL_BROKERS_DOWN", "1/1 brokers are down").method == "debug"
    assert of_error("_ALL_BROKERS_DOWN", "No brokers configured").method == "warning"
    assert of_log(6, "FAIL", "k:1/1: Disconnected: connection closed by peer").method == "debug"
    assert of_log(3, "FAIL", REFUSED).method == "debug"


def test_each_kind_goes_out_at_once_and_the_rest_is_counted_when_it_stops():
    told = ClientLog(100 * MS)
    with capture_logs() as lines:
        for _ in range(40):
            told.client_error(KafkaError(KafkaError._TRANSPORT, REFUSED))
            told.client_error(KafkaError(KafkaError._TRANSPORT, REFUSED.replace("/1", "/2")))
        told.log(logging.WARNING, "%s [%s] %s", "COMMITFAIL", "rdkafka#consumer-1", "[thrd:main]: no")
        assert [(line["code"], line["log_level"]) for line in lines] == [
            ("_TRANSPORT", "warning"),
            ("_TRANSPORT", "warning"),
            ("COMMITFAIL", "warning"),
        ]
        del lines[:]
        eventually(lambda: len(lines) == 2, message="the summary comes by itself")
    assert {(line["event"], line["code"], line["about"], line["held_back"]) for line in lines} == {
        ("kafka client: more lines like this", "_TRANSPORT", "127.0.0.1:9092/1", 39),
        ("kafka client: more lines like this", "_TRANSPORT", "127.0.0.1:9092/2", 39),
    }


def test_a_kind_that_goes_on_has_a_line_each_period_with_the_count_and_the_end_of_the_process_tells_the_rest():
    told = ClientLog(50 * MS)
    with capture_logs() as lines:

        def told_again():
            told.client_error(KafkaError(KafkaError._TRANSPORT, REFUSED))
            return any("held_back" in line for line in lines)

        eventually(told_again)
        told.client_error(KafkaError(KafkaError._TRANSPORT, REFUSED))
        told.sum_up()
    assert lines[-1]["event"] == "kafka client: more lines like this"


def test_debug_lines_are_for_those_who_ask_and_come_all():
    told = ClientLog()
    with capture_logs() as lines:
        for _ in range(50):
            told.log(logging.DEBUG, "%s [%s] %s", "BROKER", "rdkafka#producer-1", "[thrd:x]: state")
    assert len(lines) == 50


def test_without_a_thread_to_be_had_the_next_line_tries_again(monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    told = ClientLog(50 * MS)
    with capture_logs() as lines:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            for _ in range(3):
                told.client_error(KafkaError(KafkaError._TRANSPORT, REFUSED))
        told.client_error(KafkaError(KafkaError._TRANSPORT, REFUSED))
        eventually(lambda: len(lines) == 2)
    assert lines[-1]["held_back"] == 3
