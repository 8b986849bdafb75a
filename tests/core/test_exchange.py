"""The life of a request, step by step, with the real table and a fake Kafka link: exactly one side ends a request."""

from __future__ import annotations

import os
import weakref

import orjson
import pytest

from fastgw import _ctable, errors, ids, table
from fastgw.admission import Admission
from fastgw.body_memory import LARGE_ANSWER_BYTES, AnswerMemory
from fastgw.core.arrival_rate import RARE_MAX
from fastgw.core.exchange import REFUSED, Exchange
from fastgw.core.plan import Plan
from fastgw.core.spread import Spread
from fastgw.dialects.plain import ReplyWire, RequestWire
from fastgw.errors import KeyMissing, QueueFull, SendRefused
from fastgw.ids import IdMaker, Partitioner
from fastgw.messages import Head, Reply, ReplyDisposition
from tests.core.test_routing import FakeHeaders

HOME, COUNT, MS = 2, 4, 1_000_000
HEAD = Head("POST", "/o", "", FakeHeaders(), ["shop.test"], 2, False)


class FakeSend:
    """The Kafka link's `send`: keeps records, or refuses them."""

    def __init__(self):
        self.records, self.refusal = [], None
        self.companies = []
        self.waits = set()  # tokens whose record has not left
        self.inside = self.raises_after = self.withdraw_fault = None  # what happens before it returns

    def withdraw(self, token):
        """As the link's: whether the record waited."""
        if self.withdraw_fault is not None:
            raise self.withdraw_fault
        try:
            self.waits.remove(token)
        except KeyError:
            return False
        return True

    def __call__(self, record, token, delivery_class, concurrency_hint, now_ns):
        if self.refusal is not None:
            raise self.refusal
        self.records.append((record, token))
        self.companies.append(concurrency_hint)
        if self.inside is not None:
            self.inside(token)
        if self.raises_after is not None:
            raise self.raises_after


class FakeLearner:
    current = Partitioner.ANY

    def __init__(self):
        self.observed, self.fault = [], None

    def observe(self, raw, home, partition, partition_count):
        if self.fault is not None:
            raise self.fault
        self.observed.append((home, partition, partition_count))
        return False


class FakeJournal:
    """Keeps what goes to the log."""

    def __init__(self):
        self.broken, self.alarms = [], []

    def broke(self, what, route, request_id):
        self.broken.append((what, route, request_id.decode()))

    def ended(self, name, route, request_id, detail):
        self.alarms.append((name, route, request_id.decode(), detail))


class Client:
    """Whoever waits for the answer."""

    def __init__(self):
        self.answers = []

    def __call__(self, status, headers, body, request_id):
        self.answers.append((status, dict(headers), body))
        self.request_id = request_id.decode()

    @property
    def only(self):
        assert len(self.answers) == 1, self.answers
        return self.answers[0]

    def expect(self, ending):
        status, headers, body = self.only
        problem = orjson.loads(body)
        assert (status, headers["fastgw-outcome"]) == (ending.status, ending.outcome.value)
        assert problem["type"] == f"urn:fastgw:problem:{ending.name}"
        assert problem["outcome"] == ending.outcome.value
        assert problem["request_id"] == self.request_id
        return problem


class House:
    """An exchange with everything around it."""

    def __init__(self, slots=8, max_in_flight=100, key_of=None, routes=1, notes=None, answers=None):
        self.send, self.learner, self.journal = FakeSend(), FakeLearner(), FakeJournal()
        fd, self.table = table.create(node=1, workers=1, slots_per_process=slots)
        os.close(fd)  # the mapping lives on without it
        self.table.register(0, 1, 0, 0)
        maker = IdMaker(1, 0, 0)
        maker.set_ownership(COUNT, [HOME], HOME)
        wire = RequestWire("replies", "/o", ["POST"], [])
        self.plans = [
            Plan(
                number, "POST /o", "orders", wire, self.learner, Spread("batch"), max_in_flight,
                ReplyWire(["x-a"], 1000), key_of,
            )
            for number in range(routes)
        ]  # fmt: skip
        self.plan = self.plans[0]
        slot_range = self.table.open_range(0)
        self.exchange = Exchange(
            self.table, 0, slot_range, maker, self.plans, self.send, self.send.withdraw, self.journal, notes, answers
        )
        self.exchange.set_home(HOME, COUNT)
        self.exchange.open_gate()

    def admission(self, timeout_ns=1000 * MS, route=0):
        return Admission(route, "POST", "/o", "", (), HEAD, 2, timeout_ns)

    def open(self, timeout_ns=1000 * MS, now_ns=0):
        client = Client()
        admission = self.admission(timeout_ns)
        assert self.exchange.reserve(admission) is None
        return client, self.exchange.open(admission, b"{}", client, now_ns)

    def reply(self, number=-1, headers=(), value=b"ok", partition=HOME):
        raw = dict(self.send.records[number][0].headers)["correlation_id"]
        return ids.parse(raw), Reply(raw, partition, 0, list(headers), value)

    def counted(self, ending):
        return self.table.endings(0)[ending.number]

    def assert_empty(self):
        assert self.exchange.in_flight == 0
        assert self.plan.in_flight == 0


