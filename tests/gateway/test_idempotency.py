"""Idempotency keys of a whole gateway on a real Kafka: one record for each key, and one answer for everybody."""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from fastgw import ids
from fastgw.core import idempotency
from fastgw.dialects import control
from tests.actors.commands import fastgw
from tests.actors.hand_service import HandService, Taken, hand_service, values_in
from tests.actors.raw_http import Answer, RawConnection
from tests.conftest import MakeTopics
from tests.gateway.gateways import Gateway
from tests.gateway.outcome_table import assert_told, counted
from tests.waiting import eventually

LANES = 8
LARGE = b"x" * 100_000  # the store leaves it in the topic
TAKE_OVER_S = 9.0  # twice the timeout of the route `pay`, and five seconds
ROUTES = """
[[route]]
name = "pay"
method = "POST"
path = "/pay"
topic = "{orders}"
idempotency = "require"
fingerprint_headers = ["x-currency"]
timeout = "2s"
[[route]]
name = "slow"
method = "POST"
path = "/slow"
topic = "{orders}"
idempotency = "accept"
timeout = "20s"
[[route]]
name = "rare"
method = "POST"
path = "/rare"
topic = "{orders}"
idempotency = "accept"
timeout = "20s"
max_kept = 1
[[route]]
name = "book"
method = "POST"
path = "/book"
topic = "{orders}"
idempotency = "accept"
later = true
timeout = "2s"
work_timeout = "2s"
[store]
dir = "{store}"
[later]
topic = "{later}"
"""
SETTINGS = 'secrets = ["the secret of all tests about idempotency keys"]'


def claims_in(shop: Shop, lane: int, key: str) -> int:
    """The claims of this key in its lane, also those behind an open transaction."""
    consumer = Consumer(
        {
            "bootstrap.servers": shop.bootstrap,
            "group.id": f"claims-{secrets.token_hex(4)}",
            "isolation.level": "read_uncommitted",
            "enable.partition.eof": True,
        }
    )
    scope = idempotency.key_hash("pay", "", key).hex().encode()
    try:
        consumer.assign([TopicPartition(shop.later, lane, 0)])
        found = 0
        while (message := consumer.poll(10)) is not None and message.error() is None:
            found += scope in message.value()
        return found
    finally:
        consumer.close()


def new_key() -> str:
    return secrets.token_hex(8)


class Shop:
    """A gateway with idempotent routes, and the service behind it, played by hand."""

    def __init__(self, folder: Path, bootstrap: str, topics: dict[str, str], later: str, service: HandService) -> None:
        self.bootstrap, self.orders, self.replies = bootstrap, topics["orders"], topics["replies"]
        self.later, self.service = later, service
        more = ROUTES.format(**topics, later=later, store=folder / "store")
        self.gateway = Gateway(folder, bootstrap, self.replies, [], more=more, settings=SETTINGS, drain_timeout="5s")

    @contextmanager
    def asking(self, key: str, body: bytes, path: str = "/slow", *headers: str) -> Iterator[RawConnection]:
        """A request that is under way."""
        with RawConnection(self.gateway.port) as client:
            client.ask("POST", path, body, [f'Idempotency-Key: "{key}"', *headers])
            yield client

    @contextmanager
    def joined(self, key: str, body: bytes) -> Iterator[RawConnection]:
        """A request that waits for the answer to another one."""
        before = self.results("joined")
        with self.asking(key, body) as client:
            eventually(lambda: self.results("joined") == before + 1, 10, "it has joined")
            yield client

    def ask(self, key: str, body: bytes, path: str = "/slow", *headers: str) -> Answer:
        with self.asking(key, body, path, *headers) as client:
            return client.answer()

    def serve(self, key: str, body: bytes, reply: bytes, status: bytes = b"200", path: str = "/slow") -> Answer:
        """A request and its answer."""
        with self.asking(key, body, path) as client:
            self.service.reply(self.service.take(body), reply, [("status", status)])
            return client.answer()

    def sent(self, body: bytes) -> int:
        """How many records with this body were ever sent."""
        return values_in(self.bootstrap, self.orders).count(body)

    def results(self, result: str) -> float:
        return self.gateway.metric("fastgw_idempotency_total", result=result)

    @contextmanager
    def result(self, result: str, times: int = 1) -> Iterator[None]:
        """What happens inside is counted so often; waits for it before the end of the block."""
        before = self.results(result)
        yield
        eventually(lambda: self.results(result) == before + times, 10, f"{times} more {result}")

    def workers_serve(self, without: Sequence[int] = ()) -> bool:
        """Whether both workers are ready, and none of them is one of these processes."""
        workers = [worker for worker in self.gateway.status()["workers"] if worker["ready"]]
        return len(workers) == 2 and not {worker["pid"] for worker in workers} & set(without)

    def is_back(self, key: str, body: bytes) -> None:
        """Wait until every process is there, and both workers have found the store: each connects when it can."""

        def is_there() -> bool:
            if not (self.gateway.ready and self.workers_serve() and self.gateway.status()["store"]["trouble"] is None):
                return False
            return all(self.ask(key, body).status == 200 for _ in range(8))

        eventually(is_there, 30, "every process is there")

    def pid(self, title: str) -> int:
        return next(pid for pid, named in self.gateway.children().items() if named.endswith(title))

    def lane_of(self, key: str, route: str = "slow") -> int:
        return control.lane_of(idempotency.key_hash(route, "", key), LANES)


