"""What a worker does with each reply: one row for each kind, without Kafka, siblings or a clock."""

from __future__ import annotations

import pytest
import structlog

from fastgw import ids, table
from fastgw.core import canary
from fastgw.core.duplicate_nodes import HEARD_AT_LEAST
from fastgw.core.reply_router import Whose
from fastgw.dialects import plain
from fastgw.ids import IdMaker, Partitioner, ReplyTopic
from fastgw.messages import Reply, ReplyDisposition
from fastgw.worker.replies import Replies

NODE, OTHER_NODE = 0xABCDEF, 0x123456
WORKER, GENERATION, HOME = 1, 5, 3
D = ReplyDisposition


def raw_id(node=NODE, worker=WORKER, generation=GENERATION, slot=7, topic=ReplyTopic.REPLIES):
    maker = IdMaker(node, worker, generation, topic)
    maker.set_ownership(4, [HOME], HOME)
    return maker.make(slot, Partitioner.HEADER)


def reply(raw, partition=0, offset=10, headers=(), value=b"value"):
    return Reply(raw, partition, offset, list(headers), value)


class Dispatch:
    """The replies of one worker, and everything around it as a note of what was called."""

    def __init__(self):
        _, self.table = table.create(node=NODE, workers=2, slots_per_process=8)
        self.process_index = table.process_index(WORKER, GENERATION)
        self.verdict, self.can_send = Whose.MINE, True
        self.resolved, self.forwarded, self.sent, self.canaries = [], [], [], []
        self.assigned = {0}
        self.live_from = 0
        self.replies = Replies(
            self.table,
            self.process_index,
            (NODE, WORKER, GENERATION),
            "replies",
            self.whose,
            self.resolve,
            self,
            self.forward,
            self.send,
            {ReplyTopic.LATER: "kept"},
        )

    def whose(self, cid, partition, offset):
        return self.verdict

    def resolve(self, cid, reply, now_ns):
        if reply.value == b"poison":
            raise ValueError(reply.value)
        if cid.topic != ReplyTopic.REPLIES:
            return D.ELSEWHERE
        self.resolved.append((cid.slot, now_ns))
        return {b"late": D.LATE, b"unknown": D.FORGED}.get(reply.value, D.ANSWERED)

    def canary_came(self, tag, now_ns):
        self.canaries.append((tag, now_ns))

    def is_assigned(self, partition):
        return partition in self.assigned

    def is_old(self, partition, offset):
        return offset < self.live_from

    def forward(self, worker, generation, reply):
        self.forwarded.append((worker, generation, reply))
        return self.can_send

    def send(self, record):
        self.sent.append(record)
        return self.can_send

    def take(self, *replies, now_ns=9, **more):
        self.replies.take(replies, now_ns, **more)
        return self

    @property
    def counted(self):
        return {D(number): count for number, count in enumerate(self.table.dispositions()) if count}


@pytest.fixture
def dispatch():
    return Dispatch()


def test_a_reply_of_ours_is_resolved_and_counted_as_what_became_of_it(dispatch):
    dispatch.take(reply(raw_id()), reply(raw_id(slot=8), value=b"late"))
    assert dispatch.resolved == [(7, 9), (8, 9)]
    assert dispatch.counted == {D.ANSWERED: 1, D.LATE: 1}


@pytest.mark.parametrize("raw", [b"", b"no id", b"550e8400-e29b-41d4-a716-446655440000"])
@pytest.mark.parametrize(("is_forwarded", "disposition"), [(False, D.MALFORMED), (True, D.ORPHAN)])
def test_what_has_no_id_of_ours_is_counted_and_nothing_else(dispatch, raw, is_forwarded, disposition):
    dispatch.take(reply(raw), is_forwarded=is_forwarded)
    assert dispatch.counted == {disposition: 1}
    assert dispatch.resolved == dispatch.forwarded == dispatch.sent == []


def test_a_canary_of_ours_is_heard_and_not_counted(dispatch):
    raw = raw_id(slot=canary.SLOT)
    dispatch.take(reply(raw)).take(reply(raw), is_forwarded=True)
    assert dispatch.canaries == [(ids.parse(raw).tag, 9)] * 2
    assert dispatch.counted == {}


