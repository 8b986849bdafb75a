"""What is wrong or unwise about topics, judged from facts; asking a real Kafka is in test_topics.py."""

from __future__ import annotations

import pytest

from fastgw import config
from fastgw.config import Config
from fastgw.errors import StartError
from fastgw.kafka import topic_checks
from fastgw.kafka.cluster import Met, Topic
from fastgw.kafka.topic_checks import Facts

CONFIG = """
[gateway]
name = "shop"
workers = 2
[kafka]
bootstrap = "127.0.0.1:9"
[[route]]
method = "POST"
path = "/orders"
topic = "orders"
service_group = "billing"
"""
RIGHTS = frozenset({"READ", "WRITE", "DESCRIBE"})


@pytest.fixture
def cfg() -> Config:
    return config.loads(CONFIG, "shop.toml")


def judged(cfg: Config, orders: dict[str, object] | None = None, **more: object) -> list[str]:
    """The findings about a cluster where all is well but for these things; "replies" is that of the response topic."""
    well: dict[str, object] = {"partitions": 8, "replicas": 3, "in_sync": 3, "operations": RIGHTS, "settings": {}}
    replies = well | dict(more.pop("replies", {}))  # type: ignore[call-overload]
    topics = {
        "orders": Topic("orders", **well | (orders or {})),  # type: ignore[arg-type]
        cfg.gateway.response_topic: Topic(cfg.gateway.response_topic, **replies),
    }
    facts = Facts(**{"brokers": 3, "topics": topics, "has_admin": True} | more)  # type: ignore[arg-type]
    return [f"{finding.level}: {finding}" for finding in topic_checks.judge(cfg, facts)]


def test_a_cluster_where_all_is_well_gives_no_findings(cfg: Config) -> None:
    assert judged(cfg) == []


@pytest.mark.parametrize(
    ("orders", "told"),
    [
        ({"partitions": 0}, 'error: topic orders: expected it to exist (needed by route "'),
        (
            {"partitions": 0, "refused": "no", "is_forbidden": True},
            "got: no; grant the user of [kafka.client] DESCRIBE on it",
        ),
        ({"operations": frozenset({"READ"})}, "error: topic orders: expected the right to WRITE, got READ"),
        ({"in_sync": 1, "settings": {"min.insync.replicas": "2"}}, "expected min.insync.replicas = 2 in sync, got 1"),
        ({"settings": {"min.insync.replicas": "3"}}, "warning: topic orders: min.insync.replicas = 3 of 3 replicas"),
    ],
)
def test_a_request_topic_is_judged(cfg: Config, orders: dict[str, object], told: str) -> None:
    (finding,) = judged(cfg, orders)
    assert told in finding


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        ({"partitions": 1}, "error: topic shop.replies: expected at least 2 partitions, one for each worker, got 1"),
        ({"partitions": 1 << 20}, "use a new topic: Kafka cannot remove partitions"),
        (
            {"partitions": 3},
            "warning: topic shop.replies: 3 partitions; a power of two is recommended, here at least",
        ),
        ({"settings": {"cleanup.policy": "compact"}}, "warning: topic shop.replies: cleanup.policy = compact"),
    ],
)
def test_a_response_topic_is_judged(cfg: Config, replies: dict[str, object], told: str) -> None:
    (finding,) = judged(cfg, replies=replies)
    assert told in finding


OWN = """
[[route]]
method = "POST"
path = "/reports"
topic = "orders"
later = true
work_timeout = "1h"
[[route]]
method = "GET"
path = "/orders"
topic = "orders"
reply = "stream"
[store]
dir = "/var/lib/fastgw"
[later]
keep = "24h"
[streams]
keep = "2h"
"""
LATER_SETTINGS = {
    "message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete", "retention.ms": str(26 * 3_600_000),
    "max.message.bytes": str((8 << 20) + (64 << 10)),
}  # fmt: skip
STREAM_SETTINGS = LATER_SETTINGS | {"retention.ms": str(2 * 3_600_000)}


