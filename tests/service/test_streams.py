"""Handlers that use `yield`, on real brokers."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import secrets
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError, Message

from fastgw.demo.broker import EmbeddedBroker
from fastgw.dialects import plain, streams
from fastgw.dialects.streams import Beat, End, Items, StreamOrder
from fastgw.messages import Reply as ReplyOfLog
from fastgw.service import Problem, Reply, Request, Service, outputs
from fastgw.service import streams as runs
from tests.service.requester import REPLY_PARTITIONS, Place, headers_of, serving
from tests.waiting import eventually

STREAM = {"reply_kind": "stream"}


class Seen:
    """What the reader of one stream sees, decided by the gateway's own rules."""

    def __init__(self, place: Place, correlation_id: str, is_json: bool = True) -> None:
        self.place, self.correlation_id, self._is_json = place, correlation_id, is_json
        self.items: list[Any] = []
        self.end: End | None = None
        self.plain: Message | None = None
        self.beats = 0
        self._order = StreamOrder()
        self._taken = 0

    @property
    def messages(self) -> list[Message]:
        return self.place.requester.replies.get(self.correlation_id, [])

    @property
    def attempts(self) -> set[bytes]:
        return {headers_of(message)["stream_attempt"] for message in self.messages}

    @property
    def status(self) -> int:
        """That of the end."""
        assert self.end is not None
        return self.end.status

    def take(self) -> None:
        self.place.requester.take()
        for message in self.messages[self._taken :]:
            self._taken += 1
            reply = plain.decode_reply(message)
            self._see(message, streams.decode(reply, self._is_json), reply)

    def _see(self, message: Message, record: streams.Decoded, reply: ReplyOfLog) -> None:
        self.beats += isinstance(record, Beat)
        new = self._order.accept(record, reply.offset, time.monotonic_ns())
        assert not isinstance(new, streams.Gap), new
        if isinstance(new, Items):
            self.items += map(orjson.loads, new.payload.split(b"\n")) if self._is_json else [new.payload]
        elif isinstance(new, End):
            self.end = new
        elif new is not None:
            self.plain = message

    def until(self, condition: Callable[[], object], timeout_s: float = 30) -> Seen:
        eventually(lambda: self.take() or condition(), timeout_s, f"{self.correlation_id}: {len(self.items)} items")
        return self

    def until_end(self, timeout_s: float = 60) -> Seen:
        return self.until(lambda: self.end or self.plain, timeout_s)


def ask(place: Place, body: bytes = b"", is_json: bool = True, **headers: Any) -> Seen:
    return Seen(place, place.requester.send(body, **(STREAM | headers)), is_json)


def sync_and_async(sync: Callable[[Request], Iterator[Any]], is_async: bool) -> Callable[[Request], Any]:
    """The same handler, async or not."""

    async def handle(request: Request) -> AsyncIterator[Any]:
        for item in sync(request):
            yield item

    def handle_sync(request: Request) -> Iterator[Any]:
        yield from sync(request)

    return handle if is_async else handle_sync


both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


# ---- items ---------------------------------------------------------------------------------------------------------


@both
def test_ten_thousand_items_arrive_complete_and_in_order(place: Place, is_async: bool) -> None:
    def count(request: Request) -> Iterator[Any]:
        for number in range(int(request.body)):
            yield {"number": number, "text": "x" * 150}

    service = place.service()
    service.handle(sync_and_async(count, is_async))
    with serving(service):
        several = [ask(place, b"10000", partition=number) for number in (1, 5, 5)]
        for seen in several:
            seen.until_end()
            assert [item["number"] for item in seen.items] == list(range(10_000))
            assert seen.end is not None
            assert (seen.end.is_ok, seen.end.total) == (True, 10_000)
            assert len(seen.messages) < 1000, "items share records"
        assert [{message.partition() for message in seen.messages} for seen in several] == [{1}, {5}, {5}]
        eventually(lambda: service.counts.replied == 3)
    assert place.committed() == 3


