"""Finds a request's route and decides whether to admit it, from the head alone, before any byte of the body is read.

All fronts use this router, so the result does not depend on the HTTP parser. It counts nothing and keeps no state about
requests: the same head always gets the same result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fastgw import errors
from fastgw.admission import KEPT, KEYED, NEVER, STOP, STREAM, TICKET, UNKNOWN, Admission, Refusal
from fastgw.config import METHODS, Limits, Route
from fastgw.core import idempotency, preferences
from fastgw.core.idempotency import BadKey
from fastgw.core.preferences import Preferences
from fastgw.core.resumed import last_event_id
from fastgw.forwarding import NOBODY_IS_TRUSTED, Forwarding
from fastgw.messages import Head, HeaderList
from fastgw.request_path import BadPath, decoded_segments

# RFC 9112, 3.2: an invalid Host is refused. RFC 3986 allows more characters in a name than DNS does; among them are the
# comma and the at sign, which attackers use to smuggle two hosts in one header.
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?").fullmatch
_HOST_REMEMBERED_MAX = 255  # characters of a DNS name
_HOSTS_REMEMBERED_MAX = 1024  # enough for honest clients, and bounded against hostile ones


STOP_METHOD = "DELETE"  # of a client that stops a stream


@dataclass(slots=True)
class _Node:
    """One place in the path: literal segments, at most one parameter, and the routes that end here.

    `rest` holds the routes that take all remaining segments. `routes` has for each method the route, the names of its
    parameters, and whether `_about_unusual` must look at its requests.
    """

    literals: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    rest: _Node | None = None
    routes: dict[str, tuple[Route, tuple[str, ...], bool]] = field(default_factory=dict)  # by method


_Place = tuple[_Node, tuple[str, ...]]
"""Where a path ends, and the raw values of its parameters."""


class Router:
    """The routes and limits of one configuration."""

    def __init__(
        self,
        routes: Sequence[Route],
        limits: Limits,
        hosts: Sequence[str],
        forwarding: Forwarding = NOBODY_IS_TRUSTED,
        tickets: Route | None = None,
    ) -> None:
        """
        Args:
            routes: checked by `config` (no two match the same request equally well).
            limits: sizes in bytes.
            hosts: the allowed hosts, in lower case, without port; empty allows any.
            forwarding: finds out the client's address.
            tickets: the route of the status URLs; None: no route has deferred answers.
        """
        self._max_target_bytes = limits.max_target_bytes
        self._forwarding = forwarding
        self._hosts = frozenset(hosts)
        self._served_hosts: set[str] = set()  # spellings already checked: most requests need one set look-up
        self._root = _Node()
        # Most requests are for paths without parameters: they need one dictionary look-up.
        self._static: dict[str, _Place] = {}
        self._methods: set[str] = set()  # of any route
        self._tickets_number = -1 if tickets is None else tickets.number
        for route in (*routes, *([] if tickets is None else [tickets])):
            self._add(route, route.methods)
        for route in routes:
            if route.resume and route.cancel:
                self._add(route, [STOP_METHOD])

    @property
    def hosts_remembered(self) -> int:
        """The number of remembered spellings of allowed hosts; bounded, whatever clients send."""
        return len(self._served_hosts)

    def _add(self, route: Route, methods: Iterable[str]) -> None:
        """Let a route have these methods on its path, as far as no other route has them."""
        self._methods.update(methods)
        is_unusual = route.needs_store or route.streams or route.number == self._tickets_number
        node, names = self._root, []
        for segment in route.path.split("/")[1:]:
            if segment.endswith("...}"):
                names.append(segment[1:-4])
                node.rest = node = node.rest or _Node()
            elif segment.startswith("{"):
                names.append(segment[1:-1])
                node.parameter = node = node.parameter or _Node()
            else:
                node = node.literals.setdefault(segment, _Node())
        for method in methods:
            node.routes.setdefault(method, (route, tuple(names), is_unusual or method == "QUERY"))
        if not names:
            self._static[route.path] = node, ()

    def identify(self, head: Head) -> None:
        """Set the head's client. `admit` does this itself."""
        head.client = self._forwarding.client_of(head)

    def admit(self, head: Head) -> Admission | Refusal:
        """Admit or refuse a request, from its head alone."""
        self.identify(head)
        target_bytes = len(head.path) + len(head.query)
        if target_bytes > self._max_target_bytes:
            expected = f"expected a target of at most {self._max_target_bytes} bytes, got {target_bytes}"
            return self._check_host(head) or Refusal(errors.TARGET_TOO_LONG, expected)
        try:
            place = self._place_of(head.path)
        except BadPath as bad:
            return self._refuse_path(head, str(bad))
        refusal = self._check_host(head)
        if refusal is not None:
            return refusal
        if place is None:
            return Refusal(errors.NO_ROUTE, f"no route for {head.path[:200]!r}", headers=_closing(head.method))
        node, values = place
        if not head.query.isascii():
            return Refusal(errors.MALFORMED, "the query must be percent-encoded")
        entry = node.routes.get(head.method)
        if entry is None:
            allow = ", ".join(sorted(node.routes))
            headers = [("allow", allow), *(_closing(head.method) or ())]
            return Refusal(errors.WRONG_METHOD, f"expected one of {allow}, got {head.method[:20]!r}", headers=headers)
        route, names, is_unusual = entry
        body_bytes = head.content_length
        if body_bytes is None:
            body_bytes = UNKNOWN if head.is_streamed else 0
        elif body_bytes > route.max_body_bytes:
            return Refusal(
                errors.BODY_TOO_LARGE, f"expected at most {route.max_body_bytes} bytes, got {body_bytes}", route.number
            )
        timeout_ns = route.timeout_ns if is_unusual else _timeout_ns(route.timeout_ns, head)
        if timeout_ns == 0:  # no service could reply in time
            return Refusal(errors.MALFORMED, "expected Prefer: wait of 1 second or more, got 0", route.number)
        admission = Admission(
            route.number,
            head.method,
            head.path,
            head.query,
            tuple(zip(names, values, strict=True)) if names else (),
            head,
            body_bytes,
            timeout_ns,
            route.max_body_bytes,
        )
        return self._about_unusual(route, admission) if is_unusual else admission

    def _about_unusual(self, route: Route, admission: Admission) -> Admission | Refusal:
        """The admission for a QUERY, for a route that streams or whose replies may be kept, or for a status URL."""
        if route.streams and admission.method not in route.methods:
            return _about_stop(route, admission)
        if admission.method == "QUERY" and admission.headers.get("content-type") is None:  # RFC 10008, section 2
            return Refusal(errors.MALFORMED, "expected a QUERY with Content-Type", route.number)
        prefer = preferences.of(admission.headers)
        if route.number == self._tickets_number:
            admission.kind = TICKET
            admission.defer_after_ns = prefer.wait_ns or 0
        elif route.later and (prefer.is_async or route.on_timeout == "later"):
            admission.kind = KEPT
            admission.is_async = prefer.is_async
            admission.defer_after_ns = _defer_after_ns(prefer, route.timeout_ns)
        elif prefer.wait_ns is not None:
            admission.timeout_ns = min(route.timeout_ns, prefer.wait_ns)
            if admission.timeout_ns == 0:
                return Refusal(errors.MALFORMED, "expected Prefer: wait of 1 second or more, got 0", route.number)
        if route.streams:
            admission.kind = STREAM
        return admission if route.idempotency == "off" else _about_key(route, admission)

    def _place_of(self, path: str) -> _Place | None:
        """The place in the tree of routes; None: no route has this path. Raises BadPath."""
        place = self._static.get(path)  # a configured path without escapes: it needs no check
        if place is not None:
            return place
        return _match(self._root, decoded_segments(path), path[1:].split("/"), 0)

    def _refuse_path(self, head: Head, why: str) -> Refusal:
        if head.path == "*" and head.method == "OPTIONS":
            return self._check_host(head) or self._options_of_all()
        return Refusal(errors.MALFORMED, why)

    def _options_of_all(self) -> Refusal:
        """`OPTIONS *` asks about the gateway as a whole (RFC 9110, 9.3.7); it has no route and no record."""
        return Refusal(errors.ANSWERED, "", headers=[("allow", ", ".join(sorted(self._methods)))], is_options=True)

    def routes_at(self, head: Head) -> dict[str, Route]:
        """The path's routes by method; empty if `admit` would refuse the request with any method."""
        if self._check_host(head) is not None:
            return {}
        try:
            place = self._place_of(head.path)
        except BadPath:
            return {}
        return {} if place is None else {method: entry[0] for method, entry in place[0].routes.items()}

    def _check_host(self, head: Head) -> Refusal | None:
        if len(head.hosts) != 1:
            return Refusal(errors.MALFORMED, f"expected exactly one Host, got {len(head.hosts)}")
        host = head.hosts[0]
        if host in self._served_hosts:
            return None
        if not _HOST(host):
            return Refusal(errors.MALFORMED, "the Host is not a host name with or without port")
        if self._hosts and _without_port(host).lower() not in self._hosts:
            return Refusal(errors.MISDIRECTED, "expected a Host that gateway.hosts lists")
        if len(host) <= _HOST_REMEMBERED_MAX and len(self._served_hosts) < _HOSTS_REMEMBERED_MAX:
            self._served_hosts.add(host)
        return None