@pytest.mark.parametrize(
    ("verdict", "can_send", "disposition"),
    [
        (Whose.FORWARD, True, D.MISROUTED),
        (Whose.FORWARD, False, D.DROPPED),
        (Whose.REROUTE, True, D.REROUTED),
        (Whose.REROUTE, False, D.DROPPED),
        (Whose.ORPHAN, True, D.ORPHAN),
        (Whose.FOREIGN, True, D.FOREIGN),
    ],
)
def test_a_reply_of_others_is_passed_on_or_counted(dispatch, verdict, can_send, disposition):
    dispatch.verdict, dispatch.can_send = verdict, can_send
    one = reply(raw_id(OTHER_NODE, worker=0, generation=2))
    dispatch.take(one)
    assert dispatch.counted == {disposition: 1}
    assert dispatch.forwarded == ([(0, 2, one)] if verdict is Whose.FORWARD else [])
    assert len(dispatch.sent) == (verdict is Whose.REROUTE)
    assert dispatch.resolved == []


@pytest.mark.parametrize("verdict", [Whose.FORWARD, Whose.REROUTE, Whose.ORPHAN, Whose.FOREIGN])
def test_a_reply_whose_id_names_another_topic_is_sent_there_whoever_has_asked(dispatch, verdict):
    dispatch.verdict = verdict
    raw = raw_id(OTHER_NODE, worker=0, generation=2, topic=ReplyTopic.LATER)
    dispatch.take(reply(raw))
    assert [(record.topic, record.key, record.partition) for record in dispatch.sent] == [("kept", raw, HOME)]
    assert dispatch.forwarded == []
    assert dispatch.counted == {D.ELSEWHERE: 1}
    dispatch.take(reply(raw, headers=dispatch.sent[0].headers))
    assert len(dispatch.sent) == 1, "once"


def test_a_reply_that_another_process_deals_with_is_not_even_counted(dispatch):
    dispatch.verdict = Whose.LEAVE
    dispatch.take(reply(raw_id(worker=0)))
    assert dispatch.counted == {}


def test_a_reply_of_another_node_goes_to_its_home_partition_as_it_is_with_a_mark(dispatch):
    dispatch.verdict = Whose.REROUTE
    raw = raw_id(OTHER_NODE)
    dispatch.take(reply(raw, headers=[("status", b"201")]))
    (record,) = dispatch.sent
    assert (record.topic, record.partition, record.key, record.value) == ("replies", HOME, raw, b"value")
    assert record.headers == [("status", b"201"), (plain.HOPS, b"1")]


def test_a_reply_that_was_sent_on_once_is_never_sent_on_again(dispatch):
    dispatch.verdict = Whose.REROUTE
    dispatch.take(reply(raw_id(OTHER_NODE), headers=[(plain.HOPS, b"1")]))
    assert dispatch.sent == []
    assert dispatch.counted == {D.FOREIGN: 1}


@pytest.mark.parametrize(
    ("node", "worker", "generation", "disposition"),
    [
        (NODE, WORKER, GENERATION, D.ANSWERED),
        (NODE, WORKER, GENERATION + 1, D.ORPHAN),
        (NODE, WORKER - 1, GENERATION, D.ORPHAN),
        (OTHER_NODE, WORKER, GENERATION, D.ORPHAN),
    ],
)
def test_what_a_sibling_forwards_has_to_be_ours(dispatch, node, worker, generation, disposition):
    dispatch.verdict = Whose.FORWARD  # is not asked for: what was forwarded once is not forwarded again
    dispatch.take(reply(raw_id(node, worker, generation)), is_forwarded=True)
    assert dispatch.counted == {disposition: 1}
    assert dispatch.forwarded == []


def test_replies_that_are_lost_with_a_link_are_counted(dispatch):
    dispatch.replies.dropped(3)
    assert dispatch.counted == {D.DROPPED: 3}


