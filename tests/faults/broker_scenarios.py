"""Scenarios in which real brokers die, freeze, come back, refuse what they could take, or lose the gateway's topics."""

from __future__ import annotations

import time

from confluent_kafka import ElectionType, KafkaError
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourcePatternType,
    ResourceType,
)

from tests.faults.clients import Habits
from tests.faults.kafkas import admin_of, fewest_in_sync, in_sync, leaders
from tests.faults.oracle import ANSWERED
from tests.faults.play import ANY, Scenario
from tests.faults.stage import House, Stage, wait
from tests.faults.wire_proxy import WireProxy
from tests.waiting import eventually

CLUSTER = House(kafka="cluster")
OTHER_DOORS = House(kafka="cluster", front="granian", kafka_settings='link = "public"')
PROXIED = House(kafka="proxied")
RUIN = House(gateway_settings="# for one scenario alone")
NOTICED_S = 3.0  # a response topic that is gone
LASTS = 3  # times as long as an answer takes
BROKERS = 3
HEALTH_S = 60.0
SEEN_S = 10.0
AT_ONCE = 5  # answers of a broker that is in trouble for a moment
FOR_EVER = 1 << 30
ADMIN_S = 30.0

# A deadline that passes while Kafka is away has an honest ending each time.
HONEST = {
    "not_ready": ANY,
    "not_sent": ANY,
    "send_unknown": ANY,
    "expired_unknown": ANY,
    "expired": ANY,
    "queue_full": ANY,
}


def last_ending(stage: Stage) -> str:
    """How the last request ended; empty while none has."""
    told = stage.clients.told[-1:]
    return told[0].ending if told else ""


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
    admin = admin_of(stage.furniture.kafka.bootstrap)
    admin.elect_leaders(ElectionType.PREFERRED).result(ADMIN_S)


def healthy(stage: Stage) -> None:
    """Returns when every copy of every partition is in sync again."""
    furniture = stage.furniture
    for topic in (furniture.requests, furniture.replies):
        eventually(lambda topic=topic: in_sync(furniture.kafka, topic), HEALTH_S, f"{topic} is in sync")


def deleted_topic(stage: Stage) -> None:
    """The response topic is deleted, and created again a little later."""
    furniture = stage.furniture
    admin = admin_of(furniture.kafka.bootstrap)
    for _ in range(stage.faults_wanted):
        with stage.fault():
            began_s = time.monotonic()
            admin.delete_topics([furniture.replies])[furniture.replies].result(ADMIN_S)
            eventually(lambda: not stage.gateway.ready, ADMIN_S, "readiness is lost")
            noticed_s = time.monotonic() - began_s
            stage.progress(f"noticed after {noticed_s:.2f} s")
            assert noticed_s < NOTICED_S
            furniture.make_topic(furniture.replies, furniture.house.reply_partitions)


def more_partitions(stage: Stage) -> None:
    """The response topic gets twice as many partitions, several times."""
    furniture = stage.furniture
    admin = admin_of(furniture.kafka.bootstrap)
    count = furniture.house.reply_partitions
    for _ in range(stage.faults_wanted):
        count *= 2
        with stage.fault(lambda count=count: stage.gateway.metric("fastgw_node_partitions") == count):
            admin.create_partitions([NewPartitions(furniture.replies, count)])[furniture.replies].result(ADMIN_S)


def too_large(stage: Stage) -> None:
    """The broker takes smaller records than the gateway lets in."""
    with stage.fault():
        set_topic(stage, "max.message.bytes", "10000")
        with stage.also(Habits(connections=6, body_bytes=20_000)) as large:
            large.sent(20 * stage.faults_wanted)
        set_topic(stage, "max.message.bytes", "1048588")
    assert {one.ending for one in large.told} == {"record_too_large"}
    # Small ones are refused as well where they shared a batch with a large one: the limit is one of batches.
    assert {one.ending for one in stage.clients.told} <= {ANSWERED, "record_too_large"}


def forbidden(stage: Stage) -> None:
    """The gateway may not write to the request topic for a while."""
    admin = admin_of(stage.furniture.kafka.bootstrap)
    denied = (
        ResourceType.TOPIC, stage.furniture.requests, ResourcePatternType.LITERAL,
        "User:*", "*", AclOperation.WRITE, AclPermissionType.DENY,
    )  # fmt: skip
    rule, pattern = AclBinding(*denied), AclBindingFilter(*denied)
    for _ in range(stage.faults_wanted):
        with stage.fault():
            admin.create_acls([rule])[rule].result(ADMIN_S)
            eventually(lambda: last_ending(stage) == "not_authorized", ADMIN_S, "refused")
            admin.delete_acls([pattern])[pattern].result(ADMIN_S)


def never_enough_replicas(stage: Stage) -> None:
    """NOT_ENOUGH_REPLICAS for as long as anybody tries: a topic that wants all copies in sync, and a broker is dead."""
    set_topic(stage, "min.insync.replicas", str(BROKERS))
    for _ in range(stage.faults_wanted):
        number = stage.chance.randint(1, BROKERS)
        with stage.fault():
            stage.broker.kill(number)
            eventually(lambda: last_ending(stage) in HONEST, HEALTH_S, "a request was given up")
            stage.broker.start_node(number)
        healthy(stage)
    set_topic(stage, "min.insync.replicas", str(BROKERS - 1))


