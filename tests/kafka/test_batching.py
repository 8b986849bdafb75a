"""When records leave: step by step with a producer that acknowledges batches on demand, then any order of steps."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastgw.kafka._klink import LAST_BATCH, NO_ROOM, UNTRACKED, RecordMemory
from fastgw.kafka.batching import (
    CONCURRENCY_SHARE,
    GATHER_MAX_NS,
    STALLED_LINGERS,
    RecordQueue,
    TopicQueue,
)
from fastgw.kafka.link import ANY, NEVER
from fastgw.messages import SPREAD, TOGETHER, Record

MS = 1_000_000
LINGER, STICKY = 1 * MS, 2 * MS
WAITING_BYTES = 100
QUEUE_FULL = (-184, "full")


class FakeProducer:
    """Takes records, or refuses them; knows what is outstanding."""

    def __init__(self, partitions=4):
        self.count = partitions
        self.taken = []  # token, batch, where it goes without key
        self.outstanding = {}  # batch -> tokens
        self.refuses = set()

    def send(self, topic, value, key, headers, partition, token, batch, keyless_to):
        if token in self.refuses:
            return QUEUE_FULL
        if token == UNTRACKED:
            assert keyless_to == ANY
            token, keyless_to = value, partition  # only its value tells which one it is
        else:
            assert partition == ANY
        self.taken.append((token, batch, keyless_to))
        self.outstanding.setdefault(batch, []).append(token)
        return None

    def partitions(self, topic):
        return self.count


def turns():
    """A draw of partitions that gives each one in turn."""
    numbers = itertools.count()
    return lambda below: next(numbers) % below


class House:
    """A RecordQueue with everything around it."""

    def __init__(self, linger_ns=LINGER, partitions=4, draw=None):
        self.producer = FakeProducer(partitions)
        self.due, self.refused = [], []
        self.alarm_ns = NEVER
        self.memory = RecordMemory(WAITING_BYTES)
        self.queue = RecordQueue(
            self.producer, linger_ns, STICKY, self.memory, self.wake_at, self.refused.extend, draw or turns()
        )

    def wake_at(self, due_ns):
        self.due.append(due_ns)
        self.alarm_ns = min(self.alarm_ns, due_ns)

    def send(self, token, now_ns, partition=TOGETHER, topic="t", key=None, value=b"", concurrency_hint=1):
        return self.queue.send(Record(topic, value, key, [], partition), token, concurrency_hint, now_ns)

    def send_untracked(self, value, now_ns, partition=2):
        return self.queue.send_untracked(Record("t", value, None, [], partition), now_ns)

    def alarm(self, now_ns):
        """Time has passed; the alarm goes off if it is due."""
        if now_ns >= self.alarm_ns:
            self.alarm_ns = NEVER
            self.queue.flush_due(now_ns)

    def acknowledge(self, batch, now_ns):
        del self.producer.outstanding[batch]
        self.queue.acknowledged([batch], now_ns)

    @property
    def left(self):
        """The tokens of all that left, batch by batch."""
        by_batch = {}
        for token, batch, _ in self.producer.taken:
            by_batch.setdefault(batch, []).append(token)
        return list(by_batch.values())

    @property
    def destinations(self):
        """Batch -> where it goes."""
        return {batch: keyless_to for _, batch, keyless_to in self.producer.taken}


@pytest.fixture
def house():
    return House()


def test_records_that_come_while_a_batch_is_open_go_with_it_and_later_ones_wait(house):
    for token, now_ns in enumerate([0, LINGER // 2, LINGER * 8 // 10, LINGER, 2 * LINGER]):
        assert house.send(token, now_ns) is None
    assert house.left == [[0, 1, 2]]
    assert house.queue.waiting == 2
    assert "2 records wait, 1 batches outstanding" in repr(house.queue)


def test_an_acknowledgement_lets_all_that_wait_leave_together_and_that_batch_is_open(house):
    for token, now_ns in enumerate([0, LINGER, 2 * LINGER]):
        house.send(token, now_ns)
    house.acknowledge(1, 2 * LINGER)
    house.send(3, 2 * LINGER + LINGER // 2)
    house.send(4, 3 * LINGER)
    assert house.left == [[0], [1, 2, 3]]
    assert house.queue.waiting == 1


def test_a_batch_that_is_acknowledged_while_it_is_open_takes_no_more(house):
    house.send(0, 0)
    house.acknowledge(1, 1)
    house.send(1, 2)
    assert house.left == [[0], [1]]


def test_a_record_that_has_waited_long_enough_leaves_unacknowledged_or_not_for_another_partition(house):
    house.send(0, 0)
    house.send(1, LINGER)
    (due_ns,) = house.due
    assert due_ns == LINGER + STALLED_LINGERS * LINGER
    house.queue.flush_due(due_ns - 1)
    assert house.left == [[0]]
    assert house.due[-1] == due_ns, "asked to come back once more"
    house.queue.flush_due(due_ns)
    assert house.left == [[0], [1]]
    assert len(set(house.destinations.values())) == 2


def test_enough_is_a_share_of_the_requests_under_way(house):
    for token in range(3):
        house.send(token, token, concurrency_hint=4 * CONCURRENCY_SHARE)
        house.alarm(token)
    assert house.left == []
    house.send(3, 3, concurrency_hint=4 * CONCURRENCY_SHARE)
    house.send(4, 3, concurrency_hint=4 * CONCURRENCY_SHARE)  # in the same turn of the loop
    house.alarm(3)
    assert house.left == [[0, 1, 2, 3, 4]]


def test_fewer_requests_under_way_make_less_enough(house):
    house.send(0, 0, concurrency_hint=9 * CONCURRENCY_SHARE)
    house.send(1, 1, concurrency_hint=2 * CONCURRENCY_SHARE)
    house.alarm(1)
    assert house.left == [[0, 1]]


def test_requests_of_a_slow_route_do_not_make_those_of_another_wait_for_theirs(house):
    house.send(0, 0)
    house.send(1, LINGER, concurrency_hint=CONCURRENCY_SHARE)
    house.send(2, LINGER, concurrency_hint=100 * CONCURRENCY_SHARE)
    house.acknowledge(1, 2 * LINGER)
    assert house.left == [[0], [1, 2]]


def test_no_record_gathers_others_for_longer_than_the_bound_however_long_the_linger():
    house = House(linger_ns=1000 * MS)
    house.send(0, 0, concurrency_hint=9 * CONCURRENCY_SHARE)
    assert house.due == [GATHER_MAX_NS]
    house.alarm(GATHER_MAX_NS)
    assert house.left == [[0]]


def test_without_linger_no_record_waits_for_others():
    house = House(linger_ns=0)
    for token in range(3):
        house.send(token, token, concurrency_hint=9 * CONCURRENCY_SHARE)
    assert house.left == [[0], [1], [2]]


def test_less_than_enough_leaves_when_its_time_has_come(house):
    house.send(0, 0, concurrency_hint=9 * CONCURRENCY_SHARE)
    house.alarm(STALLED_LINGERS * LINGER - 1)
    assert house.left == []
    house.alarm(STALLED_LINGERS * LINGER)
    assert house.left == [[0]]


def test_an_acknowledgement_does_not_let_less_than_enough_leave(house):
    house.send(0, 0)
    house.send(1, LINGER, concurrency_hint=2 * CONCURRENCY_SHARE)
    house.acknowledge(1, 2 * LINGER)
    assert house.left == [[0]]
    house.send(2, 2 * LINGER, concurrency_hint=2 * CONCURRENCY_SHARE)
    house.alarm(2 * LINGER)
    assert house.left == [[0], [1, 2]]


def test_enough_records_wait_until_the_batch_before_is_acknowledged(house):
    house.send(0, 0)
    for token in range(1, 5):
        house.send(token, LINGER, concurrency_hint=2 * CONCURRENCY_SHARE)
        house.alarm(LINGER)
    assert house.left == [[0]]
    assert house.due == [LINGER + STALLED_LINGERS * LINGER], "it is not looked at before"
    house.acknowledge(1, 2 * LINGER)
    assert house.left == [[0], [1, 2, 3, 4]]


def test_batches_go_to_one_partition_for_a_while_and_then_to_others(house):
    now_ns = 0
    for token in range(200):
        house.send(token, now_ns)
        house.acknowledge(token + 1, now_ns)
        now_ns += STICKY // 4
    stays = [house.destinations[batch] for batch in range(1, 201)]
    assert all(len(set(stays[first : first + 4])) == 1 for first in range(0, 200, 4))
    assert set(stays) == {0, 1, 2, 3}


def test_a_batch_goes_to_the_partition_that_is_drawn_or_to_the_next_one_that_is_free():
    house = House(draw=lambda below: below - 1)
    for token in range(3):
        house.send(token, token * 10 * LINGER)
        house.queue.flush_due(token * 10 * LINGER + STALLED_LINGERS * LINGER)
    assert house.destinations == {1: 3, 2: 0, 3: 1}


def test_no_partition_gets_a_second_batch_and_while_none_is_free_nothing_leaves(house):
    for token in range(6):
        house.send(token, token * 10 * LINGER)
        house.queue.flush_due(token * 10 * LINGER + STALLED_LINGERS * LINGER)
    assert house.left == [[0], [1], [2], [3]]
    assert sorted(house.destinations.values()) == [0, 1, 2, 3]
    house.queue.flush_due(10**15)
    assert house.queue.waiting == 2
    house.acknowledge(3, 10**15)
    assert house.left[4:] == [[4, 5]]
    assert house.destinations[5] == house.destinations[3]


def test_what_waits_too_long_is_given_up_and_never_leaves(house):
    house.send(0, 0)
    for token in (1, 2, 3):
        house.send(token, token * LINGER)
    assert house.queue.cancel_older(3 * LINGER, most=9) == [1, 2]
    house.acknowledge(1, 4 * LINGER)
    assert house.left == [[0], [3]]
    house.send(4, 5 * LINGER)
    assert house.queue.cancel_older(10**15, most=0) == []
    assert house.queue.cancel_older(10**15, most=1) == [4]
    assert house.queue.cancel_older(10**15, most=1) == []
    house.acknowledge(2, 6 * LINGER)
    assert house.left == [[0], [3]]


def test_what_is_cancelled_never_leaves_and_what_has_left_cannot_be_cancelled(house):
    for token, now_ns in enumerate([0, LINGER, LINGER]):
        house.send(token, now_ns)
    assert [house.queue.cancel_unsent(token) for token in (0, 1, 1, 7)] == [False, True, False, False]
    house.acknowledge(1, 2 * LINGER)
    assert house.left == [[0], [2]]
    house.send(3, 3 * LINGER)
    assert house.queue.cancel_unsent(3)
    house.acknowledge(2, 4 * LINGER)
    assert house.left == [[0], [2]]
    assert house.queue.waiting == 0


def test_without_linger_each_record_leaves_at_once_as_long_as_a_partition_is_free():
    house = House(linger_ns=0)
    for token in range(6):
        house.send(token, token)
    assert house.left == [[0], [1], [2], [3]]
    house.acknowledge(2, 10)
    assert house.left[4:] == [[4, 5]]


def test_spread_records_go_where_librdkafka_draws_them(house):
    for token in range(4):
        house.send(token, 10 * token * LINGER, partition=SPREAD)
        house.queue.flush_due((10 * token + STALLED_LINGERS) * LINGER)
    assert house.destinations == dict.fromkeys(range(1, 5), ANY)


def test_until_the_partitions_are_known_a_batch_stays_together_all_the_same():
    house = House(partitions=0)
    house.send(0, 0)
    house.send(1, LINGER // 2)
    assert len({keyless_to for _, _, keyless_to in house.producer.taken}) == 1
    assert house.destinations[1] >= 0
    house.producer.count = 4
    house.acknowledge(1, LINGER)
    house.send(2, LINGER)
    assert 0 <= house.destinations[2] < 4


def test_until_the_partitions_are_known_one_batch_leaves_at_a_time():
    house = House(partitions=0)
    house.send(0, 0)
    house.send(1, LINGER)
    house.queue.flush_due(10**15)
    assert house.left == [[0]]
    house.acknowledge(1, 10**15)
    assert house.left == [[0], [1]]


def test_a_batch_that_is_stuck_holds_up_only_the_next(house):
    house.send(0, 0)
    house.send(1, LINGER)
    house.queue.flush_due(LINGER + STALLED_LINGERS * LINGER)
    now_ns = 10 * LINGER
    for token in range(2, 20):  # those of the other partitions are acknowledged and followed at once
        house.send(token, now_ns)
        house.acknowledge(token, now_ns + 1)
        now_ns += 2 * LINGER
    assert house.left == [[token] for token in range(20)]
    assert house.destinations[1] not in {house.destinations[batch] for batch in range(2, 21)}


def test_no_more_bytes_wait_than_may():
    """The producer's part of the memory is a fake here; keys and headers count as well."""
    house = House()
    house.send(0, 0, value=bytes(1000))
    assert house.send(1, LINGER, value=bytes(60)) is None
    assert house.send(2, LINGER, value=bytes(41)) == NO_ROOM
    assert house.send(3, LINGER, value=bytes(40)) is None
    assert house.send(4, LINGER, topic="other", value=bytes(1000)) is None, "which does not have to wait"
    house.queue.cancel_unsent(1)
    assert house.send(5, LINGER, value=bytes(60)) is None
    house.acknowledge(1, 2 * LINGER)
    assert house.left == [[0], [4], [3, 5]]
    assert house.send(6, 4 * LINGER, value=bytes(100)) is None
    house.queue.cancel_older(10**15, most=9)
    assert house.send(7, 4 * LINGER, value=bytes(100)) is None


