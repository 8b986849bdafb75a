"""Every limit has a key, a default, a counter, and a test of the fronts that goes beyond it."""

from __future__ import annotations

import pytest

from fastgw import errors
from fastgw.config import Limits
from fastgw.config.kinds import fields_of
from fastgw.errors import Ending
from fastgw.messages import Cut
from tests.places import REPOSITORY

COUNTED_AS: dict[str, Ending | Cut] = {
    "max_body": errors.BODY_TOO_LARGE,
    "max_header": errors.HEADERS_TOO_LARGE,
    "max_target": errors.TARGET_TOO_LONG,
    "max_reply": errors.BAD_REPLY,
    "max_reply_headers": errors.BAD_REPLY,
    "body_memory": errors.BODIES_FULL,
    "connection_body_memory": errors.BODIES_FULL,
    "answer_memory": errors.ANSWERS_FULL,
    "connection_answer_memory": errors.ANSWERS_FULL,
    "header_timeout": errors.HEADER_TIMEOUT,
    "body_timeout": errors.BODY_TIMEOUT,
    "idle_timeout": Cut.IDLE,
    "write_timeout": Cut.SLOW_READER,
    "max_connections": errors.CONNECTION_CAP,
}
FRONT_TESTS = "\n".join(path.read_text() for path in (REPOSITORY / "tests" / "fronts").glob("test_*.py"))


def test_every_limit_has_a_default_and_a_counter() -> None:
    limits = fields_of(Limits)
    assert {limit.key for limit in limits} == COUNTED_AS.keys()
    assert not any(limit.required for limit in limits)


@pytest.mark.parametrize("key", COUNTED_AS)
def test_a_test_of_the_fronts_goes_beyond_it(key: str) -> None:
    assert f"{key}=" in FRONT_TESTS
