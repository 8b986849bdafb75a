"""Crowds of hostile clients: whoever behaves is served among them, at once, again and again.

How much longer it takes is measured elsewhere (`make hostile`), with ten thousand of them.
"""

from __future__ import annotations

import time

import pytest

from tests.fronts.kinds import fronts
from tests.hostile.crowd import Crowd

MEMBERS = 200
GOOD = 50
PATIENCE_S = 5.0  # for all good requests together: they take some ms each


@fronts()
@pytest.mark.parametrize("member", ["idle", "silent", "slow-headers", "slow-bodies", "slow-readers"])
def test_a_good_client_is_served_in_the_middle_of_a_crowd(kind, serve, loop_thread, member):
    house = serve(header_timeout="10s", body_timeout="10s", write_timeout="10s")
    port = int(house.address.rsplit(":", 1)[1])
    crowd = Crowd(port, member, MEMBERS, "/echo")
    loop_thread.run(crowd.gather())
    try:
        client = house.client()
        began = time.monotonic()
        for number in range(GOOD):
            client.send(b"POST /echo HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 4\r\n\r\n%04d" % number)
            answer = client.answer("POST")
            assert (answer.status, answer.body) == (200, b"%04d" % number)
        assert time.monotonic() - began < PATIENCE_S
        assert house.call(lambda: crowd.here) > MEMBERS // 2, "they were there all the time"
    finally:
        house.call(crowd.go_home)
