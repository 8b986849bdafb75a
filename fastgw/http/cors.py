"""CORS (the Fetch standard, section 3.2): response headers that say which web pages may call the gateway.

Services take no part in it. Where a policy is in force, the `access-control-...` headers of replies are dropped, so
that they cannot contradict the policy.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastgw.config import Cors, Route
from fastgw.messages import Head, HeaderList

# What pages need for any kind of route: `idempotency-key` and `idempotency-replayed` for keys, `last-event-id` for
# streams that are resumed, `location` and `preference-applied` for deferred answers.
ALLOWED_ALWAYS = (
    "content-type", "prefer", "idempotency-key", "last-event-id", "traceparent", "tracestate", "x-request-id",
)  # fmt: skip
EXPOSED_ALWAYS = (
    "fastgw-outcome", "retry-after", "location", "preference-applied", "idempotency-replayed", "x-request-id",
)  # fmt: skip

_VARY = ("vary", "origin")
_VARY_PREFLIGHT = ("vary", "origin, access-control-request-method, access-control-request-headers")


def is_preflight(head: Head) -> bool:
    """Whether a browser asks if a page may send a request."""
    return (
        head.method == "OPTIONS"
        and head.get("origin") is not None
        and head.get("access-control-request-method") is not None
    )


class Policy:
    """The headers for `[cors]` or for a route's own table."""

    def __init__(self, cors: Cors, request_headers: Iterable[str] = (), response_headers: Iterable[str] = ()) -> None:
        """
        Args:
            request_headers, response_headers: those of the route, lower case.
        """
        self._is_any = "*" in cors.origins
        self._methods = cors.methods
        self._allowed = ", ".join(_each_once((*ALLOWED_ALWAYS, *request_headers, *cors.headers)))
        self._max_age_s = cors.max_age_ns // 1_000_000_000
        self._grants: HeaderList = [("access-control-allow-credentials", "true")] if cors.credentials else []
        self._private_network = cors.private_network
        shown = [name for name in response_headers if not name.startswith("access-control-")]
        exposed = ", ".join(_each_once((*EXPOSED_ALWAYS, *shown, *cors.expose)))
        # Caches may share an answer between pages only if all pages get the same one.
        vary = [] if self._is_any else [_VARY]
        self._answers: dict[str, HeaderList] = {
            origin: [
                ("access-control-allow-origin", origin),
                *self._grants,
                ("access-control-expose-headers", exposed),
                *vary,
            ]
            for origin in cors.origins
        }
        self._to_others: HeaderList = self._answers["*"] if self._is_any else vary

    def __repr__(self) -> str:
        return f"<Policy for {', '.join(self._answers) or 'no page'}>"

    def of_answer(self, origin: str | None) -> HeaderList:
        """The headers of an answer to a request with this Origin; do not change the list."""
        return self._answers.get(origin or "", self._to_others)

    def of_preflight(self, head: Head, methods: Iterable[str]) -> HeaderList:
        """The headers of the answer to a preflight. For an origin that is not allowed they grant nothing.

        Args:
            head: see `is_preflight`.
            methods: those of the path's routes.
        """
        origin = head.get("origin") or ""
        if not self._is_any and origin not in self._answers:
            return [_VARY_PREFLIGHT]
        headers = [
            ("access-control-allow-origin", "*" if self._is_any else origin),
            *self._grants,
            ("access-control-allow-methods", ", ".join(self._methods or methods)),
            ("access-control-allow-headers", self._allowed),
            ("access-control-max-age", str(self._max_age_s)),
            _VARY_PREFLIGHT,
        ]
        if self._private_network and head.get("access-control-request-private-network") == "true":
            headers.append(("access-control-allow-private-network", "true"))
        return headers


def dressed(headers: HeaderList, cors_headers: HeaderList) -> HeaderList:
    """The headers of an answer with those of its policy, and without CORS headers of the service."""
    kept = [header for header in headers if not header[0].startswith("access-control-")]
    return kept + cors_headers


class Policies:
    """All policies of one configuration."""

    def __init__(self, cors: Cors | None, routes: Iterable[Route]) -> None:
        """
        Args:
            cors: for requests without a route; None or without origins: no policy.
            routes: the routes with their own tables.
        """
        self._default = Policy(cors) if cors is not None and cors.origins else None
        self._of_routes = {
            route.number: Policy(route.cors, route.request_headers, route.response_headers)
            for route in routes
            if route.cors is not None and route.cors.origins
        }

    def __bool__(self) -> bool:
        return self._default is not None or bool(self._of_routes)

    def of(self, route_number: int | None) -> Policy | None:
        """The policy for a route; None stands for requests without a route."""
        if route_number is None:
            return self._default
        return self._of_routes.get(route_number)


def _each_once(names: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys(names)
