"""The oracle's rules about streams can say no: each lie is called by its name, and the truth is not."""

from __future__ import annotations

import dataclasses

import pytest

from fastgw import ids
from tests.faults.oracle import CUT, REFUSED, SILENT, Found, Lie, Verdict
from tests.faults.stream_oracle import COMPLETE, FAILED, LOST, UNSETTLED, Limits, Streamed, judge_streams, stories_of

HOME, ELSEWHERE = 3, 4
BEGAN_MS, END_MS, LATE_MS = 10_000, 12_000, 60_000
LIMITS = Limits(first_ms=5000, idle_ms=3000, longest_ms=30_000)


def id_of(number: int) -> bytes:
    """A correlation id whose home is HOME."""
    return b"00000000-0000-8000-a000-0000%03x%05x" % (HOME, number)


WHOLE, REFUSES, HALF, TORN, SECOND, NEVER = (id_of(number) for number in range(1, 7))
_offsets = iter(range(1 << 30))


def items(
    correlation_id: bytes, seq: int, *values: bytes, attempt: bytes = b"a", at_ms: int = END_MS, partition: int = HOME
) -> Found:
    told = {"stream_attempt": attempt, "stream_seq": b"%d" % seq}
    return Found(correlation_id, b"\n".join(values), partition, next(_offsets), at_ms, stream=told)


def end(correlation_id: bytes, how: bytes, total: int, attempt: bytes = b"a", *values: bytes) -> Found:
    told = {"stream_attempt": attempt, "stream_end": how, "stream_total": b"%d" % total}
    if values:
        told["stream_seq"] = b"%d" % (total - len(values))
    body = b"\n".join(values) if how == b"ok" else b"a problem"
    return Found(correlation_id, body, HOME, next(_offsets), END_MS, stream=told)


RECORDS = [
    items(WHOLE, 0, b"elsewhere", partition=ELSEWHERE),
    items(WHOLE, 0, b"0", b"1"),
    items(WHOLE, 0, b"of another run", attempt=b"b"),
    items(WHOLE, 1, b"1", b"2"),  # one of them again
    end(WHOLE, b"ok", 1, b"b"),
    end(WHOLE, b"ok", 4, b"a", b"3"),
    items(WHOLE, 4, b"after the end"),
    items(REFUSES, 0, b"0"),
    end(REFUSES, b"error", 1),
    items(HALF, 0, b"0", b"1"),
    items(TORN, 0, b"0"),
    items(TORN, 2, b"2"),
    end(TORN, b"ok", 3),
    end(SECOND, b"ok", 0),
]
ASKED = {b"whole": WHOLE, b"refuses": REFUSES, b"half": HALF, b"torn": TORN, b"empty": SECOND, b"never": NEVER}
REQUESTS = [Found(correlation_id, asked) for asked, correlation_id in ASKED.items()]
ALL = [b"0", b"1", b"2", b"3"]


def got(asked: bytes, values: list[bytes], ending: str, ended_ms: int = LATE_MS, **more: object) -> Streamed:
    stream = Streamed(asked, ASKED.get(asked, id_of(99)), values, ending, BEGAN_MS, ended_ms, is_claimed=True)
    return dataclasses.replace(stream, **more)


