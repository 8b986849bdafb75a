"""Deferred answers and status URLs, with the real table and exchange; Kafka, the store and the clock are played."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from fastgw import _ctable, errors, ids
from fastgw.admission import KEPT, TICKET, Admission
from fastgw.core.exchange import REFUSED
from fastgw.core.later import Later, LaterSettings
from fastgw.core.tickets import LOOK_NS, Tickets
from fastgw.dialects import control
from fastgw.dialects.control import Cancelled
from fastgw.dialects.plain import RequestWire
from fastgw.ids import IdMaker, ReplyTopic
from fastgw.kept_replies import Known, State, Topics
from fastgw.messages import Head, Reply
from fastgw.tokens import Secrets, open_ticket
from tests.core.test_exchange import HEAD, MS, Client, House
from tests.core.test_routing import FakeHeaders

S = 1000 * MS
SECRETS = Secrets([b"a secret that has at least 32 bytes"])
TOPIC_ID = bytes(range(16))
NUMBER = 7  # of the route of status URLs
EPOCH_MS = 1_800_000_000_000


class FakeStore:
    """The store of the node: knows what a test lets it know."""

    def __init__(self) -> None:
        self.topics: Topics | None = Topics(TOPIC_ID, 8, True)
        self.watches: dict[int, tuple[bytes, int, int, Callable[[State], None]]] = {}
        self.at_once = Known.OPEN
        self.holdings: list[tuple[bytes, int, bytes, int]] = []
        self.routes: list[str] = []  # that the watches have named

    def watch(self, correlation_id, partition, until_ms, on_state, route="") -> int:
        number = len(self.watches) + 1
        self.routes.append(route)
        self.watches[number] = correlation_id, partition, until_ms, on_state
        return number

    def watch_holding(self, key_hash, lane, first_id, until_ms, on_state) -> int:
        self.holdings.append((key_hash, lane, first_id, until_ms))
        return self.watch(first_id, lane, until_ms, on_state)

    def unwatch(self, number: int) -> None:
        del self.watches[number]

    def says(self, known: Known, value: bytes = b"", headers=()) -> None:
        """Tell all watches the same."""
        for number, (_, partition, _, on_state) in list(self.watches.items()):
            on_state(State(number, known, partition, 5, list(headers), value))


class Place:
    """A worker's part for deferred answers, at a time that only tests move."""

    def __init__(self, work_timeout_ns: int = 3600 * S) -> None:
        self.house, self.store, self.now_ns = House(), FakeStore(), 0
        self.exchange = self.house.exchange
        self.exchange.epoch_offset_ns = EPOCH_MS * MS
        plan = self.house.plan
        plan.later_wire = RequestWire("shop.later", "/o", ["POST"], [])
        plan.work_timeout_ns = work_timeout_ns
        settings = LaterSettings("shop.later", "/_later", 86_400_000, 2)
        maker = IdMaker(1, 0, 0, ReplyTopic.LATER)
        self.later = Later(settings, SECRETS, self.exchange, self.store, maker, turn=3, clock_ns=lambda: self.now_ns)
        self.written: list = []
        self.tickets = Tickets(self.later, self.exchange, {plan.name: plan}, self.write, waits_max=2)

    def write(self, record) -> bool:
        self.written.append(record)
        return True

    def open(self, defer_after_ns: int = 0, timeout_ns: int = 5 * S, is_async: bool = True) -> tuple[Client, int]:
        admission = Admission(0, "POST", "/o", "", (), HEAD, 2, timeout_ns)
        admission.kind, admission.defer_after_ns, admission.is_async = KEPT, defer_after_ns, is_async
        assert self.exchange.reserve(admission) is None
        client = Client()
        return client, self.later.open(admission, b"{}", client, self.now_ns)

    def recorded(self, partition: int = 4) -> None:
        """Kafka confirms the last record."""
        self.exchange.delivered(self.house.send.records[-1][1], self.now_ns, partition)

    def passes(self, ns: int) -> None:
        self.now_ns += ns
        self.exchange.expire(self.now_ns)
        self.tickets.expire(self.now_ns)

    def ask(self, location: str, method: str = "GET", wait_ns: int = 0) -> tuple[Client, int]:
        text = location.removeprefix("/_later/")
        head = Head(method, location, "", FakeHeaders(), ["shop.test"], 0, False)
        admission = Admission(NUMBER, method, location, "", (("ticket", text),), head, 0, S)
        admission.kind, admission.defer_after_ns = TICKET, wait_ns
        client = Client()
        return client, self.tickets.open(admission, client, self.now_ns)

    def location(self) -> str:
        """The status URL of a request that was deferred."""
        client, _ = self.open()
        self.recorded()
        return client.only[1]["location"]


