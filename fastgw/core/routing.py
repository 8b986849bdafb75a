"""Which route a request belongs to and whether it may enter: decided on the head, before a byte of the body is read.

Every front asks here, so the answer is the same whichever parser took the request. Nothing is counted and nothing
waits: the same head gets the same verdict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from fastgw import errors
from fastgw.admission import UNKNOWN, Admission, Refusal
from fastgw.config import METHODS, Limits, Route
from fastgw.forwarding import NOBODY_IS_TRUSTED, Forwarding
from fastgw.messages import Head, HeaderList, Headers
from fastgw.request_path import BadPath, decoded_segments

# RFC 9112, 3.2: a Host that is none is refused. RFC 3986 allows more characters in a name than any DNS name has; among
# them the comma and the at-sign, with which two hosts are smuggled in one header.
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?").fullmatch
_HOST_REMEMBERED_MAX = 255  # characters of a DNS name
_HOSTS_REMEMBERED_MAX = 1024  # enough for honest clients; hostile ones cannot make it grow


@dataclass(slots=True)
class _Node:
    """One place in the path: literal segments, at most one parameter, and the routes that end here.

    `rest` has the routes that take whatever follows.
    """

    literals: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    rest: _Node | None = None
    routes: dict[str, tuple[Route, tuple[str, ...]]] = field(default_factory=dict)


_Place = tuple[_Node, tuple[str, ...]]
"""Where a path ends, and the raw values of its parameters."""


class Router:
    """The routes and limits of one configuration."""

    def __init__(
        self,
        routes: Iterable[Route],
        limits: Limits,
        hosts: Sequence[str],
        forwarding: Forwarding = NOBODY_IS_TRUSTED,
    ) -> None:
        """
        Args:
            routes: checked by `config` (no two match the same request equally well).
            limits: sizes in bytes.
            hosts: the allowed hosts, lower case, without port; empty lets any in.
            forwarding: finds out who the clients are.
        """
        self._limits = limits
        self._forwarding = forwarding
        self._hosts = frozenset(hosts)
        self._served_hosts: set[str] = set()  # spellings that have been checked: most traffic is a set look-up away
        self._root = _Node()
        # Most traffic is on paths without parameters: those are one dictionary look-up away.
        self._static: dict[str, _Place] = {}
        self._methods: set[str] = set()  # of any route
        for route in routes:
            self._add(route)
            self._methods.update(route.methods)

    @property
    def hosts_remembered(self) -> int:
        """Spellings of allowed hosts that need no second check; bounded, whatever clients send."""
        return len(self._served_hosts)

    def _add(self, route: Route) -> None:
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
        for method in route.methods:
            node.routes[method] = (route, tuple(names))
        if not names:
            self._static[route.path] = node, ()

    def identify(self, head: Head) -> None:
        """Finds out who the client is; `admit` does so by itself."""
        head.client = self._forwarding.client_of(head)

    def admit(self, head: Head) -> Admission | Refusal:
        """The verdict on a request, from its head alone."""
        self.identify(head)
        target_bytes = len(head.path) + len(head.query)
        if target_bytes > self._limits.max_target_bytes:
            expected = f"expected a target of at most {self._limits.max_target_bytes} bytes, got {target_bytes}"
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
        route, names = entry
        body_bytes = head.content_length
        if body_bytes is None:
            body_bytes = UNKNOWN if head.is_streamed else 0
        elif body_bytes > route.max_body_bytes:
            return Refusal(
                errors.BODY_TOO_LARGE, f"expected at most {route.max_body_bytes} bytes, got {body_bytes}", route.number
            )
        timeout_ns = _timeout_ns(route.timeout_ns, head)
        if timeout_ns == 0:  # a record that nobody could answer
            return Refusal(errors.MALFORMED, "expected Prefer: wait of 1 second or more, got 0", route.number)
        return Admission(
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

    def _place_of(self, path: str) -> _Place | None:
        """None: it leads to no route. Raises BadPath."""
        place = self._static.get(path)  # it is one of our own, without escapes: nothing is to be checked
        if place is not None:
            return place
        return _match(self._root, decoded_segments(path), path[1:].split("/"), 0)

    def _refuse_path(self, head: Head, why: str) -> Refusal:
        if head.path == "*" and head.method == "OPTIONS":
            return self._check_host(head) or self._options_of_all()
        return Refusal(errors.MALFORMED, why)

    def _options_of_all(self) -> Refusal:
        """`OPTIONS *` asks about the gateway as a whole (RFC 9110, 9.3.7): there is no route and no record for it."""
        return Refusal(errors.ANSWERED, "", headers=[("allow", ", ".join(sorted(self._methods)))], is_options=True)

    def routes_at(self, head: Head) -> dict[str, Route]:
        """The routes of the path by method; none where `admit` would refuse the request whatever its method is."""
        if self._check_host(head) is not None:
            return {}
        try:
            place = self._place_of(head.path)
        except BadPath:
            return {}
        return {} if place is None else {method: route for method, (route, _) in place[0].routes.items()}

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


def _closing(method: str) -> HeaderList | None:
    """`FETCH /`, `TRACE /` or `xxGET /` may be the rest of a body that was longer than it said: nothing may follow."""
    return None if method in METHODS else [("connection", "close")]


def _match(node: _Node, segments: list[str], raw: list[str], at: int) -> _Place | None:
    """The leftmost-literal match, and the raw values of its parameters; its depth is that of the deepest template.

    The rest of a path is what no other route takes, and may be empty or hold empty segments.
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


_WAIT = re.compile(r"[ \t]*wait[ \t]*=[ \t]*\"?([0-9]{1,9})\"?[ \t]*(?:;.*)?", re.IGNORECASE | re.DOTALL).fullmatch
_QUOTED_OR_NOT = re.compile(r'[,"\\]').finditer


def _timeout_ns(route_timeout_ns: int, headers: Headers) -> int:
    """The route's timeout, lowered by `Prefer: wait=N` seconds (RFC 7240, section 4.3); never raised.

    Of several `wait` the first one counts (section 2).
    """
    prefer = headers.get("prefer")
    if prefer is None:
        return route_timeout_ns
    for preference in _members(prefer):
        wait = _WAIT(preference)
        if wait is not None:
            return min(route_timeout_ns, int(wait[1]) * 1_000_000_000)
    return route_timeout_ns


def _members(value: str) -> Iterator[str]:
    """What stands between the commas of a list; a comma in a quoted string separates nothing (RFC 9110, 5.6)."""
    if '"' not in value:
        yield from value.split(",")
        return
    start, is_quoted, escaped = 0, False, -1
    for found in _QUOTED_OR_NOT(value):
        at, mark = found.start(), found[0]
        if at == escaped:
            continue
        if mark == '"':
            is_quoted = not is_quoted
        elif mark == "\\":
            escaped = at + 1 if is_quoted else -1
        elif not is_quoted:
            yield value[start:at]
            start = at + 1
    yield value[start:]