def _about_stop(route: Route, admission: Admission) -> Admission | Refusal:
    """The admission for a client that stops a stream, which it names with the id of any of its events."""
    if not last_event_id(admission.headers):
        detail = f"expected {STOP_METHOD} with the header Last-Event-ID: the id of an event of the stream"
        return Refusal(errors.MALFORMED, detail, route.number)
    admission.kind = STOP
    return admission


def _about_key(route: Route, admission: Admission) -> Admission | Refusal:
    """The admission for a route with idempotency keys. A request without a key is a plain one, if that is allowed."""
    try:
        key = idempotency.key_of(admission.headers)
    except BadKey as bad:
        return Refusal(errors.KEY_INVALID, str(bad), route.number)
    if key is not None:
        if admission.kind != KEPT:
            admission.defer_after_ns = NEVER
        admission.kind = KEYED
    elif route.idempotency == "require":
        return Refusal(errors.KEY_INVALID, "expected the header Idempotency-Key, got none", route.number)
    return admission


def _closing(method: str) -> HeaderList | None:
    """Close the connection after an unknown method.

    `FETCH /`, `TRACE /` or `xxGET /` may be the rest of a body that was longer than its content-length.
    """
    return None if method in METHODS else [("connection", "close")]


def _match(node: _Node, segments: list[str], raw: list[str], at: int) -> _Place | None:
    """The match, and the raw values of its parameters. Literals win over parameters, from left to right.

    A `{name...}` parameter takes the remaining segments only if no other route matches; it may be empty or contain
    empty segments. The depth of the recursion is bounded by the deepest path template.
    """
    if at == len(segments):
        return (node, ()) if node.routes else None
    literal = node.literals.get(segments[at])
    if literal is not None:
        found = _match(literal, segments, raw, at + 1)
        if found is not None:
            return found
    if node.parameter is not None and segments[at]:
        found = _match(node.parameter, segments, raw, at + 1)
        if found is not None:
            return found[0], (raw[at], *found[1])
    if node.rest is not None:
        return node.rest, ("/".join(raw[at:]),)
    return None


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _timeout_ns(route_timeout_ns: int, head: Head) -> int:
    """The route's timeout. `Prefer: wait=N` can lower it, never raise it."""
    if head.get("prefer") is None:
        return route_timeout_ns
    wait_ns = preferences.of(head).wait_ns
    return route_timeout_ns if wait_ns is None else min(route_timeout_ns, wait_ns)


def _defer_after_ns(prefer: Preferences, timeout_ns: int) -> int:
    """How long a request waits for its reply before it gets 202."""
    if prefer.wait_ns is not None:
        return min(prefer.wait_ns, timeout_ns)
    return 0 if prefer.is_async else timeout_ns
