"""What the client is told when Kafka is frozen, dead or unwilling, and whether its record is there afterwards."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from tests.actors.commands import assert_one_line, fastgw
from tests.actors.hand_service import hand_service, values_in
from tests.actors.raw_http import RawConnection
from tests.brokers.faulty_broker import PRODUCE, faulty_broker
from tests.brokers.kafka_server import RealKafka
from tests.gateway.gateways import Gateway
from tests.gateway.outcome_table import assert_told, counted
from tests.waiting import eventually

pytestmark = [pytest.mark.real_kafka]  # brokers of its own

SLOTS = 16
QUEUE = 2 * SLOTS  # records that one producer of a worker holds
TOGETHER = SLOTS // 2  # requests of one route that find slots in any case

ROUTES = """
[[route]]
method = "POST"
path = "/orders"
topic = "orders"
timeout = "20s"
[[route]]
method = "POST"
path = "/ping"
topic = "pings"
timeout = "500ms"
[[route]]
method = "POST"
path = "/anywhere"
topic = "orders"
spread = "even"
timeout = "20s"
[[route]]
method = "POST"
path = "/soon"  # of the same delivery class as /ping, so that Kafka's verdict comes well before its deadline
topic = "orders"
timeout = "2s"
[[route]]
method = "POST"
path = "/guarded"
topic = "guarded"
"""


@pytest.fixture(scope="module")
def kafka():
    """A broker of this module's own, to be mistreated. It knows access rules; nobody is forbidden anything at first."""
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "broker.session.timeout.ms": "1000",  # how long a broker that was killed has to wait for its own ghost
        "broker.heartbeat.interval.ms": "200",
    }
    with RealKafka(properties=settings) as broker:
        yield broker


@pytest.fixture(scope="module")
def admin(kafka):
    return AdminClient({"bootstrap.servers": kafka.bootstrap})


@pytest.fixture(scope="module")
def shop(tmp_path_factory, kafka, admin):
    """A gateway on the broker to be mistreated; each test hands it on ready."""
    topics = [NewTopic("replies", 4, 1), NewTopic("orders", 1, 1), NewTopic("guarded", 1, 1), NewTopic("pings", 1, 1)]
    for future in admin.create_topics(topics).values():
        future.result(10)
    folder = tmp_path_factory.mktemp("faults")
    with Gateway(
        folder, kafka.bootstrap, "replies", [], workers=1, settings=f"slots = {SLOTS}", more=ROUTES
    ) as gateway:
        # Each producer has to know the topic before the broker is frozen, or it would ask in vain and send nothing.
        for path in ("/orders", "/soon", "/anywhere"):
            with RawConnection(gateway.port) as client:
                assert client.request("POST", path, b"first", ["Prefer: wait=1"]).problem["outcome"] == "recorded"
        yield SimpleNamespace(gateway=gateway, kafka=kafka)


@contextmanager
def frozen(shop):
    """The broker answers nobody; afterwards the gateway has recovered by itself."""
    shop.kafka.freeze()
    try:
        yield
    finally:
        shop.kafka.thaw()
    eventually(lambda: records_again(shop), 30, "the gateway has recovered")


@contextmanager
def dead(shop):
    """The broker is killed; afterwards it is back on its data and the gateway has recovered by itself."""
    shop.kafka.kill()
    try:
        yield
    finally:
        shop.kafka.start_node(1)
    eventually(lambda: records_again(shop), 60, "the gateway has recovered")


def records_again(shop):
    with RawConnection(shop.gateway.port) as client:
        return shop.gateway.ready and client.request("POST", "/ping").problem["outcome"] == "recorded"


@pytest.fixture
def client(shop):
    with RawConnection(shop.gateway.port) as connection:
        yield connection


@pytest.fixture
def body():
    """A body that no other request has, so that its record can be told in a topic."""
    return secrets.token_hex(8).encode()


def count_recorded(shop, body):
    return values_in(shop.kafka.bootstrap, "orders").count(body)


@pytest.mark.ending("send_unknown")
def test_a_record_that_kafka_does_not_confirm_is_504_unknown_and_it_may_be_there(shop, client, body):
    with frozen(shop), counted(shop.gateway, "send_unknown", route="POST /soon"):
        assert_told(client.request("POST", "/soon", body), "send_unknown")
    # The frozen broker had the record in its socket all the time.
    eventually(lambda: count_recorded(shop, body) == 1, 10, "the broker wrote it after all")


@pytest.mark.ending("not_sent")
def test_a_record_for_a_broker_that_died_was_never_sent_and_is_not_there(shop, client, body):
    with dead(shop), counted(shop.gateway, "not_sent", route="POST /soon"):
        assert_told(client.request("POST", "/soon", body), "not_sent")
    assert count_recorded(shop, body) == 0


@pytest.mark.ending("expired_unknown")
def test_a_deadline_before_kafka_has_confirmed_is_504_unknown_and_the_record_follows(shop, client, body):
    with frozen(shop), counted(shop.gateway, "expired_unknown"):
        assert_told(client.request("POST", "/orders", body, ["Prefer: wait=1"]), "expired_unknown")
    eventually(lambda: count_recorded(shop, body) == 1, 10, "it was delivered after its deadline")