@pytest.fixture
def place() -> Place:
    return Place()


# ---- requests


def test_the_record_asks_for_a_reply_on_the_topic_of_kept_replies_until_the_work_is_over(place: Place) -> None:
    place.open()
    record, _ = place.house.send.records[0]
    headers = dict(record.headers)
    cid = ids.parse(headers["correlation_id"])
    assert cid is not None
    assert (cid.topic, cid.home) == (ReplyTopic.LATER, 3)
    assert headers["reply_to"] == b"shop.later"
    assert headers["reply_partition"] == b"3"
    assert headers["deadline"] == b"%d" % (EPOCH_MS + 3_600_000)
    assert headers["answer_expired"] == b"1"
    assert [watch[:3] for watch in place.store.watches.values()] == [
        (headers["correlation_id"], 3, EPOCH_MS + 3_600_000)
    ]


def test_202_comes_when_kafka_has_confirmed_the_record_and_not_before(place: Place) -> None:
    client, _ = place.open()
    assert client.answers == []
    place.recorded(partition=4)
    status, headers, body = client.only
    assert (status, headers["fastgw-outcome"], headers["retry-after"]) == (202, "recorded", "2")
    assert (headers["preference-applied"], headers["vary"]) == ("respond-async", "Prefer")
    assert orjson.loads(body) == {
        "id": client.request_id,
        "status": "working",
        "outcome": "recorded",
        "created": "2027-01-15T08:00:00Z",
        "expires": "2027-01-16T08:00:00Z",
    }
    ticket = open_ticket(SECRETS, headers["location"].removeprefix("/_later/"), EPOCH_MS)
    assert (ticket.correlation_id, ticket.topic_id) == (client.request_id.encode(), TOPIC_ID)
    assert (ticket.request_partition, ticket.route) == (4, "POST /o")
    assert (ticket.created_ms, ticket.expires_ms) == (EPOCH_MS, EPOCH_MS + 86_400_000)
    assert place.store.watches == {}
    assert place.house.counted(errors.DEFERRED) == 1
    place.house.assert_empty()


def test_a_reply_in_time_is_the_answer(place: Place) -> None:
    client, _ = place.open(defer_after_ns=2 * S)
    place.recorded()
    place.passes(S)
    place.store.says(Known.ANSWERED, b"done", [("status", b"201"), ("content-type", b"text/plain")])
    status, headers, body = client.only
    assert (status, body, headers["vary"]) == (201, b"done", "Prefer")
    assert place.house.table.answered(0)[0] == 1
    place.passes(10 * S)
    assert len(client.answers) == 1
    place.house.assert_empty()


def test_a_wait_that_is_over_defers_the_answer(place: Place) -> None:
    client, _ = place.open(defer_after_ns=2 * S)
    place.recorded()
    place.passes(S)
    assert client.answers == []
    place.passes(S + 10 * MS)
    assert client.only[0] == 202
    place.house.assert_empty()


def test_a_record_that_is_confirmed_after_the_wait_defers_at_once(place: Place) -> None:
    client, _ = place.open(defer_after_ns=2 * S)
    place.passes(3 * S)
    assert client.answers == []
    place.recorded()
    assert client.only[0] == 202


def test_a_record_that_is_never_confirmed_is_504_unknown_at_the_timeout(place: Place) -> None:
    client, _ = place.open(defer_after_ns=2 * S, timeout_ns=5 * S)
    place.passes(3 * S)
    place.passes(2 * S + 10 * MS)
    client.expect(errors.EXPIRED_UNKNOWN)
    assert place.store.watches == {}
    place.house.assert_empty()


