"""Finds the handler of a request: the most specific one by method and route."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fastgw.errors import ConfigError
from fastgw.service.messages import Request

Handler = Callable[[Request], Any]
Place = tuple[bytes, bytes]
"""The requests of a handler: a method and the gateway's route template; empty stands for any."""

EVERYTHING: Place = (b"", b"")


class Handlers:
    """The handlers of one service.

    Attributes:
        asynchronous: the async handlers, those that use `yield` among them.
        streaming: the handlers that use `yield`.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic  # for messages
        self._by_place: dict[Place, Handler] = {}
        self.asynchronous: set[Handler] = set()
        self.streaming: set[Handler] = set()

    def __repr__(self) -> str:
        return f"<Handlers {self.names()}>"

    def __len__(self) -> int:
        return len(self._by_place)

    def place_of(self, route: str) -> Place:
        """Parses a route such as "POST /orders", "/orders" or "POST".

        Raises:
            ConfigError: the text is not a route.
        """
        words = route.split()
        path = words.pop() if words and words[-1].startswith("/") else ""
        method = words.pop() if words else ""
        if words or not (method == "" or (method.isalpha() and method.isupper())):
            raise ConfigError(f'Service({self._topic!r}): expected a route like "POST /orders", got {route!r}')
        return method.encode(), path.encode()

    def add(self, place: Place, handler: Handler) -> None:
        """
        Raises:
            ConfigError: the place already has a handler.
        """
        if place in self._by_place:
            name = _name(place) or "all requests"
            raise ConfigError(f"Service({self._topic!r}): {name} has two handlers")
        self._by_place[place] = handler
        called = type(handler).__call__  # of an object with a method `__call__`
        if any(map(inspect.isasyncgenfunction, (handler, called))):
            self.streaming.add(handler)
            self.asynchronous.add(handler)
        elif any(map(inspect.isgeneratorfunction, (handler, called))):
            self.streaming.add(handler)
        elif any(map(inspect.iscoroutinefunction, (handler, called))):
            self.asynchronous.add(handler)

    def find(self, request: Request) -> Handler | None:
        """The most specific handler of a request, or None."""
        headers, handlers = request.record_headers, self._by_place
        method, route = headers.get("http_method") or b"", headers.get("http_route") or b""
        for place in ((method, route), (b"", route), (method, b""), EVERYTHING):
            handler = handlers.get(place)
            if handler is not None:
                return handler
        if method == b"HEAD":  # HEAD is GET without content (RFC 9110, 9.3.2)
            return handlers.get((b"GET", route)) or handlers.get((b"GET", b""))
        return None

    def names(self) -> str:
        """The routes with handlers, as text for people."""
        return ", ".join(sorted(map(_name, self._by_place)))


def name_of(handler: Handler) -> str:
    """For logs and problems."""
    name: str = getattr(handler, "__qualname__", repr(handler))
    return name


def _name(place: Place) -> str:
    return b" ".join(filter(None, place)).decode()
