"""The service side on real brokers, asked by a requester that knows the wire format and nothing else of fastgw."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from confluent_kafka import Message

from fastgw.demo.broker import EmbeddedBroker
from fastgw.errors import ConfigError, StartError
from fastgw.service import Problem, Reply, Request, Service
from tests.service.requester import REPLY_PARTITIONS, Place, headers_of, serving
from tests.waiting import eventually

# ---- replies -------------------------------------------------------------------------------------------------------


def test_a_reply_goes_exactly_where_the_request_says(place: Place) -> None:
    service = place.service()

    @service.handle("POST /orders")
    def create(request: Request) -> Reply:
        return Reply({"got": request.json()}, status=201, headers={"location": "/orders/1"})

    with serving(service):
        for partition in range(REPLY_PARTITIONS):
            sent = place.requester.send(b"[1]", partition=partition, http_route="/orders")
            reply = place.requester.reply(sent)
            assert reply.partition() == partition
            assert reply.key() == sent.encode()
            assert reply.value() == b'{"got":[1]}'
            assert headers_of(reply) == {
                "correlation_id": sent.encode(),
                "status": b"201",
                "location": b"/orders/1",
                "content-type": b"application/json",
            }


@pytest.mark.parametrize(
    "partition", [None, "", "x", "-1", "99999999999999999999", str(REPLY_PARTITIONS), "4000000000"]
)
def test_without_a_partition_that_exists_the_key_decides(place: Place, partition: str | None) -> None:
    """As librdkafka's own default does: crc32 of the key."""
    service = place.service()

    @service.handle
    def echo(request: Request) -> bytes:
        return request.body

    with serving(service):
        sent = place.requester.send(b"x", partition=None, reply_partition=partition)
        assert place.requester.reply(sent).partition() == zlib.crc32(sent.encode()) % REPLY_PARTITIONS


def test_the_most_exact_handler_is_called(place: Place) -> None:
    service = place.service()
    for route in ("GET /orders/{id}", "/orders/{id}", "PUT", ""):
        service.handle(route)(lambda _request, route=route: route or "all")
    with serving(service):
        asked = [("GET", "/orders/{id}"), ("PUT", "/orders/{id}"), ("PUT", "/baskets"), ("GET", "/baskets")]
        answers = [place.requester.ask(http_method=method, http_route=route).value() for method, route in asked]
    assert answers == [b"GET /orders/{id}", b"/orders/{id}", b"PUT", b"all"]


def test_head_is_answered_by_the_handler_of_get_unless_it_has_one(place: Place) -> None:
    service = place.service()
    for route in ("GET /orders/{id}", "GET /baskets", "HEAD /baskets"):
        service.handle(route)(lambda _request, route=route: route)
    with serving(service):
        asked = [("HEAD", "/orders/{id}"), ("HEAD", "/baskets")]
        answers = [place.requester.ask(http_method=method, http_route=route).value() for method, route in asked]
    assert answers == [b"GET /orders/{id}", b"HEAD /baskets"]


def test_an_unknown_route_is_told_which_ones_there_are(place: Place) -> None:
    service = place.service()
    service.handle("POST /orders")(lambda _request: None)
    service.handle("GET /orders/{id}")(lambda _request: None)
    with serving(service):
        reply = place.requester.ask(http_method="DELETE", http_route="/orders/{id}")
    problem = orjson.loads(reply.value())
    assert headers_of(reply)["status"] == b"404"
    assert "'DELETE /orders/{id}', only for: GET /orders/{id}, POST /orders" in problem["detail"]
    assert service.counts.unknown_route == 1


