"""Reloads of a whole gateway with a real Kafka: what is refused, and where that is seen."""

from __future__ import annotations

import pytest

from tests.actors.commands import fastgw
from tests.actors.raw_http import RawConnection
from tests.gateway.gateways import Gateway
from tests.ports import free_port
from tests.waiting import eventually

ROUTE = '[[route]]\nmethod = "GET"\npath = "/more"\ntopic = "{topic}"\n'


@pytest.fixture(scope="module")
def topics(make_module_topics):
    return make_module_topics({"replies": 4, "orders": 4, "more": 4})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, kafka_bootstrap, topics):
    with Gateway(
        tmp_path_factory.mktemp("reload"), kafka_bootstrap, topics["replies"], [topics["orders"]], workers=1
    ) as gateway:
        gateway.await_ready()
        yield gateway


@pytest.fixture
def rewrite(gateway):
    """Changes the file of the gateway that runs; the old text is back after the test."""
    before = gateway.config.read_text()

    def rewrite(old="", new="", more=""):
        gateway.config.write_text(before.replace(old, new) + more)

    yield rewrite
    gateway.config.write_text(before)


def assert_refused(gateway, *parts):
    workers = [worker["pid"] for worker in gateway.status()["workers"]]
    code, out, err = fastgw("reload", gateway.config)
    assert (code, out) == (2, "")
    assert err.startswith("fastgw: reload refused, the old configuration stays: ")
    status = gateway.status()
    assert status["reload"]["result"] == "refused"
    for part in parts:
        assert part in err
        assert part in status["reload"]["error"]
    assert gateway.metric("fastgw_config_last_reload_successful") == 0
    assert [worker["pid"] for worker in status["workers"]] == workers
    assert gateway.ready


def test_a_route_whose_topic_does_not_exist_is_refused_as_it_is_at_the_start(gateway, rewrite):
    rewrite(more=ROUTE.format(topic="no-such-topic"))
    assert_refused(gateway, "topic no-such-topic: expected it to exist", f"`fastgw topics {gateway.config}`")


def test_a_kafka_that_does_not_answer_refuses_the_reload(gateway, rewrite, kafka_bootstrap):
    nobody = f"127.0.0.1:{free_port()}"
    rewrite(kafka_bootstrap, nobody)
    assert_refused(gateway, nobody, "expected a broker within")


def test_a_sound_configuration_is_taken_over_and_told(gateway, rewrite, topics):
    rewrite(more=ROUTE.format(topic=topics["more"]))
    refused = gateway.metric("fastgw_reloads_total", result="refused")
    code, out, err = fastgw("reload", gateway.config)
    assert (code, err) == (0, "")
    assert f"reloaded by the gateway with pid {gateway.process.pid}" in out
    eventually(lambda: gateway.status()["reload"]["result"] == "ok")
    assert gateway.status()["supervisor"] == {"pid": gateway.process.pid, "config": str(gateway.config.resolve())}
    assert gateway.metric("fastgw_config_last_reload_successful") == 1
    assert gateway.metric("fastgw_reloads_total", result="refused") == refused


LATER = """
[[route]]
method = "POST"
path = "/later"
topic = "{more}"
later = true
timeout = "2s"
"""


def store_pids(gateway: Gateway) -> list[int]:
    return [pid for pid, title in gateway.children().items() if title == "fastgw: test store"]


def test_a_reload_that_adds_the_first_deferred_route_waits_until_its_store_can_answer(
    tmp_path, kafka_bootstrap, kafka_admin, make_topics
):
    topics = make_topics({"replies": 4, "more": 4})
    later = topics["replies"] + ".later"
    common = f'[store]\ndir = "{tmp_path / "store"}"\n[later]\ntopic = "{later}"\n'
    secret = 'secrets = ["the secret of the test about reloads"]'
    with Gateway(
        tmp_path, kafka_bootstrap, topics["replies"], [topics["more"]], more=common, settings=secret
    ) as gateway:
        assert "fastgw: test store" not in gateway.titles()
        gateway.config.write_text(gateway.config.read_text() + LATER.format(**topics))
        code, _, err = fastgw("topics", gateway.config)
        assert code == 0, err
        code, _, err = fastgw("reload", gateway.config)
        assert code == 0, err
        for _ in range(10):
            with RawConnection(gateway.port) as client:
                answer = client.request("POST", "/later", b"{}", ["Prefer: respond-async"])
                assert answer.status == 202, answer
        (before,) = store_pids(gateway)
        gateway.config.write_text(gateway.config.read_text() + '[kafka.client]\n"socket.keepalive.enable" = true\n')
        code, _, err = fastgw("reload", gateway.config)
        assert code == 0, err
        eventually(lambda: store_pids(gateway) not in ([], [before]), 10, "its clients of Kafka are new as well")
        eventually(lambda: gateway.status()["store"]["trouble"] is None, 10, "it can answer")
        gateway.config.write_text(gateway.config.read_text().replace(LATER.format(**topics), ""))
        code, _, err = fastgw("reload", gateway.config)
        assert code == 0, err
        eventually(lambda: "fastgw: test store" not in gateway.titles(), 10, "it is no longer needed")
    for future in kafka_admin.delete_topics([later]).values():
        future.result()