def test_an_item_arrives_while_the_handler_works_on_the_next(place: Place) -> None:
    proceed: queue.Queue[None] = queue.Queue()
    service = place.service()

    @service.handle
    def work(_request: Request) -> Iterator[int]:
        for number in range(3):
            yield number
            proceed.get(timeout=20)

    with serving(service):
        seen = ask(place)
        for number in range(3):
            seen.until(lambda: seen.items == list(range(number + 1)))  # noqa: B023
            proceed.put(None)
        assert seen.until_end().end is not None


def test_a_request_is_settled_with_its_first_item(lone_place: Place) -> None:
    """So a stream of minutes does not hold up the offsets of its partition."""
    service = lone_place.service()
    proceed = threading.Event()

    @service.handle
    def work(_request: Request) -> Iterator[int]:
        yield 1
        proceed.wait(30)

    with serving(service):
        seen = ask(lone_place)
        eventually(lambda: lone_place.committed() == 1, 20)
        proceed.set()
        assert seen.until_end().items == [1]


@both
def test_bytes_are_streamed_as_they_are(place: Place, is_async: bool) -> None:
    def export(_request: Request) -> Iterator[Any]:
        yield Reply(b"a,b\n", status=206, headers={"content-type": "text/csv"})
        for number in range(1000):
            yield b"%d,\xff\n" % number

    service = place.service()
    service.handle(sync_and_async(export, is_async))
    with serving(service):
        seen = ask(place, is_json=False).until_end()
    assert b"".join(seen.items) == b"a,b\n" + b"".join(b"%d,\xff\n" % number for number in range(1000))
    first = headers_of(seen.messages[0])
    assert (first["status"], first["content-type"]) == (b"206", b"text/csv")


@both
def test_without_the_wish_for_a_stream_there_is_one_reply(place: Place, is_async: bool) -> None:
    def count(request: Request) -> Iterator[Any]:
        yield from range(int(request.body))

    service = place.service()
    service.handle(sync_and_async(count, is_async))
    with serving(service):
        reply = place.requester.ask(b"1000")
        assert orjson.loads(reply.value()) == list(range(1000))
        assert headers_of(reply) == {"correlation_id": reply.key(), "content-type": b"application/json"}
        too_large = place.requester.ask(b"200000")
        assert headers_of(too_large)["status"] == b"500"
    assert place.committed() == 2


