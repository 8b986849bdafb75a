"""What only the granian front does, on real sockets."""

from __future__ import annotations

import gc

import pytest

from fastgw import http_granian
from tests.fronts.kinds import FRONTS
from tests.fronts.test_answers import get
from tests.waiting import eventually

pytestmark = pytest.mark.parametrize("kind", [kind for kind in FRONTS if kind.name == "granian"], ids=["granian"])


def waiting() -> list[http_granian._Request]:
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is http_granian._Request]


@pytest.mark.parametrize("end", ["is answered", "is left by its client"])
def test_a_request_that_has_waited_for_long_leaves_nothing_behind(house, end):
    """It is watched by then: granian holds it, and it what granian watches with."""
    client = house.client()
    client.send(get("/held"))
    record = house.held()[0]
    eventually(lambda: waiting()[0]._gone is not None, message="its client is watched")
    if end == "is answered":
        house.reply(record, b"late")
        assert client.answer().status == 200
    else:
        client.sock.close()
        eventually(lambda: len(house.door.gone_tokens) == 1)
    eventually(lambda: not waiting(), message="nothing is left of it")


def test_a_page_reads_what_the_front_refuses_by_itself_where_its_head_could_be_read(serve):
    house = serve(more_routes='[cors]\norigins = "*"')
    client = house.client()
    client.send(get("/echo", "Origin: https://app.example", "Transfer-Encoding: gzip, chunked", method="POST") + b"x")
    answer = client.answer()
    assert answer.status == 400
    assert answer.values("access-control-allow-origin") == ["*"]
    assert house.door.opened == []
