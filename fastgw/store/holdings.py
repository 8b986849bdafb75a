"""What becomes of requests with an idempotency key whose answers are deferred.

A *holding* of a key begins with the attempt that finds the key free, and goes on through all attempts that take the key
over, to the answer or until the key is free again. A status URL names the first attempt, so it follows the key:

    held by this holding                      open; expired, when the attempt has had its time
    answered in this holding                  the answer
    the holding is over                       the reply of 500 or more that has freed the key; released, if nothing was
                                              sent; otherwise expired

A key that is free again may have another holding. Its answer is never that of the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from typing import Final, Protocol

from fastgw.kept_replies import KeyKnown, Known, State
from fastgw.mesh.store_frames import HoldingWatch
from fastgw.messages import Reply
from fastgw.store.keys import Keys, Trouble
from fastgw.store.lane import Answered, Lane
from fastgw.store.tables import Kept

FINAL_MS: Final = 5000  # a request is given up when the topic was read so far past the time for its work


class Listener(Protocol):
    """A connection of a worker."""

    def tell(self, state: State) -> None: ...


FirstReply = Callable[[bytes, int, int], tuple[Known, Kept] | None]
"""(id, partition, until_ms): see `requests.decided`."""


class Holdings:
    """The watches of all connections on holdings."""

    def __init__(self, keys: Keys, first_reply: FirstReply, trouble: Trouble, read_to: Callable[[int], int]) -> None:
        """
        Args:
            first_reply: finds the first reply to an id.
            trouble: why nothing can be said about a lane.
            read_to: up to which time a partition was read, in ms since 1970.
        """
        self._keys = keys
        self._first_reply = first_reply
        self._trouble = trouble
        self._read_to = read_to
        self._watches: dict[tuple[Listener, int], HoldingWatch] = {}
        self._by_key: dict[bytes, set[tuple[Listener, int]]] = {}

    def __repr__(self) -> str:
        return f"<Holdings {len(self)} watches>"

    def __len__(self) -> int:
        return len(self._watches)

    # --- watches ---

    def watch(self, listener: Listener, watch: HoldingWatch) -> None:
        """Register a watch, and tell what is known now."""
        self.unwatch(listener, watch.number)
        self._watches[listener, watch.number] = watch
        self._by_key.setdefault(watch.key_hash, set()).add((listener, watch.number))
        self._tell(listener, watch, is_news=False)

    def unwatch(self, listener: Listener, number: int) -> None:
        """End a watch; an unknown number is none."""
        watch = self._watches.pop((listener, number), None)
        if watch is None:
            return
        left = self._by_key[watch.key_hash]
        left.remove((listener, number))
        if not left:
            del self._by_key[watch.key_hash]

    def gone(self, listener: Listener) -> None:
        """The connection has ended, and its watches with it."""
        for other, number in list(self._watches):
            if other is listener:
                self.unwatch(listener, number)

    def changed(self, key_hash: bytes) -> None:
        """A record has changed the state of this key."""
        for place in list(self._by_key.get(key_hash, ())):
            self._tell(place[0], self._watches[place], is_news=True)

    def tell_again(self, partitions: Set[int]) -> None:
        """Tell what is known of the keys of these lanes, because it could not be said before."""
        for (listener, _), watch in list(self._watches.items()):
            if watch.lane in partitions:
                self._tell(listener, watch, is_news=False)

    # --- what is told ---

    def _tell(self, listener: Listener, watch: HoldingWatch, is_news: bool) -> None:
        """Tell what is known; if nothing is decided, only when the worker asks."""
        lane, trouble = self._keys.lanes.get(watch.lane), self._trouble(watch.lane)
        if lane is None or trouble is not None:
            known = Known.RESTORING if trouble in (None, KeyKnown.RESTORING) else Known.BEHIND
        else:
            known, offset = self._found(lane, watch)
            if known == Known.ANSWERED:
                self._tell_reply(listener, watch, offset)
                return
        if not is_news or known != Known.OPEN:
            listener.tell(State(watch.number, known))

    def _found(self, lane: Lane, watch: HoldingWatch) -> tuple[Known, int]:
        """What is known, and the offset of the reply if one has decided."""
        holding = lane.state(watch.key_hash, max(int(time.time() * 1000), lane.newest_ms))
        if holding is None or holding.holding_id != watch.first_id:
            return self._found_over(lane, watch)
        if isinstance(holding, Answered):
            return Known.ANSWERED, holding.offset
        return self._open_until(watch.lane, holding.take_over_ms)

    def _found_over(self, lane: Lane, watch: HoldingWatch) -> tuple[Known, int]:
        over = lane.over(watch.key_hash, watch.first_id)
        if over is not None:
            return (Known.RELEASED, -1) if over.reply_offset is None else (Known.ANSWERED, over.reply_offset)
        first = self._first_reply(watch.first_id, watch.lane, watch.until_ms)
        if first is not None:
            return first[0], first[1].offset
        # Its claim may not have been read yet: another node has made the status URL.
        return self._open_until(watch.lane, watch.until_ms)

    def _open_until(self, lane: int, until_ms: int) -> tuple[Known, int]:
        is_over = self._read_to(lane) >= until_ms + FINAL_MS
        return (Known.EXPIRED if is_over else Known.OPEN), -1

    def _tell_reply(self, listener: Listener, watch: HoldingWatch, offset: int) -> None:
        def told(reply: Reply | None) -> None:
            if reply is None:
                listener.tell(State(watch.number, Known.BEHIND))
            else:
                listener.tell(
                    State(watch.number, Known.ANSWERED, reply.partition, reply.offset, reply.headers, reply.value)
                )

        self._keys.read(watch.lane, offset, told)