@pytest.fixture(scope="module")
def topics(make_module_topics: MakeTopics) -> dict[str, str]:
    return make_module_topics({"replies": 8, "orders": 2})


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, kafka_bootstrap: str, kafka_admin: AdminClient, topics: dict[str, str]
) -> Iterator[Shop]:
    later = topics["replies"] + ".later"
    with hand_service(kafka_bootstrap, [topics["orders"]]) as service:
        one = Shop(tmp_path_factory.mktemp("keys"), kafka_bootstrap, topics, later, service)
        code, _, err = fastgw("topics", one.gateway.config)
        assert code == 0, err
        try:
            with one.gateway:
                yield one
        finally:
            for future in kafka_admin.delete_topics([later]).values():
                future.result()


@pytest.fixture(scope="module")
def probe(shop: Shop) -> str:
    """A key that is answered."""

    def are_sent() -> bool:
        with ExitStack() as opened:
            asking = [shop.asking(new_key(), b"of nobody", "/slow", "Prefer: wait=1") for _ in range(8)]
            clients = [opened.enter_context(one) for one in asking]
            return {client.answer().status for client in clients} == {504}

    eventually(are_sent, 30, "both workers have found the store")
    key = new_key()
    shop.serve(key, b"probe", b"here")
    return key


@pytest.fixture(autouse=True)
def everything_is_there(shop: Shop, probe: str) -> None:
    """A test before this one may have killed a process."""
    shop.is_back(probe, b"probe")


def test_a_request_with_a_key_says_so_on_its_record_and_a_repeated_one_gets_the_same_answer(shop: Shop) -> None:
    key = new_key()
    with shop.asking(key, b"first") as client:
        request = shop.service.take(b"first")
        assert (request.headers["idempotency_key"], request.headers["idempotency_attempt"]) == (key.encode(), b"1")
        assert request.headers["reply_to"].decode() == shop.later
        assert int(request.headers["reply_partition"]) == shop.lane_of(key)
        shop.service.reply(request, b"paid", [("status", b"201"), ("content-type", b"text/plain")])
        answer = client.answer()
    assert (answer.status, answer.body, answer.headers["content-type"]) == (201, b"paid", "text/plain")
    assert "idempotency-replayed" not in answer.headers
    with shop.result("replayed"), counted(shop.gateway, "answered", route="slow"):
        again = shop.ask(key, b"first")
    assert (again.status, again.body, again.headers["content-type"]) == (201, b"paid", "text/plain")
    assert again.headers["idempotency-replayed"] == "true"
    assert shop.sent(b"first") == 1


def test_a_request_that_comes_meanwhile_joins_the_first_one(shop: Shop) -> None:
    key = new_key()
    with shop.asking(key, b"joined") as first:
        request = shop.service.take(b"joined")
        with shop.joined(key, b"joined") as second:
            with shop.joined(key, b"joined"):
                pass  # it leaves, and that is nothing to the others
            shop.service.reply(request, b"once")
            assert [client.answer().body for client in (first, second)] == [b"once", b"once"]
    assert shop.sent(b"joined") == 1


