"""The whole gateway on real Kafka: supervisor, agent, workers, services in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from datetime import datetime, timedelta

import pytest

from tests.actors.load import Connection, drive
from tests.actors.repliers import replier
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

REQUESTS = 3000
PARKED = 32
PAUSE_S = 0.02  # under load, and not so much that a reload has to wait for the processor
SERVICES = ("orders", "customers", "baskets")


@pytest.fixture
def shop(tmp_path, kafka_bootstrap, make_topics):
    """(folder, bootstrap, response topic, request topics) of three services."""
    names = make_topics({"replies": 16, **dict.fromkeys(SERVICES, 4)})
    return tmp_path, kafka_bootstrap, names["replies"], [names[service] for service in SERVICES]


def paths(topics):
    return [f"/{topic}" for topic in topics]


PARTITIONERS = ("header", "murmur2", "crc32", "fnv1a", "random")


@pytest.fixture(scope="module")
def mall(tmp_path_factory, kafka_bootstrap, make_module_topics):
    """A gateway of four workers, and for each way to reply the topics of three services."""
    wanted = {f"{how}-{service}": 4 for how in PARTITIONERS for service in SERVICES}
    names = make_module_topics({"replies": 16, **wanted})
    topics = {how: [names[f"{how}-{service}"] for service in SERVICES] for how in PARTITIONERS}
    every = [name for three in topics.values() for name in three]
    with Gateway(tmp_path_factory.mktemp("mall"), kafka_bootstrap, names["replies"], every, workers=4) as gateway:
        yield gateway, topics


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", PARTITIONERS)
def test_every_answer_of_thousands_of_requests_is_200_and_its_own(mall, kafka_bootstrap, how):
    gateway, topics = mall[0], mall[1][how]
    before = {name: gateway.replies(name) for name in ("answered", "misrouted", "dropped", "forged")}
    with replier(kafka_bootstrap, how, topics):
        outcome = asyncio.run(drive([gateway.port], paths(topics), REQUESTS))
    assert outcome.statuses == {200: REQUESTS}
    assert outcome.strangers == []
    assert outcome.cut == 0
    eventually(lambda: gateway.replies("answered") - before["answered"] >= REQUESTS, 5, "the last one is counted, too")
    grown = {name: gateway.replies(name) - count for name, count in before.items()}
    misrouted = grown.pop("misrouted")
    assert grown == {"answered": REQUESTS, "dropped": 0, "forged": 0}
    assert (misrouted > 0) == (how == "random")
    eventually(lambda: gateway.metric("fastgw_in_flight") == 0, 5, "nothing is left in flight")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", ["static", "group"])
@pytest.mark.parametrize("how", ["murmur2", "random"])
def test_two_nodes_share_one_response_topic(shop, mode, how):
    folder, bootstrap, replies, topics = shop
    clusters = [f'[cluster]\nmode = "{mode}"\n' for _ in range(2)]
    if mode == "static":
        clusters = [f"{cluster}node_count = 2\nnode_index = {index}\n" for index, cluster in enumerate(clusters)]
    else:
        clusters = [f'{cluster}group_id = "{replies}"\n' for cluster in clusters]
    # A node that leaves a group reads on for others; here both end, and neither needs the time.
    nodes = [Gateway(folder, bootstrap, replies, topics, more=cluster, drain_timeout="1s") for cluster in clusters]
    with replier(bootstrap, how, topics), nodes[0], nodes[1]:
        eventually(
            lambda: sum(node.metric("fastgw_node_partitions") for node in nodes) == 16, 30, "16 partitions shared"
        )
        outcome = asyncio.run(drive([node.port for node in nodes], paths(topics), REQUESTS // 2))
        assert outcome.statuses == {200: REQUESTS // 2}
        assert outcome.strangers == []
        if how == "random":
            assert sum(node.replies("rerouted") for node in nodes) > 0


@pytest.mark.timeout(120)
def test_a_request_that_is_never_answered_is_504_recorded_at_its_deadline(shop):
    folder, bootstrap, replies, topics = shop
    with (
        replier(bootstrap, "silent", topics),
        Gateway(folder, bootstrap, replies, topics, workers=1, timeout="2s") as gateway,
    ):

        async def ask():
            connection = Connection(gateway.port)
            await connection.request("POST", paths(topics)[0], b"x")  # the first one also waits for Kafka to warm up
            began = time.monotonic()
            answer = await connection.request("POST", paths(topics)[0], b"x")
            lowered = time.monotonic()
            shorter = await connection.request("POST", paths(topics)[0], b"x", ["Prefer: wait=1"])
            return answer, lowered - began, shorter, time.monotonic() - lowered

        (status, headers, body), took_s, (shorter, _, _), shorter_s = asyncio.run(ask())
        assert (status, headers["fastgw-outcome"], json.loads(body)["outcome"]) == (504, "recorded", "recorded")
        assert 2.0 <= took_s <= 2.1
        assert shorter == 504
        assert 1.0 <= shorter_s <= 1.1
        eventually(lambda: gateway.metric("fastgw_in_flight") == 0, 5, "nothing is left in flight")


@pytest.mark.timeout(120)
def test_a_killed_worker_costs_only_its_own_requests_and_is_back_within_a_second(shop):
    folder, bootstrap, replies, (slow, *others) = shop
    with (
        replier(bootstrap, "header", others),
        Gateway(folder, bootstrap, replies, [slow, *others], workers=2) as gateway,
    ):

        async def kill_under_load():
            enough = asyncio.Event()
            load = asyncio.create_task(drive([gateway.port], paths(others), 100_000, connections=16, enough=enough))
            parked = asyncio.create_task(drive([gateway.port], paths([slow]), PARKED, connections=PARKED))
            await asyncio.to_thread(eventually, lambda: len(recorded(gateway, slow)) == PARKED, 30, "all are parked")
            await asyncio.to_thread(
                eventually, lambda: any(title.endswith(" standby") for title in gateway.titles()), 30, "a worker waits"
            )
            doomed = sum(request["worker"] == 1 for request in recorded(gateway, slow))
            os.kill(gateway.worker_pid(1), signal.SIGKILL)
            await asyncio.to_thread(eventually, lambda: '"child": "worker 1.1"' in gateway.log_text, 30, "it is back")
            enough.set()
            # Only now is there a service for what was parked: whose worker has died, its reply has no owner.
            with replier(bootstrap, "header", [slow]):
                return doomed, await load, await parked

        doomed, load, parked = asyncio.run(kill_under_load())
        assert load.strangers == parked.strangers == []
        assert set(load.statuses) == set(parked.statuses) == {200}
        assert load.cut <= 16, "at most what was in flight on the dead worker's connections"
        assert 0 < doomed < PARKED, "some on each worker, by the kernel's hash"
        assert parked.cut == doomed
        eventually(lambda: gateway.replies("orphan") >= doomed, 10, "replies to the dead are counted")
        eventually(lambda: gateway.metric("fastgw_in_flight") == 0, 5, "nothing is left in flight")
        reclaimed = gateway.logged("slots reclaimed", "worker 1.0")
        assert doomed <= reclaimed["reclaimed"] <= doomed + 16
        ended, back = gateway.logged("child ended", "worker 1.0"), gateway.logged("child ready", "worker 1.1")
        assert time_of(back) - time_of(ended) < timedelta(seconds=1)
        assert gateway.ready


def recorded(gateway, topic):
    """The requests for this topic that wait and whose record is confirmed."""
    waiting = gateway.status()["waiting"]["oldest"]
    return [request for request in waiting if request["phase"] == "recorded" and topic in request["route"]]


def time_of(event):
    return datetime.fromisoformat(event["timestamp"])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("connections", ["new", "kept alive"])
def test_five_reloads_under_load_fail_no_request(shop, connections):
    folder, bootstrap, replies, topics = shop
    with replier(bootstrap, "header", topics), Gateway(folder, bootstrap, replies, topics, workers=2) as gateway:

        async def reload_under_load():
            enough = asyncio.Event()
            load = asyncio.create_task(
                drive(
                    [gateway.port],
                    paths(topics),
                    1_000_000,
                    connections=16,
                    fresh_each=connections == "new",
                    enough=enough,
                    pause_s=PAUSE_S,
                )
            )
            for number in range(1, 6):
                gateway.signal(signal.SIGHUP)
                await asyncio.to_thread(
                    eventually, lambda want=number: gateway.log_text.count('"reloaded"') >= want, 30, "reloaded"
                )
            enough.set()
            return await load

        outcome = asyncio.run(reload_under_load())
        assert outcome.failed == 0
        assert outcome.strangers == []
        assert outcome.statuses[200] > 100
        eventually(
            lambda: {worker["generation"] for worker in gateway.status()["workers"]} == {5}, 15, "old generations ended"
        )


@pytest.mark.timeout(120)
def test_sigterm_answers_what_waits_and_readiness_goes_first(shop):
    folder, bootstrap, replies, topics = shop
    with Gateway(folder, bootstrap, replies, topics, workers=2) as gateway:

        async def drain_with_a_parked_request():
            parked = asyncio.create_task(Connection(gateway.port).request("POST", paths(topics)[0], b"parked"))
            await asyncio.to_thread(eventually, lambda: gateway.metric("fastgw_in_flight") == 1, 10, "parked")
            gateway.signal(signal.SIGTERM)
            await asyncio.to_thread(eventually, lambda: not gateway.ready, 5, "not ready")
            assert not parked.done(), "readiness is false while the request still waits"
            with replier(bootstrap, "header", topics):
                return await parked

        status, _, body = asyncio.run(drain_with_a_parked_request())
        assert (status, body) == (200, b"parked")
        assert gateway.process.wait(15) == 0