@both
def test_a_handler_that_fails(place: Place, is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    def work(request: Request) -> Iterator[Any]:
        how, after = request.json()
        yield from range(after)
        if how == "refuses":
            raise Problem(409, "no more", "Title")
        if how == "exits":
            sys.exit(1)
        if how == "unsendable":
            yield object()
        raise RuntimeError("the secret reason")

    service = place.service()
    service.handle(sync_and_async(work, is_async))
    expected = {"refuses": 409, "fails": 500, "unsendable": 500} | ({} if is_async else {"exits": 500})
    with serving(service):
        for how, status in expected.items():
            before = ask(place, orjson.dumps([how, 0])).until_end()
            assert before.plain is not None, "an ordinary reply"
            assert headers_of(before.plain)["status"] == b"%d" % status
            after = ask(place, orjson.dumps([how, 2])).until_end()
            assert (after.items, after.status) == ([0, 1], status)
            assert after.end is not None
            assert orjson.loads(after.end.body)["status"] == status
            assert b"secret" not in after.end.body
    assert "the secret reason" in caplog.text
    assert service.counts.failed == 2 * (len(expected) - 1)
    assert place.committed() == 2 * len(expected)


def test_a_partition_that_does_not_exist(place: Place) -> None:
    service = place.service()

    @service.handle
    def work(_request: Request) -> Iterator[int]:
        yield from range(1000)

    with serving(service):
        seen = ask(place, partition=REPLY_PARTITIONS).until_end()
    assert seen.items == list(range(1000))
    assert len({message.partition() for message in seen.messages}) == 1


def test_a_reply_topic_that_does_not_exist_harms_nobody_else(place: Place) -> None:
    service = place.service(client={"topic.metadata.propagation.max.ms": 100})

    @service.handle
    def work(_request: Request) -> Iterator[int]:
        yield from range(1000)

    with serving(service):
        ask(place, reply_to=f"nowhere-{secrets.token_hex(4)}")
        assert ask(place).until_end().items == list(range(1000))
        eventually(lambda: service.counts.undeliverable == 1, 30)
    assert place.committed() == 2


def test_beats_are_sent_while_a_handler_has_nothing_to_say(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "BEAT_NS", 100_000_000)
    proceed = threading.Event()
    service = place.service()

    @service.handle
    def work(_request: Request) -> Iterator[int]:
        proceed.wait(30)
        yield 1

    with serving(service):
        seen = ask(place)
        seen.until(lambda: seen.beats >= 3)
        proceed.set()
        assert seen.until_end().items == [1]


def test_the_broker_of_the_demo_is_enough() -> None:
    with EmbeddedBroker({"requests": 2, "replies": REPLY_PARTITIONS}) as broker:
        place = Place(broker.bootstrap, "requests", "replies")
        service = place.service()

        @service.handle
        def count(_request: Request) -> Iterator[int]:
            yield from range(1000)

        with serving(service):
            assert ask(place).until_end().items == list(range(1000))
        place.requester.close()


# ---- many at a time ------------------------------------------------------------------------------------------------


@both
def test_streams_wait_for_each_other_beyond_the_limit(place: Place, is_async: bool) -> None:
    running, most, guard = 0, 0, threading.Lock()

    def work(request: Request) -> Iterator[bytes]:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        yield request.body
        with guard:
            running -= 1

    service = place.service(concurrency=3)
    service.handle(sync_and_async(work, is_async))
    with serving(service):
        asked = [ask(place, b"%d" % number, is_json=False) for number in range(30)]
        assert [seen.until_end().items for seen in asked] == [[b"%d" % number] for number in range(30)]
    assert 1 <= most <= 3
    assert place.committed() == 30


def test_a_service_full_of_streams_stays_in_its_group(lone_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no further records, but it polls."""
    monkeypatch.setattr(runs, "QUEUE_MAX", 2)
    monkeypatch.setattr(outputs, "BEAT_NS", 4_000_000_000)
    proceed = threading.Event()
    service = lone_place.service(
        concurrency=1, client={"max.poll.interval.ms": 6000, "session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
    )

    @service.handle
    def work(request: Request) -> Iterator[Any]:
        yield request.body
        proceed.wait(60)

    with serving(service):
        seen = ask(lone_place, b"first", is_json=False)
        seen.until(lambda: seen.items)
        asked = [ask(lone_place, b"%d" % number, is_json=False) for number in range(5)]
        eventually(lambda: service._is_held, 20)
        seen.until(lambda: seen.beats >= 2)  # 8 s, longer than a member may be silent
        proceed.set()
        assert [each.until_end().items for each in asked] == [[b"%d" % number] for number in range(5)]
        assert all(len(each.attempts) == 1 for each in asked), "no record was read twice"
    assert lone_place.committed() == 6


def test_requests_are_answered_while_streams_run(lone_place: Place) -> None:
    proceed = threading.Event()
    service = lone_place.service(concurrency=1)

    @service.handle("/stream")
    def work(_request: Request) -> Iterator[int]:
        yield 1
        proceed.wait(60)

    service.handle("/echo")(lambda request: request.body)
    with serving(service):
        seen = ask(lone_place, http_route="/stream")
        assert lone_place.requester.ask(b"x").value() == b"x"
        proceed.set()
        seen.until_end()


def test_an_async_handler_that_never_waits_lets_others_work() -> None:
    class NeverFull:
        is_stopped = False

        def add(self, _item: int) -> bool:
            return False

        def has_room(self) -> bool:
            return True

    async def items() -> AsyncIterator[int]:
        for number in range(50):
            yield number

    async def count_turns() -> int:
        turns, busy = 0, asyncio.create_task(runs._exhaust_async(items(), NeverFull()))
        while not busy.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert asyncio.run(count_turns()) >= 50


# ---- stopped -------------------------------------------------------------------------------------------------------


def endless(cleaned_up: threading.Event) -> Callable[[Request], Iterator[int]]:
    def work(_request: Request) -> Iterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
                time.sleep(0.001)  # an endless handler would fill the topic
        finally:
            cleaned_up.set()

    return work


def send_cancel(place: Place, correlation_id: str) -> None:
    place.requester.send(
        b"cancel", cancel=correlation_id, **dict.fromkeys(("correlation_id", "reply_to", "reply_partition"))
    )


@both
def test_a_cancelled_stream_stops_its_handler(lone_place: Place, is_async: bool) -> None:
    cleaned_up = threading.Event()
    service = lone_place.service()
    service.handle(sync_and_async(endless(cleaned_up), is_async))
    with serving(service):
        seen = ask(lone_place)
        seen.until(lambda: len(seen.items) > 10)
        send_cancel(lone_place, seen.correlation_id)
        assert seen.until_end().status == 499
        assert cleaned_up.wait(10)
        assert seen.items == list(range(len(seen.items)))
    assert lone_place.committed() == 2


def test_an_async_handler_is_stopped_while_it_waits(lone_place: Place) -> None:
    cleaned_up = threading.Event()
    service = lone_place.service()

    @service.handle
    async def work(_request: Request) -> AsyncIterator[int]:
        yield 1
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # a clean-up may wait, too
            cleaned_up.set()

    with serving(service):
        seen = ask(lone_place)
        seen.until(lambda: seen.items)
        send_cancel(lone_place, seen.correlation_id)
        send_cancel(lone_place, seen.correlation_id)
        assert seen.until_end().status == 499
        assert cleaned_up.wait(10)


def test_a_request_that_was_cancelled_before_it_is_read_does_not_begin(lone_place: Place) -> None:
    began: list[bytes] = []
    service = lone_place.service()

    @service.handle
    def work(request: Request) -> Iterator[int]:
        began.append(request.body)
        yield 1

    correlation_id = "00000000-0000-4000-8000-000000000001"
    with serving(service):
        send_cancel(lone_place, correlation_id)
        lone_place.requester.send(b"cancelled", correlation_id=correlation_id, **STREAM)
        seen = Seen(lone_place, correlation_id).until_end()
        assert ask(lone_place, b"other").until_end().items == [1]
    assert seen.plain is not None
    assert headers_of(seen.plain)["status"] == b"499"
    assert began == [b"other"]
    assert lone_place.committed() == 3


@both
def test_a_handler_has_time_until_stream_until(place: Place, is_async: bool) -> None:
    cleaned_up = threading.Event()
    service = place.service()
    service.handle(sync_and_async(endless(cleaned_up), is_async))
    with serving(service):
        seen = ask(place, stream_until=str(int((time.time() + 1) * 1000))).until_end()
        assert seen.status == 504
        assert len(seen.items) > 10
        assert cleaned_up.wait(10)


def test_a_stopped_service_ends_its_streams(place: Place) -> None:
    """Also that of a handler that does not come to its next `yield`."""
    hangs = threading.Event()
    service = place.service(stop_wait_s=1)

    @service.handle("/hangs")
    def hang(_request: Request) -> Iterator[int]:
        yield 1
        hangs.wait(60)

    cleaned_up = threading.Event()
    service.handle("/endless")(sync_and_async(endless(cleaned_up), True))
    with serving(service):
        both_kinds = [ask(place, http_route=route) for route in ("/hangs", "/endless")]
        for seen in both_kinds:
            seen.until(lambda: seen.items)  # noqa: B023
    assert [seen.until_end().status for seen in both_kinds] == [503, 503]
    assert cleaned_up.wait(10)
    hangs.set()
    assert place.committed() == 2


def test_requests_that_wait_for_their_turn_are_left_to_the_next_process(lone_place: Place) -> None:
    hangs = threading.Event()

    def service() -> Service:
        made = lone_place.service(concurrency=1, stop_wait_s=0)

        @made.handle
        def work(request: Request) -> Iterator[Any]:
            yield 1
            if request.body == b"hangs":
                hangs.wait(60)

        return made

    with serving(service()) as first:
        hung = ask(lone_place, b"hangs")
        hung.until(lambda: hung.items)
        waiting = ask(lone_place)
        eventually(lambda: first.counts.taken == 2)
    assert hung.until_end().status == 503
    assert waiting.messages == []
    with serving(service()):
        assert waiting.until_end().items == [1]
    hangs.set()
    assert lone_place.committed() == 2


def test_a_stream_has_time_to_end_when_the_service_stops(place: Place) -> None:
    service = place.service()

    @service.handle
    def work(_request: Request) -> Iterator[int]:
        yield 1
        service.stop()
        time.sleep(0.5)  # it is at work when the stop begins
        yield 2

    with serving(service):
        seen = ask(place)
        seen.until(lambda: seen.items)
    assert seen.until_end().items == [1, 2]
    assert seen.end is not None
    assert seen.end.is_ok


# ---- other owners --------------------------------------------------------------------------------------------------


def test_the_streams_of_a_revoked_partition_end_and_the_others_go_on(place: Place) -> None:
    stop_all = threading.Event()

    def service() -> Service:
        made = place.service()

        @made.handle("/stream")
        async def work(_request: Request) -> AsyncIterator[int]:
            number = 0
            while not stop_all.is_set():
                yield number
                number += 1
                await asyncio.sleep(0.01)

        return made

    first, second = service(), service()
    with serving(first):
        asked = [ask(place, http_route="/stream", request_partition=number % 2) for number in range(20)]
        for seen in asked:
            seen.until(lambda: seen.items)  # noqa: B023
        with serving(second):
            eventually(lambda: len(first._progress) == 1, 60)
            stop_all.set()
            moved = [seen for seen in asked if not seen.until_end().end.is_ok]
    assert len(moved) == 10
    for seen in moved:
        assert seen.status == 503
        assert b"stream_moved" in seen.end.body
    for seen in asked:
        assert seen.items == list(range(len(seen.items)))
        assert len(seen.attempts) == 1, "nothing began twice"


SERVICE_PROGRAM = """
    import sys, threading
    from fastgw.service import Service
    service = Service({topic!r}, bootstrap={bootstrap!r}, client={{"fetch.wait.max.ms": 5}})
    @service.handle
    def work(request):
        items = int(request.body)
        yield from range(items)
        threading.Event().wait()
    service.run()
"""


@contextlib.contextmanager
def program(place: Place) -> Iterator[subprocess.Popen[str]]:
    code = textwrap.dedent(SERVICE_PROGRAM.format(topic=place.topic, bootstrap=place.bootstrap))
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def test_the_stream_of_a_killed_service_begins_anew_elsewhere(lone_place: Place) -> None:
    """The first request has no item yet, so neither offset is committed, and both are read again."""
    with program(lone_place):
        silent = ask(lone_place, b"0")
        begun = ask(lone_place, b"3")
        begun.until(lambda: begun.items == [0, 1, 2])
    service = lone_place.service()

    @service.handle
    def work(request: Request) -> Iterator[int]:
        yield from range(10)

    with serving(service):
        assert silent.until_end().items == list(range(10))
        # Its reader stays with the attempt that it has seen, which never ends. Another reader sees two attempts.
        begun.until(lambda: len(begun.attempts) == 2)
        begun.until(lambda: any("stream_end" in headers_of(message) for message in begun.messages))
    assert begun.items == [0, 1, 2]
    assert begun.end is None
    assert lone_place.committed() == 2


def test_a_producer_that_died_is_replaced(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idempotent producers can enter a fatal state. The streams of that moment end with an error."""
    proceed = threading.Event()
    service = place.service()

    @service.handle
    def work(request: Request) -> Iterator[int]:
        yield 1
        if request.body == b"waits":
            proceed.wait(30)
        yield 2

    with serving(service):
        seen = ask(place, b"waits")
        seen.until(lambda: seen.items == [1])
        dead = service._streams._producer
        service._streams._on_error(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "told", fatal=True))
        eventually(lambda: service._streams._producer is not dead)
        proceed.set()
        assert seen.until_end().items == [1, 2], "the number of an item does not depend on the producer"
        assert ask(place).until_end().items == [1, 2]


def test_a_failure_of_the_own_thread_ends_the_service(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    service = place.service()

    @service.handle
    def work(_request: Request) -> Iterator[int]:
        yield 1

    def fail(_now_ns: int, _now_epoch_ms: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(service._streams, "_look_at_clocks", fail)
    with pytest.raises(ZeroDivisionError):
        service.serve()