@pytest.mark.ending("cancelled_unknown")
def test_a_client_that_leaves_before_kafka_has_confirmed_is_counted(shop, client, body):
    with frozen(shop), counted(shop.gateway, "cancelled_unknown"):
        client.ask("POST", "/orders", body)
        phases = lambda: [waiting["phase"] for waiting in shop.gateway.status()["waiting"]["oldest"]]  # noqa: E731
        eventually(lambda: phases() == ["sent"], 5, "sent, and not confirmed")
        client.close()
    eventually(lambda: count_recorded(shop, body) == 1, 10, "it was delivered all the same")


@pytest.mark.ending("not_sent")
def test_while_kafka_acknowledges_nothing_a_request_is_held_back_and_at_its_deadline_it_was_never_sent(shop, body):
    connections = [RawConnection(shop.gateway.port) for _ in range(3)]
    with frozen(shop), counted(shop.gateway, "not_sent", 2), counted(shop.gateway, "expired_unknown"):
        for client in connections:
            client.ask("POST", "/orders", body, ["Prefer: wait=1"])
        answers = sorted((client.answer() for client in connections), key=lambda answer: answer.status)
        assert_told(answers[0], "not_sent")
        assert_told(answers[1], "not_sent")
        assert_told(answers[2], "expired_unknown")  # it was on its way to the only partition
    eventually(lambda: count_recorded(shop, body) == 1, 10, "that one was delivered")
    for client in connections:
        client.close()


@pytest.mark.ending("cancelled_early")
def test_a_client_that_leaves_while_its_request_is_held_back_is_counted_as_never_sent(shop, body):
    with frozen(shop), counted(shop.gateway, "cancelled_unknown"), counted(shop.gateway, "cancelled_early"):
        for number in range(2):
            with RawConnection(shop.gateway.port) as client:
                client.ask("POST", "/orders", body)
                phases = lambda: [waiting["phase"] for waiting in shop.gateway.status()["waiting"]["oldest"]]  # noqa: E731
                eventually(lambda: phases() == ["sent"], 5, f"request {number} waits")  # noqa: B023
            eventually(lambda: phases() == [], 5, f"request {number} has ended")  # noqa: B023
    eventually(lambda: count_recorded(shop, body) == 1, 10, "the first was on its way to the only partition")


@pytest.mark.ending("queue_full")
def test_with_the_queue_towards_kafka_full_a_request_is_503_and_not_recorded(shop, client, body):
    before = len(values_in(shop.kafka.bootstrap, "orders"))
    with frozen(shop), counted(shop.gateway, "queue_full"):
        # Their clients leave, and with them their slots; their records stay in the queue.
        waiting = lambda: shop.gateway.status()["waiting"]["total"]  # noqa: E731
        for _ in range(QUEUE // TOGETHER):
            clients = [RawConnection(shop.gateway.port) for _ in range(TOGETHER)]
            for one in clients:
                one.ask("POST", "/anywhere", b"queued")
            eventually(lambda: waiting() == TOGETHER, 5, "they wait")
            for one in clients:
                one.close()
            eventually(lambda: waiting() == 0, 5, "they have ended")
        assert_told(client.request("POST", "/anywhere", body), "queue_full")
    eventually(lambda: len(values_in(shop.kafka.bootstrap, "orders")) == before + QUEUE, 10, "the queue is delivered")
    assert count_recorded(shop, body) == 0


@pytest.mark.ending("not_authorized")
def test_a_topic_that_the_gateway_may_not_write_to_is_502_and_a_right_given_later_works(shop, client, admin, body):
    denied = (
        ResourceType.TOPIC, "guarded", ResourcePatternType.LITERAL,
        "User:*", "*", AclOperation.WRITE, AclPermissionType.DENY,
    )  # fmt: skip
    rule, pattern = AclBinding(*denied), AclBindingFilter(*denied)
    admin.create_acls([rule])[rule].result(10)
    with counted(shop.gateway, "not_authorized", route="POST /guarded"):
        assert_told(client.request("POST", "/guarded", body), "not_authorized")
    assert_one_line(fastgw("check", "--live", shop.gateway.config), "topic guarded", "expected")
    admin.delete_acls([pattern])[pattern].result(10)

    def is_let_in():
        return client.request("POST", "/guarded", b"allowed", ["Prefer: wait=1"]).problem["outcome"] == "recorded"

    eventually(is_let_in, 40, "the producer has heard of the right")
    assert values_in(shop.kafka.bootstrap, "guarded") == [b"allowed"]


@pytest.mark.ending("send_unknown")
@pytest.mark.parametrize("code", [KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER])
def test_a_producer_that_dies_leaves_its_requests_unknown_and_the_next_one_works(tmp_path, code, body):
    with (
        faulty_broker({"replies": 4, "orders": 1}) as broker,
        Gateway(
            tmp_path, broker.bootstrap, "replies", ["orders"], workers=1, kafka='fetch_wait = "5ms"'
        ) as gateway,
        hand_service(broker.bootstrap, ["orders"]) as service,
        RawConnection(gateway.port) as client,
    ):  # fmt: skip
        with counted(gateway, "send_unknown"):
            broker.fail_next(PRODUCE, code)
            assert_told(client.request("POST", "/orders", body), "send_unknown")
        assert "producer died, replaced" in gateway.log_text
        client.ask("POST", "/orders", b"next")
        service.reply(service.take(), b"well")
        assert client.answer().body == b"well"