def not_enough_replicas(stage: Stage) -> None:
    """NOT_ENOUGH_REPLICAS for a moment: a broker is dead, and now and then the topic wants its copy as well."""
    stage.broker.kill(BROKERS)
    eventually(lambda: fewest_in_sync(stage.furniture.kafka, stage.furniture.requests) == BROKERS - 1, HEALTH_S)
    for _ in range(stage.faults_wanted):
        stage.some_moment()
        with stage.fault():
            set_topic(stage, "min.insync.replicas", str(BROKERS))
            eventually(lambda: nobody_is_answered(stage), SEEN_S, "Kafka takes nothing")
            set_topic(stage, "min.insync.replicas", str(BROKERS - 1))
    stage.broker.start_node(BROKERS)
    healthy(stage)


def nobody_is_answered(stage: Stage) -> bool:
    before = len(stage.clients.told)
    wait(0.1)
    return len(stage.clients.told) == before


def timed_out(stage: Stage) -> None:
    """REQUEST_TIMED_OUT a few times in a row, for what is written all the same: it is sent again."""
    have_kafka_say(stage, KafkaError.REQUEST_TIMED_OUT)


def not_enough_replicas_after_append(stage: Stage) -> None:
    """NOT_ENOUGH_REPLICAS_AFTER_APPEND a few times in a row: it is sent again."""
    have_kafka_say(stage, KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND)


def have_kafka_say(stage: Stage, code: int) -> None:
    answers = stage.broker.produce_answers
    answers.topic, answers.code = stage.furniture.requests, code
    for _ in range(stage.faults_wanted):
        stage.some_moment()
        with stage.fault():
            answers.count = AT_ONCE
            eventually(lambda: answers.count == 0, SEEN_S, "Kafka has said so")


def timed_out_for_long(stage: Stage) -> None:
    """REQUEST_TIMED_OUT for as long as anybody tries, for what is written all the same: nothing may be twice."""
    answers = stage.broker.produce_answers
    answers.topic, answers.code = stage.furniture.requests, KafkaError.REQUEST_TIMED_OUT
    for _ in range(stage.faults_wanted):
        retired = stage.gateway.log_text.count("producer retired")
        with stage.fault():
            answers.count = FOR_EVER
            eventually(
                lambda n=retired: stage.gateway.log_text.count("producer retired") > n,
                HEALTH_S,
                "a producer is given up",
            )
            answers.count = 0


def connections_cut(stage: Stage) -> None:
    """The broker cuts its connections and refuses new ones for a moment."""
    proxy: WireProxy = stage.broker
    for _ in range(stage.faults_wanted):
        stage.some_moment()
        with stage.fault():
            proxy.refuses = True
            proxy.cut()
            stage.some_moment()
            proxy.refuses = False


def lost_acks(stage: Stage) -> None:
    """Answers of the broker are lost and the connection ends: nobody knows what is written, and nothing is twice."""
    proxy: WireProxy = stage.broker
    for _ in range(stage.faults_wanted):
        stage.some_moment()
        with stage.fault():
            proxy.answers_lost = True
            wait(stage.chance.uniform(0.05, 0.3))
            proxy.cut()
            proxy.answers_lost = False


def slow_broker(stage: Stage) -> None:
    """Every answer of the broker takes 200 ms, 1 s, 4 s longer."""
    proxy: WireProxy = stage.broker
    for round_trip_s in (0.2, 1.0, 4.0)[: stage.faults_wanted]:
        with stage.fault():
            proxy.round_trip_s = round_trip_s
            wait(LASTS * round_trip_s)
            proxy.round_trip_s = 0.0


def set_topic(stage: Stage, name: str, value: str) -> None:
    admin = admin_of(stage.furniture.kafka.bootstrap)
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, stage.furniture.requests, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(ADMIN_S)


SCENARIOS = [
    Scenario("one of three brokers killed", CLUSTER, killed_broker, HONEST),
    Scenario("NOT_ENOUGH_REPLICAS", CLUSTER, not_enough_replicas, HONEST, short=3),
    Scenario("NOT_ENOUGH_REPLICAS that lasts", CLUSTER, never_enough_replicas, HONEST, only_soak=True),
    Scenario("leaders moved", CLUSTER, moved_leaders, HONEST),
    Scenario("one of three brokers frozen", CLUSTER, frozen_broker, HONEST),
    Scenario("all brokers frozen for 1, 5, 10 s", CLUSTER, all_frozen, HONEST, long=3),
    Scenario("all brokers frozen, behind granian, public link", OTHER_DOORS, all_frozen, HONEST, long=3),
    Scenario("all brokers killed for 0, 1, 5, 10 s", CLUSTER, all_gone, HONEST, long=4),
    Scenario("REQUEST_TIMED_OUT", PROXIED, timed_out, short=3),
    Scenario("NOT_ENOUGH_REPLICAS_AFTER_APPEND", PROXIED, not_enough_replicas_after_append, short=3),
    Scenario("REQUEST_TIMED_OUT that lasts", PROXIED, timed_out_for_long, HONEST, long=20, only_soak=True),
    Scenario("connections to brokers cut", PROXIED, connections_cut, HONEST, short=3, long=300),
    Scenario("acks lost", PROXIED, lost_acks, HONEST, short=3, long=1000),
    Scenario("broker slower by 0.2, 1, 4 s", PROXIED, slow_broker, HONEST, short=2, long=3),
    Scenario("records too large for the broker", PROXIED, too_large, {"record_too_large": ANY}),
    Scenario("writing forbidden", PROXIED, forbidden, {"not_authorized": ANY}),
    Scenario("response topic deleted and recreated", RUIN, deleted_topic, HONEST, alone=True, replies_kept=False),
    Scenario("response topic gets partitions", RUIN, more_partitions, long=4, alone=True),
]