@pytest.mark.parametrize("kind", ["inline", "pool", "async"])
def test_a_handler_that_fails_is_answered_and_logged(place: Place, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    service = place.service(concurrency=2 if kind == "pool" else None)

    def fail(request: Request) -> object:
        if request.body == b"raise":
            raise RuntimeError("the secret reason")
        if request.body == b"refuse":
            raise Problem(409, "order 7 has been paid", "Too late")
        return object() if request.body == b"unsendable" else "fine"

    async def fail_async(request: Request) -> object:
        return fail(request)

    service.handle(fail_async if kind == "async" else fail)
    with serving(service):
        replies = {body: place.requester.ask(body) for body in (b"raise", b"refuse", b"unsendable", b"fine")}
    assert [headers_of(reply).get("status") for reply in replies.values()] == [b"500", b"409", b"500", None]
    assert b"secret" not in replies[b"raise"].value(), "the client is not told what happened inside"
    assert orjson.loads(replies[b"raise"].value())["request_id"] == replies[b"raise"].key().decode()
    assert orjson.loads(replies[b"refuse"].value())["detail"] == "order 7 has been paid"
    assert "the secret reason" in caplog.text
    assert replies[b"raise"].key().decode() in caplog.text
    assert service.counts.failed == 2


def test_a_reply_that_is_too_large_becomes_a_problem(place: Place) -> None:
    service = place.service()
    service.handle(lambda request: b"x" * int(request.body))
    with serving(service):
        reply = place.requester.ask(b"2000000")
        assert headers_of(reply)["status"] == b"500"
        assert "2000000 bytes" in orjson.loads(reply.value())["detail"]
        assert len(place.requester.ask(b"500000").value()) == 500_000


def test_a_reply_topic_that_does_not_exist_harms_nobody_else(place: Place) -> None:
    service = place.service(client={"topic.metadata.propagation.max.ms": 100})
    service.handle(lambda request: request.body)
    with serving(service):
        for nowhere in (f"nowhere-{secrets.token_hex(4)}", "no such name", "x" * 300, "a\0b"):
            place.requester.send(reply_to=nowhere)
        assert place.requester.ask(b"here").value() == b"here"
        eventually(lambda: service.counts.undeliverable == 1, 30)
    assert place.committed() == 5


def test_a_request_that_wants_no_reply_is_handled_and_committed(place: Place) -> None:
    handled: list[bytes] = []
    service = place.service()
    service.handle(lambda request: handled.append(request.body))
    with serving(service):
        place.requester.send(b"told", reply_to=None, correlation_id=None)
        eventually(lambda: handled == [b"told"], 20)
    assert place.committed() == 1


# ---- at the same time ----------------------------------------------------------------------------------------------


def test_async_handlers_run_together_up_to_the_limit(lone_place: Place) -> None:
    running, most, all_four, proceed = 0, 0, threading.Event(), threading.Event()
    service = lone_place.service(concurrency=4)

    @service.handle
    async def work(request: Request) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 4:
            all_four.set()
        await asyncio.to_thread(proceed.wait, 20)
        running -= 1
        return request.body

    with serving(service):
        sent = [lone_place.requester.send(b"%d" % number) for number in range(40)]
        assert all_four.wait(20)
        proceed.set()
        assert [lone_place.requester.reply(each).value() for each in sent] == [b"%d" % number for number in range(40)]
    assert most == 4


def test_a_pool_runs_sync_handlers_together(lone_place: Place) -> None:
    meeting = threading.Barrier(4, timeout=20)
    service = lone_place.service(concurrency=4)

    @service.handle
    def work(request: Request) -> bytes:
        meeting.wait()  # four must be here at a time
        return request.body

    with serving(service):
        sent = [lone_place.requester.send(b"x") for _ in range(16)]
        assert {lone_place.requester.reply(each).value() for each in sent} == {b"x"}


def test_slow_work_is_taken_in_small_batches(lone_place: Place) -> None:
    service = lone_place.service()
    pause = threading.Event()
    service.handle(lambda _request: pause.wait(0.3) or "done")
    with serving(service):
        for _ in range(3):
            lone_place.requester.ask()
        assert service._batch_records == 1


# ---- what nobody waits for -----------------------------------------------------------------------------------------


def test_expired_work_is_dropped_and_counted(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    handled: list[bytes] = []
    service = place.service()
    service.handle(lambda request: handled.append(request.body) or "done")
    with serving(service):
        place.requester.send(b"too late", timeout_s=-1)
        place.requester.ask(b"in time")
        place.requester.ask(b"no deadline", deadline=None)
        place.requester.ask(b"odd deadline", deadline="tomorrow")
        eventually(lambda: service.counts.expired == 1)
    assert sorted(handled) == [b"in time", b"no deadline", b"odd deadline"]
    assert "expired_work_dropped" in caplog.text
    assert place.committed() == 4


def test_expired_work_is_answered_if_the_gateway_asks_for_it(place: Place) -> None:
    handled: list[bytes] = []
    service = place.service()
    service.handle(lambda request: handled.append(request.body) or "done")
    with serving(service):
        late = place.requester.ask(b"late", timeout_s=-1, answer_expired="1")
        place.requester.send(b"dropped", timeout_s=-1, answer_expired="0")
        assert place.requester.ask(b"in time", answer_expired="1").value() == b"done"
        eventually(lambda: service.counts.expired == 2)
    assert headers_of(late)["status"] == b"504"
    assert orjson.loads(late.value())["type"] == "urn:fastgw:problem:work_expired"
    assert handled == [b"in time"]
    assert place.committed() == 3


# ---- idempotency keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["inline", "pool", "async"])
def test_work_with_one_key_is_done_once(place: Place, kind: str) -> None:
    done: list[str] = []
    service = place.service(concurrency=4 if kind == "pool" else None)

    def pay(request: Request) -> Reply:
        done.append(request.idempotency_key)
        return Reply({"paid": len(done)}, status=201)

    async def pay_async(request: Request) -> Reply:
        return pay(request)

    service.handle(pay_async if kind == "async" else pay)
    with serving(service):
        first = place.requester.ask(b"1", idempotency_key="order-17", idempotency_attempt="1")
        second = place.requester.ask(b"1", idempotency_key="order-17", idempotency_attempt="2", partition=5)
        other = place.requester.ask(b"1", idempotency_key="order-18")
    assert (first.value(), second.value(), other.value()) == (b'{"paid":1}', b'{"paid":1}', b'{"paid":2}')
    assert second.partition() == 5
    assert headers_of(second) == headers_of(first) | {"correlation_id": second.key()}
    assert done == ["order-17", "order-18"]
    assert service.counts.repeated == 1
    assert place.committed() == 3


@pytest.mark.parametrize("kind", ["pool", "async", "collected"])
def test_a_request_waits_for_another_one_with_its_key(lone_place: Place, kind: str) -> None:
    began, proceed, done = threading.Event(), threading.Event(), []
    service = lone_place.service(concurrency=4)

    def pay(request: Request) -> bytes:
        done.append(request.body)
        began.set()
        proceed.wait(20)
        return b"paid"

    async def pay_async(request: Request) -> bytes:
        return await asyncio.to_thread(pay, request)

    def pay_in_parts(request: Request) -> Iterator[bytes]:
        yield pay(request)

    service.handle({"pool": pay, "async": pay_async, "collected": pay_in_parts}[kind])
    with serving(service):
        first = lone_place.requester.send(idempotency_key="a", partition=1)
        second = lone_place.requester.send(idempotency_key="a", partition=2)
        assert began.wait(20)
        eventually(lambda: service.counts.repeated == 1)
        proceed.set()
        answers = [lone_place.requester.reply(each) for each in (first, second)]
    assert [(each.value(), each.partition()) for each in answers] == [(b"paid", 1), (b"paid", 2)]
    assert len(done) == 1
    assert lone_place.committed() == 2


class UnreadableMessage:
    """What confluent-kafka hands over for a record with a header name that is not UTF-8."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    def headers(self) -> None:
        raise SystemError("returned a result with an exception set")


def test_a_record_with_unreadable_headers_is_passed_over(lone_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    service = lone_place.service()
    service.handle(lambda request: request.body)
    take = service._take

    def take_with_one_unreadable(most: int) -> list[Any]:
        return [UnreadableMessage(each) if each.value() == b"poison" else each for each in take(most)]

    monkeypatch.setattr(service, "_take", take_with_one_unreadable)
    with serving(service):
        lone_place.requester.send(b"poison")
        assert lone_place.requester.ask(b"fine").value() == b"fine"
    assert service.counts.unreadable == 1
    assert lone_place.committed() == 2


# ---- at least once -------------------------------------------------------------------------------------------------


def test_stop_finishes_what_is_in_hand_and_commits_it(place: Place) -> None:
    began, proceed = threading.Event(), threading.Event()
    service = place.service()

    @service.handle
    async def work(_request: Request) -> str:
        began.set()
        await asyncio.to_thread(proceed.wait, 20)
        return "finished"

    with serving(service):
        sent = place.requester.send()
        assert began.wait(20)
        service.stop()
        proceed.set()
    assert place.requester.reply(sent).value() == b"finished"
    assert place.committed() == 1


def test_work_that_a_stop_did_not_begin_is_left_to_the_next(lone_place: Place) -> None:
    first = lone_place.service()
    first.handle(lambda _request: first.stop() or "first")
    sent = [lone_place.requester.send() for _ in range(5)]
    with serving(first):
        answers = [lone_place.requester.reply(sent[0]).value()]
    assert lone_place.committed() == 1
    second = lone_place.service()
    second.handle(lambda _request: "second")
    with serving(second):
        answers += [lone_place.requester.reply(each).value() for each in sent[1:]]
    assert answers == [b"first"] + [b"second"] * 4
    assert {len(replies) for replies in lone_place.requester.replies.values()} == {1}


def test_two_services_share_the_work_and_hand_it_over_without_loss(place: Place) -> None:
    by_whom: Counter[str] = Counter()

    def named(name: str) -> Service:
        service = place.service()
        service.handle(lambda request: by_whom.update([name]) or request.body)
        return service

    sent: list[str] = []

    def ask_some() -> None:
        sent.extend(place.requester.send(b"%d" % number) for number in range(200))
        for each in sent[-200:]:
            place.requester.reply(each)

    first, second = named("first"), named("second")
    with serving(first):
        ask_some()
        with serving(second):
            # Its share may be empty at first; the sticky assignor evens out within one rebalance.
            eventually(lambda: ask_some() or by_whom["second"] > 0, 60)
            first.stop()
            eventually(lambda: ask_some() or len(second._progress) == 2, 60)
    assert {len(place.requester.replies[each]) for each in sent} == {1}, (
        "handed over in order: nothing lost, nothing twice"
    )
    assert place.committed() == len(sent)


SERVICE_PROGRAM = """
    import sys, threading
    from fastgw.service import Service
    service = Service({topic!r}, bootstrap={bootstrap!r}, concurrency=4, client={{"fetch.wait.max.ms": 5}})
    @service.handle
    def work(request):
        if request.body == b"hang" and sys.argv[1] == "hangs":
            threading.Event().wait()
        return sys.argv[1]
    service.run()
"""


def start_program(place: Place, *arguments: str, program: str = SERVICE_PROGRAM) -> subprocess.Popen[str]:
    code = textwrap.dedent(program.format(topic=place.topic, bootstrap=place.bootstrap))
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)


def test_a_killed_service_loses_no_request(lone_place: Place) -> None:
    """The record in hand and those answered after it were not committed: the next process gets all of them again."""
    with start_program(lone_place, "hangs") as program:
        hung = lone_place.requester.send(b"hang")
        answered = lone_place.requester.ask(b"after")
        program.kill()
    assert answered.value() == b"hangs"
    service = lone_place.service()
    service.handle(lambda _request: "again")
    with serving(service):
        assert lone_place.requester.reply(hung, 60).value() == b"again"
        eventually(
            lambda: lone_place.requester.take() or len(lone_place.requester.replies[answered.key().decode()]) == 2
        )
    assert lone_place.committed() == 2


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program_in_order(lone_place: Place, signum: signal.Signals) -> None:
    with start_program(lone_place, "program") as program:
        assert lone_place.requester.ask().value() == b"program"
        program.send_signal(signum)
        _, told = program.communicate(timeout=30)
    assert program.returncode == 0, told
    assert "stopped" in told
    assert "replied=1" in told
    assert "Traceback" not in told
    assert lone_place.committed() == 1


# ---- what cannot work ----------------------------------------------------------------------------------------------


def test_a_broker_that_is_not_there_is_named() -> None:
    service = Service("orders", bootstrap="127.0.0.1:1", start_wait_s=1)
    service.handle(lambda _request: None)
    with pytest.raises(StartError, match=r"no Kafka broker answered at 127\.0\.0\.1:1 within 1 s \(.*Connect"):
        service.serve()


def test_a_topic_that_is_not_there_is_named(kafka_bootstrap: str) -> None:
    service = Service("no-such-topic", bootstrap=kafka_bootstrap)
    service.handle(lambda _request: None)
    with pytest.raises(StartError, match=r"request topic 'no-such-topic' cannot be read .*Unknown topic"):
        service.serve()


def test_a_program_that_cannot_start_ends_with_one_line_and_code_2() -> None:
    program = """
        from fastgw.service import Service
        service = Service("orders", bootstrap="127.0.0.1:1", start_wait_s=0.5)
        service.handle(print)
        service.run()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "orders: no Kafka broker answered at 127.0.0.1:1" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("client", "says"),
    [
        ({"no.such.property": 1}, "no.such.property"),
        ({"session.timeout.ms": "soon"}, "session.timeout.ms"),
        ({"linger.ms": -5}, "-5 is outside allowed range"),
    ],
)
def test_a_wrong_property_is_named(client: dict[str, Any], says: str) -> None:
    service = Service("orders", client=client)
    service.handle(lambda _request: None)
    with pytest.raises(ConfigError, match=says):
        service.serve()


@pytest.mark.parametrize("name", ["group.id", "bootstrap.servers", "enable.auto.commit", "enable.auto.offset.store"])
def test_properties_that_the_service_depends_on_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"client property '{name}' cannot be set"):
        Service("orders", client={name: "mine"})


