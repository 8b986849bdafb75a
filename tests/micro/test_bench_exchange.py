"""What a whole request costs in the core: from `reserve` to the answer, with no HTTP and no Kafka around it."""

from __future__ import annotations

from fastgw.messages import ReplyDisposition
from tests.core.test_exchange import House

SLOTS = 4096


def test_a_request_from_its_admission_to_its_answer(benchmark):
    house = House(slots=SLOTS)

    def live():
        client, token = house.open()
        house.exchange.delivered(token, 1, 0)
        disposition = house.exchange.resolve(*house.reply(), 2)
        house.send.records.clear()
        return disposition, client.only[0]

    assert benchmark(live) == (ReplyDisposition.ANSWERED, 200)
    house.assert_empty()


def test_a_request_whose_client_leaves(benchmark):
    house = House(slots=SLOTS)

    def leave():
        client, token = house.open()
        house.exchange.cancel(token)
        house.send.records.clear()
        return client.answers

    assert benchmark(leave) == []
    house.assert_empty()
