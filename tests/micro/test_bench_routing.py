"""What it costs to find a request's route and check its head, among few routes and among many."""

from __future__ import annotations

import pytest

from fastgw import config
from fastgw.admission import Admission
from fastgw.core.routing import Router
from fastgw.messages import Head
from tests.core.test_routing import FakeHeaders

HEAD = '[gateway]\nname = "shop"\n[kafka]\nbootstrap = "localhost:9092"\n'
ROUTE = '[[route]]\nmethod = "POST"\npath = "/things/{{id}}/part-{number}"\ntopic = "things"\n'


@pytest.mark.parametrize("routes", [1, 1000])
def test_admitting_a_request(benchmark, routes):
    cfg = config.loads(HEAD + "".join(ROUTE.format(number=number) for number in range(routes)))
    router = Router(cfg.routes, cfg.limits, ())
    request = Head("POST", f"/things/7/part-{routes - 1}", "", FakeHeaders(), ["shop.test"], 256, False)
    assert isinstance(benchmark(router.admit, request), Admission)


def test_admitting_a_request_whose_path_has_no_parameter(benchmark):
    cfg = config.loads(HEAD + ROUTE.replace("{{id}}", "id").format(number=0))
    router = Router(cfg.routes, cfg.limits, ())
    request = Head("POST", "/things/id/part-0", "", FakeHeaders(), ["shop.test"], 256, False)
    assert isinstance(benchmark(router.admit, request), Admission)
