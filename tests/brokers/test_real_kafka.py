"""The brokers that other tests stand on: they start, they make topics, and their absence is never quiet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from tests.brokers import kafka_server
from tests.brokers.kafka_server import RealKafkaError, fetch_jars, missing_tools
from tests.conftest import MakeTopics
from tests.places import REPOSITORY
from tests.waiting import eventually

pytestmark = pytest.mark.slow


def test_topics_have_the_asked_partitions_and_take_records(kafka_bootstrap: str, make_topics: MakeTopics) -> None:
    names = make_topics({"orders": 3, "replies": 16})
    topics = AdminClient({"bootstrap.servers": kafka_bootstrap}).list_topics(timeout=10).topics
    assert {short: len(topics[name].partitions) for short, name in names.items()} == {"orders": 3, "replies": 16}
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "enable.idempotence": True})
    for partition in range(16):
        producer.produce(names["replies"], b"value", partition=partition)
    assert producer.flush(20) == 0


def test_the_same_short_name_twice_gives_two_topics(make_topics: MakeTopics) -> None:
    assert make_topics({"orders": 1}) != make_topics({"orders": 1})


def test_the_embedded_broker_creates_what_is_asked_for(embedded_bootstrap: str) -> None:
    producer = Producer({"bootstrap.servers": embedded_bootstrap})
    producer.produce("never-declared", b"value")
    assert producer.flush(10) == 0


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("FASTGW_KAFKA_CACHE", str(tmp_path))
    assert missing_tools() == ["Java 17 or later", "Maven"]


def test_a_failing_fetch_tells_what_maven_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho no route to the moon\nexit 3\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FASTGW_KAFKA_CACHE", str(tmp_path))
    with pytest.raises(RealKafkaError, match=r"(?s)exit code 3.*no route to the moon"):
        fetch_jars()
    assert not kafka_server.jars_are_here()


@pytest.mark.parametrize(("required", "exit_code", "count"), [("0", 0, "1 skipped"), ("1", 1, "1 error")])
def test_a_run_without_a_real_kafka_says_so(tmp_path: Path, required: str, exit_code: int, count: str) -> None:
    """A run of its own on a machine that has nothing: skipped and listed, or failed where Kafka is mandatory."""
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "FASTGW_REQUIRE_KAFKA": required}
    test = "tests/brokers/test_real_kafka.py::test_the_same_short_name_twice_gives_two_topics"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        env=environment | {"FASTGW_KAFKA_CACHE": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/no.sock"},
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == exit_code, done.stdout
    assert count in done.stdout
    assert "none: FASTGW_TEST_BOOTSTRAP is not set, no Java 17 or later and no Maven, no Docker engine" in done.stdout
    assert f"1 tests did not run for want of it:\n  {test}" in done.stdout


def test_eventually_tells_what_it_waited_for_and_the_last_answer() -> None:
    answers = iter([0, 0, 7])
    assert eventually(lambda: next(answers)) == 7
    with pytest.raises(AssertionError, match=r"not within 0.02 s: the sun rises \(last answer: ''\)"):
        eventually(lambda: "", 0.02, "the sun rises")
