"""The register of watches: nothing is left of what has ended."""

from __future__ import annotations

from fastgw.kept_replies import State
from fastgw.mesh.store_frames import Watch
from fastgw.store.watches import Watches, Watching


class Listener:
    def tell(self, state: State) -> None:
        raise AssertionError(f"the register tells nobody, got {state}")


def watch(number: int, correlation_id: bytes = b"a", until_ms: int = 0) -> Watch:
    return Watch(number, correlation_id, 0, until_ms)


def test_all_watches_of_a_request_are_found() -> None:
    watches, one, other = Watches(), Listener(), Listener()
    watches.add(one, watch(1))
    watches.add(other, watch(1))
    watches.add(other, watch(2, b"b"))
    assert watches.of(b"a") == [Watching(one, watch(1)), Watching(other, watch(1))]
    assert watches.of(b"b") == [Watching(other, watch(2, b"b"))]
    assert watches.of(b"c") == []
    assert len(watches) == 3


def test_the_end_of_a_watch_leaves_the_others() -> None:
    watches, one, other = Watches(), Listener(), Listener()
    watches.add(one, watch(1))
    watches.add(other, watch(1))
    watches.remove(one, 1)
    watches.remove(one, 1)
    watches.remove(one, 7)
    assert watches.of(b"a") == [Watching(other, watch(1))]
    watches.forget(other)
    assert watches.of(b"a") == []
    assert len(watches) == 0


def test_a_number_that_is_used_again_is_another_watch() -> None:
    watches, one = Watches(), Listener()
    watches.add(one, watch(1, b"a"))
    watches.add(one, watch(1, b"b"))
    assert watches.of(b"a") == []
    assert len(watches) == 1


def test_requests_whose_time_is_over_are_told_once() -> None:
    watches, one = Watches(), Listener()
    watches.add(one, watch(1, b"a", until_ms=100))
    watches.add(one, watch(2, b"a", until_ms=100))
    watches.add(one, watch(3, b"b", until_ms=200))
    watches.add(one, watch(4, b"c"))
    assert watches.over(100) == []
    assert watches.over(101) == [b"a"]
    assert watches.over(101) == []
    watches.remove(one, 3)
    assert watches.over(10**9) == []
