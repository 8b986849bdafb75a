"""FastStream's documented way to request/reply over Kafka (a worker with a dict of futures), behind FastAPI.

Different from its documentation in two places, both in its favour: the reply handler is `async def` (a plain one runs
in a thread pool and would complete futures off the loop), and the logger is off. Publishing waits for the broker's
confirmation, as documented: without it errors would be lost.
"""

import asyncio
import os
from contextlib import asynccontextmanager
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, Request, Response
from faststream.kafka import KafkaBroker, KafkaMessage

REPLY_TIMEOUT_S = 5.0
PARK_TIMEOUT_S = 600.0


class RpcWorker:
    def __init__(self, broker: KafkaBroker, reply_topic: str) -> None:
        self.responses: dict[str, asyncio.Future[bytes]] = {}
        self.broker = broker
        self.reply_topic = reply_topic
        self.subscriber = broker.subscriber(reply_topic, auto_offset_reset="latest", fetch_max_wait_ms=100)
        self.subscriber(self.handle)

    async def handle(self, message: KafkaMessage) -> None:
        future = self.responses.pop(message.correlation_id, None)
        if future is not None and not future.done():
            future.set_result(message.body)

    async def request(self, data: bytes, topic: str, timeout_s: float) -> bytes:
        correlation_id = str(uuid4())
        future = self.responses[correlation_id] = asyncio.get_running_loop().create_future()
        try:
            await self.broker.publish(data, topic, reply_to=self.reply_topic, correlation_id=correlation_id)
            return await asyncio.wait_for(future, timeout_s)
        finally:
            self.responses.pop(correlation_id, None)


broker = KafkaBroker(os.environ["BENCH_BOOTSTRAP"], logger=None, acks="all", enable_idempotence=True, linger_ms=1)
worker = RpcWorker(broker, os.environ["BENCH_REPLY_TOPIC"])


@asynccontextmanager
async def lifespan(_: FastAPI):
    await broker.start()
    yield
    await broker.stop()


app = FastAPI(lifespan=lifespan, openapi_url=None)


async def ask(topic: str, body: bytes, timeout_s: float) -> Response:
    try:
        return Response(await worker.request(body, topic, timeout_s), media_type="application/json")
    except TimeoutError:
        return Response("no reply in time", status_code=504)


@app.post("/orders")
async def orders(request: Request) -> Response:
    return await ask(os.environ["BENCH_REQUEST_TOPIC"], await request.body(), REPLY_TIMEOUT_S)


@app.post("/park")
async def park(request: Request) -> Response:
    return await ask(os.environ["BENCH_PARK_TOPIC"], await request.body(), PARK_TIMEOUT_S)


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), loop="uvloop", http="httptools",
        access_log=False, log_level="warning", backlog=4096, timeout_graceful_shutdown=5,
    )  # fmt: skip
