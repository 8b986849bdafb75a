"""When records leave: step by step with a producer that lands flights on demand, then any order of steps."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from fastgw.kafka._klink import LAST_FLIGHT
from fastgw.kafka.batching import ANY, GATHER_MAX_NS, NEVER, NO_ROOM, PATIENCE, SHARE, RecordQueue
from fastgw.messages import SPREAD, TOGETHER, Record

MS = 1_000_000
LINGER, STAY = 1 * MS, 2 * MS
WAITING_BYTES = 100
QUEUE_FULL = (-184, "full")


class FakeProducer:
    """Takes records, or refuses them; knows what is on its way."""

    def __init__(self, partitions=4):
        self.count = partitions
        self.taken = []  # token, flight, where it goes without key
        self.aloft = {}  # flight -> tokens
        self.refuses = set()

    def send(self, topic, value, key, headers, partition, token, flight, keyless_to):
        assert partition == ANY
        if token in self.refuses:
            return QUEUE_FULL
        self.taken.append((token, flight, keyless_to))
        self.aloft.setdefault(flight, []).append(token)
        return None

    def partitions(self, topic):
        return self.count


class House:
    """RecordQueue with everything around them."""

    def __init__(self, linger_ns=LINGER, partitions=4):
        self.producer = FakeProducer(partitions)
        self.due, self.refused = [], []
        self.alarm_ns = NEVER
        self.flights = RecordQueue(self.producer, linger_ns, STAY, WAITING_BYTES, self.come_back, self.refused.extend)

    def come_back(self, due_ns):
        self.due.append(due_ns)
        self.alarm_ns = min(self.alarm_ns, due_ns)

    def send(self, token, now_ns, partition=TOGETHER, topic="t", key=None, value=b"", concurrency_hint=1):
        return self.flights.send(Record(topic, value, key, [], partition), token, concurrency_hint, now_ns)

    def alarm(self, now_ns):
        """Time has passed; the alarm goes off if it is due."""
        if now_ns >= self.alarm_ns:
            self.alarm_ns = NEVER
            self.flights.leave(now_ns)

    def land(self, flight, now_ns):
        del self.producer.aloft[flight]
        self.flights.landed([flight], now_ns)

    @property
    def left(self):
        """The tokens of all that left, flight by flight."""
        by_flight = {}
        for token, flight, _ in self.producer.taken:
            by_flight.setdefault(flight, []).append(token)
        return list(by_flight.values())

    @property
    def destinations(self):
        """Flight -> where it goes."""
        return {flight: keyless_to for _, flight, keyless_to in self.producer.taken}


@pytest.fixture
def house():
    return House()


def test_records_that_come_while_a_flight_boards_go_with_it_and_later_ones_wait(house):
    for token, now_ns in enumerate([0, LINGER // 2, LINGER * 8 // 10, LINGER, 2 * LINGER]):
        assert house.send(token, now_ns) is None
    assert house.left == [[0, 1, 2]]
    assert house.flights.waiting == 2
    assert "2 records wait, 1 flights" in repr(house.flights)


def test_a_landing_lets_all_that_wait_go_together_and_that_flight_boards(house):
    for token, now_ns in enumerate([0, LINGER, 2 * LINGER]):
        house.send(token, now_ns)
    house.land(1, 2 * LINGER)
    house.send(3, 2 * LINGER + LINGER // 2)
    house.send(4, 3 * LINGER)
    assert house.left == [[0], [1, 2, 3]]
    assert house.flights.waiting == 1


def test_a_flight_that_lands_while_it_boards_takes_no_more(house):
    house.send(0, 0)
    house.land(1, 1)
    house.send(1, 2)
    assert house.left == [[0], [1]]


def test_who_has_waited_long_enough_goes_without_a_landing_to_another_partition(house):
    house.send(0, 0)
    house.send(1, LINGER)
    (due_ns,) = house.due
    assert due_ns == LINGER + PATIENCE * LINGER
    house.flights.leave(due_ns - 1)
    assert house.left == [[0]]
    assert house.due[-1] == due_ns, "asked to come back once more"
    house.flights.leave(due_ns)
    assert house.left == [[0], [1]]
    assert len(set(house.destinations.values())) == 2


def test_a_flight_is_complete_with_its_share_of_the_requests_that_are_under_way(house):
    for token in range(3):
        house.send(token, token, concurrency_hint=4 * SHARE)
        house.alarm(token)
    assert house.left == []
    house.send(3, 3, concurrency_hint=4 * SHARE)
    house.send(4, 3, concurrency_hint=4 * SHARE)  # in the same turn of the loop
    house.alarm(3)
    assert house.left == [[0, 1, 2, 3, 4]]


def test_a_flight_becomes_complete_when_fewer_requests_are_under_way(house):
    house.send(0, 0, concurrency_hint=9 * SHARE)
    house.send(1, 1, concurrency_hint=2 * SHARE)
    house.alarm(1)
    assert house.left == [[0, 1]]


def test_requests_of_a_slow_route_do_not_make_those_of_another_wait_for_theirs(house):
    house.send(0, 0)
    house.send(1, LINGER, concurrency_hint=SHARE)
    house.send(2, LINGER, concurrency_hint=100 * SHARE)
    house.land(1, 2 * LINGER)
    assert house.left == [[0], [1, 2]]


def test_nobody_waits_for_company_for_longer_than_the_bound_however_long_the_linger():
    house = House(linger_ns=1000 * MS)
    house.send(0, 0, concurrency_hint=9 * SHARE)
    assert house.due == [GATHER_MAX_NS]
    house.alarm(GATHER_MAX_NS)
    assert house.left == [[0]]


def test_without_linger_nobody_waits_for_company():
    house = House(linger_ns=0)
    for token in range(3):
        house.send(token, token, concurrency_hint=9 * SHARE)
    assert house.left == [[0], [1], [2]]


def test_a_flight_that_is_not_complete_leaves_when_its_time_has_come(house):
    house.send(0, 0, concurrency_hint=9 * SHARE)
    house.alarm(PATIENCE * LINGER - 1)
    assert house.left == []
    house.alarm(PATIENCE * LINGER)
    assert house.left == [[0]]


def test_a_landing_does_not_let_go_what_is_not_complete(house):
    house.send(0, 0)
    house.send(1, LINGER, concurrency_hint=2 * SHARE)
    house.land(1, 2 * LINGER)
    assert house.left == [[0]]
    house.send(2, 2 * LINGER, concurrency_hint=2 * SHARE)
    house.alarm(2 * LINGER)
    assert house.left == [[0], [1, 2]]


def test_a_complete_flight_waits_for_the_landing_of_the_one_before(house):
    house.send(0, 0)
    for token in range(1, 5):
        house.send(token, LINGER, concurrency_hint=2 * SHARE)
        house.alarm(LINGER)
    assert house.left == [[0]]
    assert house.due == [LINGER + PATIENCE * LINGER], "it is not looked at before"
    house.land(1, 2 * LINGER)
    assert house.left == [[0], [1, 2, 3, 4]]


def test_flights_go_to_one_partition_for_a_while_and_then_to_others(house):
    now_ns = 0
    for token in range(200):
        house.send(token, now_ns)
        house.land(token + 1, now_ns)
        now_ns += STAY // 4
    stays = [house.destinations[flight] for flight in range(1, 201)]
    assert all(len(set(stays[first : first + 4])) == 1 for first in range(0, 200, 4))
    assert set(stays) == {0, 1, 2, 3}, "but for one time in 10^6"


def test_no_partition_gets_a_second_flight_and_while_none_is_free_nothing_leaves(house):
    for token in range(6):
        house.send(token, token * 10 * LINGER)
        house.flights.leave(token * 10 * LINGER + PATIENCE * LINGER)
    assert house.left == [[0], [1], [2], [3]]
    assert sorted(house.destinations.values()) == [0, 1, 2, 3]
    house.flights.leave(10**15)
    assert house.flights.waiting == 2
    house.land(3, 10**15)
    assert house.left[4:] == [[4, 5]]
    assert house.destinations[5] == house.destinations[3]


def test_what_waits_too_long_is_given_up_and_never_leaves(house):
    house.send(0, 0)
    for token in (1, 2, 3):
        house.send(token, token * LINGER)
    assert house.flights.expired(3 * LINGER, most=9) == [1, 2]
    house.land(1, 4 * LINGER)
    assert house.left == [[0], [3]]
    house.send(4, 5 * LINGER)
    assert house.flights.expired(10**15, most=0) == []
    assert house.flights.expired(10**15, most=1) == [4]
    assert house.flights.expired(10**15, most=1) == []
    house.land(2, 6 * LINGER)
    assert house.left == [[0], [3]]


def test_what_is_withdrawn_never_leaves_and_what_has_left_cannot_be_withdrawn(house):
    for token, now_ns in enumerate([0, LINGER, LINGER]):
        house.send(token, now_ns)
    assert [house.flights.withdraw(token) for token in (0, 1, 1, 7)] == [False, True, False, False]
    house.land(1, 2 * LINGER)
    assert house.left == [[0], [2]]
    house.send(3, 3 * LINGER)
    assert house.flights.withdraw(3)
    house.land(2, 4 * LINGER)
    assert house.left == [[0], [2]]
    assert house.flights.waiting == 0


def test_without_linger_each_record_leaves_at_once_as_long_as_a_partition_is_free():
    house = House(linger_ns=0)
    for token in range(6):
        house.send(token, token)
    assert house.left == [[0], [1], [2], [3]]
    house.land(2, 10)
    assert house.left[4:] == [[4, 5]]


def test_spread_records_go_where_librdkafka_draws_them(house):
    for token in range(4):
        house.send(token, 10 * token * LINGER, partition=SPREAD)
        house.flights.leave((10 * token + PATIENCE) * LINGER)
    assert house.destinations == dict.fromkeys(range(1, 5), ANY)


def test_until_the_partitions_are_known_a_flight_stays_together_all_the_same():
    house = House(partitions=0)
    house.send(0, 0)
    house.send(1, LINGER // 2)
    assert len({keyless_to for _, _, keyless_to in house.producer.taken}) == 1
    assert house.destinations[1] >= 0
    house.producer.count = 4
    house.land(1, LINGER)
    house.send(2, LINGER)
    assert 0 <= house.destinations[2] < 4


def test_until_the_partitions_are_known_one_flight_leaves_at_a_time():
    house = House(partitions=0)
    house.send(0, 0)
    house.send(1, LINGER)
    house.flights.leave(10**15)
    assert house.left == [[0]]
    house.land(1, 10**15)
    assert house.left == [[0], [1]]


def test_a_flight_that_does_not_land_holds_up_nobody_but_the_next(house):
    house.send(0, 0)
    house.send(1, LINGER)
    house.flights.leave(LINGER + PATIENCE * LINGER)
    now_ns = 10 * LINGER
    for token in range(2, 20):  # those of the other partitions land and are followed at once
        house.send(token, now_ns)
        house.land(token, now_ns + 1)
        now_ns += 2 * LINGER
    assert house.left == [[token] for token in range(20)]
    assert house.destinations[1] not in {house.destinations[flight] for flight in range(2, 21)}


def test_no_more_bytes_wait_than_may():
    house = House()
    house.send(0, 0, value=bytes(1000))
    assert house.send(1, LINGER, value=bytes(60)) is None
    assert house.send(2, LINGER, value=bytes(41)) == NO_ROOM
    assert house.send(3, LINGER, value=bytes(40)) is None
    assert house.send(4, LINGER, topic="other", value=bytes(1000)) is None, "which does not have to wait"
    house.flights.withdraw(1)
    assert house.send(5, LINGER, value=bytes(60)) is None
    house.land(1, 2 * LINGER)
    assert house.left == [[0], [4], [3, 5]]
    assert house.send(6, 4 * LINGER, value=bytes(100)) is None
    house.flights.expired(10**15, most=9)
    assert house.send(7, 4 * LINGER, value=bytes(100)) is None


def test_lanes_do_not_wait_for_each_other(house):
    house.send(0, 0, topic="a")
    house.send(1, 0, topic="a", partition=SPREAD)
    house.send(2, 0, topic="b")
    assert house.left == [[0], [1], [2]]
    house.send(3, LINGER, topic="a", partition=SPREAD)
    house.land(1, LINGER)
    assert house.flights.waiting == 1
    house.land(2, LINGER)
    assert house.left == [[0], [1], [2], [3]]


def test_a_refusal_is_returned_to_who_sends_and_holds_nobody_up(house):
    house.producer.refuses = {0}
    assert house.send(0, 0) == QUEUE_FULL
    assert house.send(1, 0) is None
    assert house.left == [[1]]
    assert house.refused == []


def test_a_refusal_of_what_has_waited_is_told_and_holds_nobody_up(house):
    house.send(0, 0)
    for token in (1, 2, 3):
        house.send(token, LINGER)
    house.producer.refuses = {1, 2, 3}
    house.land(1, 2 * LINGER)
    assert house.refused == [(token, *QUEUE_FULL) for token in (1, 2, 3)]
    house.send(4, 2 * LINGER)
    assert house.left == [[0], [4]]


def test_who_is_told_of_refusals_may_send_at_once():
    told = []

    def send_again(refusals):
        told.extend(refusals)
        flights.send(Record("t", b"", None, [], TOGETHER), 9, 1, 2 * LINGER)

    producer = FakeProducer()
    producer.refuses = {1, 2}
    flights = RecordQueue(producer, LINGER, STAY, WAITING_BYTES, lambda _: None, send_again)
    for token, now_ns in enumerate([0, LINGER, LINGER]):
        flights.send(Record("t", b"", None, [], TOGETHER), token, 1, now_ns)
    flights.landed([1], 2 * LINGER)
    assert [token for token, *_ in told] == [1, 2]
    assert [token for token, _, _ in producer.taken] == [0, 9]


def test_a_new_producer_gets_what_waits_and_landings_of_the_old_one_mean_nothing(house):
    house.send(0, 0)
    house.send(1, LINGER)
    successor = FakeProducer()
    house.flights.go_on_with(successor)
    house.flights.leave(2 * LINGER)
    assert [token for token, _, _ in successor.taken] == [1]
    house.flights.landed([1], 2 * LINGER)
    house.send(2, 3 * LINGER)
    assert house.flights.waiting == 1
    assert [token for token, _, _ in house.producer.taken] == [0]


def test_at_the_end_everything_leaves(house):
    for token in range(9):
        house.send(token, 10 * token * LINGER)
        house.flights.leave(10 * token * LINGER + PATIENCE * LINGER)
    house.send(9, 0, partition=SPREAD)
    house.send(10, LINGER, partition=SPREAD)
    house.flights.leave_all(10**15)
    assert sorted(token for token, _, _ in house.producer.taken) == list(range(11))
    assert house.flights.waiting == 0


def test_flights_beyond_those_that_can_be_told_apart_are_not_followed():
    house = House(partitions=LAST_FLIGHT + 9)
    for token in range(LAST_FLIGHT + 3):
        house.send(token, 2 * token * LINGER, topic=f"t{token}")
    assert [flight for _, flight, _ in house.producer.taken] == [*range(1, LAST_FLIGHT + 1), 0, 0, 0]
    house.land(7, 10**9)
    house.send(LAST_FLIGHT + 3, 10**9, topic="another")
    assert house.producer.taken[-1][1] == 7, "the only number that is free"


def test_the_age_of_flights_is_that_of_the_oldest_that_has_not_landed(house):
    assert house.flights.oldest_ns() == NEVER
    for token, now_ns in enumerate([0, 10 * LINGER, 20 * LINGER]):
        house.send(token, now_ns, topic=f"t{token}")
    assert house.flights.oldest_ns() == 0
    house.land(2, 21 * LINGER)
    assert house.flights.oldest_ns() == 0
    house.land(1, 22 * LINGER)
    assert house.flights.oldest_ns() == 20 * LINGER
    house.send(3, 23 * LINGER, topic="t2")  # waits
    house.flights.go_on_with(FakeProducer())
    assert house.flights.oldest_ns() == NEVER


def test_a_flight_that_is_called_off_does_not_grow_old(house):
    house.producer.refuses = {0}
    house.send(0, 0)
    assert house.flights.oldest_ns() == NEVER


def test_spread_records_that_do_not_wait_use_up_no_numbers():
    house = House(linger_ns=0)
    for token in range(3):
        house.send(token, token, partition=SPREAD)
    assert [flight for _, flight, _ in house.producer.taken] == [0, 0, 0]


class AnyOrder(RuleBasedStateMachine):
    """Records come, flights land, time passes, in any order: each record leaves once, in order, or is given up."""

    lanes = Bundle("lanes")

    def __init__(self):
        super().__init__()
        self.house = House(partitions=3)
        self.now_ns = 0
        self.sent = {}  # lane -> tokens in order
        self.since = {}  # token -> when it was sent
        self.complete = {}  # token -> how many it sees as a flight
        self.gone = set()  # given up
        self.token = 0

    @rule(
        topic=st.sampled_from("ab"),
        partition=st.sampled_from([TOGETHER, SPREAD]),
        concurrency_hint=st.sampled_from([0, 1, 2 * SHARE, 5 * SHARE]),
    )
    def send(self, topic, partition, concurrency_hint):
        self.token += 1
        self.sent.setdefault((topic, partition), []).append(self.token)
        self.since[self.token], self.complete[self.token] = self.now_ns, concurrency_hint // SHARE
        assert self.house.send(self.token, self.now_ns, partition, topic, concurrency_hint=concurrency_hint) is None

    @rule(lingers=st.sampled_from([0.1, 0.5, 1, PATIENCE, 3 * PATIENCE]))
    def pass_time(self, lingers):
        self.now_ns += int(lingers * LINGER)
        self.house.alarm(self.now_ns)

    @precondition(lambda self: self.house.producer.aloft)
    @rule(data=st.data())
    def land(self, data):
        self.house.land(data.draw(st.sampled_from(sorted(self.house.producer.aloft))), self.now_ns)

    @rule(age=st.integers(0, 20))
    def give_up(self, age):
        self.gone.update(self.house.flights.expired(self.now_ns - age * LINGER, most=3))

    @precondition(lambda self: self.token)
    @rule(data=st.data())
    def withdraw(self, data):
        token = data.draw(st.integers(1, self.token))
        if self.house.flights.withdraw(token):
            self.gone.add(token)

    @invariant()
    def each_leaves_once_and_in_order(self):
        left = [token for token, _, _ in self.house.producer.taken]
        assert len(left) == len(set(left))
        assert not self.gone & set(left)
        for tokens in self.sent.values():
            mine = [token for token in left if token in set(tokens)]
            assert mine == sorted(mine)
        assert len(left) + len(self.gone) + self.house.flights.waiting == self.token

    @invariant()
    def no_partition_has_two_flights_of_a_lane(self):
        for (_, partition), tokens in self.sent.items():
            if partition == SPREAD:
                continue
            mine = {
                flight: keyless_to
                for token, flight, keyless_to in self.house.producer.taken
                if flight in self.house.producer.aloft and token in set(tokens)
            }
            assert len(set(mine.values())) == len(mine)

    @invariant()
    def nobody_waits_for_long_while_nothing_is_on_its_way(self):
        if self.house.producer.aloft:
            return
        left = {token for token, _, _ in self.house.producer.taken} | self.gone
        for tokens in self.sent.values():
            waiting = [token for token in tokens if token not in left]
            if waiting:
                is_complete = len(waiting) >= min(self.complete[token] for token in waiting)
                assert self.house.alarm_ns <= (self.now_ns if is_complete else self.since[waiting[0]] + GATHER_MAX_NS)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase
