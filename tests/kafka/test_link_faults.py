"""What the links say when Kafka fails, by faults injected into the mock cluster. Everything here is about honesty:

not_recorded is said only of records that are in no log, and the native link knows more of these than the public one.
"""

from __future__ import annotations

import itertools
import os
import time
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from fastgw import errors
from fastgw.demo.broker import MockCluster
from fastgw.errors import Outcome, SendRefused
from fastgw.kafka.link import FROM_BEGINNING, FROM_END
from tests.actors.links import KINDS, LinkOnALoop
from tests.waiting import eventually

pytestmark = pytest.mark.slow

PRODUCE, LIST_OFFSETS, INIT_PRODUCER_ID = 0, 2, 22
REQUEST_TIMED_OUT, MSG_SIZE_TOO_LARGE, NOT_ENOUGH_REPLICAS = 7, 10, 19
TOPIC_AUTHORIZATION_FAILED, CLUSTER_AUTHORIZATION_FAILED = 29, 31
OUT_OF_ORDER_SEQUENCE_NUMBER = 45  # fatal for an idempotent producer

TIMEOUT_MS = 1000
TOLD_S = 4.0


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def cluster():
    cluster = MockCluster()
    cluster.create_topic("replies", 4)
    yield cluster
    cluster.close()


@contextmanager
def opened(kind, cluster, timeout_ms):
    """A link that reads partition 0 and has sent its first record."""
    with LinkOnALoop(kind, cluster.bootstrap, "replies", timeouts_ms=[timeout_ms]) as house:
        house.read([0])
        house.send(0)
        assert house.fate(0) == "recorded"
        yield house


@pytest.fixture
def house(kind, cluster):
    with opened(kind, cluster, TIMEOUT_MS) as house:
        yield house


def send_until_recorded(house, first):
    """Sends records until one is taken, as a client that tries again would; returns its token."""
    tokens = itertools.count(first)
    return eventually(lambda: sent_and_recorded(house, next(tokens)))


def sent_and_recorded(house, token):
    house.send(token)
    return token if house.fate(token, TOLD_S) == "recorded" else None


def recorded_values(kind, cluster, count):
    """What is in partition 0, as soon as it is `count` records."""
    with LinkOnALoop(kind, cluster.bootstrap, "replies") as reader:
        reader.read([0], FROM_BEGINNING)
        reader.until(lambda: len(reader.told.got) >= count, message=f"{count} records in the log")
        return [reply.value for reply in reader.told.got]


def test_an_authorisation_that_is_refused_is_certain(house, cluster):
    cluster.push_errors(PRODUCE, [TOPIC_AUTHORIZATION_FAILED])
    house.send(1)
    assert house.fate(1) == "not_authorized"


def test_a_record_that_the_broker_finds_too_large_is_certain(house, cluster):
    cluster.push_errors(PRODUCE, [MSG_SIZE_TOO_LARGE])
    house.send(1)
    assert house.fate(1) == "record_too_large"


@pytest.mark.parametrize("code", [REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS])
def test_a_passing_error_is_overcome(house, cluster, code):
    cluster.push_errors(PRODUCE, [code])
    house.send(1)
    assert house.fate(1) == "recorded"


def test_an_acknowledgement_that_never_comes_leaves_it_unknown(house, cluster):
    cluster.push_errors(PRODUCE, [REQUEST_TIMED_OUT] * 1000)
    house.send(1)
    assert house.fate(1, TOLD_S) == "send_unknown"


def test_a_record_that_left_for_a_broker_that_is_too_slow_is_unknown_and_may_be_there(house, cluster, kind):
    cluster.set_round_trip(4000)
    house.send(1)
    assert house.fate(1, TOLD_S) == "send_unknown"
    cluster.set_round_trip(0)
    assert recorded_values(kind, cluster, 2) == [b"value 0", b"value 1"], "unknown was the truth"


def is_retired(lines):
    return any("producer retired" in line["event"] for line in lines)


def test_a_producer_with_a_record_that_is_late_gets_no_more_and_is_given_up_when_it_is_too_late(kind, cluster):
    """librdkafka would begin a new epoch, in which no broker knows again what else it has sent: two for one request."""
    timeout_s, later_s = 2.0, 1.3
    with opened(kind, cluster, int(1000 * timeout_s)) as house, capture_logs() as lines:
        cluster.set_round_trip(60_000)
        began = time.monotonic()
        house.send(1)
        house.until(lambda: time.monotonic() > began + later_s)
        house.send(2)
        house.until(lambda: is_retired(lines))
        house.send(3)  # with the successor
        assert house.fate(1) == house.fate(2) == "send_unknown"
        assert timeout_s - 0.2 < time.monotonic() - began < timeout_s + 0.5, "librdkafka itself looks once a second"
        cluster.set_round_trip(0)
        assert house.fate(3) == "recorded"


def test_what_a_late_producer_holds_may_still_be_acknowledged(kind, cluster):
    with opened(kind, cluster, 2000) as house, capture_logs() as lines:
        cluster.set_round_trip(60_000)
        house.send(1)
        house.until(lambda: is_retired(lines))
        assert not house.told.failed
        cluster.set_round_trip(0)
        assert house.fate(1) == "recorded"


@pytest.mark.alone
def test_the_successor_of_a_late_producer_is_made_beforehand_and_put_away_if_nobody_needs_it(kind, cluster):
    """It takes half a second to be able to send; those whom nothing is wrong with should not have to wait for that."""
    with opened(kind, cluster, 2000) as house, capture_logs() as lines:
        threads = count_threads()
        cluster.set_round_trip(60_000)
        house.send(1)
        house.until(lambda: count_threads() > threads)
        cluster.set_round_trip(0)
        assert house.fate(1) == "recorded"
        house.until(lambda: count_threads() == threads)
        assert not is_retired(lines)


@pytest.mark.alone
def test_an_outage_in_which_producer_after_producer_is_retired_leaves_none_of_them(kind, cluster):
    with LinkOnALoop(kind, cluster.bootstrap, "replies", timeouts_ms=[100]) as house, capture_logs() as lines:
        first = send_until_recorded(house, 0)  # 100 ms may be too little for a first connection
        threads = count_threads()
        cluster.set_down()
        lines.clear()
        tokens = itertools.count(first + 1)

        def seven_retired():
            house.send(next(tokens))
            return sum("producer retired" in line["event"] for line in lines) >= 7

        house.until(seven_retired, 15)
        last = next(tokens) - 1
        house.until(lambda: house.told.failed.keys() >= set(range(first + 1, last)), message="the fate of each is told")
        cluster.set_up()
        send_until_recorded(house, last + 1)
        house.until(lambda: count_threads() <= threads + 2, message="each has two threads")


def count_threads():
    return len(os.listdir("/proc/self/task"))


def test_a_record_that_no_broker_could_be_given_is_not_recorded_where_the_link_can_know(house, cluster, kind):
    cluster.set_down()
    house.send(1)
    fate = house.fate(1, TOLD_S)
    ending = house.told.failed[1][0]
    assert fate == {"native": "not_sent", "public": "send_unknown"}[kind]
    assert ending.outcome is {"native": Outcome.NOT_RECORDED, "public": Outcome.UNKNOWN}[kind]
    cluster.set_up()
    taken = send_until_recorded(house, 2)
    assert recorded_values(kind, cluster, 2) == [b"value 0", b"value %d" % taken], "not recorded was the truth"


def test_a_cluster_that_was_never_there_is_told_as_well(kind):
    with LinkOnALoop(kind, "127.0.0.1:1", "replies", timeouts_ms=[TIMEOUT_MS]) as house:
        house.link.assign({0: FROM_END})
        house.send(1)
        assert house.fate(1, TOLD_S) == {"native": "not_sent", "public": "send_unknown"}[kind]


def test_replies_go_on_after_the_brokers_return(house, cluster):
    cluster.set_down()
    house.send(1)
    house.fate(1, TOLD_S)
    cluster.set_up()
    taken = send_until_recorded(house, 2)
    house.until(lambda: house.told.offsets(0) == [0, 1])
    assert house.told.got[1].value == b"value %d" % taken


def test_a_slow_cluster_is_only_slow(house, cluster):
    cluster.set_round_trip(200)
    began = time.monotonic()
    house.send(1)
    assert house.fate(1) == "recorded"
    assert time.monotonic() - began >= 0.2
    house.until(lambda: len(house.told.got) == 2)


# Fatal errors.


def test_after_a_fatal_error_everything_pending_is_told_and_a_new_producer_is_there_within_a_second(kind, cluster):
    with LinkOnALoop(kind, cluster.bootstrap, "replies") as house:
        house.send(0)
        assert house.fate(0) == "recorded"
        cluster.push_errors(PRODUCE, [OUT_OF_ORDER_SEQUENCE_NUMBER])
        for token in range(1, 11):
            house.send(token)
        told = house.told
        house.until(lambda: len(told.failed | told.recorded) == 11, 1.0, "what was pending is told")
        assert told.failed
        assert {ending for ending, _ in told.failed.values()} <= {errors.SEND_UNKNOWN, errors.NOT_SENT}
        house.send(11)  # not refused: the new producer is there already
        assert house.fate(11) == "recorded"
        assert not told.recorded.keys() & told.failed.keys()


def test_the_native_link_tells_of_each_record_that_a_dead_producer_held(cluster):
    with LinkOnALoop("native", cluster.bootstrap, "replies", linger_ms=20) as house:
        house.send(0)
        assert house.fate(0) == "recorded"
        cluster.push_errors(PRODUCE, [OUT_OF_ORDER_SEQUENCE_NUMBER])
        house.send(1)
        house.until(lambda: 1 in house.told.failed)
        assert house.told.failed[1][0] is errors.SEND_UNKNOWN


