"""Topics of their own for a service and its requester."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import MakeTopics
from tests.service.requester import REPLY_PARTITIONS, Place


@pytest.fixture
def place(kafka_bootstrap: str, make_topics: MakeTopics) -> Iterator[Place]:
    with place_of(kafka_bootstrap, make_topics, request_partitions=2) as place:
        yield place


@pytest.fixture
def lone_place(kafka_bootstrap: str, make_topics: MakeTopics) -> Iterator[Place]:
    """One request partition, so that records have an order."""
    with place_of(kafka_bootstrap, make_topics, request_partitions=1) as place:
        yield place


@contextmanager
def place_of(kafka_bootstrap: str, make_topics: MakeTopics, request_partitions: int) -> Iterator[Place]:
    names = make_topics({"requests": request_partitions, "replies": REPLY_PARTITIONS})
    place = Place(kafka_bootstrap, names["requests"], names["replies"])
    yield place
    place.requester.close()