def test_queues_do_not_wait_for_each_other(house):
    house.send(0, 0, topic="a")
    house.send(1, 0, topic="a", partition=SPREAD)
    house.send(2, 0, topic="b")
    assert house.left == [[0], [1], [2]]
    house.send(3, LINGER, topic="a", partition=SPREAD)
    house.acknowledge(1, LINGER)
    assert house.queue.waiting == 1
    house.acknowledge(2, LINGER)
    assert house.left == [[0], [1], [2], [3]]


def test_a_refusal_is_returned_to_the_sender_and_holds_up_no_other(house):
    house.producer.refuses = {0}
    assert house.send(0, 0) == QUEUE_FULL
    assert house.send(1, 0) is None
    assert house.left == [[1]]
    assert house.refused == []


def test_a_refusal_of_what_has_waited_is_told_and_holds_up_no_other(house):
    house.send(0, 0)
    for token in (1, 2, 3):
        house.send(token, LINGER)
    house.producer.refuses = {1, 2, 3}
    house.acknowledge(1, 2 * LINGER)
    assert house.refused == [(token, *QUEUE_FULL) for token in (1, 2, 3)]
    house.send(4, 2 * LINGER)
    assert house.left == [[0], [4]]


def test_records_may_be_sent_as_soon_as_refusals_are_told():
    told = []

    def send_again(refusals):
        told.extend(refusals)
        queue.send(Record("t", b"", None, [], TOGETHER), 9, 1, 2 * LINGER)

    producer = FakeProducer()
    producer.refuses = {1, 2}
    queue = RecordQueue(producer, LINGER, STICKY, RecordMemory(), lambda _: None, send_again)
    for token, now_ns in enumerate([0, LINGER, LINGER]):
        queue.send(Record("t", b"", None, [], TOGETHER), token, 1, now_ns)
    queue.acknowledged([1], 2 * LINGER)
    assert [token for token, *_ in told] == [1, 2]
    assert [token for token, _, _ in producer.taken] == [0, 9]