def test_a_producer_that_dies_at_once_again_is_not_replaced_without_pause(house, cluster):
    cluster.push_errors(INIT_PRODUCER_ID, [CLUSTER_AUTHORIZATION_FAILED] * 1000)
    cluster.push_errors(PRODUCE, [OUT_OF_ORDER_SEQUENCE_NUMBER])
    house.send(1)
    with capture_logs() as lines:
        tokens, refusals = itertools.count(2), set()

        def three_replacements():
            try:
                house.send(next(tokens))
            except SendRefused as error:
                refusals.add(error.ending)
            # There are two producers, and both die: of five replacements three are of the same one.
            return sum("producer died" in line["event"] for line in lines) >= 5

        began = time.monotonic()
        house.until(three_replacements, 10)
    assert time.monotonic() - began > 0.9, "two pauses of half a second lie between three replacements"
    assert refusals == {errors.QUEUE_FULL}, "an honest 'send again'"


# Positions.


def test_positions_are_asked_for_until_they_are_told(kind, cluster):
    with LinkOnALoop(kind, cluster.bootstrap, "replies") as house:
        cluster.push_errors(LIST_OFFSETS, [TOPIC_AUTHORIZATION_FAILED] * 2)
        assert house.read([0, 1, 2, 3]) == {0: 0, 1: 0, 2: 0, 3: 0}


def test_positions_that_are_late_are_told_once(cluster):
    cluster.set_round_trip(400)  # so that the question is repeated, and answered twice
    with LinkOnALoop("native", cluster.bootstrap, "replies") as house, capture_logs() as lines:
        errors_met = []
        house.loop.set_exception_handler(lambda _, context: errors_met.append(context))
        house.read([0, 1])
        house.send(1)
        assert house.fate(1) == "recorded"
        house.until(lambda: house.told.offsets(0), message="what was sent then is read")
        assert house.told.positionings == 1
        assert errors_met == []
        assert [line["event"] for line in lines if "position" in line["event"]] == []


def test_positions_inside_the_log_are_asked_for_until_they_are_told(kind, cluster):
    with LinkOnALoop(kind, cluster.bootstrap, "replies") as house:
        for number in range(3):
            house.send(number)
            assert house.fate(number) == "recorded"
        cluster.push_errors(LIST_OFFSETS, [TOPIC_AUTHORIZATION_FAILED] * 3)
        house.link.assign({0: 1, 1: FROM_END})
        house.until(lambda: house.told.positions == {0: 1, 1: 0})
        house.until(lambda: house.told.offsets(0) == [1, 2])
        assert house.told.ends == {0: 3, 1: 0}


def test_what_is_stopped_between_two_questions_is_not_read(kind, cluster):
    with LinkOnALoop(kind, cluster.bootstrap, "replies") as house:
        house.send(0)
        assert house.fate(0) == "recorded"
        cluster.push_errors(LIST_OFFSETS, [TOPIC_AUTHORIZATION_FAILED] * 2)
        house.link.assign({0: 0})
        house.link.stop_reading([0])
        assert house.read([0, 1]) == {0: 1, 1: 0}
        assert house.told.got == []


def test_positions_come_when_the_cluster_does(kind, cluster):
    cluster.set_down()
    with LinkOnALoop(kind, cluster.bootstrap, "replies") as house:
        house.link.assign({0: FROM_END})
        house.until(lambda: house.link.poll() is None)
        assert house.told.positions == {}
        cluster.set_up()
        house.until(lambda: house.told.positions == {0: 0}, 15)


# Life.


def test_close_does_not_wait_longer_than_it_may_and_says_what_is_left(house, cluster):
    cluster.set_down()
    for token in range(1, 6):
        house.send(token)
    began = time.monotonic()
    assert house.close(0.3) == 5
    assert time.monotonic() - began < 2.0


def test_a_native_link_that_is_closed_does_nothing_more(cluster):
    with LinkOnALoop("native", cluster.bootstrap, "replies") as house:
        house.read([0])
        house.close(1.0)
        house.link.assign({1: FROM_END})
        house.link.assign({2: FROM_BEGINNING})
        house.link.stop_reading([0])
        house.link.poll()
        with pytest.raises(SendRefused):
            house.send(1)
        house.until(lambda: True)
        assert house.told.positions.keys() == {0}


def test_what_people_are_told_about_a_lost_cluster_is_bounded(house, cluster):
    with capture_logs() as lines:
        cluster.set_down()
        house.send(1)
        house.fate(1, TOLD_S)
    told = [line for line in lines if line["log_level"] != "debug"]
    assert any("127.0.0.1" in str(line.get("detail")) for line in told), "it is told"
    assert len(told) <= 20


def test_librdkafkas_debug_lines_are_not_bounded(cluster):
    with (
        capture_logs() as lines,
        LinkOnALoop("native", cluster.bootstrap, "replies", client={"debug": "broker,protocol"}) as house,
    ):
        house.read([0])
        house.until(lambda: sum(line["log_level"] == "debug" for line in lines) > 50)