@pytest.fixture
def house():
    return House()


def test_a_request_is_sent_confirmed_and_answered(house):
    client, token = house.open(now_ns=5 * MS)
    record, sent_token = house.send.records[0]
    assert (record.topic, record.value, record.key, sent_token) == ("orders", b"{}", None, token)
    house.exchange.delivered(token, 2 * MS, 0)
    assert (
        house.exchange.resolve(*house.reply(headers=[("status", b"201"), ("x-a", b"1")]), 15 * MS)
        is ReplyDisposition.ANSWERED
    )
    status, headers, body = client.only
    assert (status, headers["x-a"], headers["fastgw-outcome"], body) == (201, "1", "recorded", b"ok")
    assert client.request_id == dict(record.headers)["correlation_id"].decode()
    assert house.counted(errors.ANSWERED) == 1
    assert house.learner.observed == [(HOME, HOME, COUNT)]
    house.assert_empty()


def test_the_phases_of_a_request_are_measured(house):
    _, token = house.open(now_ns=0)
    house.exchange.delivered(token, 3 * MS, 0)
    house.exchange.resolve(*house.reply(), 10 * MS)
    sums = {phase: house.table.histogram(0, phase)[1] for phase in range(_ctable.PHASES)}
    assert sums == {_ctable.QUEUE_TO_ACK: 3 * MS, _ctable.ACK_TO_REPLY: 7 * MS, _ctable.TOTAL: 10 * MS}


def test_a_reply_that_overtakes_the_delivery_report_is_answered(house):
    client, token = house.open()
    assert house.exchange.resolve(*house.reply(), 1) is ReplyDisposition.ANSWERED
    house.exchange.delivered(token, 1, 0)
    assert client.only[0] == 200
    house.assert_empty()


def test_once_many_come_the_link_learns_how_many_are_under_way():
    house = House(slots=64)
    for _ in range(RARE_MAX + 2):
        house.open()
    assert house.send.companies == [0] * RARE_MAX + [RARE_MAX + 1, RARE_MAX + 2]
    for number in range(3):
        house.exchange.resolve(*house.reply(number), 1)
    house.open()
    assert house.send.companies[-1] == RARE_MAX


def test_the_deadline_on_the_record_is_wall_clock(house):
    house.exchange.epoch_offset_ns = 1_700_000_000_000 * MS
    house.open(timeout_ns=250 * MS, now_ns=1000 * MS)
    assert dict(house.send.records[0][0].headers)["deadline"] == b"1700000001250"


def test_without_reply_the_deadline_ends_a_recorded_request(house):
    client, token = house.open(timeout_ns=100 * MS)
    house.exchange.delivered(token, 1, 0)
    assert house.exchange.expire(99 * MS) == 0
    assert house.exchange.expire(109 * MS) == 1
    problem = client.expect(errors.EXPIRED)
    assert problem["request_id"] == dict(house.send.records[0][0].headers)["correlation_id"].decode()
    house.assert_empty()


def test_without_delivery_report_the_deadline_leaves_it_unknown(house):
    client, _ = house.open(timeout_ns=100 * MS)
    house.exchange.expire(109 * MS)
    client.expect(errors.EXPIRED_UNKNOWN)


def test_a_record_that_still_waits_at_the_deadline_is_withdrawn_and_was_never_sent(house):
    client, token = house.open(timeout_ns=100 * MS)
    house.send.waits.add(token)
    house.exchange.expire(109 * MS)
    client.expect(errors.NOT_SENT)
    assert house.send.waits == set()
    house.assert_empty()