def test_a_client_that_leaves_withdraws_nothing(shop: Shop) -> None:
    key = new_key()
    with shop.asking(key, b"left"):
        request = shop.service.take(b"left")
    shop.service.reply(request, b"done all the same")
    assert shop.ask(key, b"left").body == b"done all the same"
    assert shop.sent(b"left") == 1


def test_every_worker_has_the_answer(shop: Shop) -> None:
    key = new_key()
    shop.serve(key, b"everywhere", b"known")
    workers: set[int] = set()

    def asked_both() -> bool:
        answer = shop.ask(key, b"everywhere")
        assert answer.body == b"known"
        cid = ids.parse(answer.headers["x-request-id"].encode())
        assert cid is not None
        workers.add(cid.worker)
        return len(workers) == 2

    eventually(asked_both, 20, "both workers have answered")


def test_a_large_answer_is_read_back_from_the_topic(shop: Shop) -> None:
    key = new_key()
    shop.serve(key, b"large", LARGE)
    assert shop.ask(key, b"large").body == LARGE


@pytest.mark.ending("key_reused")
def test_another_request_with_the_same_key_is_refused(shop: Shop) -> None:
    key = new_key()
    with counted(shop.gateway, "key_reused", route="pay"), shop.asking(key, b"one thing", "/pay") as client:
        request = shop.service.take(b"one thing")
        assert_told(shop.ask(key, b"one thinG", "/pay"), "key_reused")
        shop.service.reply(request, b"")
        client.answer()
    for spoilt in [(b"one thinG", "/pay"), (b"one thing", "/pay?twice=yes"), (b"one thing", "/pay", "x-currency: EUR")]:
        assert_told(shop.ask(key, *spoilt), "key_reused")
    assert shop.ask(key, b"one thing", "/pay", "x-other: counts not").status == 200
    assert shop.sent(b"one thinG") == 0


@pytest.mark.ending("key_invalid")
def test_a_key_that_is_none_is_refused(shop: Shop) -> None:
    with RawConnection(shop.gateway.port) as client, counted(shop.gateway, "key_invalid", 4, route="pay"):
        for lines in ([], ['Idempotency-Key: ""'], [f"Idempotency-Key: {'k' * 10_000}"], ["Idempotency-Key: a b"]):
            assert_told(client.request("POST", "/pay", b"", lines), "key_invalid")
    with RawConnection(shop.gateway.port) as client, counted(shop.gateway, "key_invalid", route="slow"):
        assert_told(client.request("POST", "/slow", b"", [f"Idempotency-Key: {'k' * 10_000}"]), "key_invalid")


def test_where_keys_are_optional_a_request_without_one_is_a_plain_one(shop: Shop) -> None:
    with RawConnection(shop.gateway.port) as client:
        client.ask("POST", "/slow", b"without")
        request = shop.service.take(b"without")
        assert request.headers["reply_to"].decode() == shop.replies
        assert "idempotency_key" not in request.headers
        shop.service.reply(request, b"plain")
        assert client.answer().body == b"plain"


def test_two_routes_may_use_the_same_key(shop: Shop) -> None:
    key = new_key()
    shop.serve(key, b"on slow", b"slow")
    assert shop.serve(key, b"on pay", b"pay", path="/pay").body == b"pay"


def test_a_reply_of_500_is_everyones_answer_and_frees_the_key(shop: Shop) -> None:
    key = new_key()
    with shop.asking(key, b"fails") as first:
        request = shop.service.take(b"fails")
        with shop.joined(key, b"fails") as second:
            shop.service.reply(request, b"broken", [("status", b"503")])
            assert [client.answer().status for client in (first, second)] == [503, 503]
    assert shop.serve(key, b"fails", b"well now").body == b"well now"
    assert shop.ask(key, b"fails").body == b"well now"
    assert shop.sent(b"fails") == 2


