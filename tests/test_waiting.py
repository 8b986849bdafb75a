"""Waiting: what a condition may do while what it looks at is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.waiting import eventually


def after(looks: int, look: Callable[[], object]) -> Callable[[], object]:
    """A condition that is true after so many looks of this kind."""
    left = [look] * looks
    return lambda: left.pop()() if left else "there"


@pytest.mark.parametrize(
    "look",
    [
        lambda: [][0],
        lambda: {}["reload"],
        lambda: json.loads("null")["result"],
        lambda: json.loads("null").result,
        lambda: json.loads(b""),
        lambda: Path("/nowhere").read_text(),
        lambda: next(iter(())),
        lambda: "",
    ],
)
def test_a_look_at_what_is_not_there_yet_is_repeated(look: Callable[[], object]) -> None:
    assert eventually(after(3, look)) == "there"


def test_a_look_that_never_works_is_told_with_its_reason() -> None:
    with pytest.raises(AssertionError, match=r"not within 0.05 s: a reload \(the last look raised KeyError") as failed:
        eventually(lambda: {}["reload"], 0.05, "a reload")
    assert isinstance(failed.value.__cause__, KeyError)


def test_the_last_answer_is_told() -> None:
    with pytest.raises(AssertionError, match=r"<lambda> \(last answer: 0\)"):
        eventually(lambda: 0, 0.05)


def test_a_judgement_inside_a_condition_ends_the_waiting() -> None:
    looks = []

    def is_served() -> bool:
        looks.append(1)
        raise AssertionError("expected 200, got 500")

    with pytest.raises(AssertionError, match="expected 200, got 500"):
        eventually(is_served)
    assert len(looks) == 1
