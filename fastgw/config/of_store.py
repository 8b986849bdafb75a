"""The configuration of the store. A node has one, and during a reload workers with several configurations."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fastgw.config.schema import Config, Route


def for_store(running: Config, others: Iterable[Config]) -> Config:
    """`running`, with everything that workers with the other configurations need of their store.

    That is: their secrets, behind those of `running`; their routes, so that no part of the store ends before them, and
    the time for the longest work; the longest `later.keep`, and the largest `limits.max_reply`.
    """
    every = [running, *others]
    secrets = tuple(dict.fromkeys([secret for one in every for secret in one.gateway.secrets]))
    replace = msgspec.structs.replace
    return replace(
        running,
        gateway=replace(running.gateway, secrets=secrets),
        later=replace(running.later, keep_ns=max([one.later.keep_ns for one in every])),
        limits=replace(running.limits, max_reply_bytes=max([one.limits.max_reply_bytes for one in every])),
        routes=_all_routes(every),
    )


def _all_routes(every: Iterable[Config]) -> tuple[Route, ...]:
    """All routes, those with one name once for each of their forms."""
    forms: dict[str, list[Route]] = {}
    for one in every:
        for route in one.routes:
            known = forms.setdefault(route.name, [])
            if route not in known:
                known.append(route)
    return tuple(route for known in forms.values() for route in known)