def test_a_reply_that_cannot_be_read_is_the_answer_because_the_work_was_done(shop: Shop) -> None:
    key = new_key()
    assert shop.serve(key, b"odd", b"", b"nonsense").problem["type"] == "urn:fastgw:problem:bad_reply"
    again = shop.ask(key, b"odd")
    assert again.problem["type"] == "urn:fastgw:problem:bad_reply"
    assert again.headers["idempotency-replayed"] == "true"
    assert shop.sent(b"odd") == 1


@pytest.mark.ending("key_busy")
def test_a_request_whose_time_is_over_first_is_told_to_ask_again(shop: Shop) -> None:
    key = new_key()
    with counted(shop.gateway, "key_busy", route="slow"), shop.asking(key, b"busy") as client:
        request = shop.service.take(b"busy")
        assert_told(shop.ask(key, b"busy", "/slow", "Prefer: wait=1"), "key_busy")
        shop.service.reply(request, b"at last")
        assert client.answer().body == b"at last"


@pytest.mark.ending("kept_cap")
def test_a_route_keeps_no_more_keys_than_it_may(shop: Shop) -> None:
    key = new_key()
    shop.serve(key, b"the only one", b"kept", path="/rare")
    with counted(shop.gateway, "kept_cap", route="rare"):
        assert_told(shop.ask(new_key(), b"one more", "/rare"), "kept_cap")
    assert shop.ask(key, b"the only one", "/rare").body == b"kept"
    assert shop.sent(b"one more") == 0


def test_a_service_that_ignores_keys_and_replies_twice_at_the_wrong_place_answers_once(shop: Shop) -> None:
    key = new_key()
    with shop.asking(key, b"careless") as client:
        request = shop.service.take(b"careless")
        elsewhere = (int(request.headers["reply_partition"]) + 1) % LANES
        shop.service.post(shop.later, elsewhere, request.correlation_id, b"first")
        first = client.answer().body
        assert first == b"first"
        shop.service.post(shop.replies, 0, request.correlation_id, b"second")
        shop.service.reply(request, b"third")
    assert shop.ask(key, b"careless").body == first


def test_control_records_that_no_gateway_wrote_are_counted_and_ignored(shop: Shop) -> None:
    key = new_key()
    with shop.asking(key, b"attacked") as client:
        request = shop.service.take(b"attacked")
        garbage = shop.gateway.metric("fastgw_store_garbage_total")
        scope = idempotency.key_hash("slow", "", key).hex().encode()
        for kind, value in [(b"released", b'{"scope":"%s"}' % scope), (b"claim", b"{}"), (b"claim", b"\xff" * 10_000)]:
            forged = [("fastgw_kind", kind), ("fastgw_mac", b"0" * 32), ("fastgw_layout", b"1")]
            shop.service.post(shop.later, shop.lane_of(key), request.correlation_id, value, forged)
        eventually(lambda: shop.gateway.metric("fastgw_store_garbage_total") == garbage + 3, 10, "they are counted")
        assert_told(shop.ask(key, b"attacked", "/slow", "Prefer: wait=1"), "key_busy")
        shop.service.reply(request, b"unharmed")
        assert client.answer().body == b"unharmed"


def test_a_store_that_dies_loses_neither_who_waits_nor_what_is_kept(shop: Shop) -> None:
    kept, key = new_key(), new_key()
    shop.serve(kept, b"kept", b"before")
    with shop.asking(key, b"waits") as first:
        request = shop.service.take(b"waits")
        with shop.joined(key, b"waits") as second:
            os.kill(shop.pid("store"), signal.SIGKILL)
            shop.service.reply(request, b"after")
            assert [client.answer().body for client in (first, second)] == [b"after", b"after"]
    shop.is_back(kept, b"kept")
    assert shop.ask(kept, b"kept").body == b"before"
    assert (shop.sent(b"waits"), shop.sent(b"kept")) == (1, 1)


def test_a_reply_of_500_that_came_while_the_store_was_away_still_reaches_who_waits(shop: Shop) -> None:
    key = new_key()
    with shop.asking(key, b"unheard") as client:
        request = shop.service.take(b"unheard")
        os.kill(shop.pid("store"), signal.SIGKILL)
        shop.service.reply(request, b"broken", [("status", b"500")])
        answer = client.answer()
    assert (answer.status, answer.body) == (500, b"broken")


