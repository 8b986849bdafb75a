"""Names of HTTP headers that are never copied from one message to another, in lower case."""

from __future__ import annotations

HOP_BY_HOP = frozenset(
    {
        # RFC 9110, 7.6.1; `trailer` comes from its predecessor (RFC 2616, 13.5.1).
        "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
        # RFC 9110, 11.7: between a client and the next proxy.
        "proxy-authenticate", "proxy-authorization",
    }
)  # fmt: skip
"""Headers for a single connection."""

MADE_ANEW = frozenset({"content-length", "date", "host"})
"""Headers that the sender of each message writes itself."""

NEVER_COPIED = HOP_BY_HOP | MADE_ANEW
"""Headers that a route cannot list, neither for requests nor for replies."""

# Options of `Connection` that name no header (RFC 9110, 7.6.1).
_ABOUT_CONNECTION = frozenset({"keep-alive", "Keep-Alive", "close", "upgrade", "Upgrade"})

OF_THE_GATEWAY = NEVER_COPIED | {"x-request-id"}
"""Response headers that a service cannot set."""


def named_by(connection: str | None) -> frozenset[str] | tuple[()]:
    """The names of the headers that `Connection` lists: they are for the next hop alone, and end at the gateway."""
    if connection is None or connection in _ABOUT_CONNECTION:
        return ()
    return frozenset(option.strip(" \t").lower() for option in connection.split(","))
