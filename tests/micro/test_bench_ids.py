"""What a correlation id costs, by owners of the response topic and by what is known of the service."""

from __future__ import annotations

import pytest

from bench.questions.ids import maker_for
from fastgw.ids import Partitioner, explains, parse


@pytest.mark.parametrize("owners", [1, 4, 8])
@pytest.mark.parametrize("partitioner", list(Partitioner), ids=lambda one: one.name.lower())
def test_making_an_id(benchmark, partitioner, owners):
    made = benchmark(maker_for(owners).make, 7, int(partitioner))
    assert parse(made).slot == 7


def test_reading_an_id(benchmark):
    assert benchmark(parse, maker_for(4).make(7, Partitioner.ANY)).slot == 7


def test_refusing_a_stranger(benchmark):
    assert benchmark(parse, b"550e8400-e29b-41d4-a716-446655440000") is None


def test_asking_which_partitioners_explain_a_reply(benchmark):
    mask = benchmark(explains, maker_for(4).make(7, Partitioner.MURMUR2), 16, 0)
    assert mask & 1 << Partitioner.MURMUR2