def test_a_new_producer_gets_what_waits_and_acknowledgements_of_the_old_one_mean_nothing(house):
    house.send(0, 0)
    house.send(1, LINGER)
    successor = FakeProducer()
    house.queue.switch_to(successor)
    house.queue.flush_due(2 * LINGER)
    assert [token for token, _, _ in successor.taken] == [1]
    house.queue.acknowledged([1], 2 * LINGER)
    house.send(2, 3 * LINGER)
    assert house.queue.waiting == 1
    assert [token for token, _, _ in house.producer.taken] == [0]


def test_at_the_end_everything_leaves(house):
    for token in range(9):
        house.send(token, 10 * token * LINGER)
        house.queue.flush_due(10 * token * LINGER + STALLED_LINGERS * LINGER)
    house.send(9, 0, partition=SPREAD)
    house.send(10, LINGER, partition=SPREAD)
    house.queue.flush_all(10**15)
    assert sorted(token for token, _, _ in house.producer.taken) == list(range(11))
    assert house.queue.waiting == 0


def test_batches_beyond_those_that_can_be_told_apart_are_not_followed():
    house = House(partitions=LAST_BATCH + 9)
    for token in range(LAST_BATCH + 3):
        house.send(token, 2 * token * LINGER, topic=f"t{token}")
    assert [batch for _, batch, _ in house.producer.taken] == [*range(1, LAST_BATCH + 1), 0, 0, 0]
    house.acknowledge(7, 10**9)
    house.send(LAST_BATCH + 3, 10**9, topic="another")
    assert house.producer.taken[-1][1] == 7, "the only number that is free"