def judged_own(later: dict[str, object], streams: dict[str, object]) -> list[str]:
    """The findings about a configuration with kept replies and streams, in a cluster where all else is well."""
    cfg = config.loads(
        CONFIG.replace("workers = 2", 'workers = 2\nsecrets = ["a secret that has 32 bytes or more"]') + OWN
    )
    well: dict[str, object] = {"partitions": 8, "replicas": 3, "in_sync": 3, "operations": RIGHTS, "settings": {}}
    topics = {
        "orders": Topic("orders", **well),  # type: ignore[arg-type]
        "shop.replies": Topic("shop.replies", **well),  # type: ignore[arg-type]
        "shop.later": Topic("shop.later", **well | {"settings": LATER_SETTINGS} | later),  # type: ignore[arg-type]
        "shop.streams": Topic("shop.streams", **well | {"settings": STREAM_SETTINGS} | streams),  # type: ignore[arg-type]
    }
    return [f"{finding.level}: {finding}" for finding in topic_checks.judge(cfg, Facts(3, topics, has_admin=True))]


def test_topics_of_kept_replies_and_streams_as_they_are_created_give_no_findings() -> None:
    assert judged_own({}, {}) == []


@pytest.mark.parametrize(
    ("later", "told"),
    [
        ({"partitions": 0}, "error: topic shop.later: expected it to exist (the topic of kept replies)"),
        ({"partitions": 4}, "error: topic shop.later: expected later.lanes = 8 partitions, got 4; `fastgw topics"),
        ({"partitions": 9}, "got 9; set later.topic to a new name"),
        ({"operations": frozenset({"WRITE"})}, "error: topic shop.later: expected the right to READ"),
        (
            {"settings": LATER_SETTINGS | {"message.timestamp.type": "CreateTime"}},
            "error: topic shop.later: expected message.timestamp.type = LogAppendTime, got CreateTime",
        ),
        ({"settings": LATER_SETTINGS | {"cleanup.policy": "compact"}}, "error: topic shop.later: cleanup.policy"),
        (
            {"settings": LATER_SETTINGS | {"retention.ms": "3600000"}},
            "warning: topic shop.later: expected retention.ms of at least 93600000, got 3600000",
        ),
        (
            {"settings": LATER_SETTINGS | {"max.message.bytes": "1048588"}},
            "warning: topic shop.later: expected max.message.bytes of at least 8454144",
        ),
        ({"settings": None}, "warning: topic shop.later: expected to see its settings"),
    ],
)
def test_the_topic_of_kept_replies_is_judged(later: dict[str, object], told: str) -> None:
    (finding,) = judged_own(later, {})
    assert told in finding


@pytest.mark.parametrize(
    ("streams", "told"),
    [
        ({"partitions": 0}, "error: topic shop.streams: expected it to exist (the topic of streams)"),
        ({"settings": STREAM_SETTINGS | {"cleanup.policy": "compact,delete"}}, "error: topic shop.streams: cleanup"),
        (
            {"settings": STREAM_SETTINGS | {"retention.ms": "3600000"}},
            "warning: topic shop.streams: expected retention.ms of at least 7200000 (streams.keep), got 3600000",
        ),
        (
            {"settings": STREAM_SETTINGS | {"max.message.bytes": "1048588"}},
            "warning: topic shop.streams: expected max.message.bytes of at least 8454144",
        ),
    ],
)
def test_the_topic_of_streams_is_judged(streams: dict[str, object], told: str) -> None:
    (finding,) = judged_own({}, streams)
    assert told in finding


def test_a_broker_that_is_away_is_a_warning_and_an_error_when_no_broker_is_left(cfg: Config) -> None:
    (finding,) = judged(cfg, met=Met({"kafka-1:9092": "Connection refused"}))
    assert finding.startswith("warning: broker kafka-1:9092: expected to reach it at the address that it advertises")
    (finding,) = judged(cfg, brokers=1, met=Met({"kafka-1:9092": "Connection refused"}))
    assert finding.startswith("error: broker kafka-1:9092: ")


def test_a_name_that_does_not_resolve_is_always_an_error(cfg: Config) -> None:
    (finding,) = judged(cfg, met=Met({"kafka-1:9092": "Failed to resolve 'kafka-1:9092'"}))
    assert finding.startswith("error: ")
    assert finding.endswith("make kafka-1 resolvable on this machine")


def test_a_service_group_without_consumers_is_a_warning(cfg: Config) -> None:
    (finding,) = judged(cfg, absences={("billing", "orders"): "the consumer group has no members"})
    assert finding.startswith('warning: service_group "billing": the consumer group has no members; requests to route')


def test_no_broker_is_an_error_within_the_given_time(cfg: Config) -> None:
    with pytest.raises(StartError, match=r"kafka\.bootstrap = 127\.0\.0\.1:9: expected a broker within 1 s, got: "):
        topic_checks.check(cfg, timeout_s=1)
