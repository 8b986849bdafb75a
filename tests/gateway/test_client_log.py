"""What a gateway logs about its connections to Kafka: nothing while they are idle, and little while there is none."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from tests.actors.commands import fastgw
from tests.brokers.kafka_server import RealKafka, missing_tools
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

pytestmark = [
    pytest.mark.real_kafka,
    pytest.mark.skipif(bool(missing_tools()), reason="needs a broker of its own"),
]

LINKS = ["native", "public"]


@pytest.fixture
def kafka():
    with RealKafka(properties={"connections.max.idle.ms": "1000"}) as broker:
        yield broker


def lines(gateway, **fields):
    """The log lines that have these fields."""
    *whole, _half = gateway.log_text.split("\n")  # the last one may still be written
    every = map(json.loads, whole)
    return [line for line in every if fields.items() <= line.items()]


def troubles(gateway):
    """All warnings and errors up to the word that it is ready; afterwards all that are about connections.

    A machine that later stands still for seconds loses canaries, which is another matter.
    """
    every = lines(gateway)
    starts_until = next(at for at, line in enumerate(every) if line["event"] == "ready")
    return [
        line
        for at, line in enumerate(every)
        if line["level"] not in ("debug", "info")
        and (at <= starts_until or not line["event"].startswith("reply path lost"))
    ]


def test_idle_connections_that_a_broker_closes_are_no_trouble_and_an_outage_is_told_in_few_lines(
    tmp_path, kafka, monkeypatch
):
    monkeypatch.setenv("FASTGW_LOG_LEVEL", "debug")
    with ExitStack() as stack:
        gateways = [
            Gateway(tmp_path, kafka.bootstrap, f"replies-{link}", ["orders"], workers=1, kafka=f'link = "{link}"')
            for link in LINKS
        ]
        for gateway in gateways:
            assert fastgw("topics", gateway.config)[0] == 0
            stack.enter_context(gateway)
        for gateway in gateways:
            eventually(lambda g=gateway: len(lines(g, code="_ALL_BROKERS_DOWN")) > 1, 30, "clients have nobody left")
            assert troubles(gateway) == []

        kafka.kill(1)
        for gateway in gateways:
            for process in ("agent", "worker 0.0"):
                eventually(
                    lambda g=gateway, p=process: any("held_back" in one for one in lines(g, process=p)),
                    30,
                    f"{process} says how much more there was",
                )
                told = [one for one in lines(gateway, process=process) if one["level"] not in ("debug", "info")]
                assert any("Connection refused" in one.get("detail", "") for one in told)
                assert len(told) < 20
            assert "node group error" not in gateway.log_text
        kafka.start_node(1)