def test_a_reply_after_the_deadline_is_late_and_changes_nothing(house):
    client, _ = house.open(timeout_ns=MS)
    house.exchange.expire(50 * MS)
    assert house.exchange.resolve(*house.reply(), 60 * MS) is ReplyDisposition.LATE
    assert len(client.answers) == 1


def test_a_second_reply_is_a_duplicate(house):
    client, _ = house.open()
    house.exchange.resolve(*house.reply(), 1)
    assert house.exchange.resolve(*house.reply(), 2) is ReplyDisposition.DUPLICATE
    assert len(client.answers) == 1


def test_an_id_with_any_other_tag_is_forged(house):
    client, _ = house.open()
    cid, reply = house.reply()
    for changed in (cid._replace(tag=cid.tag ^ 1), cid._replace(slot=cid.slot + 1), cid._replace(slot=1 << 19)):
        assert house.exchange.resolve(changed, reply, 1) is ReplyDisposition.FORGED
    assert client.answers == []


def test_a_client_that_leaves_frees_its_slot_and_its_reply_is_late(house):
    client, token = house.open()
    house.exchange.delivered(token, 1, 0)
    house.exchange.cancel(token)
    assert client.answers == []
    assert house.counted(errors.CANCELLED) == 1
    house.assert_empty()
    assert house.exchange.resolve(*house.reply(), 2) is ReplyDisposition.LATE


def test_leaving_before_the_delivery_report_is_counted_apart(house):
    _, token = house.open()
    house.exchange.cancel(token)
    assert house.counted(errors.CANCELLED_UNKNOWN) == 1


def test_leaving_while_the_record_waits_withdraws_it(house):
    _, token = house.open()
    house.send.waits.add(token)
    house.exchange.cancel(token)
    assert house.counted(errors.CANCELLED_EARLY) == 1
    assert house.send.waits == set()
    house.assert_empty()


def test_leaving_after_the_answer_does_nothing(house):
    _, token = house.open()
    house.exchange.resolve(*house.reply(), 1)
    house.exchange.cancel(token)
    assert house.counted(errors.CANCELLED) == house.counted(errors.CANCELLED_UNKNOWN) == 0


@pytest.mark.parametrize("ending", [errors.SEND_UNKNOWN, errors.TOPIC_UNKNOWN, errors.NOT_AUTHORIZED])
def test_a_failed_delivery_is_answered_as_what_it_is(house, ending):
    client, token = house.open()
    house.exchange.undelivered(token, ending, "why")
    assert client.expect(ending)["detail"] == "why"
    house.assert_empty()


def test_a_failed_delivery_after_the_deadline_is_not_answered_again(house):
    client, token = house.open(timeout_ns=MS)
    house.exchange.expire(50 * MS)
    house.exchange.undelivered(token, errors.SEND_UNKNOWN, "why")
    assert len(client.answers) == 1


@pytest.mark.parametrize(
    ("refusal", "ending"),
    [
        (QueueFull("full"), errors.QUEUE_FULL),
        (SendRefused(errors.RECORD_TOO_LARGE, "big"), errors.RECORD_TOO_LARGE),
        (SendRefused(errors.TOPIC_UNKNOWN, "what"), errors.TOPIC_UNKNOWN),
    ],
)
def test_what_was_not_sent_is_said_to_be_not_recorded(house, refusal, ending):
    house.send.refusal = refusal
    client, token = house.open()
    assert token == REFUSED
    assert client.expect(ending)["outcome"] == "not_recorded"
    house.assert_empty()


def test_with_more_routes_than_slots_a_full_table_is_an_ordinary_answer_and_nothing_is_sent():
    house = House(slots=2, routes=3)
    for route in range(2):
        assert house.exchange.reserve(house.admission(route=route)) is None
        house.exchange.open(house.admission(route=route), b"{}", Client(), 0)
    client = Client()
    assert house.exchange.reserve(house.admission(route=2)) is None
    assert house.exchange.open(house.admission(route=2), b"{}", client, 0) == REFUSED
    assert client.expect(errors.TABLE_FULL)["retryable"]
    assert client.only[1]["retry-after"] == "1"
    assert len(house.send.records) == 2