def test_a_route_that_defers_at_its_timeout_does_not_claim_to_have_applied_a_preference(place: Place) -> None:
    client, _ = place.open(defer_after_ns=5 * S, timeout_ns=5 * S, is_async=False)
    place.recorded()
    place.passes(5 * S + 10 * MS)
    assert client.only[0] == 202
    assert "preference-applied" not in client.only[1]


def test_a_refused_record_is_no_promise(place: Place) -> None:
    place.house.send.refusal = errors.QueueFull("full")
    client, token = place.open()
    assert token == REFUSED
    client.expect(errors.QUEUE_FULL)
    assert place.store.watches == {}
    place.house.assert_empty()


def test_a_failed_delivery_is_told(place: Place) -> None:
    client, token = place.open()
    place.exchange.undelivered(token, errors.NOT_SENT, "refused")
    client.expect(errors.NOT_SENT)
    place.house.assert_empty()


def test_a_client_that_leaves_gets_no_status_url(place: Place) -> None:
    client, token = place.open(defer_after_ns=2 * S)
    place.exchange.cancel(token)
    place.recorded()
    place.passes(10 * S)
    assert client.answers == []
    assert place.store.watches == {}
    place.house.assert_empty()


def test_a_drain_defers_what_kafka_has_confirmed(place: Place) -> None:
    client, _ = place.open(defer_after_ns=4 * S)
    other, _ = place.open(defer_after_ns=4 * S)
    place.recorded()
    place.exchange.drain()
    assert other.only[0] == 202
    assert client.answers == [], "its record may not be in Kafka"


@pytest.mark.parametrize(
    ("topics", "ending"),
    [
        (None, errors.STORE_DOWN),
        (Topics(bytes(16), 0, False), errors.STORE_RESTORING),
        (Topics(TOPIC_ID, 8, False), errors.STORE_RESTORING),
        (Topics(TOPIC_ID, 8, True, is_full=True), errors.STORE_FULL),
        (Topics(TOPIC_ID, 8, True, newer_layout=2), errors.NEWER_LAYOUT),
        (Topics(TOPIC_ID, 8, True, full_routes=("POST /o",)), errors.KEPT_CAP),
    ],
)
def test_nothing_is_sent_while_the_store_cannot_keep_the_reply(place: Place, topics: Topics, ending) -> None:
    place.store.topics = topics
    client, token = place.open()
    assert token == REFUSED
    client.expect(ending)
    assert place.house.send.records == []
    place.house.assert_empty()


def test_a_plain_reply_does_not_answer_a_kept_request(place: Place) -> None:
    client, _ = place.open(defer_after_ns=2 * S)
    raw = dict(place.house.send.records[0][0].headers)["correlation_id"]
    cid = ids.parse(raw)
    assert cid is not None
    place.exchange.resolve(cid, Reply(raw, 3, 0, [], b"too early"), place.now_ns)
    assert client.answers == []
    assert place.house.table.states(0)[_ctable.SENT] == 1


# ---- status URLs


def test_a_status_url_gives_the_answer_as_if_it_had_been_in_time(place: Place) -> None:
    location = place.location()
    client, _ = place.ask(location)
    place.store.says(Known.ANSWERED, b"done", [("status", b"422"), ("content-type", b"text/plain")])
    status, headers, body = client.only
    assert (status, body, headers["content-type"]) == (422, b"done", "text/plain")
    assert (headers["cache-control"], headers["fastgw-outcome"]) == ("no-store", "recorded")
    assert place.house.table.answered(NUMBER)[2] == 1
    assert place.tickets.waiting == 0
    assert place.store.watches == {}


def test_a_status_url_says_that_the_service_works(place: Place) -> None:
    location = place.location()
    client, _ = place.ask(location)
    place.store.says(Known.OPEN)
    status, headers, body = client.only
    assert (status, headers["location"], orjson.loads(body)["status"]) == (202, location, "working")


