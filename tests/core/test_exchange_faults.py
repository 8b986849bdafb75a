"""Whatever breaks at whatever step of a request: its client has one answer, and no slot or place is left behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import errors
from fastgw.admission import Admission, Refusal
from fastgw.ids import Partitioner
from fastgw.messages import Head, ReplyDisposition
from tests.core.test_exchange import HEAD, MS, Client, House
from tests.core.test_routing import FakeHeaders

SLOTS = 4


class Defect(Exception):
    """What no code expects."""


def fail(*_: object) -> None:
    raise Defect


class BrokenHeaders(FakeHeaders):
    get = get_all = fail


class BrokenSpread:
    observe = fail


class BrokenClient(Client):
    """A front that fails to write the answer that it is given."""

    def __call__(self, *answer: object) -> None:
        super().__call__(*answer)
        raise Defect


BROKEN_HEAD = Head("POST", "/o", "", BrokenHeaders(), ["shop.test"], 2, False)

# Before the record is sent: nothing is in Kafka.
BEFORE: dict[str, Callable[[House], None]] = {
    "key": lambda house: setattr(house.plan, "key_of", fail),
    "id": lambda house: setattr(house.learner, "current", 99),
    "headers": lambda house: setattr(house, "head", BROKEN_HEAD),
}


class FaultyHouse(House):
    """A house of which one part breaks at a time."""

    def __init__(self, notes: object = None) -> None:
        super().__init__(slots=SLOTS, notes=notes)
        self.head = HEAD
        self.whole_spread = self.plan.spread
        self.cancelled = 0  # so far

    def newly_cancelled(self) -> int:
        """Requests that ended without an answer because their clients had left, since the last call."""
        before = self.cancelled
        self.cancelled = sum(
            self.counted(ending) for ending in (errors.CANCELLED, errors.CANCELLED_UNKNOWN, errors.CANCELLED_EARLY)
        )
        return self.cancelled - before

    def admission(self, timeout_ns: int = 1000 * MS, route: int = 0) -> Admission:
        return Admission(route, "POST", "/o", "", (), self.head, 2, timeout_ns)

    def mend(self) -> None:
        """Everything works again."""
        self.head = HEAD
        self.plan.key_of, self.plan.spread = None, self.whole_spread
        self.learner.current, self.learner.fault = Partitioner.ANY, None
        self.send.refusal = self.send.raises_after = self.send.inside = self.send.withdraw_fault = None

    def ask(self, client: Client) -> int:
        """A request for which there is a place; returns its token."""
        admission = self.admission()
        assert self.exchange.reserve(admission) is None
        return self.exchange.open(admission, b"{}", client, 0)

    def assert_whole(self) -> None:
        """Every slot can be had, and each of the requests in them be answered."""
        self.assert_empty()
        self.mend()
        count = len(self.send.records)
        clients = [Client() for _ in range(SLOTS)]
        for client in clients:
            self.ask(client)
        assert self.exchange.in_flight == SLOTS
        assert self.exchange.reserve(self.admission()).ending is errors.TABLE_FULL
        for number in range(SLOTS):
            assert self.exchange.resolve(*self.reply(count + number), 1) is ReplyDisposition.ANSWERED
        assert [client.only[0] for client in clients] == [200] * SLOTS
        self.assert_empty()


@pytest.fixture
def house() -> FaultyHouse:
    return FaultyHouse()


@pytest.mark.parametrize("step", BEFORE)
def test_what_breaks_before_the_record_is_sent_ends_in_an_answer_that_says_so(house: FaultyHouse, step: str) -> None:
    BEFORE[step](house)
    client = Client()
    assert house.ask(client) < 0
    problem = client.expect(errors.REFUSED_SEND)
    assert house.send.records == []
    assert [broken[2] for broken in house.journal.broken] == [problem["request_id"]], "logged once, with the id"
    assert house.counted(errors.REFUSED_SEND) == 1
    house.assert_whole()


@pytest.mark.parametrize("waits", [True, False])
def test_nobody_can_say_how_far_a_record_came_whose_send_broke_unless_it_still_waits(
    house: FaultyHouse, waits: bool
) -> None:
    def keep_waiting(token: int) -> None:
        if waits:
            house.send.waits.add(token)

    house.send.inside = keep_waiting
    house.send.raises_after = Defect()
    client = Client()
    assert house.ask(client) < 0
    problem = client.expect(errors.REFUSED_SEND if waits else errors.SEND_UNKNOWN)
    assert [broken[2] for broken in house.journal.broken] == [problem["request_id"]]
    assert house.exchange.resolve(*house.reply(), 1) is ReplyDisposition.LATE
    house.assert_whole()


@pytest.mark.parametrize("raises", [True, False])
def test_a_record_whose_fate_is_told_before_send_returns_has_one_end(house: FaultyHouse, raises: bool) -> None:
    house.send.inside = lambda token: house.exchange.undelivered(token, errors.TOPIC_UNKNOWN, "gone")
    house.send.raises_after = Defect() if raises else None
    client = Client()
    token = house.ask(client)
    client.expect(errors.TOPIC_UNKNOWN)
    house.exchange.cancel(token)  # as the front does when its client leaves
    house.assert_whole()


def test_a_reply_that_breaks_the_gateway_ends_in_an_answer(house: FaultyHouse) -> None:
    client = Client()
    house.ask(client)
    assert house.exchange.resolve(*house.reply(headers=[("x-a", "no bytes")]), 1) is ReplyDisposition.ANSWERED
    problem = client.expect(errors.BAD_REPLY)
    assert [broken[2] for broken in house.journal.broken] == [problem["request_id"]]
    assert house.counted(errors.BAD_REPLY) == 1
    house.assert_whole()


@pytest.mark.parametrize("part", ["spread", "learner"])
def test_what_is_learnt_from_a_reply_may_fail_without_its_request(house: FaultyHouse, part: str) -> None:
    client = Client()
    token = house.ask(client)
    house.exchange.delivered(token, 1, 0)
    if part == "spread":
        house.plan.spread = BrokenSpread()
    else:
        house.learner.fault = Defect()
    assert house.exchange.resolve(*house.reply(), 2) is ReplyDisposition.ANSWERED
    assert client.only[0] == 200
    assert len(house.journal.broken) == 1
    house.assert_whole()


def test_a_front_that_fails_to_answer_does_not_cost_the_others_of_a_sweep_their_answers(house: FaultyHouse) -> None:
    clients = [BrokenClient(), Client(), BrokenClient(), Client()]
    for client in clients:
        house.ask(client)
    assert house.exchange.expire(2000 * MS) == len(clients)
    for client in clients:
        client.expect(errors.EXPIRED_UNKNOWN)
    house.assert_whole()


def test_a_front_that_fails_to_answer_leaves_nothing_behind(house: FaultyHouse) -> None:
    client = BrokenClient()
    house.ask(client)
    assert house.exchange.resolve(*house.reply(), 1) is ReplyDisposition.ANSWERED
    house.send.refusal = errors.QueueFull("full")
    assert house.ask(client) < 0
    assert [answer[0] for answer in client.answers] == [200, 503]
    house.assert_whole()


@pytest.mark.parametrize("end", ["expire", "cancel", "end_all"])
def test_a_link_that_cannot_withdraw_counts_as_having_sent(house: FaultyHouse, end: str) -> None:
    house.send.withdraw_fault = Defect()
    client = Client()
    token = house.ask(client)
    if end == "cancel":
        house.exchange.cancel(token)
        assert house.counted(errors.CANCELLED_UNKNOWN) == 1
    else:
        house.exchange.expire(2000 * MS) if end == "expire" else house.exchange.end_all("the end")
        client.expect(errors.EXPIRED_UNKNOWN)
    house.assert_whole()


FAULTS: dict[str, Callable[[FaultyHouse], None]] = {
    **BEFORE,
    "none": lambda house: None,
    "send": lambda house: setattr(house.send, "raises_after", Defect()),
    "queue full": lambda house: setattr(house.send, "refusal", errors.QueueFull("full")),
    "refused": lambda house: setattr(house.send, "refusal", errors.SendRefused(errors.NOT_AUTHORIZED, "no")),
    "reported inside": lambda house: setattr(
        house.send, "inside", lambda token: house.exchange.undelivered(token, errors.NOT_SENT, "no")
    ),
    "withdraw": lambda house: setattr(house.send, "withdraw_fault", Defect()),
    "learner": lambda house: setattr(house.learner, "fault", Defect()),
    "spread": lambda house: setattr(house.plan, "spread", BrokenSpread()),
}
ENDS = ["reply", "odd reply", "bad reply", "expire", "cancel", "undelivered", "end_all"]


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(FAULTS)), st.booleans(), st.booleans(), st.lists(st.sampled_from(ENDS))),
        max_size=8,
    )
)
def test_each_request_has_one_answer_and_leaves_nothing_whatever_breaks(
    requests: list[tuple[str, bool, bool, list[str]]],
) -> None:
    house = FaultyHouse()
    for fault, is_delivered, front_fails, ends in requests:
        client = BrokenClient() if front_fails else Client()
        FAULTS[fault](house)
        count = len(house.send.records)
        token = house.ask(client)
        if is_delivered and token >= 0:
            house.exchange.delivered(token, 1, 0)
        for end in [*ends, "end_all"]:
            play(house, end, token, len(house.send.records) > count)
        assert len(client.answers) + house.newly_cancelled() == 1
        house.assert_empty()
        house.mend()
    house.assert_whole()


def play(house: FaultyHouse, end: str, token: int, is_sent: bool) -> None:
    """One of the things that may end a request, or come too late to do so."""
    if end == "expire":
        house.exchange.expire(2000 * MS)
    elif end == "cancel":
        house.exchange.cancel(token)
    elif end == "undelivered":
        house.exchange.undelivered(token, errors.SEND_UNKNOWN, "who knows")
    elif end == "end_all":
        house.exchange.end_all("the end")
    elif is_sent:
        headers = {"reply": [], "odd reply": [("x-a", "no bytes")], "bad reply": [("status", b"1000")]}[end]
        house.exchange.resolve(*house.reply(headers=headers), 2)


class BrokenNotes:
    """Notes of which one step fails."""

    def __init__(self, step: str) -> None:
        self.step = step

    def _fail_at(self, step: str) -> None:
        if step == self.step:
            raise Defect

    def take(self, *_: object) -> object:
        self._fail_at("take")
        return "kept"

    def dressed(self, _kept: object, headers: object) -> object:
        self._fail_at("dressed")
        return headers

    def ended(self, *_: object) -> None:
        self._fail_at("ended")


@pytest.mark.parametrize("step", ["take", "dressed", "ended"])
def test_neither_cors_nor_the_access_log_can_cost_an_answer(step: str) -> None:
    house = FaultyHouse(BrokenNotes(step))
    clients = [Client() for _ in range(SLOTS)]
    tokens = [house.ask(client) for client in clients]
    assert house.exchange.resolve(*house.reply(0), 1) is ReplyDisposition.ANSWERED
    house.exchange.undelivered(tokens[1], errors.NOT_SENT, "no")
    house.exchange.cancel(tokens[2])
    house.exchange.expire(2000 * MS)
    assert [answer[0] for client in clients for answer in client.answers] == [200, 503, 504]
    refused, options, abandoned = Client(), Client(), Client()
    house.exchange.refuse(Refusal(errors.NO_ROUTE, "", head=HEAD), refused)
    house.exchange.refuse(Refusal(errors.ANSWERED, "", headers=[], head=HEAD, is_options=True), options)
    admission = house.admission()
    assert house.exchange.reserve(admission) is None
    house.exchange.abandon(admission, errors.BODY_TIMEOUT, "", abandoned)
    assert [client.only[0] for client in (refused, options, abandoned)] == [404, 204, 408]
    assert house.journal.broken, "and the log says so"
    house.assert_whole()
