"""A partly read configuration. Sections with a mistake are missing, so that the others can still be checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from fastgw.config.kinds import read_fields, read_section
from fastgw.config.mistakes import WRONG, Mistake, Mistakes, did_you_mean, type_of, under
from fastgw.config.schema import (
    LISTENS,
    REQUIRED,
    SECTIONS,
    TABLE_LISTS,
    Admin,
    Cluster,
    Compression,
    Config,
    Cors,
    Gateway,
    Kafka,
    Later,
    Limits,
    Log,
    Route,
    Store,
    Streams,
    read_cors,
)

_SectionT = TypeVar("_SectionT", Limits, Kafka, Cluster, Admin, Log, Compression, Store, Later, Streams)


@dataclass(kw_only=True)
class Draft:
    """The sections of a file. A section with a mistake is None. Routes are numbered by their place in the file."""

    gateway: Gateway | None
    limits: Limits | None
    kafka: Kafka | None
    cluster: Cluster | None
    admin: Admin | None
    log: Log | None
    cors: Cors | None  # None also if the file has no [cors]
    compression: Compression | None
    store: Store | None
    later: Later | None
    streams: Streams | None
    listen_path: str  # the table or key that lists the listeners
    routes: dict[int, Route] = field(default_factory=dict)
    sound_routes: set[int] = field(default_factory=set)  # routes without mistakes

    @property
    def cors_tables(self) -> dict[str, Cors]:
        """The CORS tables of the file by path. Routes without their own table use that of the gateway."""
        tables = {f"route[{n}].cors": r.cors for n, r in self.routes.items() if r.cors and r.cors is not self.cors}
        return {"cors": self.cors, **tables} if self.cors else tables


def read_draft(tree: Mapping[str, Any], mistakes: Mistakes) -> Draft:
    """Reads the sections of a file and adds their mistakes to `mistakes`."""
    _look_at_tables(tree, mistakes)
    gateway = _gateway(tree, mistakes)
    draft = Draft(
        gateway=gateway,
        limits=_section(Limits, tree, "limits", mistakes),
        kafka=_section(Kafka, tree, "kafka", mistakes) if "kafka" in tree else None,
        cluster=_section(Cluster, tree, "cluster", mistakes, group_id=gateway.name if gateway else ""),
        admin=_section(Admin, tree, "admin", mistakes),
        log=_section(Log, tree, "log", mistakes),
        cors=_cors(tree, mistakes),
        compression=_section(Compression, tree, "compression", mistakes),
        store=_section(Store, tree, "store", mistakes),
        later=_section(Later, tree, "later", mistakes, topic=f"{gateway.name}.later" if gateway else ""),
        streams=_section(Streams, tree, "streams", mistakes, topic=f"{gateway.name}.streams" if gateway else ""),
        listen_path="listen" if "listen" in tree else "gateway.listen",
    )
    if "route" in tree:
        _read_routes(tree["route"], draft, mistakes)
    return draft


def _look_at_tables(tree: Mapping[str, Any], mistakes: Mistakes) -> None:
    for key in tree:
        if key not in SECTIONS:
            tables = [f"[[{name}]]" if name in TABLE_LISTS else f"[{name}]" for name in SECTIONS]
            hint = did_you_mean(key, SECTIONS) or "known here: " + ", ".join(tables)
            mistakes.found.append(Mistake(under("", key), "a known table", "an unknown one", hint))
    for name in REQUIRED:
        if name not in tree:
            expected = f"a [[{name}]] table" if name in TABLE_LISTS else f"a [{name}] table"
            mistakes.found.append(Mistake(name, expected, "none"))


def _section(
    section: type[_SectionT], tree: Mapping[str, Any], name: str, mistakes: Mistakes, **inherited: Any
) -> _SectionT | None:
    with mistakes:
        return section(**{**inherited, **read_section(section, tree.get(name, {}), name)})
    return None


def _gateway(tree: Mapping[str, Any], mistakes: Mistakes) -> Gateway | None:
    if "gateway" not in tree:
        return None
    before = mistakes.count
    values = read_fields(Gateway, tree["gateway"], "gateway", mistakes)
    if "listen" in tree and tree["listen"] is not WRONG:
        with mistakes:
            if "listens" in values:
                raise Mistake("gateway.listen", "addresses either here or in [[listen]]", "both")
            values["listens"] = LISTENS.read(tree["listen"], "listen")
    return Gateway(**values) if mistakes.count == before else None


def _cors(tree: Mapping[str, Any], mistakes: Mistakes) -> Cors | None:
    if "cors" in tree and tree["cors"] is not WRONG:
        with mistakes:
            return read_cors(tree["cors"], "cors")
    return None


def _read_routes(value: Any, draft: Draft, mistakes: Mistakes) -> None:
    if value is WRONG:
        return
    if not isinstance(value, list) or not value:
        mistakes.found.append(Mistake("route", "one or more [[route]] tables", type_of(value)))
        return
    inherited = _inherited(draft)
    for number, table in enumerate(value):
        before = mistakes.count
        values = read_fields(Route, table, f"route[{number}]", mistakes)
        if {"methods", "path", "topic"} <= values.keys():
            draft.routes[number] = Route(number=number, **{**inherited, **values})
            if mistakes.count == before:
                draft.sound_routes.add(number)


def _inherited(draft: Draft) -> dict[str, Any]:
    """The defaults of a route that come from other sections."""
    inherited: dict[str, Any] = {"cors": draft.cors}
    if draft.limits:
        inherited["max_body_bytes"] = draft.limits.max_body_bytes
    if draft.gateway:
        inherited["max_in_flight"] = draft.gateway.slots
    return inherited


def finished(draft: Draft, source: str) -> Config:
    """The configuration of a file without mistakes."""
    assert draft.gateway is not None
    assert draft.limits is not None
    assert draft.kafka is not None
    assert draft.cluster is not None
    assert draft.admin is not None
    assert draft.log is not None
    assert draft.compression is not None
    assert draft.store is not None
    assert draft.later is not None
    assert draft.streams is not None
    return Config(
        gateway=draft.gateway,
        limits=_with_body_memory(draft.limits, draft.routes.values()),
        kafka=draft.kafka,
        cluster=draft.cluster,
        admin=draft.admin,
        log=draft.log,
        cors=draft.cors,
        compression=draft.compression,
        store=draft.store,
        later=draft.later,
        streams=draft.streams,
        routes=_with_head(draft.routes.values()),
        source=source,
    )


def _with_head(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Adds HEAD to routes with GET (RFC 9110, 9.1), unless the route has head = false or its path has a HEAD route."""
    routes = tuple(routes)
    taken = {shape_of(route.path) for route in routes if "HEAD" in route.methods}
    return tuple(
        msgspec.structs.replace(route, methods=(*route.methods, "HEAD"))
        if route.head and "GET" in route.methods and shape_of(route.path) not in taken
        else route
        for route in routes
    )


def _with_body_memory(limits: Limits, routes: Iterable[Route]) -> Limits:
    """Raises the memory limits to at least one body of the largest size."""
    largest = largest_body_bytes(limits, routes)
    return msgspec.structs.replace(
        limits,
        body_memory_bytes=max(limits.body_memory_bytes, largest),
        connection_body_memory_bytes=max(limits.connection_body_memory_bytes, largest),
    )


def largest_body_bytes(limits: Limits, routes: Iterable[Route]) -> int:
    """The largest request body that any route accepts."""
    return max([limits.max_body_bytes, *(route.max_body_bytes for route in routes)])


def shape_of(path: str) -> tuple[str, ...]:
    """The path without the names of its parameters. Paths of the same shape match the same requests."""
    kinds = {True: "{...}", False: "{}"}
    return tuple(kinds[segment.endswith("...}")] if segment.startswith("{") else segment for segment in path.split("/"))