TRUTH = [
    got(b"whole", ALL, COMPLETE, total=4),
    got(b"whole", ALL, COMPLETE, was_stopped=True, connections=3),
    got(b"whole", [b"01", b"2", b"3"], COMPLETE, is_bytes=True),
    got(b"whole", [b"01", b"2"], CUT, is_bytes=True),
    got(b"whole", ALL[:2], CUT),
    got(b"whole", [], CUT),
    got(b"whole", ALL, CUT),
    got(b"empty", [], COMPLETE, total=0),
    got(b"refuses", [b"0"], FAILED),
    got(b"half", [b"0", b"1"], "stream_idle", END_MS + LIMITS.idle_ms),
    got(b"half", [b"0", b"1"], "stream_broken"),
    got(b"half", [b"0"], "stream_max", BEGAN_MS + LIMITS.longest_ms),
    got(b"torn", [b"0"], "stream_broken"),
    got(b"never", [], "expired"),
    got(b"whole", ALL[:3], "stream_broken", END_MS + LIMITS.slack_ms // 2),  # the end was not known yet
    got(b"whole", ALL[:3], "stream_broken", detail="the store of this node does not deliver"),  # nobody is blamed
    got(b"nobody", [], "store_down", is_claimed=False),
    got(b"nobody", [], REFUSED, is_claimed=False),
]

LIES = {
    "an_item_is_missing_at_the_end": (got(b"whole", ALL[:3], COMPLETE), Lie.NOT_WHOLE),
    "an_item_is_missing_in_the_middle": (got(b"whole", [b"0", b"2", b"3"], COMPLETE), Lie.NOT_WHOLE),
    "an_item_comes_twice": (got(b"whole", [b"0", b"1", b"1", b"2", b"3"], COMPLETE), Lie.NOT_WHOLE),
    "two_items_change_places": (got(b"whole", [b"0", b"2", b"1", b"3"], COMPLETE), Lie.NOT_WHOLE),
    "an_item_too_many": (got(b"whole", [*ALL, b"after the end"], COMPLETE), Lie.NOT_WHOLE),
    "bytes_are_missing": (got(b"whole", [b"01", b"3"], COMPLETE, is_bytes=True), Lie.NOT_WHOLE),
    "a_wrong_number_of_items": (got(b"whole", ALL, COMPLETE, total=5), Lie.NOT_WHOLE),
    "complete_and_there_is_no_end": (got(b"half", [b"0", b"1"], COMPLETE), Lie.NOT_ENDED),
    "complete_and_it_failed": (got(b"refuses", [b"0"], COMPLETE), Lie.NOT_ENDED),
    "complete_and_an_item_is_missing_in_the_topic": (got(b"torn", [b"0", b"2"], COMPLETE), Lie.NOT_ENDED),
    "complete_and_nobody_has_written": (got(b"never", [], COMPLETE), Lie.NOT_ENDED),
    "an_item_of_another_run": (got(b"whole", [b"of another run"], CUT), Lie.NOT_WRITTEN),
    "an_item_twice_before_the_cut": (got(b"whole", [b"0", b"0"], CUT), Lie.NOT_WRITTEN),
    "an_item_of_another_partition": (got(b"whole", [b"elsewhere"], CUT), Lie.NOT_WRITTEN),
    "an_item_after_a_gap": (got(b"torn", [b"0", b"2"], "stream_broken"), Lie.NOT_WRITTEN),
    "items_and_nothing_was_asked": (got(b"nobody", [b"0"], CUT, is_claimed=False), Lie.NOT_WRITTEN),
    "a_client_loses_its_position": (got(b"whole", ALL[:2], LOST), Lie.STRANDED),
    "a_client_comes_back_for_ever": (got(b"whole", ALL[:2], UNSETTLED), Lie.STRANDED),
    "a_client_is_not_told_to_stop": (got(b"whole", ALL, COMPLETE, was_stopped=False), Lie.STRANDED),
    "a_failure_that_the_service_did_not_write": (got(b"whole", ALL, FAILED), Lie.EXCUSE),
    "a_failure_before_the_last_item": (got(b"refuses", [], FAILED), Lie.EXCUSE),
    "idle_and_an_item_had_just_come": (got(b"half", [b"0"], "stream_idle", END_MS + 1500), Lie.EXCUSE),
    "idle_and_it_had_ended": (got(b"whole", ALL[:1], "stream_idle"), Lie.EXCUSE),
    "broken_and_it_had_ended": (got(b"whole", ALL[:1], "stream_broken"), Lie.EXCUSE),
    "broken_by_the_service_and_it_had_ended": (got(b"whole", ALL, "stream_broken", detail="signs of life are missing"),
                                               Lie.EXCUSE),
    "broken_and_it_had_failed": (got(b"refuses", [b"0"], "stream_broken"), Lie.EXCUSE),
    "expired_and_an_item_came_in_time": (got(b"half", [], "expired"), Lie.EXCUSE),
    "expired_and_an_end_came_in_time": (got(b"empty", [], "expired"), Lie.EXCUSE),
    "too_long_too_early": (got(b"half", [b"0"], "stream_max", BEGAN_MS + 9000), Lie.EXCUSE),
    "a_bad_item": (got(b"half", [b"0"], "bad_item"), Lie.EXCUSE),
    "a_refusal_in_the_middle": (got(b"half", [b"0"], "store_down"), Lie.EXCUSE),
    "recorded_and_the_record_is_not_there": (got(b"nobody", [], "expired"), Lie.LOST),
    "silence": (got(b"half", [b"0"], SILENT), Lie.SILENCE),
}  # fmt: skip


def judged(*streams: Streamed, records: list[Found] | None = None) -> Verdict:
    verdict = Verdict()
    judge_streams(verdict, streams, REQUESTS, RECORDS if records is None else records, LIMITS)
    return verdict


def test_the_ids_of_these_tests_are_ids() -> None:
    for one in ASKED.values():
        cid = ids.parse(one)
        assert cid is not None
        assert cid.home == HOME


def test_the_topic_says_what_a_stream_is() -> None:
    story = stories_of(RECORDS)[WHOLE]
    assert [item for _, item in story.items] == ALL
    assert (story.end, story.attempts) == (b"ok", 2)
    assert stories_of(RECORDS)[TORN].is_broken


def test_the_truth_is_not_called_a_lie() -> None:
    assert judged(*TRUTH).offenders == {}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_called_by_its_name(name: str) -> None:
    lie, kind = LIES[name]
    verdict = judged(*TRUTH, lie)
    assert verdict.lies == {kind: 1}
    assert str(lie) in verdict.offenders[kind][0]


def test_a_topic_without_one_of_its_records_makes_a_liar_of_every_client_that_got_it() -> None:
    for missing in (RECORDS[1], RECORDS[3], RECORDS[5]):
        records = [record for record in RECORDS if record is not missing]
        assert judged(got(b"whole", ALL, COMPLETE), records=records).lies.total() == 1
