"""What the core needs to know of the store: the topic of kept replies, and watches on requests and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fastgw import errors
from fastgw.dialects import control
from fastgw.errors import Ending
from fastgw.kept_replies import KeyState, State, Topics

OnState = Callable[[State], None]
"""Called on the loop with what the store knows, at first and whenever it changes."""
OnKeyState = Callable[[KeyState], None]
"""The same for an idempotency key."""


class KeptReplies(Protocol):
    """The store of this node, as one worker reaches it.

    Attributes:
        topics: what the store has said about its topic; None: it does not answer.
    """

    topics: Topics | None

    def watch(self, correlation_id: bytes, partition: int, until_ms: int, on_state: OnState, route: str = "") -> int:
        """Follow a request until `unwatch`; a restart of the store is not noticed.

        Args:
            partition: its home in the topic of kept replies.
            until_ms: only records that were appended before this time count (epoch).
            route: counts the request among the deferred ones of this route.

        Returns:
            The number of the watch.
        """

    def watch_key(self, key_hash: bytes, lane: int, route: str, on_state: OnKeyState) -> int:
        """Follow an idempotency key until `unwatch`. After a restart of the store it is told the present state.

        Args:
            lane: the key's partition of the topic of kept replies.
            route: `KeyState.kept` counts the keys of this one.

        Returns:
            The number of the watch.
        """

    def watch_holding(self, key_hash: bytes, lane: int, first_id: bytes, until_ms: int, on_state: OnState) -> int:
        """Follow a request with an idempotency key, and its further attempts, until `unwatch`.

        Args:
            lane: the key's partition of the topic of kept replies.
            first_id: of the first attempt.
            until_ms: the first attempt cannot be answered at this time or later (epoch).

        Returns:
            The number of the watch.
        """

    def unwatch(self, number: int) -> None:
        """End a watch of any kind. `on_state` is not called any more."""


def why_left(state: State | KeyState) -> str:
    """Why a decided request has no reply here; empty: it has one."""
    if not state.left_bytes:
        return ""
    # The largest `limits.max_reply` is 15 MiB, so no reply that a client may get is refused here.
    return f"reply: expected at most 16 MiB, the headers included, got {state.left_bytes} bytes"


def refusal(store: KeptReplies, is_new: bool, route: str = "") -> tuple[Ending, str] | None:
    """Why the store cannot be used now; None: it can.

    Args:
        is_new: a request that needs room in the store, and not only a look into it.
        route: of a new request.
    """
    topics = store.topics
    if topics is None:
        return errors.STORE_DOWN, "expected the store of this node to answer, got no connection to it"
    if topics.newer_layout:
        got = f"layout {control.LAYOUT}, got {topics.newer_layout}"
        return errors.NEWER_LAYOUT, f"expected records of {got}: this node has to be upgraded like the others"
    if topics.later_partitions == 0 or (is_new and not topics.is_ready):
        return errors.STORE_RESTORING, "the store of this node has not read its topic yet"
    if is_new and topics.is_full:
        return errors.STORE_FULL, "store.max_bytes is reached; raise it, or lower later.keep"
    if is_new and route in topics.full_routes:
        return errors.KEPT_CAP, "this route has as many kept requests as it may (max_kept)"
    return None
