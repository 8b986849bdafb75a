"""Topics of their own for a service and its requester."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import MakeTopics
from tests.service.requester import REPLY_PARTITIONS, Place


@pytest.fixture
def place(kafka_bootstrap: str, make_topics: MakeTopics) -> Iterator[Place]:
    names = make_topics({"requests": 2, "replies": REPLY_PARTITIONS})
    place = Place(kafka_bootstrap, names["requests"], names["replies"])
    yield place
    place.requester.close()


@pytest.fixture
def lone_place(kafka_bootstrap: str, make_topics: MakeTopics) -> Iterator[Place]:
    """One request partition, so that records have an order."""
    names = make_topics({"requests": 1, "replies": REPLY_PARTITIONS})
    place = Place(kafka_bootstrap, names["requests"], names["replies"])
    yield place
    place.requester.close()
