"""What is made of what Kafka says about a service: nobody there, too far behind, or neither."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from fastgw import config
from fastgw.agent import consumer_lag
from fastgw.agent.consumer_lag import FOR_EVER_NS, NO_CONSUMER, PERIOD_NS, WINDOW_NS, Backlog, GroupProgress, Look

S = 1_000_000_000
LOOKS = WINDOW_NS // PERIOD_NS + 1


def watched(behind, rate=100, looks=LOOKS, consumers=1):
    """A service after so many looks; `behind` and `rate` a second may depend on the number of the look."""
    service, committed = Backlog(), 1000
    for number in range(looks):
        committed += rate(number) if callable(rate) else rate
        left = behind(number) if callable(behind) else behind
        service.observe(number * PERIOD_NS, consumer_lag, GroupProgress(committed, left))
    return service


def test_nothing_is_held_against_a_service_that_is_not_known():
    assert Backlog().wait_ns() == 0


@pytest.mark.parametrize("progress", [None, GroupProgress(100, 0), GroupProgress(100, 50)])
def test_a_group_without_consumers_of_the_topic_is_nobody_at_once(progress):
    service = Backlog()
    service.observe(0, 0, progress)
    assert service.wait_ns() == NO_CONSUMER
    service.observe(PERIOD_NS, 1, progress)
    assert service.wait_ns() == 0


def test_a_group_that_is_being_rebalanced_counts_as_it_was():
    service = Backlog()
    service.observe(0, 2, None)
    service.observe(PERIOD_NS, None, None)
    assert service.wait_ns() == 0
    service.observe(2 * PERIOD_NS, 0, None)
    service.observe(3 * PERIOD_NS, None, None)
    assert service.wait_ns() == NO_CONSUMER


def test_a_backlog_is_what_is_left_by_what_is_done():
    assert watched(behind=6000, rate=100).wait_ns() == 60 * S - 2 * PERIOD_NS


def test_a_backlog_of_which_nothing_is_done_lasts_for_ever():
    assert watched(behind=1, rate=0).wait_ns() == FOR_EVER_NS


def test_a_backlog_is_not_believed_before_a_window_is_over():
    assert watched(behind=6000, looks=LOOKS - 3).wait_ns() == 0


def test_a_service_that_commits_every_five_seconds_is_not_behind():
    def behind(number):  # a hundred a second come; at a commit everything but those of the last look
        return 100 * (number % 5 + 1)

    def rate(number):
        return 500 if number % 5 == 0 else 0

    assert watched(behind, rate).wait_ns() == 0


def test_who_has_caught_up_once_in_a_window_is_not_behind():
    assert watched(lambda number: 0 if number == LOOKS - 2 else 6000).wait_ns() == 0


def test_a_service_that_was_behind_and_has_caught_up_is_believed_at_once():
    service = watched(behind=6000)
    service.observe(LOOKS * PERIOD_NS, 1, GroupProgress(10_000, 0))
    assert service.wait_ns() == 0


CONFIG = """
gateway.name = "shop"
kafka.bootstrap = "localhost:1"
route = [
    { method = "POST", path = "/a", topic = "a", service_group = "secret" },
    { method = "POST", path = "/b", topic = "b", service_group = "open" },
]
"""


def test_a_service_that_kafka_says_nothing_of_is_no_hindrance_to_others(monkeypatch):
    """One group that the gateway may not describe must not switch the look at all others off."""

    def ask(_admin, group, _topic, _known):
        if group == "secret":
            raise KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
        return Look(0, None, "the consumer group has no members")

    monkeypatch.setattr(consumer_lag, "_ask", ask)
    told = []
    one = consumer_lag.Consumers(config.loads(CONFIG, "shop.toml", {}), told.append, pytest.fail)
    one._look(None)
    assert told == [{0: 0, 1: NO_CONSUMER}]
    assert [(state.group, state.state) for state in one.states] == [("secret", "unknown"), ("open", "nobody")]
    assert one.states[0].detail == "Kafka does not say: Broker: Group authorization failed"
    assert one.states[1].detail == "the consumer group has no members"


def test_who_was_stopped_while_kafka_was_slow_tells_nothing_more(monkeypatch):
    """The numbers may be those of other routes by now."""
    told = []
    one = consumer_lag.Consumers(config.loads(CONFIG, "shop.toml", {}), told.append, pytest.fail)

    def ask(*_):
        one._stopping.set()
        return Look(0, None, "the consumer group has no members")

    monkeypatch.setattr(consumer_lag, "_ask", ask)
    one._look(None)
    assert told == []