def test_a_wait_ends_with_the_answer_or_with_the_state(place: Place) -> None:
    location = place.location()
    answered, _ = place.ask(location, wait_ns=10 * S)
    place.store.says(Known.OPEN)
    place.passes(5 * S)
    assert answered.answers == []
    place.store.says(Known.ANSWERED, b"done")
    assert answered.only[0] == 200
    working, _ = place.ask(location, wait_ns=10 * S)
    place.store.says(Known.OPEN)
    place.passes(10 * S)
    assert working.only[0] == 202


@pytest.mark.parametrize(
    ("known", "ending"),
    [
        (Known.CANCELLED, errors.TICKET_CANCELLED),
        (Known.EXPIRED, errors.WORK_EXPIRED),
    ],
)
def test_every_state_has_its_answer(place: Place, known: Known, ending) -> None:
    client, _ = place.ask(place.location())
    place.store.says(known)
    client.expect(ending)
    assert place.house.table.endings(NUMBER)[ending.number] == 1


@pytest.mark.parametrize(
    ("known", "ending"), [(Known.RESTORING, errors.STORE_RESTORING), (Known.BEHIND, errors.STORE_BEHIND)]
)
def test_a_store_that_cannot_say_it_now_has_time_to(place: Place, known: Known, ending) -> None:
    location = place.location()
    client, _ = place.ask(location)
    place.store.says(known)
    assert client.answers == []
    place.passes(LOOK_NS)
    client.expect(ending)
    patient, _ = place.ask(location, wait_ns=20 * S)
    place.store.says(known)
    place.passes(10 * S)
    place.store.says(Known.ANSWERED, b"done")
    assert patient.only[2] == b"done"


def test_a_store_that_does_not_answer_is_told(place: Place) -> None:
    client, _ = place.ask(place.location())
    place.passes(LOOK_NS)
    client.expect(errors.STORE_DOWN)


def test_a_reply_that_is_no_answer_is_502(place: Place) -> None:
    client, _ = place.ask(place.location())
    place.store.says(Known.ANSWERED, b"x", [("status", b"999")])
    client.expect(errors.BAD_REPLY)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"),
        lambda text: text[:40],
        lambda text: text + "A",
        lambda _: "",
        lambda _: "%00",
        lambda text: text * 100,
    ],
    ids=["forged", "truncated", "longer", "empty", "escaped", "huge"],
)
def test_what_is_no_status_url_is_404(place: Place, spoil) -> None:
    location = place.location()
    client, token = place.ask("/_later/" + spoil(location.removeprefix("/_later/")))
    assert token == REFUSED
    client.expect(errors.TICKET_UNKNOWN)
    assert location not in client.only[2].decode()


def test_a_status_url_keeps_its_time_for_the_work_over_a_reload(place: Place) -> None:
    location = place.location()
    place.house.plan.work_timeout_ns = 60 * S
    place.ask(location)
    assert [watch[2] for watch in place.store.watches.values()] == [EPOCH_MS + 3_600_000]


def test_a_status_url_is_gone_when_less_is_kept_than_it_was_promised(place: Place) -> None:
    """After a restart with a smaller `later.keep` the store could only say that there is no reply."""
    location = place.location()
    place.later.settings = place.later.settings._replace(keep_ms=7_200_000)
    place.now_ns += 7199 * S
    assert place.ask(location)[0].answers == []
    place.now_ns += S
    client, _ = place.ask(location)
    assert client.only[0] == 410


def test_a_status_url_ends_with_its_time_with_its_topic_and_with_its_route(place: Place) -> None:
    location = place.location()
    place.now_ns += 86_400 * S
    client, _ = place.ask(location)
    client.expect(errors.TICKET_GONE)
    place.now_ns = 0
    place.store.topics = Topics(bytes(16), 8, True)
    client, _ = place.ask(location)
    client.expect(errors.TICKET_GONE)
    place.store.topics = Topics(TOPIC_ID, 8, True)
    place.tickets._plans = {}
    client, _ = place.ask(location)
    client.expect(errors.TICKET_GONE)


def test_only_so_many_may_wait(place: Place) -> None:
    location = place.location()
    clients = [place.ask(location, wait_ns=S)[0] for _ in range(3)]
    assert [len(client.answers) for client in clients] == [0, 0, 1]
    clients[2].expect(errors.WATCH_CAP)


