"""What the shared table costs: the cycle that every answered request makes, and a sweep that finds nothing."""

from __future__ import annotations

from itertools import count

from bench.questions.table import SLOTS, fresh, range_with_waiting

SECOND_NS = 1_000_000_000


def test_claim_publish_resolve_release_from_python(benchmark):
    _, slots = fresh()
    tags = count()

    def cycle():
        tag, slot = next(tags), slots.claim()
        slots.publish(slot, tag, 1, 2, SECOND_NS, 1)
        slots.release(slots.resolve(slot, tag))
        return slot

    assert 0 <= benchmark(cycle) < SLOTS


def test_a_sweep_that_finds_nothing_due(benchmark):
    slots = range_with_waiting()
    now_ns = count(1, 10_000_000)
    assert not benchmark(lambda: slots.expired(next(now_ns), 256))
