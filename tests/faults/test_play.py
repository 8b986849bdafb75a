"""What a report says of a log of answers and faults, and how results are kept."""

from __future__ import annotations

import dataclasses
import json

from tests.faults import results, soak
from tests.faults.oracle import ANSWERED, CUT, Lie, Told, Verdict, judge
from tests.faults.play import Report, Scenario, in_all, report_of, row, worst_recovery_s
from tests.faults.scenarios import SCENARIOS
from tests.faults.stage import Fault, House

SCENARIO = Scenario("a test", House(), lambda _stage: None, may_fail={CUT: 2, "expired": 5})


def told(ending: str, began_s: float, body: bytes = b"") -> Told:
    return Told(body or str(began_s).encode(), began_s, began_s + 0.1, ending)


def report(endings: list[str], faults: int) -> Report:
    log = [told(ending, number) for number, ending in enumerate(endings)]
    verdict = judge(log, [], None)
    return report_of(SCENARIO, verdict, log, [Fault(0.0, 0.0, 0.0)] * faults, 1.0)


def test_what_may_fail_is_allowed_so_often_for_each_fault():
    assert report([CUT, CUT], 1).not_allowed == {}
    assert report([CUT, CUT, CUT], 1).not_allowed == {CUT: 3}
    assert report([CUT, CUT, CUT], 2).not_allowed == {}
    assert report(["expired", "queue_full"], 1).not_allowed == {"queue_full": 1}


def test_a_report_is_good_without_lies_and_without_failures_that_are_not_allowed():
    assert report([CUT], 1).good
    assert not report(["queue_full"], 1).good
    liar = dataclasses.replace(report([CUT], 1), lies=1)
    assert not liar.good


def test_lies_of_every_kind_are_summed():
    verdict = Verdict()
    for lie in Lie:
        verdict.accuse(lie, "somebody")
    assert report_of(SCENARIO, verdict, [], [], 1.0).lies == len(Lie)


def test_recovery_is_measured_to_the_last_request_that_began_and_failed():
    fault = Fault(began_s=10.0, over_s=12.0, recovered_s=12.5)
    assert worst_recovery_s([told(ANSWERED, 13.0)], [fault]) == 0.5
    assert worst_recovery_s([told("expired", 11.9), told(CUT, 14.0)], [fault]) == 2.0
    later = Fault(began_s=20.0, over_s=20.0, recovered_s=23.0)
    assert worst_recovery_s([told(CUT, 19.0)], [fault, later]) == 7.0
    assert worst_recovery_s([told(CUT, 21.0)], [fault, later]) == 3.0
    assert worst_recovery_s([], []) == 0.0


def test_a_row_says_what_failed_and_how_often():
    assert row(report([CUT, "expired", "expired"], 1))[1:5] == ("3", "1", "0", "1 cut, 2 expired")
    assert row(report([], 0))[4:] == ("0", "-")


def test_the_acts_of_a_scenario_are_one_report():
    acts = [report([CUT, CUT, CUT], 1), dataclasses.replace(report([CUT, ANSWERED], 1), lies=2, recover_s=7.0)]
    whole = in_all(acts)
    assert (whole.requests, whole.faults, whole.lies, whole.recover_s, whole.seconds) == (5, 2, 2, 7.0, 2.0)
    assert (whole.failed, whole.not_allowed) == ({CUT: 4}, {CUT: 3})
    assert in_all([report([], 0)]).recover_s is None
    assert not whole.good


def test_a_scenario_is_played_in_acts_whose_evidence_fits():
    assert soak.acts_of(100, 0, 100) == [(100, 0)]
    assert soak.acts_of(100, 8, 100) == [(100, 8)]
    assert soak.acts_of(100, 8, 40) == [(34, 3), (34, 3), (34, 2)]
    assert soak.acts_of(100, 1, 50) == [(50, 1), (50, 0)]
    assert soak.acts_of(100, 3 * soak.ACT_FAULTS, 100) == [(34, soak.ACT_FAULTS)] * 3


def test_results_are_kept_by_scenario_and_shown_in_the_order_of_the_table(tmp_path):
    path, page = tmp_path / "results.json", tmp_path / "page.md"
    page.write_text("before\n<!-- faults -->\nold\n<!-- /faults -->\nafter\n")
    first, second = (dataclasses.replace(report([CUT], 1), scenario=one.name) for one in SCENARIOS[:2])
    path.write_text(json.dumps({"a scenario that is no more": {}}))
    for one in (second, first, dataclasses.replace(second, requests=99)):
        results.save(one, path)
    kept = results.saved_reports(path)
    assert [(one.scenario, one.requests) for one in kept] == [(first.scenario, 1), (second.scenario, 99)]
    results.show_on_page(page, path)
    assert page.read_text() == f"before\n<!-- faults -->\n{results.table(kept)}\n<!-- /faults -->\nafter\n"


def test_every_scenario_has_a_name_of_its_own_and_words_about_it():
    assert len({one.name for one in SCENARIOS}) == len(SCENARIOS)
    assert all(one.play.__doc__ for one in SCENARIOS)


def test_a_whole_name_means_that_scenario_alone():
    def meant(words):
        return [one.name for one in SCENARIOS if soak.is_meant(words, one)]

    assert meant("REQUEST_TIMED_OUT") == ["REQUEST_TIMED_OUT"]
    assert meant("TIMED_OUT") == ["REQUEST_TIMED_OUT", "REQUEST_TIMED_OUT that lasts"]
    assert meant("of three brokers killed") == ["one of three brokers killed"]
    assert meant("no such words") == []