def test_a_client_that_leaves_waits_no_longer(place: Place) -> None:
    client, token = place.ask(place.location(), wait_ns=S)
    place.tickets.gone(token)
    place.tickets.gone(token)
    place.passes(10 * S)
    assert client.answers == []
    assert place.store.watches == {}


def test_a_drain_tells_those_who_wait_what_is_known(place: Place) -> None:
    client, _ = place.ask(place.location(), wait_ns=100 * S)
    place.store.says(Known.OPEN)
    place.tickets.drain()
    assert client.only[0] == 202


# ---- cancelling


def test_delete_writes_a_cancellation_and_its_being_read_back_decides(place: Place) -> None:
    location = place.location()
    client, _ = place.ask(location, "DELETE")
    assert place.written == []
    place.store.says(Known.OPEN)
    (record,) = place.written
    assert (record.topic, record.partition) == ("shop.later", 3)
    read = Reply(record.key, record.partition, 9, record.headers, record.value)
    assert control.decode(read, SECRETS, TOPIC_ID) == Cancelled(record.key)
    assert client.answers == []
    place.store.says(Known.CANCELLED)
    status, _, body = client.only
    assert (status, orjson.loads(body)["status"]) == (202, "cancelled")


def test_a_reply_that_was_first_beats_the_cancellation(place: Place) -> None:
    client, _ = place.ask(place.location(), "DELETE")
    place.store.says(Known.OPEN)
    place.store.says(Known.ANSWERED, b"done")
    assert (client.only[0], client.only[2]) == (200, b"done")


def test_what_is_decided_is_not_cancelled(place: Place) -> None:
    client, _ = place.ask(place.location(), "DELETE")
    place.store.says(Known.ANSWERED, b"done")
    assert client.only[0] == 200
    assert place.written == []


def test_a_cancellation_that_is_not_read_back_is_unknown(place: Place) -> None:
    client, _ = place.ask(place.location(), "DELETE")
    place.store.says(Known.OPEN)
    place.passes(10 * S)
    client.expect(errors.SEND_UNKNOWN)


def test_a_cancelled_request_is_told_to_the_service_where_its_record_is(place: Place) -> None:
    place.house.plan.cancels = True
    location = place.location()
    place.ask(location, "DELETE")
    place.store.says(Known.OPEN)
    assert len(place.written) == 1, "the reply may still be first"
    place.store.says(Known.CANCELLED)
    raw, record = place.written[0].key, place.written[1]
    assert (record.topic, record.partition, record.key) == ("orders", 4, None)
    assert (record.headers, record.value) == ([("cancel", raw)], b"cancel")


def test_without_the_setting_no_service_is_told(place: Place) -> None:
    place.ask(place.location(), "DELETE")
    place.store.says(Known.OPEN)
    place.store.says(Known.CANCELLED)
    assert len(place.written) == 1


# ---- replies that cannot be handed over, and compressed ones


def test_a_reply_that_the_store_cannot_hand_over_is_a_bad_one(place: Place) -> None:
    early, _ = place.open(defer_after_ns=2 * S)
    place.recorded()
    late, _ = place.ask(place.location())
    for _, _, _, on_state in list(place.store.watches.values()):
        on_state(State(1, Known.ANSWERED, 3, 5, [], b"", 20_000_000))
    for client in (early, late):
        client.expect(errors.BAD_REPLY)
        assert b"expected at most 16 MiB, the headers included, got 20000000 bytes" in client.only[2]


class Halving:
    """Compresses to half of the bytes."""

    def wrapping(self, answer, head):
        assert head is not None
        return lambda status, headers, body, request_id: answer(status, headers, body[::2], request_id)


def test_answers_in_time_and_those_of_status_urls_are_compressed(place: Place) -> None:
    place.house.plan.compressor = Halving()
    early, _ = place.open(defer_after_ns=2 * S)
    place.recorded()
    place.store.says(Known.ANSWERED, b"aabbcc")
    assert early.only[2] == b"abc"
    place.house.plan.compressor = None
    location = place.location()
    place.house.plan.compressor = Halving()
    late, _ = place.ask(location)
    place.store.says(Known.ANSWERED, b"ddeeff")
    assert late.only[2] == b"def"
