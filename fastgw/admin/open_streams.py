"""The streams that are open on this node, as its workers tell them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastgw._ctable import ProcessInfo
from fastgw.open_streams import OpenStreams

STREAMS_SHOWN = 200

AskStreams = Callable[[Sequence[tuple[int, int]]], Sequence[OpenStreams | None]]
"""Asks worker processes, each named by its slot and generation; None: it has not answered in time."""


def shown(workers: Iterable[ProcessInfo], ask: AskStreams) -> dict[str, Any]:
    """The oldest streams of all workers, and the workers that have not answered."""
    asked = [(info.worker, info.generation) for info in workers]
    answers = [(slot, answer) for (slot, _), answer in zip(asked, ask(asked), strict=True)]
    told = [(stream, slot) for slot, answer in answers if answer is not None for stream in answer.oldest]
    told.sort(key=lambda one: one[0].age_ns, reverse=True)
    return {
        "oldest": [
            {
                "route": stream.route,
                "id": stream.correlation_id,
                "phase": stream.phase,
                "resumed": stream.is_resumed,
                "items": stream.items,
                "partition": stream.partition,
                "position": stream.position if stream.position >= 0 else None,
                "buffer_bytes": stream.buffer_bytes,
                "age_ms": round(stream.age_ns / 1e6, 1),
                "worker": slot,
            }
            for stream, slot in told[:STREAMS_SHOWN]
        ],
        "silent_workers": [slot for slot, answer in answers if answer is None],
    }
