"""What a broker says to Produce requests can be changed: in each encoding, whatever the pieces it comes in."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.produce_answers import FLEXIBLE, Conversation, ProduceAnswers

PRODUCE, FETCH = 0, 1
REQUEST_TIMED_OUT = 7
TOPIC = "asked-" + "x" * 130  # its length takes two bytes as a varint


def framed(content: bytes) -> bytes:
    return struct.pack(">i", len(content)) + content


def request(kind: int, version: int, correlation_id: int) -> bytes:
    return framed(struct.pack(">hhi", kind, version, correlation_id) + b"whatever is in it")


def answer(version: int, correlation_id: int, topic: str, error: int) -> bytes:
    name = topic.encode()
    if version < FLEXIBLE:
        front = struct.pack(">iih", correlation_id, 1, len(name)) + name + struct.pack(">i", 1)
    else:
        size = len(name) + 1
        front = struct.pack(">iBBBB", correlation_id, 0, 2, 0x80 | size & 0x7F, size >> 7) + name + b"\x02"
    return framed(front + struct.pack(">ihqqi", 3, error, 77, -1, 0))


@pytest.mark.parametrize("version", [7, 8, 9, 12])
def test_so_many_answers_for_the_topic_say_something_else(version):
    answers = ProduceAnswers()
    answers.topic, answers.code, answers.count = TOPIC, REQUEST_TIMED_OUT, 2
    conversation = Conversation(answers)
    others = answer(version, 1, "y" * 200, 0)
    conversation.ask(b"".join(request(PRODUCE, version, number) for number in range(1, 5)))
    assert conversation.answer(others) == others
    for number in (2, 3):
        told = conversation.answer(answer(version, number, TOPIC, 0))
        assert told == answer(version, number, TOPIC, REQUEST_TIMED_OUT)
    assert conversation.answer(answer(version, 4, TOPIC, 0)) == answer(version, 4, TOPIC, 0)
    assert answers.count == 0


def test_answers_to_other_requests_stay_what_they_are():
    answers = ProduceAnswers()
    answers.topic, answers.code, answers.count = TOPIC, REQUEST_TIMED_OUT, 9
    conversation = Conversation(answers)
    conversation.ask(request(FETCH, 12, 1))
    assert conversation.answer(answer(12, 1, TOPIC, 0)) == answer(12, 1, TOPIC, 0)
    assert answers.count == 9


@given(st.lists(st.integers(min_value=1, max_value=60)))
def test_pieces_of_any_size_make_the_same_frames(cuts):
    answers = ProduceAnswers()
    answers.topic, answers.code, answers.count = TOPIC, REQUEST_TIMED_OUT, 9
    conversation = Conversation(answers)
    asked = b"".join(request(PRODUCE, 12, number) for number in range(3))
    answered = b"".join(answer(12, number, TOPIC, 0) for number in range(3))
    for piece in pieces(asked, cuts):
        conversation.ask(piece)
    told = b"".join(conversation.answer(piece) for piece in pieces(answered, cuts))
    assert told == b"".join(answer(12, number, TOPIC, REQUEST_TIMED_OUT) for number in range(3))


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    cut = []
    for size in cuts:
        cut.append(data[:size])
        data = data[size:]
    return [*cut, data]
