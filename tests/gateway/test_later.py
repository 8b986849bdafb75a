"""Deferred answers of a whole gateway on a real Kafka: 202, the status URL, and what a crash leaves of both."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from fastgw import ids
from fastgw.tokens import Secrets, StreamToken, open_ticket, seal_stream, seal_ticket
from tests.actors.commands import fastgw
from tests.actors.hand_service import HandService, hand_service
from tests.actors.raw_http import Answer, RawConnection
from tests.conftest import MakeTopics
from tests.gateway.gateways import Gateway
from tests.gateway.outcome_table import assert_told, counted
from tests.waiting import eventually

ASYNC = ["Prefer: respond-async"]
LARGE = b"x" * 100_000  # the store leaves it in the topic
ROUTES = """
[[route]]
name = "report"
method = "POST"
path = "/report"
topic = "{orders}"
later = true
cancel = true
work_timeout = "{work}"
[[route]]
name = "slow"
method = "POST"
path = "/slow"
topic = "{orders}"
on_timeout = "later"
timeout = "300ms"
[[route]]
name = "rare"
method = "POST"
path = "/rare"
topic = "{orders}"
later = true
max_kept = 1
[[route]]
name = "plain"
method = "POST"
path = "/plain"
topic = "{orders}"
[store]
dir = "{store}"
[later]
topic = "{later}"
[log]
access = "all"
access_file = "stderr"
access_target = "full"
"""
SECRET = "the secret of all tests about status URLs"
SECRETS = f'secrets = ["{SECRET}"]'


class Shop:
    """A gateway whose answers can be deferred, and the service behind it, played by hand."""

    def __init__(self, folder: Path, bootstrap: str, topics: dict[str, str], later: str, service: HandService) -> None:
        self.later, self.service, self.bootstrap = later, service, bootstrap
        work = "60s"
        more = ROUTES.format(**topics, later=later, store=folder / "store", work=work)
        self.gateway = Gateway(
            folder, bootstrap, topics["replies"], [], more=more, settings=SECRETS, drain_timeout="5s"
        )

    def ask(self, method: str, path: str, body: bytes = b"", headers: list[str] | None = None) -> Answer:
        with RawConnection(self.gateway.port) as client:
            return client.request(method, path, body, headers or [])

    def deferred(self, body: bytes, path: str = "/report") -> str:
        """The status URL of a new request."""
        answer = self.ask("POST", path, body, ASYNC)
        assert answer.status == 202, answer
        return answer.headers["location"]

    def serves(self) -> bool:
        """Whether each worker defers answers now; each finds a new store by itself. /status says so a moment later."""
        found = set()
        for _ in range(16):  # until each of them has got a connection
            answer = self.ask("POST", "/report", b"probe", ASYNC)
            if answer.status != 202:
                return False
            found.add(ids.parse(answer.headers["x-request-id"].encode()).worker)
        return found == {0, 1}

    def state(self, location: str, wait_s: int = 0) -> Answer:
        return self.ask("GET", location, headers=[f"Prefer: wait={wait_s}"] if wait_s else [])

    def pid(self, title: str) -> int:
        return next(pid for pid, named in self.gateway.children().items() if named.endswith(title))


@pytest.fixture(scope="module")
def topics(make_module_topics: MakeTopics) -> dict[str, str]:
    return make_module_topics({"replies": 8, "orders": 2})


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, kafka_bootstrap: str, kafka_admin: AdminClient, topics: dict[str, str]
) -> Iterator[Shop]:
    later = topics["replies"] + ".later"
    with hand_service(kafka_bootstrap, [topics["orders"]]) as service:
        one = Shop(tmp_path_factory.mktemp("later"), kafka_bootstrap, topics, later, service)
        code, out, err = fastgw("topics", one.gateway.config)
        assert code == 0, err
        assert f"created {later}: 8 partitions" in out
        try:
            with one.gateway:
                yield one
        finally:
            for future in kafka_admin.delete_topics([later]).values():
                future.result()


@pytest.fixture(autouse=True)
def store_is_there(shop: Shop) -> None:
    """A test before this one may have killed the store."""
    eventually(shop.serves, 30, "the store can answer")


def test_the_topic_of_kept_replies_has_the_clock_of_the_broker(shop: Shop, kafka_admin: AdminClient) -> None:
    resource = ConfigResource(ResourceType.TOPIC, shop.later)
    found = kafka_admin.describe_configs([resource])[resource].result()
    assert found["message.timestamp.type"].value == "LogAppendTime"
    assert int(found["retention.ms"].value) >= 24 * 3_600_000
    assert int(found["segment.ms"].value) == 3_600_000


@pytest.mark.ending("deferred")
def test_a_request_is_deferred_and_its_status_url_answers_as_the_service_did(shop: Shop) -> None:
    location = shop.deferred(b"report 1")
    request = shop.service.take(b"report 1")
    assert request.headers["reply_to"].decode() == shop.later
    assert request.headers["answer_expired"] == b"1"
    working = shop.state(location)
    assert (working.status, json.loads(working.body)["status"]) == (202, "working")
    shop.service.reply(request, b"ready", [("status", b"201"), ("content-type", b"text/plain")])
    done = shop.state(location, wait_s=10)
    assert (done.status, done.body, done.headers["content-type"]) == (201, b"ready", "text/plain")
    assert done.headers["cache-control"] == "no-store"
    again = shop.state(location)
    assert (again.status, again.body) == (201, b"ready")


@pytest.mark.parametrize("prefer", [["Prefer: respond-async, wait=10"], ["Prefer: wait=10"], []])
def test_an_answer_in_time_needs_no_status_url(shop: Shop, prefer: list[str]) -> None:
    with RawConnection(shop.gateway.port) as client:
        client.ask("POST", "/report", b"quick", prefer)
        shop.service.reply(shop.service.take(b"quick"), b"here")
        answer = client.answer()
    assert (answer.status, answer.body, answer.headers["vary"]) == (200, b"here", "Prefer")


def test_a_timeout_becomes_202_where_the_route_says_so(shop: Shop) -> None:
    answer = shop.ask("POST", "/slow", b"slow")
    assert answer.status == 202
    assert "preference-applied" not in answer.headers
    shop.service.reply(shop.service.take(b"slow"), b"at last")
    assert shop.state(answer.headers["location"], wait_s=10).body == b"at last"


def test_a_large_answer_is_read_back_from_the_topic(shop: Shop) -> None:
    location = shop.deferred(b"large")
    shop.service.reply(shop.service.take(b"large"), LARGE)
    assert shop.state(location, wait_s=10).body == LARGE


def test_the_first_reply_counts_and_a_reply_elsewhere_is_sent_home(shop: Shop) -> None:
    split = shop.gateway.metric("fastgw_store_split_total")
    location = shop.deferred(b"split")
    request = shop.service.take(b"split")
    home = int(request.headers["reply_partition"])
    shop.service.post(shop.later, (home + 1) % 8, request.correlation_id, b"first")
    assert shop.state(location, wait_s=10).body == b"first"
    shop.service.reply(request, b"second")
    assert shop.state(location).body == b"first"
    eventually(lambda: shop.gateway.metric("fastgw_store_split_total") == split + 1, 10, "it is counted")


def test_a_large_reply_elsewhere_is_sent_home_too(shop: Shop) -> None:
    location, large = shop.deferred(b"large split"), b"x" * (2 << 20)
    request = shop.service.take(b"large split")
    shop.service.post(shop.later, (int(request.headers["reply_partition"]) + 1) % 8, request.correlation_id, large)
    assert shop.state(location, wait_s=10).body == large


def test_a_reply_elsewhere_that_kafka_refuses_is_passed_by(shop: Shop, kafka_admin: AdminClient) -> None:
    name, store = "fastgw_store_split_lost_total", shop.pid("store")
    lost = shop.gateway.metric(name, topic="later")
    location, next_one = shop.deferred(b"refused"), shop.deferred(b"behind it")
    request, behind = shop.service.take(b"refused"), shop.service.take(b"behind it")
    elsewhere = (int(request.headers["reply_partition"]) + 1) % 8
    os.kill(store, signal.SIGSTOP)
    try:
        shop.service.post(shop.later, elsewhere, request.correlation_id, b"x" * (2 << 20))
        with setting(kafka_admin, shop.later, "max.message.bytes", str(1 << 20)):
            os.kill(store, signal.SIGCONT)
            eventually(lambda: shop.gateway.metric(name, topic="later") == lost + 1, 20, "it is counted")
    finally:
        os.kill(store, signal.SIGCONT)
    assert request.correlation_id.decode() in shop.gateway.log_text
    shop.service.reply(behind, b"not held up")
    assert shop.state(next_one, wait_s=10).body == b"not held up"
    assert shop.state(location).status == 202
    assert shop.pid("store") == store


@contextmanager
def setting(admin: AdminClient, topic: str, name: str, value: str) -> Iterator[None]:
    """A setting of a topic, for a while."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    before = admin.describe_configs([resource])[resource].result()[name].value

    def alter(to: str) -> None:
        entry = ConfigEntry(name, to, incremental_operation=AlterConfigOpType.SET)
        changed = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        admin.incremental_alter_configs([changed])[changed].result()

    alter(value)
    try:
        yield
    finally:
        alter(before)


