"""What the benchmark concludes from its rounds: ratios within a round, their spread, ties, verdicts, comparisons."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time

import pytest

from bench import compare
from bench.compare import FASTER, SAME, SLOWER, UNSURE, Figure, judge
from bench.questions import phases
from bench.report import targets
from bench.rig.gateways import BODY_BYTES, FastgwSettings, Ports, Topics, fastgw_config, order_body, peers
from bench.rig.processes import Work, cpu_us, tree, work_by_thread
from bench.rig.rounds import Ratio, ratio_of, spread
from fastgw import config
from tests.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("count", range(1, 40))
def test_the_spread_holds_the_median_with_90_percent_confidence_and_is_the_smallest_that_does(count):
    low, high = spread([float(value) for value in range(count)])
    left_out = int(low)
    assert high == count - 1 - left_out

    def confidence(cut):  # of leaving out `cut` at either end
        return 1 - 2 * sum(math.comb(count, heads) for heads in range(cut + 1)) / 2**count

    assert confidence(left_out) >= 0.9 or left_out == 0  # with fewer than five rounds no interval is as sure
    assert confidence(left_out + 1) < 0.9 or left_out + 1 >= count / 2


def test_a_ratio_is_the_median_of_ratios_not_the_ratio_of_medians():
    # The machine was three times slower in the middle round, for both alike.
    assert ratio_of([(10, 20), (30, 60), (11, 22)]) == Ratio(0.5, 0.5, 0.5)


def test_a_difference_inside_the_spread_is_a_tie():
    assert ratio_of([(9, 10), (12, 10), (11, 10)]).tie
    assert not ratio_of([(9, 10), (8, 10), (7, 10)]).tie


def test_without_a_round_of_the_reference_there_is_no_ratio():
    assert ratio_of([]) is None
    assert ratio_of([(5, 0)]) is None


def rounds_of(**cpu: list[float]) -> list[dict]:
    return [
        {"gateway": name, "connections": 64, "number": number, "gateway_cpu_us": value, "ok": True}
        for name, values in cpu.items()
        for number, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("fastgw", "verdict"),
    [([50, 51, 52], "reached"), ([70, 71, 72], "missed"), ([50, 59, 70], "perhaps"), ([], "not measured")],
)
def test_a_target_is_reached_missed_or_left_open(fastgw, verdict):
    target = targets.Target("cpu", "fastgw", "go", "gateway_cpu_us", 64, 0.6)
    assert targets.judge_target(target, rounds_of(fastgw=fastgw, go=[100] * 3)).verdict == verdict


def test_rounds_that_went_wrong_do_not_count_for_a_target():
    rounds = rounds_of(fastgw=[50, 50], go=[100, 100])
    rounds.append(rounds[0] | {"number": 2, "gateway_cpu_us": 1.0, "ok": False})
    rounds.append(rounds[2] | {"number": 2})
    target = targets.Target("cpu", "fastgw", "go", "gateway_cpu_us", 64, 0.6)
    assert targets.judge_target(target, rounds).measured.startswith("0.50 (0.50-0.50")


def open_loop(gateway, number, p99_us, lag_p99_us=0):
    return {"gateway": gateway, "share": 70, "number": number, "p99_us": p99_us, "lag_p99_us": lag_p99_us}


def test_an_open_loop_round_in_which_the_client_was_late_does_not_count():
    rounds = [
        *(open_loop("fastgw", number, 1000, lag_p99_us=250) for number in range(3)),
        *(open_loop("go", number, 2000) for number in range(2)),
        open_loop("go", 2, 500, lag_p99_us=126),
    ]
    (verdict,) = (one for one in targets.verdicts({"open_loop": rounds}) if one.text.startswith("p99 at 70"))
    assert verdict.text.endswith("(go)")
    assert (verdict.measured, verdict.verdict) == ("0.50 (0.50-0.50)", "reached")


def test_a_growth_curve_is_judged_where_it_has_a_target():
    lines = [
        {"question": "workers", "value": 1.0, "gateway_cpu_us_ratio": [1.0, 1.0, 1.0]},
        {"question": "workers", "value": 4.0, "gateway_cpu_us_ratio": [1.6, 1.4, 1.8]},
        {"question": "misrouted", "value": 100.0, "gateway_cpu_us_ratio": [1.2, 1.1, 2.1]},
        {"question": "owners", "value": 4.0, "us": 0.7},
    ]
    assert [(one.limit, one.verdict) for one in targets.growth_verdicts(lines)] == [
        ("<= 1.15", "missed"),
        ("<= 2", "perhaps"),
    ]


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (Figure(1.0, 0.9, 1.1, "x go"), Figure(1.3, 1.2, 1.4, "x go"), SLOWER),
        (Figure(1.0, 0.9, 1.1, "x go"), Figure(1.3, 1.0, 1.4, "x go"), SAME),  # the spreads overlap
        (Figure(1.0, 0.99, 1.01, "x go"), Figure(1.05, 1.04, 1.06, "x go"), SAME),  # below the threshold
        (Figure(1.0, 0.9, 1.1, "x go"), Figure(3.0, 3.0, 3.0, "x go"), UNSURE),  # one round
        (Figure(1.3, 1.2, 1.4, "x go"), Figure(1.0, 0.9, 1.1, "x go"), FASTER),
        (Figure(100, 90, 100, "ns"), Figure(130, 120, 130, "ns"), SLOWER),
        (Figure(100, 90, 100, "ns"), Figure(200, 91, 200, "ns"), SAME),  # only the median: a noisy neighbour
    ],
)
def test_slower_is_what_no_noise_explains(before, after, verdict):
    assert judge(before, after, threshold=0.1) == verdict


def micro_file(path, **medians_s):
    stats = [{"fullname": name, "stats": {"min": value, "median": value}} for name, value in medians_s.items()]
    path.write_text(json.dumps({"benchmarks": stats}))
    return path


@pytest.mark.parametrize(("after", "status"), [(1.0e-6, 0), (1.3e-6, 1)])
def test_compare_tells_by_its_exit_status(tmp_path, after, status):
    old, new = micro_file(tmp_path / "a.json", parse=1.0e-6), micro_file(tmp_path / "b.json", parse=after)
    done = subprocess.run([sys.executable, "-m", "bench.compare", old, new], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert ("SLOWER" in done.stdout) is bool(status)


def test_compare_refuses_files_that_it_does_not_know(tmp_path):
    known, strange = micro_file(tmp_path / "a.json", parse=1.0), tmp_path / "b.json"
    strange.write_text('{"format": "something else"}')
    done = subprocess.run([sys.executable, "-m", "bench.compare", known, strange], capture_output=True, text=True)
    assert done.returncode == compare.UNUSABLE
    assert "something else" in done.stderr


def test_a_new_and_a_lost_figure_are_told_and_judged_as_neither():
    figure = Figure(1.0, 1.0, 1.0, "us")
    rows = compare.compared({"a": figure, "b": figure}, {"b": figure, "c": figure}, 0.1)
    assert {row[1]: row[0] for row in rows} == {"a": compare.GONE, "b": SAME, "c": compare.NEW}


PYTHON = [sys.executable, "-c"]
BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
START_AND_WAIT = "import subprocess, sys\nsubprocess.run(sys.argv[1:])\ninput()"


def test_cpu_of_a_tree_counts_children_that_have_ended():
    command = [*PYTHON, START_AND_WAIT, *PYTHON, BURN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as running:
        eventually(lambda: len(tree(running.pid)) == 2, 30, "the child is there")
        eventually(lambda: len(tree(running.pid)) == 1, 30, "the child has burnt 0.3 s and ended")
        assert cpu_us(running.pid) > 290_000  # ended children are counted in ticks of 10 ms
        running.communicate("\n")


def test_cpu_of_a_tree_counts_living_grandchildren():
    command = [*PYTHON, START_AND_WAIT, *PYTHON, START_AND_WAIT, *PYTHON, BURN + "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as running:
        eventually(lambda: cpu_us(running.pid) > 300_000, 30, "the grandchild has burnt 0.3 s")
        assert len(tree(running.pid)) == 3
        running.communicate("\n" * 3)


def test_the_work_of_threads_is_told_by_their_names():
    named = "open('/proc/self/comm', 'w').write('sleeper')\nimport time\nfor _ in range(50): time.sleep(0.001)\n"
    with subprocess.Popen([*PYTHON, named + BURN + "input()"], stdin=subprocess.PIPE, text=True) as running:
        done = eventually(lambda: enough_of(work_by_thread(running.pid).get("sleeper", Work())), 30)
        assert done.sleeps >= 50
        running.communicate("\n")


def enough_of(work):
    return work if work.cpu_us > 300_000 else None


SAMPLES = """fastgw: worker   2964
\tffffffff8140a54f tcp_sendmsg+0x31f
\t           c718c __pyx_f_6uvloop_4loop_8UVStream_write+0x12c
\t           26fe5 __pyx_f_6fastgw_16http1_connection_10Connection__take_answer+0x4a5
\t           25785 __pyx_f_6fastgw_8exchange_8Exchange_resolve+0x835

