"""The usual hand-written gateway: FastAPI and aiokafka, a dict of futures, no consumer group.

With what an experienced author would add: no record key but whole batches to one partition, all replies on one
partition that the request names in a header, the reply's bytes passed on as they are.
"""

import asyncio
import os
import time
from contextlib import asynccontextmanager
from itertools import count

import uvicorn
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from fastapi import FastAPI, Request, Response

BOOTSTRAP = os.environ["BENCH_BOOTSTRAP"]
REPLIES = TopicPartition(os.environ["BENCH_REPLY_TOPIC"], int(os.environ["BENCH_REPLY_PARTITION"]))
REPLY_TIMEOUT_S = 5.0
PARK_TIMEOUT_S = 600.0
STICKY_S = 0.002  # how long records without key stay on one partition

waiting: dict[bytes, asyncio.Future[bytes]] = {}
numbers = count(int.from_bytes(os.urandom(6), "big") << 64)
common_headers = [("reply_to", REPLIES.topic.encode()), ("reply_partition", b"%d" % REPLIES.partition)]
kafka: dict[str, AIOKafkaProducer] = {}


def sticky(_key: bytes | None, _all: list[int], available: list[int]) -> int:
    return available[int(time.monotonic() / STICKY_S) % len(available)]


def answer(correlation_id: bytes, body: bytes) -> None:
    future = waiting.pop(correlation_id, None)
    if future is not None and not future.done():
        future.set_result(body)


async def consume(consumer: AIOKafkaConsumer) -> None:
    while True:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            for record in records:
                answer(dict(record.headers)["correlation_id"], record.value)


@asynccontextmanager
async def lifespan(_: FastAPI):
    producer = AIOKafkaProducer(
        bootstrap_servers=BOOTSTRAP, acks="all", enable_idempotence=True, linger_ms=1, partitioner=sticky
    )
    consumer = AIOKafkaConsumer(
        bootstrap_servers=BOOTSTRAP, group_id=None, enable_auto_commit=False, fetch_max_wait_ms=100
    )
    await producer.start()
    await consumer.start()
    consumer.assign([REPLIES])
    await consumer.seek_to_end(REPLIES)
    kafka["producer"] = producer
    task = asyncio.create_task(consume(consumer))
    yield
    task.cancel()
    await consumer.stop()
    await producer.stop()


app = FastAPI(lifespan=lifespan, openapi_url=None)


async def ask(topic: str, body: bytes, timeout_s: float) -> Response:
    correlation_id = b"%032x" % next(numbers)
    future = waiting[correlation_id] = asyncio.get_running_loop().create_future()

    def sent(report: asyncio.Future) -> None:
        if not report.cancelled() and report.exception() is not None and not future.done():
            future.set_exception(report.exception())

    try:
        report = await kafka["producer"].send(
            topic, body, headers=[("correlation_id", correlation_id), *common_headers]
        )
        report.add_done_callback(sent)
        async with asyncio.timeout(timeout_s):
            return Response(await future, media_type="application/json")
    except TimeoutError:
        return Response("no reply in time", status_code=504)
    except KafkaError as error:
        return Response(f"not sent: {error}", status_code=502)
    finally:
        waiting.pop(correlation_id, None)


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
