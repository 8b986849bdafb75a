"""Which connection waits for what is decided about which request."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

from fastgw.kept_replies import State
from fastgw.mesh.store_frames import Watch


class Listener(Protocol):
    """A connection of a worker."""

    def tell(self, state: State) -> None: ...


class Watching(NamedTuple):
    """One watch of one connection."""

    listener: Listener
    watch: Watch


class Watches:
    """All watches of all connections."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, list[Watching]] = {}
        self._numbers: dict[Listener, dict[int, Watch]] = {}
        self._due: list[tuple[int, int, bytes]] = []  # a heap of (until_ms, count, correlation id)
        self._count = 0

    def __len__(self) -> int:
        return sum(map(len, self._numbers.values()))

    def __repr__(self) -> str:
        return f"<Watches {len(self)} of {len(self._numbers)} connections>"

    def add(self, listener: Listener, watch: Watch) -> Watching:
        """Register a watch. A number that is in use is replaced."""
        self.remove(listener, watch.number)
        watching = Watching(listener, watch)
        self._numbers.setdefault(listener, {})[watch.number] = watch
        self._by_id.setdefault(watch.correlation_id, []).append(watching)
        if watch.until_ms:
            self._count += 1
            heappush(self._due, (watch.until_ms, self._count, watch.correlation_id))
        return watching

    def remove(self, listener: Listener, number: int) -> None:
        """End a watch; an unknown number is none."""
        watch = self._numbers.get(listener, {}).pop(number, None)
        if watch is None:
            return
        left = [one for one in self._by_id[watch.correlation_id] if one != Watching(listener, watch)]
        if left:
            self._by_id[watch.correlation_id] = left
        else:
            del self._by_id[watch.correlation_id]

    def forget(self, listener: Listener) -> None:
        """The connection has ended, and its watches with it."""
        for number in list(self._numbers.get(listener, ())):
            self.remove(listener, number)
        self._numbers.pop(listener, None)

    def of(self, correlation_id: bytes) -> list[Watching]:
        """The watches of this request."""
        return self._by_id.get(correlation_id, [])

    def all(self) -> Iterator[Watching]:
        """All watches; the caller may not change them meanwhile."""
        for watching in self._by_id.values():
            yield from watching

    def over(self, now_ms: int) -> list[bytes]:
        """The watched requests whose time was over before `now_ms`, each once."""
        ids: dict[bytes, None] = {}
        while self._due and self._due[0][0] < now_ms:
            correlation_id = heappop(self._due)[2]
            if correlation_id in self._by_id:
                ids[correlation_id] = None
        return list(ids)
