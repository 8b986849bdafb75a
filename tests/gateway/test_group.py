"""Nodes that come and go under load, in `cluster.mode = "group"`."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.actors.hand_service import hand_service
from tests.actors.load import drive
from tests.actors.raw_http import RawConnection
from tests.actors.repliers import replier
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

PARTITIONS = 16
PARKED = 8  # requests that wait at the node that leaves
MORE = 300  # answers that each node has to give after each change
ENDLESS = 10_000_000


def share(node):
    return node.metric("fastgw_node_partitions")


async def settled(nodes):
    """Every partition belongs to one of these nodes, and each of them has its part."""
    least = PARTITIONS // len(nodes)
    await asyncio.to_thread(
        eventually,
        lambda: sum(map(share, nodes)) == PARTITIONS and min(map(share, nodes)) >= least,
        30,
        f"{PARTITIONS} partitions shared by {len(nodes)} nodes",
    )


async def answers_more(*nodes):
    for node in nodes:
        wanted = node.replies("answered") + MORE
        await asyncio.to_thread(eventually, lambda node=node, least=wanted: node.replies("answered") >= least, 30)


@pytest.mark.timeout(240)
def test_a_third_node_joins_and_one_leaves_and_no_request_fails(tmp_path, kafka_bootstrap, make_topics):
    topics = make_topics({"replies": PARTITIONS, "orders": 4, "strays": 4, "slow": 1})
    orders, strays, slow = topics["orders"], topics["strays"], topics["slow"]
    cluster = f'[cluster]\nmode = "group"\ngroup_id = "{topics["replies"]}"\n'
    # Only the leaver has anybody to hand its partitions to; the others need no time for it at the end.
    leaver, stayer, joiner = (
        Gateway(
            tmp_path, kafka_bootstrap, topics["replies"], [orders, strays, slow],
            workers=1, more=cluster, drain_timeout=drain_timeout,
        )
        for drain_timeout in ("10s", "1s", "1s")
    )  # fmt: skip

    def start_load(node, enough):
        paths = [f"/{orders}", f"/{strays}"]
        return asyncio.create_task(drive([node.port], paths, ENDLESS, connections=8, enough=enough))

    async def join_and_leave(service):
        enough, enough_of_the_leaver = asyncio.Event(), asyncio.Event()
        loads = [start_load(leaver, enough_of_the_leaver), start_load(stayer, enough)]
        await settled([leaver, stayer])
        await answers_more(leaver, stayer)
        with joiner:
            await settled([leaver, stayer, joiner])
            loads.append(start_load(joiner, enough))
            await answers_more(leaver, stayer, joiner)
            # A load balancer takes the node out first; what waits there is still its own.
            enough_of_the_leaver.set()
            await loads[0]
            parked = [RawConnection(leaver.port) for _ in range(PARKED)]
            for number, connection in enumerate(parked):
                connection.ask("POST", f"/{slow}", b"%d" % number)
            taken = [await asyncio.to_thread(service.take) for _ in parked]
            leaver.signal(signal.SIGTERM)
            await asyncio.to_thread(eventually, lambda: not leaver.ready, 5, "the leaver is not ready")
            for request in taken:
                service.reply(request, request.value)
            bodies = [(await asyncio.to_thread(connection.answer)).body for connection in parked]
            assert bodies == [b"%d" % number for number in range(PARKED)]
            assert await asyncio.to_thread(leaver.process.wait, 20) == 0
            await settled([stayer, joiner])
            await answers_more(stayer, joiner)
            enough.set()
            return await asyncio.gather(*loads)

    with (
        replier(kafka_bootstrap, "murmur2", [orders]),
        replier(kafka_bootstrap, "random", [strays]),
        hand_service(kafka_bootstrap, [slow]) as service,
        stayer,
        leaver,
    ):
        outcomes = asyncio.run(join_and_leave(service))
    for outcome in outcomes:
        assert outcome.failed == 0, outcome
        assert outcome.strangers == []
        assert outcome.statuses[200] >= 2 * MORE