def test_mistakes_in_the_program_are_named() -> None:
    service = Service("orders")
    with pytest.raises(ConfigError, match="no handler"):
        service.serve()
    with pytest.raises(ConfigError, match="got 'post orders'"):
        service.handle("post orders")
    service.handle("GET /orders")(print)
    with pytest.raises(ConfigError, match="GET /orders has two handlers"):
        service.handle("GET /orders")(print)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        Service("orders", concurrency=0)


# ---- other brokers and protocols -----------------------------------------------------------------------------------


def test_the_new_group_protocol_works_too(place: Place) -> None:
    service = place.service(client={"group.protocol": "consumer"})
    service.handle(lambda request: request.body)
    with serving(service):
        assert place.requester.ask(b"x").value() == b"x"
    assert place.committed() == 1


def test_the_embedded_broker_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    with EmbeddedBroker({"requests": 2, "replies": REPLY_PARTITIONS}) as broker:
        place = Place(broker.bootstrap, "requests", "replies")
        service = place.service()
        service.handle(lambda request: request.body)
        with caplog.at_level(logging.INFO, "fastgw.service"), serving(service):
            sent = [place.requester.send(b"%d" % number, partition=number % 8) for number in range(100)]
            assert [int(place.requester.reply(each).value()) for each in sent] == list(range(100))
        place.requester.close()
    assert "assigned topic=requests group=requests partitions=[0, 1]" in caplog.text
    assert "stopped topic=requests taken=100" in caplog.text