def test_a_route_takes_half_of_the_table_at_most_from_what_the_others_could_have():
    house = House(slots=8, routes=2)

    def reserved(route, count):
        """How many of so many places it gets; who gets none is refused because the table is full."""
        refusals = [house.exchange.reserve(house.admission(route=route)) for _ in range(count)]
        assert {refusal.ending for refusal in refusals if refusal} <= {errors.TABLE_FULL}
        return refusals.count(None)

    assert reserved(route=0, count=8) == 6
    assert reserved(route=1, count=8) == 2
    for _ in range(5):  # one after the other, whatever a route gives back is there again
        house.exchange.abandon(house.admission(route=0), errors.MALFORMED, "", None)
    assert reserved(route=1, count=8) == 4
    assert reserved(route=0, count=8) == 1


def test_a_single_route_has_the_whole_table():
    house = House(slots=7)
    for _ in range(7):
        house.open()
    assert house.exchange.reserve(house.admission()).ending is errors.TABLE_FULL


@pytest.mark.parametrize(
    ("has_consumer", "backlog_ns", "ending"),
    [
        (False, 0, errors.NO_CONSUMER),
        (False, 1 << 62, errors.NO_CONSUMER),
        (True, 1001 * MS, errors.BACKLOG),
        (True, 1 << 62, errors.BACKLOG),
        (True, 1000 * MS, None),
        (True, 0, None),
    ],
)
def test_a_request_whose_service_cannot_take_it_in_time_is_refused_before_the_body_is_read(
    house, has_consumer, backlog_ns, ending
):
    house.plan.has_consumer, house.plan.backlog_ns = has_consumer, backlog_ns
    refusal = house.exchange.reserve(house.admission(timeout_ns=1000 * MS))
    assert (refusal and refusal.ending) == ending
    assert house.plan.in_flight == (ending is None)


def test_a_route_at_its_cap_refuses_before_the_body_is_read():
    house = House(max_in_flight=1)
    _, token = house.open()
    refusal = house.exchange.reserve(house.admission())
    assert refusal is not None
    assert refusal.ending is errors.IN_FLIGHT_CAP
    house.exchange.cancel(token)
    assert house.exchange.reserve(house.admission()) is None


def test_a_body_that_never_came_gives_its_place_back(house):
    admission, client = house.admission(), Client()
    house.exchange.reserve(admission)
    house.exchange.abandon(admission, errors.BODY_TIMEOUT, "slow", client)
    client.expect(errors.BODY_TIMEOUT)
    house.assert_empty()


def test_a_closed_gate_refuses_and_leaves_alone_what_waits(house):
    client, _ = house.open()
    house.exchange.close_gate(errors.DRAINING, "bye")
    refusal = house.exchange.reserve(house.admission())
    assert refusal is not None
    assert refusal.ending is errors.DRAINING
    house.exchange.resolve(*house.reply(), 1)
    assert client.only[0] == 200


def test_without_a_home_partition_nothing_is_sent(house):
    house.exchange.set_home(-1, COUNT)
    client, _ = house.open()
    client.expect(errors.NOT_READY)
    assert house.send.records == []


def test_a_missing_record_key_is_the_clients_mistake():
    def no_key(headers, params, body):
        raise KeyMissing("expected a tenant")

    house = House(key_of=no_key)
    client, _ = house.open()
    assert client.expect(errors.MALFORMED)["detail"] == "expected a tenant"
    house.assert_empty()


@pytest.mark.parametrize("headers", [[("status", b"1000")], [("x-a", b"a\r\nb: c")], [("content-type", b"\x7f")]])
def test_a_poisonous_reply_is_502_recorded_and_the_slot_is_free(house, headers):
    client, _ = house.open()
    assert house.exchange.resolve(*house.reply(headers=headers), 1) is ReplyDisposition.ANSWERED
    client.expect(errors.BAD_REPLY)
    house.assert_empty()


@pytest.mark.parametrize(("status", "place"), [(200, 0), (299, 0), (304, 1), (404, 2), (599, 3)])
def test_an_answer_is_counted_by_the_class_of_its_status(house, status, place):
    house.open()
    house.exchange.resolve(*house.reply(headers=[("status", b"%d" % status)]), 1)
    assert house.table.answered(0) == tuple(int(at == place) for at in range(4))
    assert house.counted(errors.ANSWERED) == 1


