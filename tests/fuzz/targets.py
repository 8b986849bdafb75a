"""Every target by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tests.fuzz import (
    accept,
    clients,
    configuration,
    control,
    http1,
    idempotency,
    ids,
    intake,
    keys,
    mesh,
    positions,
    problems,
    proxy,
    replies,
    services,
    store_frames,
    stream_answers,
    streams,
    tokens,
)


class Target(Protocol):
    """A module of this folder; its first comment is its promise."""

    SEEDS: Sequence[bytes]
    target: Callable[[bytes], None]


TARGETS: dict[str, Target] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        ids,
        mesh,
        replies,
        configuration,
        problems,
        intake,
        keys,
        http1,
        proxy,
        clients,
        services,
        tokens,
        streams,
        stream_answers,
        positions,
        control,
        idempotency,
        accept,
        store_frames,
    )
}