fastgw: worker   2964
\t           23345 _int_malloc+0x10
\t           25785 __pyx_f_6fastgw_8exchange_8Exchange_resolve+0x835
\t           1e160 __pyx_pw_6fastgw_12kafka_native_10NativeLink_31_take_replies+0x190

fastgw: worker   2964
\t           3ba00 __pyx_pw_6fastgw_12kafka_native_10NativeLink_9send+0x430
\t           29714 __pyx_f_6fastgw_8exchange_8Exchange_open+0xbd4

rdk:broker1   2969
\tffffffff8140a54f do_sys_poll+0x31f

rdk:broker1   2969

fastgw: worker   2964
\t           fd9c2 _PyEval_EvalFrameDefault+0x2e52

"""


def test_a_sample_counts_for_the_innermost_step_that_is_in_its_stack():
    assert [phases.step_of(*sample) for sample in phases.stacks(SAMPLES)] == [
        "answer: written to its socket",
        "reply: its request found and ended",
        "record: batched and given to librdkafka",
        phases.LIBRDKAFKA,
        phases.LIBRDKAFKA,
        phases.ELSE,
    ]
    assert not list(phases.stacks(""))


def test_our_own_cpu_is_what_the_process_says_itself():
    before_us = time.process_time() * 1e6
    measured_us = cpu_us(os.getpid())
    assert measured_us >= before_us - 1


def test_the_body_has_exactly_the_size_asked_for_and_is_json():
    for size in (64, BODY_BYTES, 524_288):
        body = order_body(size, number=12)
        assert len(body) == size
        assert json.loads(body)["number"] == 12


def test_the_configuration_of_the_benchmarks_is_one_that_fastgw_takes():
    settings = FastgwSettings(workers=2, http2=True, slots=131072)
    text = fastgw_config(settings, "127.0.0.1:9092", Topics("r", "p", "replies"), Ports(1001, 1002, 1003))
    assert [route.path for route in config.loads(text).routes] == ["/orders", "/park"]


def test_every_peer_says_how_it_is_made_and_how_it_is_fair():
    found = peers()
    assert {"go", "aiokafka", "faststream", "nest", "spring"} <= set(found)
    for peer in found.values():
        assert peer.run
        assert "acks=all" in peer.settings, peer.name
