"""What becomes of a reply: made, queued, refused by Kafka, tried again or given up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException

from fastgw.service import Problem, Request
from fastgw.service.progress import OffsetProgress
from fastgw.service.replies import Replies, Work


class FakeProducer:
    """Takes records, and says of each what it was told to say."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, int]] = []  # topic, value, partition
        self.polls = 0
        self.room = 100
        self.answers: list[KafkaError | None] = []
        self.raises: KafkaError | None = None

    def produce(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        partition: int,
        told: Callable[..., None],
        headers: Any,
    ) -> None:
        if self.raises is not None:
            refusal, self.raises = self.raises, None
            raise KafkaException(refusal)
        if self.room == 0:
            raise BufferError
        self.room -= 1
        self.sent.append((topic, value, partition))
        if self.answers:
            told(self.answers.pop(0), None)

    def poll(self, _timeout_s: float) -> None:
        self.polls += 1
        self.room += 1


def work(reply_to: str = "replies", partition: int = 3, timeout_s: float = 60) -> Work:
    progress = OffsetProgress()
    progress.start(7)
    headers = {"deadline": b"%d" % ((time.time() + timeout_s) * 1000)}
    return Work(Request(b"", headers), progress, 7, reply_to, partition, b"id")


@pytest.fixture
def replies() -> Replies:
    made = Replies()
    made.producer = FakeProducer()
    return made


def answered(replies: Replies, one: Work, result: Any = "done") -> None:
    replies.send(one, replies.answer_of(lambda _request: result, one))


def is_settled(one: Work) -> bool:
    return one.progress.committable() == 8


def body_of(record: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = orjson.loads(record.value)
    return parsed


def test_a_delivered_reply_settles_its_request(replies: Replies) -> None:
    one = work()
    replies.producer.answers = [None]
    answered(replies, one)
    assert replies.producer.sent == [("replies", b"done", 3)]
    assert replies.replied == 1
    assert is_settled(one)


def test_a_request_is_not_settled_before_its_reply_is(replies: Replies) -> None:
    one = work()
    answered(replies, one)
    assert not is_settled(one)


def test_a_request_that_wants_no_reply_is_settled_at_once(replies: Replies) -> None:
    one = work(reply_to="")
    answered(replies, one)
    assert replies.producer.sent == []
    assert is_settled(one)


def test_a_full_queue_is_waited_for(replies: Replies) -> None:
    replies.producer.room = 0
    answered(replies, work())
    assert replies.producer.polls == 1
    assert len(replies.producer.sent) == 1


def test_a_handler_that_refuses_or_fails_is_answered_and_only_a_failure_is_counted(replies: Replies) -> None:
    def refuses(_request: Request) -> None:
        raise Problem(409, "it is gone")

    def fails(_request: Request) -> None:
        raise ZeroDivisionError

    assert body_of(replies.answer_of(refuses, work()))["status"] == 409
    assert replies.failed == 0
    answer = body_of(replies.answer_of(fails, work()))
    assert (answer["status"], replies.failed) == (500, 1)
    assert "ZeroDivisionError" not in answer["detail"], "the client learns where to look, not what happened"


UNKNOWN, LARGE, DENIED, PASSING = (
    KafkaError(code)
    for code in (
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    )
)


@pytest.mark.parametrize(
    ("error", "partition", "timeout_s", "then"),
    [
        (UNKNOWN, 3, 60, "by key"),
        (UNKNOWN, -1, 60, "given up"),
        (LARGE, 3, 60, "a problem"),
        (DENIED, 3, 60, "given up"),
        (PASSING, 3, 60, "again"),
        (PASSING, 3, -1, "given up"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["raised", "reported"])
def test_a_reply_that_kafka_did_not_take(
    replies: Replies, error: KafkaError, partition: int, timeout_s: float, then: str, at_once: bool
) -> None:
    one = work(partition=partition, timeout_s=timeout_s)
    if at_once:
        replies.producer.raises = error
    else:
        replies.producer.answers = [error]
    answered(replies, one)
    replies.producer.sent.clear()
    replies.settle_refused()
    sent = replies.producer.sent
    if then == "given up":
        assert (sent, replies.undeliverable) == ([], 1)
        assert is_settled(one)
        return
    assert len(sent) == 1
    assert sent[0][2] == (-1 if then == "by key" else partition)
    assert (b"reply_too_large" in sent[0][1]) is (then == "a problem")
    assert (replies.undeliverable, replies.failed) == (0, 1 if then == "a problem" else 0)


def test_a_problem_that_is_too_large_is_given_up(replies: Replies) -> None:
    one = work()
    replies.producer.answers = [LARGE, LARGE]
    answered(replies, one)
    replies.settle_refused()
    replies.settle_refused()
    assert replies.undeliverable == 1
    assert is_settled(one)