def test_answers_survive_the_death_of_every_process(shop: Shop) -> None:
    key, failed = new_key(), new_key()
    shop.serve(key, b"survives", b"kept")
    shop.serve(failed, b"failed", b"", b"500")
    shop.gateway.signal_all(signal.SIGKILL)
    assert shop.gateway.process is not None
    shop.gateway.process.wait(10)
    shop.gateway.start()
    shop.is_back(key, b"survives")
    assert shop.ask(key, b"survives").body == b"kept"
    assert_told(shop.ask(key, b"another"), "key_reused")
    assert shop.serve(failed, b"failed", b"now").body == b"now"
    assert (shop.sent(b"survives"), shop.sent(b"failed")) == (1, 2)


def test_after_a_holder_that_never_answers_another_attempt_is_sent_but_not_too_early(shop: Shop) -> None:
    key = new_key()
    began = time.monotonic()
    with shop.asking(key, b"dead", "/pay"):
        first = shop.service.take(b"dead")
    second = take_over(shop, key, b"dead")
    assert time.monotonic() - began >= TAKE_OVER_S
    assert second.headers["idempotency_attempt"] == b"2"
    assert shop.sent(b"dead") == 2
    shop.service.reply(first, b"late, but first")
    shop.service.reply(second, b"second")
    assert shop.ask(key, b"dead", "/pay").body == b"late, but first"


def take_over(shop: Shop, key: str, body: bytes) -> Taken:
    """Ask like a client that does not give up, until another attempt was sent."""
    before = shop.results("taken_over")

    def is_taken_over() -> bool:
        answer = shop.ask(key, body, "/pay")
        assert answer.status in (409, 503, 504), answer
        return shop.results("taken_over") > before

    eventually(is_taken_over, 40, "another attempt was sent")
    return shop.service.take(body)


@contextmanager
def open_transaction(shop: Shop, lane: int) -> Iterator[Producer]:
    """Nothing that comes to this lane is read before the end of the transaction."""
    producer = Producer({"bootstrap.servers": shop.bootstrap, "transactional.id": f"open-{secrets.token_hex(4)}"})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(shop.later, b"of nobody", partition=lane)
    producer.flush(20)
    try:
        yield producer
    finally:
        producer.abort_transaction(20)


@pytest.mark.ending("claim_late")
def test_a_request_whose_claim_is_not_read_back_in_time_is_not_sent(shop: Shop) -> None:
    key = new_key()
    with open_transaction(shop, shop.lane_of(key, "pay")), counted(shop.gateway, "claim_late", route="pay"):
        assert_told(shop.ask(key, b"unread", "/pay"), "claim_late")
    assert shop.serve(key, b"unread", b"in the end", path="/pay").body == b"in the end"
    assert shop.sent(b"unread") == 1


def test_a_worker_that_dies_between_its_claim_and_its_record_is_replaced_by_another_attempt(shop: Shop) -> None:
    key = new_key()
    lane = shop.lane_of(key, "pay")
    with open_transaction(shop, lane), shop.asking(key, b"never sent", "/pay"):
        eventually(lambda: claims_in(shop, lane, key) == 1, 2, "its claim is in the lane")
        dead = [shop.gateway.worker_pid(0), shop.gateway.worker_pid(1)]
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: shop.workers_serve(dead), 30, "workers are back")
    assert shop.sent(b"never sent") == 0
    second = take_over(shop, key, b"never sent")
    assert second.headers["idempotency_attempt"] == b"2"
    shop.service.reply(second, b"at last")
    eventually(lambda: shop.ask(key, b"never sent", "/pay").body == b"at last", 10, "the answer is there")
    assert shop.sent(b"never sent") == 1


# Keys of requests whose answers are deferred.

ASYNC = "Prefer: respond-async"


def ticket_of(shop: Shop, location: str, method: str = "GET", wait_s: int = 0) -> Answer:
    with RawConnection(shop.gateway.port) as client:
        return client.request(method, location, b"", [f"Prefer: wait={wait_s}"] if wait_s else [])


