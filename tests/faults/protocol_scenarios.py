"""A scenario with an error that only a mock cluster gives on demand. It meets the gateway's own producer alone: the
request topic has a broker to itself."""

from __future__ import annotations

from confluent_kafka import KafkaError

from fastgw.demo.broker import MockCluster
from tests.faults.kafkas import REQUESTS_BROKER
from tests.faults.play import ANY, Scenario
from tests.faults.produce_answers import PRODUCE
from tests.faults.stage import House, Stage
from tests.waiting import eventually

# The mock keeps 5 MiB of each partition: the records of so many requests fit, wherever they go.
HOUSE = House(kafka="mock", kafka_settings='fetch_wait = "2ms"', requests_max=5_000)
NEW_PRODUCER_S = 1.0
SEEN_S = 10.0


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


def broker(stage: Stage) -> MockCluster:
    mock: MockCluster = stage.broker
    return mock


HONEST = {"not_ready": ANY, "not_sent": ANY, "send_unknown": ANY, "expired_unknown": ANY, "expired": ANY}

SCENARIOS = [
    # A producer that dies again within a second of its start is not replaced at once.
    Scenario("fatal producer error", HOUSE, dead_producer, {"queue_full": ANY, **HONEST}, short=3, long=300),
]