@pytest.mark.parametrize("is_forwarded", [False, True])
def test_a_poisonous_reply_costs_the_others_of_its_batch_nothing_and_is_logged_once(dispatch, is_forwarded):
    batch = [reply(raw_id(slot=slot), value=b"poison" if slot % 2 else b"ok") for slot in range(6)]
    with structlog.testing.capture_logs() as lines:
        dispatch.take(*batch, is_forwarded=is_forwarded)
    assert [slot for slot, _ in dispatch.resolved] == [0, 2, 4]
    assert dispatch.counted == {D.ANSWERED: 3, D.MALFORMED: 3}
    assert [line["event"] for line in lines] == ["reply not handled"]


def test_memory_that_is_gone_ends_the_worker(dispatch):
    def none_left(cid, partition, offset):
        raise MemoryError

    dispatch.replies._whose = none_left
    with pytest.raises(MemoryError):
        dispatch.take(reply(raw_id()))


def test_a_reply_that_was_in_the_log_before_the_takeover_is_not_called_forged(dispatch):
    dispatch.live_from = 11
    dispatch.take(reply(raw_id(), offset=10, value=b"unknown"), reply(raw_id(), offset=11, value=b"unknown"))
    assert dispatch.counted == {D.LATE: 1, D.FORGED: 1}


@pytest.mark.parametrize("verdict", [Whose.FORWARD, Whose.REROUTE])
def test_what_is_passed_on_says_that_it_may_be_read_for_the_second_time(dispatch, verdict):
    dispatch.verdict, dispatch.live_from = verdict, 11
    dispatch.take(reply(raw_id(OTHER_NODE), offset=10), reply(raw_id(OTHER_NODE), offset=11))
    passed_on = [record.headers for record in dispatch.sent] + [one.headers for *_, one in dispatch.forwarded]
    assert [(plain.HOPS, plain.READ_AGAIN) in headers for headers in passed_on] == [True, False]


@pytest.mark.parametrize("is_forwarded", [False, True])
def test_a_reply_that_was_passed_on_by_a_successor_is_not_called_forged(dispatch, is_forwarded):
    again = reply(raw_id(), value=b"unknown", headers=[(plain.HOPS, plain.READ_AGAIN)])
    dispatch.take(again, reply(raw_id(), value=b"unknown"), is_forwarded=is_forwarded)
    assert dispatch.counted == {D.LATE: 1, D.FORGED: 1}


def rivals(dispatch, partition):
    """What is logged of more canaries of another node than two nodes in transition would send."""
    dispatch.verdict = Whose.FOREIGN
    raw = raw_id(OTHER_NODE, slot=canary.SLOT)
    with structlog.testing.capture_logs() as lines:
        for number in range(HEARD_AT_LEAST):
            dispatch.take(reply(raw, partition), now_ns=number)
    return [(line["event"], line["rival"]) for line in lines]


def test_another_node_on_a_partition_of_ours_is_a_rival_and_an_error(dispatch):
    assert rivals(dispatch, partition=0) == [("another node claims partitions of this node", "123456")]
    assert dispatch.counted == {D.RIVAL: HEARD_AT_LEAST}


def test_what_another_node_wrote_before_we_took_its_partition_over_makes_it_no_rival(dispatch):
    dispatch.live_from = 11
    assert rivals(dispatch, partition=0) == []
    assert dispatch.counted == {D.FOREIGN: HEARD_AT_LEAST}


def test_another_node_on_a_partition_that_we_are_leaving_is_none(dispatch):
    assert rivals(dispatch, partition=1) == []
    assert dispatch.counted == {D.FOREIGN: HEARD_AT_LEAST}


def test_a_reply_whose_id_names_another_topic_is_sent_there_once():
    one = Dispatch()
    raw = raw_id(topic=ReplyTopic.LATER)
    one.replies.take([reply(raw, headers=[("status", b"201")])], 5)
    (record,) = one.sent
    assert (record.topic, record.key, record.partition, record.value) == ("kept", raw, HOME, b"value")
    assert record.headers == [("status", b"201"), (plain.HOPS, b"1")]
    one.replies.take([reply(raw, headers=record.headers)], 5)
    one.replies.take([reply(raw_id(topic=ReplyTopic.STREAMS))], 5)
    assert len(one.sent) == 1
    one.can_send = False
    one.replies.take([reply(raw)], 5)
    counted = one.table.dispositions()
    assert (counted[D.ELSEWHERE], counted[D.ORPHAN], counted[D.DROPPED]) == (1, 2, 1)