def test_a_service_that_always_replies_to_the_response_topic_is_understood(shop: Shop, topics: dict[str, str]) -> None:
    location = shop.deferred(b"stubborn")
    request = shop.service.take(b"stubborn")
    for partition in range(8):
        shop.service.post(topics["replies"], partition, request.correlation_id, b"at the old place")
    assert shop.state(location, wait_s=10).body == b"at the old place"
    assert shop.gateway.replies("elsewhere") >= 1


@pytest.mark.ending("store_behind")
def test_an_open_transaction_hides_a_reply_and_nothing_is_said_until_it_ends(shop: Shop) -> None:
    location = shop.deferred(b"in a transaction")
    request = shop.service.take(b"in a transaction")
    producer = Producer({"bootstrap.servers": shop.bootstrap, "transactional.id": shop.later})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(shop.later, b"committed", request.correlation_id, int(request.headers["reply_partition"]))
    producer.flush(10)
    eventually(lambda: shop.state(location).status == 503, 15, "the store knows that there is more to read")
    assert_told(shop.state(location), "store_behind")
    producer.commit_transaction(10)
    eventually(lambda: shop.state(location).body == b"committed", 15, "the reply counts")


@pytest.mark.ending("ticket_cancelled")
def test_delete_cancels_what_is_not_decided(shop: Shop) -> None:
    location = shop.deferred(b"cancelled")
    answer = shop.ask("DELETE", location)
    assert (answer.status, json.loads(answer.body)["status"]) == (202, "cancelled")
    taken = shop.service.take(b"cancelled")
    told = shop.service.take(b"cancel")
    assert (told.headers, told.partition) == ({"cancel": taken.correlation_id}, taken.partition)
    shop.service.reply(taken, b"too late")
    assert_told(shop.state(location), "ticket_cancelled")
    decided = shop.deferred(b"decided")
    shop.service.reply(shop.service.take(b"decided"), b"done")
    assert shop.state(decided, wait_s=10).body == b"done"
    assert shop.ask("DELETE", decided).body == b"done"
    assert shop.state(decided).body == b"done"


