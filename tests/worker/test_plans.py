"""The routes at run time: which of them share what, delivery classes, and what changes while they run."""

from __future__ import annotations

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from fastgw import config, table
from fastgw._ctable import NO_CONSUMER
from fastgw.core.spread import WINDOW_NS
from fastgw.messages import SPREAD, TOGETHER
from fastgw.worker.plans import (
    WAITS_FRESH_NS,
    Plans,
    class_of,
    delivery_classes,
    delivery_timeout_ms,
    link_settings,
)

S, MS = 1_000_000_000, 1_000_000
HEAD = '[gateway]\nname = "shop"\n{gateway}\n[kafka]\nbootstrap = "localhost:9092"\n{more}\n'
ROUTE = '[[route]]\nmethod = "POST"\npath = "/{path}"\ntopic = "{topic}"\n{more}\n'


def cfg(*routes, gateway="", more=""):
    """Of routes given as (path, topic, further lines)."""
    text = "".join(ROUTE.format(path=path, topic=topic, more=lines) for path, topic, lines in routes)
    return config.loads(HEAD.format(gateway=gateway, more=more) + text)


def plans_of(*routes, **more):
    made = cfg(*routes, **more)
    return Plans(made, delivery_classes([route.timeout_ns for route in made.routes]))


# ---- what a plan is made of


def test_each_route_has_a_plan_in_their_order():
    plans = plans_of(("a", "orders", "timeout = '1s'"), ("b", "carts", "timeout = '30s'"))
    assert [(plan.number, plan.name, plan.topic, plan.delivery_class) for plan in plans.all] == [
        (0, "POST /a", "orders", 0),
        (1, "POST /b", "carts", 1),
    ]


def test_routes_of_one_topic_learn_together():
    one, two, other = plans_of(("a", "orders", ""), ("b", "orders", ""), ("c", "carts", "")).all
    assert one.learner is two.learner is not other.learner
    assert one.spread is two.spread is not other.spread


def test_records_with_key_are_spread_whatever_the_route_says():
    together, even, keyed = plans_of(
        ("a", "one", "spread = 'batch'"), ("b", "two", "spread = 'even'"), ("c", "three", "key = 'header.x-a'")
    ).all
    assert [plan.partition for plan in (together, even, keyed)] == [TOGETHER, SPREAD, SPREAD]
    assert (together.key_of, keyed.key_of is None) == (None, False)


def test_answers_are_compressed_where_gateway_and_route_want_it():
    routes = ("a", "orders", ""), ("b", "orders", "compress = false")
    assert [plan.compressor for plan in plans_of(*routes).all] == [None, None]
    one, two = plans_of(*routes, more='[compression]\nencodings = ["gzip"]').all
    assert one.compressor is not None
    assert two.compressor is None


# ---- what the agent says of the services


@pytest.fixture
def shared():
    return table.create(node=1, workers=1, slots_per_process=8)[1]


@pytest.mark.parametrize(
    ("wait_ns", "has_consumer", "backlog_ns"),
    [(0, True, 0), (3 * S, True, 3 * S), (1 << 62, True, 1 << 62), (NO_CONSUMER, False, 0)],
)
def test_a_watched_service_is_followed_and_forgotten_when_the_agent_is_silent(
    shared, wait_ns, has_consumer, backlog_ns
):
    plans = plans_of(("a", "orders", 'service_group = "shop"'), ("b", "carts", ""))
    watched, other = plans.all
    shared.write_waits({0: wait_ns, 1: NO_CONSUMER}, 10)
    plans.follow_services(shared, 10 + WAITS_FRESH_NS - 1)
    assert (watched.has_consumer, watched.backlog_ns) == (has_consumer, backlog_ns)
    assert (other.has_consumer, other.backlog_ns) == (True, 0), "nobody asked for it"
    plans.follow_services(shared, 10 + WAITS_FRESH_NS)
    assert (watched.has_consumer, watched.backlog_ns) == (True, 0)


# ---- together or spread


def test_routes_of_a_slow_service_are_spread_together_but_for_those_of_other_topics():
    plans = plans_of(("a", "orders", ""), ("b", "orders", ""), ("c", "carts", ""))
    one, two, other = plans.all
    plans.decide_spread(1, round_trip_ns=MS)
    for _ in range(1000):
        one.spread.observe(100 * MS)
    with structlog.testing.capture_logs() as lines:
        plans.decide_spread(1 + WINDOW_NS, round_trip_ns=MS)
    assert [plan.partition for plan in (one, two, other)] == [SPREAD, SPREAD, TOGETHER]
    assert lines == [{"event": "spread", "topic": "orders", "even": True, "log_level": "info"}]


# ---- delivery classes


@pytest.mark.parametrize(
    ("timeouts", "classes"),
    [([], [5]), ([7], [7]), ([1, 2, 4], [1]), ([5, 1, 4, 20, 21, 1], [1, 5, 21]), ([30, 1], [1, 30])],
)
def test_timeouts_within_a_factor_of_four_share_a_class(timeouts, classes):
    assert delivery_classes([timeout * S for timeout in timeouts]) == [smallest * S for smallest in classes]


@given(st.lists(st.integers(MS, 3600 * S), min_size=1, max_size=20))
def test_no_route_waits_for_a_producer_of_a_longer_timeout_nor_of_one_below_a_quarter(timeouts):
    classes = delivery_classes(timeouts)
    assert classes == sorted(set(classes))
    for timeout_ns in timeouts:
        smallest_ns = classes[class_of(classes, timeout_ns)]
        assert smallest_ns <= timeout_ns <= 4 * smallest_ns


@pytest.mark.parametrize(
    ("timeout_ms", "given_up_ms"), [(60_000, 59_000), (5_000, 4_500), (400, 350), (100, 100), (1, 100)]
)
def test_a_record_is_given_up_before_the_deadline_of_its_request(timeout_ms, given_up_ms):
    assert delivery_timeout_ms(timeout_ms * MS) == given_up_ms


# ---- the link


def test_the_link_has_a_producer_for_each_class_and_room_for_all_slots():
    made = cfg(
        ("a", "orders", "timeout = '1s'\nkey = 'header.x-a'\nkey_partitioner = 'murmur2'"),
        ("b", "carts", "timeout = '30s'"),
        gateway="slots = 1000",
    )
    settings = link_settings(made, delivery_classes([route.timeout_ns for route in made.routes]))
    assert settings.delivery_timeouts_ms == [900, 29_000]
    assert settings.reply_topic == made.gateway.response_topic
    assert settings.queue_messages == 2000
    assert settings.partitioners == {"orders": "murmur2_random"}