def test_the_age_is_that_of_the_oldest_outstanding_batch(house):
    assert house.queue.oldest_ns() == NEVER
    for token, now_ns in enumerate([0, 10 * LINGER, 20 * LINGER]):
        house.send(token, now_ns, topic=f"t{token}")
    assert house.queue.oldest_ns() == 0
    house.acknowledge(2, 21 * LINGER)
    assert house.queue.oldest_ns() == 0
    house.acknowledge(1, 22 * LINGER)
    assert house.queue.oldest_ns() == 20 * LINGER
    house.send(3, 23 * LINGER, topic="t2")  # waits
    house.queue.switch_to(FakeProducer())
    assert house.queue.oldest_ns() == NEVER


def test_a_batch_without_records_does_not_grow_old(house):
    house.producer.refuses = {0}
    house.send(0, 0)
    assert house.queue.oldest_ns() == NEVER


def test_spread_records_that_do_not_wait_use_up_no_numbers():
    house = House(linger_ns=0)
    for token in range(3):
        house.send(token, token, partition=SPREAD)
    assert [batch for _, batch, _ in house.producer.taken] == [0, 0, 0]


def test_a_queue_tells_its_state_in_its_repr():
    queue = TopicQueue("orders", sticky=True)
    queue.enough, queue.batch, queue.partition, queue.busy = 3, 7, 2, {2, 0}
    queue.waiting = {1: (Record("orders", b"", None, [], TOGETHER), 0)}
    assert repr(queue) == (
        "<TopicQueue orders, sticky: 1 of 3 records wait, last batch 7 to partition 2, "
        "partitions with an outstanding batch: [0, 2]>"
    )
    assert "orders, spread: 0 of 0 records wait, last batch 0, " in repr(TopicQueue("orders", sticky=False))
    assert "orders, of partition 3: 0 of 0 records wait, " in repr(TopicQueue("orders", sticky=False, to=3))