@pytest.mark.ending("ticket_unknown")
def test_what_is_no_status_url_is_404_and_grants_nothing(shop: Shop) -> None:
    location = shop.deferred(b"forged")
    for spoilt in (location[:-4], location + "AAAA", location[:-1] + ("A" if location[-1] != "A" else "B")):
        with counted(shop.gateway, "ticket_unknown", route="/_later/{ticket}"):
            assert_told(shop.state(spoilt), "ticket_unknown")


@pytest.mark.ending("ticket_gone")
def test_foreign_and_expired_tickets_are_told_apart_and_grant_nothing(shop: Shop) -> None:
    own, other = Secrets([SECRET]), Secrets(["the secret of another gateway, not of this one"])
    text = shop.deferred(b"foreign").removeprefix("/_later/")
    ticket = open_ticket(own, text, 0)
    stream = StreamToken(ticket.correlation_id, ticket.topic_id, 0, 0, 0, ticket.route, "", ticket.expires_ms)
    unknown = [seal_ticket(other, ticket), seal_stream(own, stream), text[: len(text) // 2], text + "=", "A" * 5000]
    with counted(shop.gateway, "ticket_unknown", len(unknown)):
        for spoilt in unknown:
            assert_told(shop.state(f"/_later/{spoilt}"), "ticket_unknown")
    gone = [ticket._replace(expires_ms=1), ticket._replace(topic_id=bytes(16)), ticket._replace(route="removed")]
    with counted(shop.gateway, "ticket_gone", 2 * len(gone)):
        for one in gone:
            assert_told(shop.state(f"/_later/{seal_ticket(own, one)}"), "ticket_gone")
            assert_told(shop.ask("DELETE", f"/_later/{seal_ticket(own, one)}"), "ticket_gone")
    shop.service.reply(shop.service.take(b"foreign"), b"mine")
    assert shop.state(f"/_later/{text}", wait_s=10).body == b"mine"
    assert text not in shop.gateway.log_text


def test_a_control_record_that_no_gateway_wrote_is_counted_and_ignored(shop: Shop) -> None:
    garbage = shop.gateway.metric("fastgw_store_garbage_total")
    location = shop.deferred(b"attacked")
    request = shop.service.take(b"attacked")
    forged = [("fastgw_kind", b"cancelled"), ("fastgw_mac", b"0" * 32), ("fastgw_layout", b"1")]
    shop.service.post(shop.later, int(request.headers["reply_partition"]), request.correlation_id, b"", forged)
    eventually(lambda: shop.gateway.metric("fastgw_store_garbage_total") == garbage + 1, 10, "it is counted")
    shop.service.reply(request, b"well")
    assert shop.state(location, wait_s=10).body == b"well"


def test_the_status_url_survives_the_death_of_every_process(shop: Shop) -> None:
    location, open_one = shop.deferred(b"before"), shop.deferred(b"after")
    shop.service.reply(shop.service.take(b"before"), b"kept")
    assert shop.state(location, wait_s=10).body == b"kept"
    shop.gateway.signal_all(signal.SIGKILL)
    assert shop.gateway.process is not None
    shop.gateway.process.wait(10)
    shop.gateway.start()
    assert shop.state(location).body == b"kept"
    assert shop.state(open_one).status == 202
    shop.service.reply(shop.service.take(b"after"), b"later")
    assert shop.state(open_one, wait_s=10).body == b"later"


def test_a_store_that_dies_is_replaced_and_plain_requests_do_not_notice(shop: Shop) -> None:
    location = shop.deferred(b"alive")
    with RawConnection(shop.gateway.port) as waiting:
        waiting.ask("GET", location, headers=["Prefer: wait=30"])
        eventually(lambda: shop.gateway.status()["store"]["watches"] == 1, 10, "the wait is known to the store")
        request = shop.service.take(b"alive")
        os.kill(shop.pid("store"), signal.SIGKILL)
        with RawConnection(shop.gateway.port) as client:
            client.ask("POST", "/plain", b"plain")
            shop.service.reply(shop.service.take(b"plain"), b"as always")
            assert client.answer().body == b"as always"
        shop.service.reply(request, b"found again")
        assert waiting.answer().body == b"found again"


def test_a_store_that_crashed_over_its_tables_builds_them_again(shop: Shop) -> None:
    """LMDB reads its file as memory, so a bad page ends the process: the next one must not read the same page."""
    location = shop.deferred(b"crash")
    shop.service.reply(shop.service.take(b"crash"), b"still here")
    assert shop.state(location, wait_s=10).body == b"still here"
    crashed = shop.pid("store")
    os.kill(crashed, signal.SIGSEGV)
    eventually(
        lambda: "kept replies are read again" in shop.gateway.log_text, 30, "the successor reads the topic again"
    )
    assert "the last store's process crashed" in shop.gateway.log_text
    eventually(lambda: shop.state(location).body == b"still here", 30, "the answer is there again")


def test_a_store_that_finds_damage_when_it_is_asked_builds_its_tables_again(shop: Shop) -> None:
    location = shop.deferred(b"damage")
    shop.service.reply(shop.service.take(b"damage"), b"damage me")
    assert shop.state(location, wait_s=10).body == b"damage me"
    damaged = shop.pid("store")
    (file,) = shop.gateway.config.parent.rglob("data.mdb")
    with file.open("r+b") as opened:  # the store sees the change: it has mapped the file
        content = opened.read()
        for found in re.finditer(b"damage me", content):
            opened.seek(found.start())
            opened.write(b"DAMAGE ME")
    eventually(lambda: shop.state(location).body == b"damage me", 30, "the answer is there again")
    assert shop.pid("store") != damaged
    assert "the checksum" in shop.gateway.log_text


@pytest.mark.ending("kept_cap")
def test_a_route_has_so_many_deferred_requests_and_no_more(shop: Shop) -> None:
    location = shop.deferred(b"rare", "/rare")
    with counted(shop.gateway, "kept_cap"):
        assert_told(shop.ask("POST", "/rare", b"one too many", ASYNC), "kept_cap")
    assert shop.state(location).status == 202
    shop.service.reply(shop.service.take(b"rare"), b"once")
    assert shop.state(location, wait_s=10).body == b"once"
    with RawConnection(shop.gateway.port) as client:
        client.ask("POST", "/rare", b"not kept")
        shop.service.reply(shop.service.take(b"not kept"), b"at once")
        assert client.answer().body == b"at once", "a request that is not deferred needs no room"


@pytest.mark.ending("store_down")
def test_without_its_store_a_node_promises_nothing(shop: Shop) -> None:
    os.kill(shop.pid("store"), signal.SIGSTOP)
    try:
        location_answer = shop.ask("POST", "/report", b"into the void", ASYNC)
        assert location_answer.status == 202, "the reply will be in the topic, and the store reads it when it wakes"
        answer = shop.state(location_answer.headers["location"])
        assert_told(answer, "store_down")
    finally:
        os.kill(shop.pid("store"), signal.SIGCONT)
    shop.service.reply(shop.service.take(b"into the void"), b"kept all the same")
    assert shop.state(location_answer.headers["location"], wait_s=10).body == b"kept all the same"


@pytest.mark.ending("ticket_gone")
def test_a_topic_that_is_made_anew_is_noticed_at_once(shop: Shop, kafka_admin: AdminClient) -> None:
    location = shop.deferred(b"of the old topic")
    shop.service.reply(shop.service.take(b"of the old topic"), b"old")
    assert shop.state(location, wait_s=10).body == b"old"
    for future in kafka_admin.delete_topics([shop.later]).values():
        future.result()
    eventually(lambda: shop.later not in kafka_admin.list_topics(timeout=10).topics, 10, "the topic is gone")
    code, _, err = fastgw("topics", shop.gateway.config)
    assert code == 0, err
    assert_told(eventually(lambda: gone(shop.state(location)), 30, "the store has seen it"), "ticket_gone")
    assert "the topic does not have what was to be read" in shop.gateway.log_text
    eventually(shop.serves, 30, "the store has read the new topic")
    new = shop.deferred(b"of the new topic")
    shop.service.reply(shop.service.take(b"of the new topic"), b"new")
    assert shop.state(new, wait_s=10).body == b"new"


def gone(answer: Answer) -> Answer | None:
    return answer if answer.status == 410 else None


def test_no_log_contains_a_status_url(shop: Shop) -> None:
    location, before = shop.deferred(b"secret"), shop.gateway.log_text.count("/_later/...")
    ticket = location.rpartition("/")[2]
    shop.state(location)
    shop.ask("POST", location)
    shop.ask("DELETE", location[:-3])
    for escaped in ("/%5Flater/", "/_lat%65r/"):
        assert shop.state(escaped + ticket).status == 202
    hidden = '"path":"/_later/..."'
    eventually(lambda: shop.gateway.log_text.count(hidden) == before + 5, 10, "the access log has all requests")
    assert ticket[:60] not in shop.gateway.log_text


@pytest.mark.ending("bad_reply")
def test_a_reply_that_cannot_be_handed_over_is_a_bad_one_and_others_are_as_ever(
    shop: Shop, kafka_admin: AdminClient
) -> None:
    size = 17 << 20
    most = str(size + 10_000)
    entry = ConfigEntry("max.message.bytes", most, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, shop.later, incremental_configs=[entry])
    kafka_admin.incremental_alter_configs([resource])[resource].result()
    huge, other = shop.deferred(b"huge"), shop.deferred(b"as ever")
    producer = Producer({"bootstrap.servers": shop.bootstrap, "message.max.bytes": size + 10_000})
    taken = shop.service.take(b"huge")
    home = int(taken.headers["reply_partition"])
    producer.produce(shop.later, bytes(size), taken.correlation_id, home)
    assert producer.flush(30) == 0
    shop.service.reply(shop.service.take(b"as ever"), b"done")
    assert shop.state(other, wait_s=10).body == b"done"
    with counted(shop.gateway, "bad_reply"):
        answer = shop.state(huge, wait_s=20)
    assert_told(answer, "bad_reply")
    assert f"got {size} bytes" in answer.problem["detail"]
    assert shop.state(other).body == b"done"
