"""Scenarios with errors that only a mock cluster gives on demand. They meet the gateway's own producer alone: the
request topic has a broker to itself."""

from __future__ import annotations

from confluent_kafka import KafkaError

from fastgw.broker import MockCluster
from tests.faults.clients import Habits
from tests.faults.kafkas import REPLIES_BROKER, REQUESTS_BROKER
from tests.faults.play import ANY, Scenario
from tests.faults.stage import House, Stage
from tests.waiting import eventually

# The mock keeps 5 MiB of each partition: the records of so many requests fit, wherever they go. It gives them out batch
# by batch, and each request of a client that is alone is one.
HOUSE = House(kafka="mock", kafka_settings='fetch_wait = "2ms"', requests_max=5_000)
PRODUCE = 0  # Kafka's number of the request
AT_ONCE = 5
NEW_PRODUCER_S = 1.0
SEEN_S = 10.0


def timed_out(stage: Stage) -> None:
    """REQUEST_TIMED_OUT: to be tried again."""
    refuse(stage, KafkaError.REQUEST_TIMED_OUT)


def not_enough_replicas(stage: Stage) -> None:
    """NOT_ENOUGH_REPLICAS: to be tried again."""
    refuse(stage, KafkaError.NOT_ENOUGH_REPLICAS)


def not_enough_replicas_after_append(stage: Stage) -> None:
    """NOT_ENOUGH_REPLICAS_AFTER_APPEND: to be tried again."""
    refuse(stage, KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND)


def dead_producer(stage: Stage) -> None:
    """An error after which a producer is of no more use."""
    for _ in range(stage.faults_wanted):
        stage.some_moment()
        deaths = stage.gateway.log_text.count("producer died, replaced")
        with stage.fault() as fault:
            broker(stage).push_errors_at(REQUESTS_BROKER, PRODUCE, [KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER])
            eventually(lambda n=deaths: stage.gateway.log_text.count("producer died, replaced") > n, SEEN_S, "it died")
        took_s = fault.recovered_s - fault.began_s  # from the error on
        stage.progress(f"the next one works after {took_s:.2f} s")
        assert took_s < NEW_PRODUCER_S


def connections_cut(stage: Stage) -> None:
    """The brokers cut their connections and refuse new ones for a moment."""
    for _ in range(stage.faults_wanted):
        stage.some_moment()
        with stage.fault():
            for number in (REQUESTS_BROKER, REPLIES_BROKER):
                broker(stage).set_down(number)
            stage.some_moment()
            for number in (REQUESTS_BROKER, REPLIES_BROKER):
                broker(stage).set_up(number)


def broker(stage: Stage) -> MockCluster:
    mock: MockCluster = stage.broker
    return mock


def refuse(stage: Stage, code: int) -> None:
    for _ in range(stage.faults_wanted):
        stage.some_moment()
        with stage.fault():
            broker(stage).push_errors_at(REQUESTS_BROKER, PRODUCE, [code] * AT_ONCE)


# The mock takes a batch without looking whether the one before it is there, which no broker does: once a later batch is
# acknowledged, librdkafka believes that an earlier one which may have been written has been ("implicit ack"), and is
# lied to. One request at a time means one batch at a time.
ONE_AT_A_TIME = Habits(connections=1)
HONEST = {"not_ready": ANY, "not_sent": ANY, "send_unknown": ANY, "expired_unknown": ANY, "expired": ANY}

SCENARIOS = [
    Scenario("NOT_ENOUGH_REPLICAS", HOUSE, not_enough_replicas, short=3, habits=ONE_AT_A_TIME),
    Scenario("REQUEST_TIMED_OUT", HOUSE, timed_out, short=3, habits=ONE_AT_A_TIME),
    Scenario(
        "NOT_ENOUGH_REPLICAS_AFTER_APPEND", HOUSE, not_enough_replicas_after_append, short=3, habits=ONE_AT_A_TIME
    ),
    # A producer that dies again within a second of its start is not replaced at once.
    Scenario("fatal producer error", HOUSE, dead_producer, {"queue_full": ANY, **HONEST}, short=3, long=300),
    Scenario("connections to brokers cut", HOUSE, connections_cut, HONEST, short=3, long=300),
]