def test_a_reply_that_is_no_answer_is_in_no_class(house):
    house.open()
    house.exchange.resolve(*house.reply(headers=[("status", b"1000")]), 1)
    assert house.table.answered(0) == (0, 0, 0, 0)
    assert house.counted(errors.BAD_REPLY) == 1


def test_the_end_of_a_drain_answers_everything_honestly(house):
    recorded, token = house.open()
    house.exchange.delivered(token, 1, 0)
    unknown, _ = house.open()
    assert house.exchange.end_all("the gateway is shutting down") == 2
    assert "shutting down" in recorded.expect(errors.EXPIRED)["detail"]
    unknown.expect(errors.EXPIRED_UNKNOWN)
    house.assert_empty()


def test_a_burst_of_deadlines_is_ended_in_portions():
    house = House(slots=2000, max_in_flight=5000)
    clients = [house.open(timeout_ns=MS)[0] for _ in range(1500)]
    portions = []
    while portions[-1:] != [0]:
        portions.append(house.exchange.expire(100 * MS))
    assert sum(portions) == 1500
    assert max(portions) <= 512
    assert all(len(client.answers) == 1 for client in clients)


def test_100_000_requests_that_are_never_answered_leak_nothing():
    house = House(slots=64)
    held = weakref.WeakSet()
    now_ns = 0
    for _ in range(100_000 // 50):
        clients = [house.open(timeout_ns=MS, now_ns=now_ns)[0] for _ in range(50)]
        now_ns += 20 * MS
        while house.exchange.expire(now_ns):
            pass
        assert all(len(client.answers) == 1 for client in clients)
        held.update(clients)
        house.send.records.clear()
    del clients
    house.assert_empty()
    assert house.counted(errors.EXPIRED_UNKNOWN) == 100_000
    assert not held


def test_an_ending_that_somebody_must_act_on_is_logged_with_the_id_of_its_request(house):
    client, token = house.open(timeout_ns=100 * MS)
    house.exchange.delivered(token, 1, 0)
    house.exchange.expire(109 * MS)
    problem = client.expect(errors.EXPIRED)
    house.open()
    house.exchange.resolve(*house.reply(headers=[("status", b"1000")]), 1)
    client, token = house.open()
    house.exchange.undelivered(token, errors.TOPIC_UNKNOWN, "no such topic")
    unknown = client.expect(errors.TOPIC_UNKNOWN)
    assert [(name, route) for name, route, _, _ in house.journal.alarms] == [
        ("expired", "POST /o"),
        ("bad_reply", "POST /o"),
        ("topic_unknown", "POST /o"),
    ]
    assert house.journal.alarms[0][2:] == (problem["request_id"], problem["detail"])
    assert house.journal.alarms[2][2:] == (unknown["request_id"], "no such topic")


def test_an_ending_that_is_nobodys_fault_is_not_logged(house):
    house.send.refusal = QueueFull("full")
    house.open()
    house.exchange.cancel(house.open()[1])
    assert house.journal.alarms == []


@pytest.mark.parametrize("connection", [None, "one"])
def test_a_large_reply_that_does_not_fit_beside_unread_answers_is_dropped_and_its_client_told(connection):
    answers = AnswerMemory(100_000, 50_000)
    house = House(answers=answers)
    house.plan.reply_wire = ReplyWire([], 1 << 20)
    answers.hold(40_000 if connection else 90_000, connection)
    large = bytes(LARGE_ANSWER_BYTES + 1)

    def resolve(value):
        admission, client = house.admission(), Client()
        admission.connection = connection
        assert house.exchange.reserve(admission) is None
        house.exchange.delivered(house.exchange.open(admission, b"{}", client, 0), 1, 0)
        house.exchange.resolve(*house.reply(value=value), 2)
        return client

    problem = resolve(large).expect(errors.ANSWERS_FULL)
    assert f"a reply of {len(large)} bytes did not fit" in problem["detail"]
    assert ("one connection" if connection else "this worker") in problem["detail"]
    assert house.counted(errors.ANSWERS_FULL) == 1
    assert resolve(large[1:]).only[2] == large[1:], "small ones always fit"
    answers.give(40_000 if connection else 90_000, connection)
    assert resolve(large).only[2] == large
    assert (house.counted(errors.ANSWERS_FULL), house.counted(errors.ANSWERED)) == (1, 2)
    assert answers.held_bytes == 0, "the front counts, not the exchange"
    house.assert_empty()
