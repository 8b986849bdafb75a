"""The houses that the scenarios of a module are played in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.houses import Houses
from tests.faults.kafkas import Kafkas


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory, kafka_bootstrap: str) -> Iterator[Houses]:
    kafkas = Kafkas(kafka_bootstrap)
    houses = Houses(kafkas, tmp_path_factory)
    yield houses
    houses.close()
    kafkas.close()
