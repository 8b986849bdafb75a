"""Together or spread: judged by what a request costs its service, with Kafka's own round trip taken off."""

from __future__ import annotations

import pytest

from fastgw.core.spread import WINDOW_NS, Spread

MS = 1_000_000
ROUND_TRIP_NS = 4 * MS


class Watched(Spread):
    """With a clock of its own."""

    now_ns = 0

    def after(self, waiting, service_ns, consumers=1, windows=1):
        """What it holds to be right after windows in which `waiting` requests are there at all times.

        Each costs a consumer `service_ns`; all `consumers` work once records are spread, before that one does.
        """
        for _ in range(windows):
            at_work = consumers if self.even else 1
            ack_to_reply_ns = ROUND_TRIP_NS + waiting * service_ns // at_work
            for _ in range(waiting * WINDOW_NS // ack_to_reply_ns):
                self.observe(ack_to_reply_ns)
            self.now_ns += WINDOW_NS
            self.decide(self.now_ns, ROUND_TRIP_NS)
        return self.even


@pytest.mark.parametrize("waiting", [4, 16, 64, 1000])
def test_a_service_that_answers_at_once_gets_its_records_together(waiting):
    assert not Watched("auto").after(waiting, service_ns=20_000)


@pytest.mark.parametrize("waiting", [4, 16, 64])
@pytest.mark.parametrize("consumers", [1, 4, 8])
def test_a_slow_service_gets_them_spread_and_it_stays_that_way(waiting, consumers):
    spread = Watched("auto")
    assert spread.after(waiting, 5 * MS, consumers)
    assert spread.after(waiting, 5 * MS, consumers, windows=5)


def test_a_slow_kafka_is_no_slow_service():
    spread = Spread("auto")
    for _ in range(2000):
        spread.observe(200 * MS)
    assert not spread.decide(WINDOW_NS, round_trip_ns=199 * MS)
    assert not spread.even


def test_a_request_that_is_alone_has_nobody_to_wait_for():
    assert not Watched("auto").after(waiting=1, service_ns=100 * MS)


def test_a_service_that_has_become_fast_gets_them_together_again():
    spread = Watched("auto")
    assert spread.after(16, 5 * MS)
    assert not spread.after(16, 20_000)


def test_nothing_is_decided_before_the_window_is_over_and_nothing_without_replies():
    spread = Spread("auto")
    for _ in range(1000):
        spread.observe(100 * MS)
    assert not spread.decide(WINDOW_NS - 1, ROUND_TRIP_NS)
    assert spread.decide(WINDOW_NS, ROUND_TRIP_NS)
    assert not spread.decide(2 * WINDOW_NS, ROUND_TRIP_NS)
    assert spread.even


@pytest.mark.parametrize(("setting", "even"), [("batch", False), ("even", True)])
def test_a_configured_choice_is_never_doubted(setting, even):
    assert Watched(setting).after(16, 20_000 if even else 5 * MS) is even
