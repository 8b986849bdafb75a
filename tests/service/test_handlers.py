"""Which handler answers a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from fastgw.errors import ConfigError
from fastgw.service import Request
from fastgw.service.handlers import Handlers


def request(method: str, route: str) -> Request:
    return Request(b"", {"http_method": method.encode(), "http_route": route.encode()})


def handlers_for(*routes: str) -> Handlers:
    """Each handler answers with the route that it is for."""
    made = Handlers("orders")
    for route in routes:
        made.add(made.place_of(route), lambda _request, route=route: route)
    return made


def answer(handlers: Handlers, method: str, route: str) -> Any:
    found = handlers.find(request(method, route))
    return found and found(request(method, route))


@pytest.mark.parametrize(
    ("method", "route", "expected"),
    [
        ("POST", "/orders", "POST /orders"),
        ("PUT", "/orders", "/orders"),
        ("POST", "/other", "POST"),
        ("PUT", "/other", ""),
    ],
)
def test_the_most_exact_handler_answers(method: str, route: str, expected: str) -> None:
    assert answer(handlers_for("", "POST", "/orders", "POST /orders"), method, route) == expected


@pytest.mark.parametrize(
    ("routes", "expected"),
    [(("GET /a", "HEAD /a"), "HEAD /a"), (("GET /a",), "GET /a"), (("GET",), "GET"), (("POST",), None)],
)
def test_head_is_answered_as_get_unless_it_has_a_handler(routes: tuple[str, ...], expected: str | None) -> None:
    assert answer(handlers_for(*routes), "HEAD", "/a") == expected


def test_a_request_that_no_gateway_sent_has_the_handler_of_everything_or_none() -> None:
    assert handlers_for("").find(Request(b"", {})) is not None
    assert handlers_for("POST").find(Request(b"", {})) is None


@pytest.mark.parametrize("route", ["post /orders", "POST orders", "GET POST /a", "POST /a b"])
def test_a_route_that_cannot_be_read_is_refused(route: str) -> None:
    with pytest.raises(ConfigError, match="expected a route like"):
        Handlers("orders").place_of(route)


@pytest.mark.parametrize(("route", "name"), [("POST /a", "POST /a"), ("/a", "/a"), ("", "all requests")])
def test_a_place_has_one_handler(route: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} has two handlers"):
        handlers_for(route, route)


def test_functions_and_objects_that_are_awaited_are_told_apart() -> None:
    class Awaited:
        async def __call__(self, request: Request) -> None: ...

    async def awaited(request: Request) -> None: ...

    made = Handlers("orders")
    for route, handler in (("/a", Awaited()), ("/b", awaited), ("/c", print)):
        made.add(made.place_of(route), handler)
    assert len(made.asynchronous) == 2
    assert print not in made.asynchronous
    assert made.names() == "/a, /b, /c"


def test_handlers_that_use_yield_are_told_apart() -> None:
    class Yielding:
        def __call__(self, request: Request) -> Iterator[int]:
            yield 1

        async def method(self, request: Request) -> AsyncIterator[int]:
            yield 1

    def items(request: Request, count: int = 1) -> Iterator[int]:
        yield count

    made = Handlers("orders")
    handlers = {"/a": Yielding(), "/b": Yielding().method, "/c": items, "/d": partial(items, count=2), "/e": print}
    for route, handler in handlers.items():
        made.add(made.place_of(route), handler)
    assert made.streaming == {handlers[route] for route in ("/a", "/b", "/c", "/d")}
    assert made.asynchronous == {handlers["/b"]}
