"""The fuzz targets keep their promises: on their seeds, on seeds with changes, on whatever hypothesis thinks of."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

EXAMPLES = 150


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_says_what_it_promises_and_keeps_it_on_its_seeds(name):
    assert TARGETS[name].__doc__.startswith("Promise: ")
    for seed in TARGETS[name].SEEDS:
        TARGETS[name].target(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_keeps_its_promise_on_anything(name):
    seeds = st.sampled_from(TARGETS[name].SEEDS)
    changed = st.builds(
        lambda seed, at, junk, gone: seed[: at % (len(seed) + 1)] + junk + seed[at % (len(seed) + 1) + gone :],
        seeds,
        st.integers(0, 5000),
        st.binary(max_size=6),
        st.integers(0, 6),
    )

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(st.binary(max_size=200) | changed)
    def check(data):
        TARGETS[name].target(data)

    check()
