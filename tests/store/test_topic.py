"""Which topic it is: the id that Kafka gives it, or none, and never another one by mistake."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaException

from fastgw import config
from fastgw.store import topic as topic_module
from fastgw.store.topic import NO_TOPIC_ID, look_up

CONFIG = config.loads("""
[gateway]
name = "shop"
workers = 1
[kafka]
bootstrap = "127.0.0.1:1"
[[route]]
method = "POST"
path = "/o"
topic = "orders"
""")


class Metadata:
    """A consumer that gives this metadata."""

    def __init__(self, cluster_id: str, controller_id: int) -> None:
        found = SimpleNamespace(error=None, partitions={0: None, 1: None})
        self.metadata = SimpleNamespace(
            cluster_id=cluster_id, controller_id=controller_id, brokers={1: None}, topics={"shop.later": found}
        )

    def list_topics(self, timeout: float) -> SimpleNamespace:
        return self.metadata


def test_the_embedded_broker_has_no_ids() -> None:
    found = look_up(Metadata("mockCluster17f0", 0), CONFIG, "shop.later")  # type: ignore[arg-type]
    assert (found[0], list(found[1])) == (NO_TOPIC_ID, [0, 1])


@pytest.mark.parametrize("controller", [-1, 1, 7])
def test_a_cluster_that_does_not_give_the_id_is_not_taken_for_one_without_ids(
    monkeypatch: pytest.MonkeyPatch, controller: int
) -> None:
    """While a controller is elected there is none, or the one that the metadata names has just gone."""
    monkeypatch.setattr(topic_module, "LOOK_TIMEOUT_S", 0.2)
    with pytest.raises(KafkaException):
        look_up(Metadata("5L6g3nShT-eMCtK--X86sw", controller), CONFIG, "shop.later")  # type: ignore[arg-type]
