"""Comparison of two configurations: what a reload cannot change, what it cannot make smaller, and what it must keep."""

from __future__ import annotations

from typing import Any

import msgspec

from fastgw.config.kinds import fields_of
from fastgw.config.schema import ROUTES_MAX, Admin, Cluster, Config, Gateway, Later, Listen, Store, Streams
from fastgw.config.units import NS_PER_S

_SECTIONS = (
    ("gateway", Gateway),
    ("cluster", Cluster),
    ("admin", Admin),
    ("store", Store),
    ("later", Later),
    ("streams", Streams),
)


def restart_only_changes(old: Config, new: Config) -> list[str]:
    """The changed keys that need a restart, in the order of the reference."""
    changed = []
    for name, section in _SECTIONS:
        before, after = getattr(old, name), getattr(new, name)
        for field in fields_of(section):
            if field.setting.restart and _fixed(getattr(before, field.name)) != _fixed(getattr(after, field.name)):
                changed.append(f"{name}.{field.key}")
    return changed


def broken_promise(old: Config, new: Config) -> str:
    """What a reload may not make smaller, in words; empty: it does not."""
    if old.tickets is None or new.later.keep_ns >= old.later.keep_ns:
        return ""
    return (
        f"later.keep: expected at least {old.later.keep_ns // NS_PER_S} s while the gateway runs, because status URLs"
        f" that clients have are valid for so long, got {new.later.keep_ns // NS_PER_S} s; restart the gateway to end"
        " them earlier"
    )


def _fixed(value: Any) -> Any:
    """The part of a value that a reload cannot change: of the listeners only their addresses and files."""
    if isinstance(value, tuple):
        return tuple((item.bind, item.mode, item.group) if isinstance(item, Listen) else item for item in value)
    return value


def keep_route_numbers(old: Config, new: Config) -> Config:
    """`new` with the route numbers of `old`, so that a route keeps its counters over a reload.

    Routes with the same name are the same route. New routes take unused numbers above those of `old`, then, if there
    are none left, numbers of removed routes. The routes stay in file order, so a number is not an index of `routes`.
    """
    kept = {route.name: route.number for route in old.routes}
    names = {route.name for route in new.routes}
    used = set(kept.values())
    start = max(used, default=-1) + 1
    unused = [number % ROUTES_MAX for number in range(start, start + ROUTES_MAX) if number % ROUTES_MAX not in used]
    gone = sorted(number for name, number in kept.items() if name not in names)
    free = iter([*unused, *gone])
    routes = [
        msgspec.structs.replace(route, number=kept[route.name] if route.name in kept else next(free))
        for route in new.routes
    ]
    return msgspec.structs.replace(new, routes=tuple(routes))