@pytest.mark.ending("deferred_joined", "cancel_refused")
def test_all_deferred_requests_with_one_key_get_one_status_url(shop: Shop) -> None:
    key = new_key()
    first = shop.ask(key, b"book a", "/book", ASYNC)
    assert (first.status, first.headers["fastgw-outcome"]) == (202, "recorded"), first
    location = first.headers["location"]
    with counted(shop.gateway, "deferred_joined", 5):
        for _ in range(4):
            other = shop.ask(key, b"book a", "/book", ASYNC)
            assert (other.status, other.headers["location"]) == (202, location)
            assert other.headers["fastgw-outcome"] == json.loads(other.body)["outcome"] == "unknown"
        assert ticket_of(shop, location).headers["location"] == location
    assert_told(shop.ask(key, b"book b", "/book", ASYNC), "key_reused")
    with counted(shop.gateway, "cancel_refused"):
        assert_told(ticket_of(shop, location, "DELETE"), "cancel_refused")
    taken = shop.service.take(b"book a")
    assert taken.headers["answer_expired"] == b"1"
    with RawConnection(shop.gateway.port) as waiting:
        waiting.ask("GET", location, b"", ["Prefer: wait=10"])
        shop.service.reply(taken, b"booked", [("status", b"201")])
        answer = waiting.answer()
    assert (answer.status, answer.body) == (201, b"booked")
    again = shop.ask(key, b"book a", "/book", ASYNC)
    assert (again.status, again.body, again.headers["idempotency-replayed"]) == (201, b"booked", "true")
    assert shop.sent(b"book a") == 1


def test_a_status_url_keeps_the_failure_that_has_freed_its_key(shop: Shop) -> None:
    key = new_key()
    location = shop.ask(key, b"book c", "/book", ASYNC).headers["location"]
    shop.service.reply(shop.service.take(b"book c"), b"no room", [("status", b"500")])
    assert (ticket_of(shop, location, wait_s=10).status, ticket_of(shop, location).body) == (500, b"no room")
    other = shop.ask(key, b"book d", "/book", ASYNC).headers["location"]
    assert other != location
    shop.service.reply(shop.service.take(b"book d"), b"a room", [("status", b"200")])
    assert ticket_of(shop, other, wait_s=10).body == b"a room"
    assert (ticket_of(shop, location).status, ticket_of(shop, location).body) == (500, b"no room")


def test_a_status_url_follows_its_key_to_the_next_attempt(shop: Shop) -> None:
    key = new_key()
    location = shop.ask(key, b"book e", "/book", ASYNC).headers["location"]
    shop.service.take(b"book e")  # and does not answer
    eventually(lambda: ticket_of(shop, location).status == 504, 30, "the attempt has had its time")
    assert_told(ticket_of(shop, location), "work_expired")
    other = shop.ask(key, b"book e", "/book", ASYNC)
    assert (other.status, other.headers["location"]) == (202, location)
    taken = shop.service.take(b"book e")
    assert taken.headers["idempotency_attempt"] == b"2"
    assert ticket_of(shop, location).status == 202
    shop.service.reply(taken, b"failed", [("status", b"503")])
    answer = ticket_of(shop, location, wait_s=10)
    assert (answer.status, answer.body) == (503, b"failed")


def test_a_topic_with_another_number_of_partitions_serves_no_keys_and_says_so(
    shop: Shop, kafka_admin: AdminClient
) -> None:
    """The last test here: Kafka cannot take the partition away again."""
    key = new_key()
    shop.serve(key, b"with the old topic", b"kept")
    kafka_admin.create_partitions([NewPartitions(shop.later, LANES + 1)])[shop.later].result()

    def refused() -> Answer | None:
        answer = shop.ask(key, b"with the old topic")
        return answer if b"later.lanes" in answer.body else None

    answer = eventually(refused, 30, "it is noticed")
    assert_told(answer, "not_ready")
    assert f"expected later.lanes = {LANES} partitions of {shop.later}, got {LANES + 1}" in answer.problem["detail"]
    assert "idempotency keys are not served" in shop.gateway.log_text
    with RawConnection(shop.gateway.port) as client:
        client.ask("POST", "/slow", b"without a key")
        shop.service.reply(shop.service.take(b"without a key"), b"as always")
        assert client.answer().body == b"as always"
