"""The clients that people use, through two reloads and an end of the gateway."""

from __future__ import annotations

import pytest

from tests.clients.fleet import FIRST, PROGRAMS
from tests.clients.trip import REPLY_PARTITIONS, REQUEST_PARTITIONS, play

RELOADS = 2


@pytest.mark.needs("curl", "go", "jdk", "node-clients")
@pytest.mark.timeout(400)  # a Go that has compiled nothing yet builds its standard library first
def test_no_request_that_has_a_record_is_left_without_an_answer(tmp_path, kafka_bootstrap, make_topics):
    topics = make_topics({"requests": REQUEST_PARTITIONS, "replies": REPLY_PARTITIONS})
    verdict = play(kafka_bootstrap, topics["requests"], topics["replies"], tmp_path, RELOADS, print)
    assert verdict.good, verdict


def test_every_program_speaks_http_1_to_every_listener():
    for program in PROGRAMS:
        assert set(program.streams) >= set(FIRST), program
