"""Scenarios in which real brokers die, freeze, come back, or lose the gateway's topics."""

from __future__ import annotations

import threading

from confluent_kafka import ElectionType
from confluent_kafka.admin import AdminClient

from tests.faults.kafkas import in_sync, leaders
from tests.faults.play import ANY, Scenario
from tests.faults.stage import House, Stage
from tests.waiting import eventually

CLUSTER = House(kafka="cluster")
BROKERS = 3
HEALTH_S = 60.0
ADMIN_S = 30.0

# A deadline that passes while Kafka is away has an honest ending each time.
HONEST = {"not_ready": ANY, "send_unknown": ANY, "expired_unknown": ANY, "expired": ANY, "queue_full": ANY}


def killed_broker(stage: Stage) -> None:
    """SIGKILL for one of three, and it comes back on its data."""
    for _ in range(stage.faults_wanted):
        number = stage.chance.randint(1, BROKERS)
        with stage.fault():
            stage.broker.kill(number)
            stage.clients.sent(50)
            stage.broker.start_node(number)
        healthy(stage)


def moved_leaders(stage: Stage) -> None:
    """Leaderships move from a broker that is shut down in order, and back to it by an election."""
    for _ in range(stage.faults_wanted):
        if not led_by_another(stage):
            number = stage.chance.randint(1, BROKERS)
            with stage.fault():
                stage.broker.shut_down(number)
            stage.broker.start_node(number)
            healthy(stage)
        with stage.fault():
            elect_the_preferred(stage)
            eventually(lambda: not led_by_another(stage), ADMIN_S, "the preferred brokers lead")


def all_gone(stage: Stage) -> None:
    """SIGKILL for all three at once; they come back after so many seconds."""
    for pause_s in (0.0, 1.0, 5.0, 10.0)[: stage.faults_wanted]:
        with stage.fault():
            for number in range(1, BROKERS + 1):
                stage.broker.kill(number)
            wait(pause_s)
            for number in range(1, BROKERS + 1):
                stage.broker.start_node(number)
            healthy(stage)


def frozen_broker(stage: Stage) -> None:
    """SIGSTOP for one of three, long enough for the others to go on without it."""
    for _ in range(stage.faults_wanted):
        number = stage.chance.randint(1, BROKERS)
        with stage.fault():
            stage.broker.freeze(number)
            wait(4.0)
            stage.broker.thaw(number)
        healthy(stage)


def all_frozen(stage: Stage) -> None:
    """SIGSTOP for all three at once, for so many seconds."""
    for pause_s in (1.0, 5.0, 10.0)[: stage.faults_wanted]:
        with stage.fault():
            for number in range(1, BROKERS + 1):
                stage.broker.freeze(number)
            wait(pause_s)
            for number in range(1, BROKERS + 1):
                stage.broker.thaw(number)
        healthy(stage)


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def led_by_another(stage: Stage) -> set[tuple[str, int]]:
    """The partitions that are not led by their preferred broker: some have moved."""
    furniture = stage.furniture
    return {
        (topic, partition)
        for topic in (furniture.requests, furniture.replies)
        for partition, (leader, preferred) in leaders(furniture.kafka, topic).items()
        if leader != preferred
    }


def elect_the_preferred(stage: Stage) -> None:
    admin = AdminClient({"bootstrap.servers": stage.furniture.kafka.bootstrap})
    admin.elect_leaders(ElectionType.PREFERRED).result(ADMIN_S)


def healthy(stage: Stage) -> None:
    """Returns when every copy of every partition is in sync again."""
    furniture = stage.furniture
    for topic in (furniture.requests, furniture.replies):
        eventually(lambda topic=topic: in_sync(furniture.kafka, topic), HEALTH_S, f"{topic} is in sync")


SCENARIOS = [
    Scenario("one of three brokers killed", CLUSTER, killed_broker, HONEST),
    Scenario("leaders moved", CLUSTER, moved_leaders, HONEST),
    Scenario("one of three brokers frozen", CLUSTER, frozen_broker, HONEST),
    Scenario("all brokers frozen for 1, 5, 10 s", CLUSTER, all_frozen, HONEST, long=3),
    Scenario("all brokers killed for 0, 1, 5, 10 s", CLUSTER, all_gone, HONEST, long=4),
]