def test_untracked_records_of_a_partition_share_its_batches_and_wait_for_no_other_partition(house):
    for value, now_ns in ((b"a", 0), (b"b", LINGER // 2), (b"c", LINGER), (b"d", 2 * LINGER)):
        assert house.send_untracked(value, now_ns) is None
    house.send_untracked(b"e", 2 * LINGER, partition=1)
    assert house.left == [[b"a", b"b"], [b"e"]]
    assert house.destinations == {1: 2, 2: 1}
    house.acknowledge(1, 3 * LINGER)
    assert house.left == [[b"a", b"b"], [b"e"], [b"c", b"d"]]
    assert house.destinations[3] == 2


def test_untracked_records_never_go_to_another_partition_and_are_given_up_under_negative_tokens(house):
    house.send_untracked(b"a", 0)
    house.send_untracked(b"b", LINGER)
    house.send_untracked(b"c", 2 * LINGER)
    house.queue.flush_due(10**15)
    assert house.left == [[b"a"]]
    assert house.queue.cancel_older(2 * LINGER, most=9) == [-1]
    house.acknowledge(1, 10**15)
    assert house.left == [[b"a"], [b"c"]]


def test_untracked_records_that_are_refused_hold_up_no_other(house):
    house.producer.refuses = {UNTRACKED}
    assert house.send_untracked(b"a", 0) == QUEUE_FULL
    house.producer.refuses = set()
    assert house.send_untracked(b"b", 1) is None
    assert house.send_untracked(b"c", LINGER + 1) is None
    house.producer.refuses = {UNTRACKED}
    house.acknowledge(2, LINGER + 2)
    assert house.refused == [(-1, *QUEUE_FULL)]
    house.producer.refuses = set()
    assert house.send_untracked(b"d", LINGER + 3) is None
    assert house.left == [[b"b"], [b"d"]]


def test_untracked_records_count_while_they_wait_and_find_room_or_are_refused(house):
    house.send_untracked(b"a", 0)
    house.send_untracked(bytes(60), LINGER)
    assert house.memory.held_bytes == 60
    assert house.send_untracked(bytes(41), LINGER) == NO_ROOM
    assert house.send_untracked(bytes(40), LINGER) is None
    house.acknowledge(1, 2 * LINGER)
    assert house.memory.held_bytes == 0, "the producer, a fake, does not count"


def test_a_new_producer_gets_the_untracked_records_that_wait(house):
    house.send_untracked(b"a", 0)
    house.send_untracked(b"b", LINGER)
    successor = FakeProducer()
    house.queue.switch_to(successor)
    house.queue.flush_due(10**15)
    assert [value for value, _, _ in successor.taken] == [b"b"]


class AnyOrder(RuleBasedStateMachine):
    """Records come, batches are acknowledged, time passes: each record leaves once and in order, or is given up."""

    def __init__(self):
        super().__init__()
        self.house = House(partitions=3)
        self.now_ns = 0
        self.sent = {}  # topic and partition -> tokens in order
        self.since = {}  # token -> when it was sent
        self.enough = {}  # token -> how many records are enough for it
        self.gone = set()  # given up
        self.token = 0

    @rule(
        topic=st.sampled_from("ab"),
        partition=st.sampled_from([TOGETHER, SPREAD]),
        concurrency_hint=st.sampled_from([0, 1, 2 * CONCURRENCY_SHARE, 5 * CONCURRENCY_SHARE]),
    )
    def send(self, topic, partition, concurrency_hint):
        self.token += 1
        self.sent.setdefault((topic, partition), []).append(self.token)
        self.since[self.token], self.enough[self.token] = self.now_ns, concurrency_hint // CONCURRENCY_SHARE
        assert self.house.send(self.token, self.now_ns, partition, topic, concurrency_hint=concurrency_hint) is None

    @rule(lingers=st.sampled_from([0.1, 0.5, 1, STALLED_LINGERS, 3 * STALLED_LINGERS]))
    def pass_time(self, lingers):
        self.now_ns += int(lingers * LINGER)
        self.house.alarm(self.now_ns)

    @precondition(lambda self: self.house.producer.outstanding)
    @rule(data=st.data())
    def acknowledge(self, data):
        self.house.acknowledge(data.draw(st.sampled_from(sorted(self.house.producer.outstanding))), self.now_ns)

    @rule(age=st.integers(0, 20))
    def give_up(self, age):
        self.gone.update(self.house.queue.cancel_older(self.now_ns - age * LINGER, most=3))

    @precondition(lambda self: self.token)
    @rule(data=st.data())
    def cancel_unsent(self, data):
        token = data.draw(st.integers(1, self.token))
        if self.house.queue.cancel_unsent(token):
            self.gone.add(token)

    @invariant()
    def each_leaves_once_and_in_order(self):
        left = [token for token, _, _ in self.house.producer.taken]
        assert len(left) == len(set(left))
        assert not self.gone & set(left)
        for tokens in self.sent.values():
            mine = [token for token in left if token in set(tokens)]
            assert mine == sorted(mine)
        assert len(left) + len(self.gone) + self.house.queue.waiting == self.token

    @invariant()
    def no_partition_has_two_batches_of_a_queue(self):
        for (_, partition), tokens in self.sent.items():
            if partition == SPREAD:
                continue
            mine = {
                batch: keyless_to
                for token, batch, keyless_to in self.house.producer.taken
                if batch in self.house.producer.outstanding and token in set(tokens)
            }
            assert len(set(mine.values())) == len(mine)

    @invariant()
    def no_record_waits_for_long_while_nothing_is_outstanding(self):
        if self.house.producer.outstanding:
            return
        left = {token for token, _, _ in self.house.producer.taken} | self.gone
        for tokens in self.sent.values():
            waiting = [token for token in tokens if token not in left]
            if waiting:
                is_enough = len(waiting) >= min(self.enough[token] for token in waiting)
                assert self.house.alarm_ns <= (self.now_ns if is_enough else self.since[waiting[0]] + GATHER_MAX_NS)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_what_waits_is_counted_beside_what_producers_have_until_it_leaves_or_is_cancelled():
    house = House()
    house.send(0, 0)
    house.memory.held_bytes += 50  # of a producer
    headers = [("name", b"value")]
    assert house.queue.send(Record("t", b"12345", b"key", headers, TOGETHER), 1, 1, LINGER) is None
    assert house.memory.held_bytes == 50 + 5 + 3 + 9
    assert house.send(2, LINGER, value=bytes(34)) == NO_ROOM
    assert house.send(2, LINGER, value=bytes(33)) is None
    assert house.memory.held_bytes == WAITING_BYTES
    house.queue.cancel_unsent(2)
    assert house.memory.held_bytes == 50 + 17
    house.acknowledge(1, 2 * LINGER)
    assert house.left == [[0], [1]]
    assert house.memory.held_bytes == 50, "the producer, a fake, does not count"
