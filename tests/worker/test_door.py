"""The gateway's door: it answers whatever breaks behind it."""

from __future__ import annotations

from fastgw import config, errors
from fastgw.body_memory import AnswerMemory, BodyMemory
from fastgw.core.routing import Router
from fastgw.messages import Head
from fastgw.worker.door import GatewayDoor
from tests.core.test_exchange import House
from tests.core.test_routing import FakeHeaders

ROUTE = """
[gateway]
name = "shop"
[kafka]
bootstrap = "localhost:9092"
[[route]]
method = "POST"
path = "/o"
topic = "orders"
"""


class BrokenHeaders(FakeHeaders):
    def get_all(self, key, /):
        raise ZeroDivisionError


def test_a_head_that_breaks_the_router_is_refused_and_the_error_logged_once():
    house = House()
    cfg = config.loads(ROUTE, "test.toml")
    bodies = BodyMemory(1 << 20, 1 << 20)
    router = Router(cfg.routes, cfg.limits, ())
    entrance = GatewayDoor(router, house.exchange, bodies, AnswerMemory(), house.table, 0, house.journal)
    verdict = entrance.admit(Head("POST", "/o", "", BrokenHeaders(), ["shop.test"], 2, False))
    assert verdict.ending is errors.REFUSED_SEND
    assert len(house.journal.broken) == 1
    house.assert_empty()


def test_whose_head_broke_it_is_kept_for_the_access_log_and_cors():
    house = House()
    cfg = config.loads(ROUTE, "test.toml")
    bodies, intake = BodyMemory(1 << 20, 1 << 20), Router(cfg.routes, cfg.limits, ())
    entrance = GatewayDoor(
        intake, house.exchange, bodies, AnswerMemory(), house.table, 0, house.journal, keeps_heads=True
    )
    head = Head("POST", "/o", "", BrokenHeaders(), ["shop.test"], 2, False)
    assert entrance.admit(head).head is head
