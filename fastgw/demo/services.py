"""The demo's three services: Orders, Customers and Basket, each a program with its own request topic and memory.

    python -m fastgw.demo.services orders --bootstrap localhost:9092

They show what a service looks like: handlers, and nothing about Kafka. Their data is lost when they end.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from setproctitle import setproctitle

from fastgw.service import Problem, Reply, Request, Service

REPORT_S = 5.0
FOLLOW_S, FOLLOW_STEP_S = 10.0, 0.1


def add_orders(service: Service) -> None:
    """`POST /orders` accepts {"customer": text, "items": [...]}; `GET /orders/{id}` returns it.

    `GET /orders` streams all of them, and then each new one for a while. `POST /reports` counts them, slowly. `POST
    /payments` numbers payments.
    """
    orders: dict[str, dict[str, Any]] = {}
    numbers = itertools.count(1)
    payments = itertools.count(1)

    @service.handle("POST /orders")
    def create(request: Request) -> Reply:
        order = _object(request)
        if not isinstance(order.get("customer"), str) or not isinstance(order.get("items"), list):
            raise Problem(422, 'an order needs "customer" (text) and "items" (a list)')
        number = str(next(numbers))
        orders[number] = {**order, "id": number, "status": "accepted"}
        return Reply(orders[number], status=201, headers={"location": f"/orders/{number}"})

    @service.handle("GET /orders")
    async def follow(_request: Request) -> AsyncIterator[dict[str, Any]]:
        ends = time.monotonic() + FOLLOW_S
        told = 0
        while time.monotonic() < ends:
            for order in list(orders.values())[told:]:
                yield order
                told += 1
            await asyncio.sleep(FOLLOW_STEP_S)

    @service.handle("GET /orders/{id}")
    def show(request: Request) -> dict[str, Any]:
        return _found(orders, request.params["id"], "order")

    @service.handle("POST /reports")
    async def report(_request: Request) -> dict[str, Any]:
        await asyncio.sleep(REPORT_S)  # stands for long work
        return {"orders": len(orders), "items": sum(len(order["items"]) for order in orders.values())}

    @service.handle("POST /payments")
    def pay(request: Request) -> Reply:
        payment = _object(request)
        if not isinstance(payment.get("amount"), int):
            raise Problem(422, 'a payment needs "amount" (a whole number)')
        return Reply({**payment, "payment": next(payments)}, status=201)


def add_customers(service: Service) -> None:
    """`GET /customers/{id}` knows ada, grace and edsger."""
    customers = {
        "ada": {"id": "ada", "name": "Ada Lovelace", "city": "London"},
        "grace": {"id": "grace", "name": "Grace Hopper", "city": "New York"},
        "edsger": {"id": "edsger", "name": "Edsger Dijkstra", "city": "Rotterdam"},
    }

    @service.handle("GET /customers/{id}")
    def show(request: Request) -> dict[str, Any]:
        return _found(customers, request.params["id"], "customer")


def add_baskets(service: Service) -> None:
    """`PUT /baskets/{id}` accepts {"items": [...]}; `GET /baskets/{id}` returns it."""
    baskets: dict[str, dict[str, Any]] = {}

    @service.handle("PUT /baskets/{id}")
    def replace(request: Request) -> Reply:
        basket = _object(request)
        if not isinstance(basket.get("items"), list):
            raise Problem(422, 'a basket needs "items" (a list)')
        name = request.params["id"]
        is_new = name not in baskets
        baskets[name] = {"id": name, "items": basket["items"]}
        return Reply(baskets[name], status=201 if is_new else 200)

    @service.handle("GET /baskets/{id}")
    def show(request: Request) -> dict[str, Any]:
        return _found(baskets, request.params["id"], "basket")


SERVICES: dict[str, Callable[[Service], None]] = {
    "orders": add_orders,
    "customers": add_customers,
    "baskets": add_baskets,
}


def _object(request: Request) -> dict[str, Any]:
    body = request.json()
    if not isinstance(body, dict):
        raise Problem(422, f"the body must be a JSON object, got {type(body).__name__}")
    return body


def _found(kept: dict[str, dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    if name not in kept:
        raise Problem(404, f"there is no {what} {name!r}", f"No such {what}")
    return kept[name]


def main(arguments: list[str] | None = None) -> None:
    """Runs one service until SIGTERM or SIGINT; its request topic has its name."""
    parser = argparse.ArgumentParser(
        prog="python -m fastgw.demo.services", description="Run one of the demo's services."
    )
    parser.add_argument("service", choices=SERVICES)
    parser.add_argument("--bootstrap", default="localhost:9092", help="Kafka's host:port")
    parser.add_argument("--fetch-wait-ms", type=int, default=500, help="1-5 for the embedded broker")
    options = parser.parse_args(arguments)
    setproctitle(f"fastgw: {options.service} service")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    service = Service(options.service, bootstrap=options.bootstrap, client={"fetch.wait.max.ms": options.fetch_wait_ms})
    SERVICES[options.service](service)
    service.run()


if __name__ == "__main__":
    main()
