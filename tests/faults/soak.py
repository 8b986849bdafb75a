"""`make soak`: every fault scenario in its long version, each in a house of its own.

    make soak                                      everything: hours
    make soak ARGS='--only "worker killed"'        those whose name has these words; may be given several times
    make soak ARGS="--requests 5000 --faults 10"   smaller
    make soak ARGS='--more --only "worker killed"' goes on: adds to what is kept instead of replacing it
    make soak ARGS=--show                          plays nothing, puts the last results into docs/guarantees.md

A scenario with many faults, or with more requests than its brokers keep, is played in acts, each judged by itself: the
evidence of all of them would not fit into memory. What the acts so far came to is saved after each one, so Ctrl-C loses
no more than the act that is being played.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from pathlib import Path

from tests.brokers.choice import KafkaForTests
from tests.faults import results
from tests.faults.kafkas import Kafkas
from tests.faults.play import Report, Scenario, in_all, play, row
from tests.faults.scenarios import SCENARIOS
from tests.faults.stage import Stage, open_house

REQUESTS = 100_000
TELL_EVERY_S = 10.0
FAULTS_MAX = 1 << 30
ACT_FAULTS = 400  # whole rounds through the workers of the large house: each slot has a good run before its next turn


def main() -> int:
    options = _options()
    if options.show:
        results.show_on_page(path=options.results)
        return 0
    chosen = [one for one in SCENARIOS if not options.only or any(is_meant(words, one) for words in options.only)]
    if not chosen:
        print(f"soak: no scenario has {options.only} in its name; there are:", file=sys.stderr)
        print("\n".join(f"  {one.name}" for one in SCENARIOS), file=sys.stderr)
        return 2
    kafka = KafkaForTests()
    kafka.start()
    if not kafka.bootstrap:
        print(f"soak: needs a real Kafka: {kafka.told}", file=sys.stderr)
        return 2
    kafkas = Kafkas(kafka.bootstrap)
    for number in (signal.SIGINT, signal.SIGTERM):  # whatever a shell in the background has made of the first
        signal.signal(number, signal.default_int_handler)
    try:
        return _play_all(chosen, kafkas, options)
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return 130
    finally:
        kafkas.close()
        kafka.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak", description="Play the fault scenarios in their long version.")
    parser.add_argument("--only", action="append", default=[], help="words of a scenario's name, or all of it")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="at least so many for each scenario")
    parser.add_argument("--faults", type=int, default=FAULTS_MAX, help="at most so many for each scenario")
    parser.add_argument("--more", action="store_true", help="add to the kept results instead of replacing them")
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="the file that keeps the results")
    parser.add_argument("--show", action="store_true", help="play nothing, put what is kept into docs/guarantees.md")
    return parser.parse_args()


def _play_all(chosen: Sequence[Scenario], kafkas: Kafkas, options: argparse.Namespace) -> int:
    kept: Path = options.results
    bad = 0
    for scenario in chosen:
        before = [one for one in results.saved_reports(kept) if options.more and one.scenario == scenario.name]
        report = _play_one(scenario, kafkas, options.requests, min(scenario.long, options.faults), kept, before)
        if report is None or not report.good:
            bad += 1
    print(results.table(results.saved_reports(kept)))
    return 1 if bad else 0


def _play_one(
    scenario: Scenario, kafkas: Kafkas, requests: int, faults: int, kept: Path, before: Sequence[Report]
) -> Report | None:
    """The report on this run and those before it; None when the scenario could not be played to its end, and why is
    told."""
    house = scenario.long_house or scenario.house
    scenario = replace(scenario, habits=scenario.long_habits or scenario.habits)
    acts = acts_of(requests, faults, house.requests_max)
    reports = list(before)
    with tempfile.TemporaryDirectory(prefix="fastgw-soak-") as folder:
        try:
            with (
                open_house(house, kafkas.get(house.kafka), Path(folder)) as furniture,
                _ticker(scenario, len(acts)) as ticker,
            ):
                for act_requests, act_faults in acts:
                    report = play(scenario, furniture, act_requests, act_faults, watch=ticker.watch)
                    reports.append(report)
                    results.save(in_all(reports), kept)
                    _tell(report)
        except Exception:  # a scenario that fails must not take the others with it
            traceback.print_exc()
            print(f"{scenario.name}: BAD: not played to its end", flush=True)
            return None
    return in_all(reports)


def is_meant(words: str, scenario: Scenario) -> bool:
    """Whether the name has these words; a whole name means that scenario alone."""
    return scenario.name == words if any(one.name == words for one in SCENARIOS) else words in scenario.name


def acts_of(requests: int, faults: int, requests_max: int) -> list[tuple[int, int]]:
    """(requests, faults) of each act of a scenario; `requests_max` is what its brokers keep of one."""
    count = max(1, ceil(faults / ACT_FAULTS), ceil(requests / requests_max))
    share = ceil(faults / count)
    return [(ceil(requests / count), max(0, min(share, faults - act * share))) for act in range(count)]


def _tell(report: Report) -> None:
    print(f"{report.scenario}: {'good' if report.good else 'BAD'}: {' | '.join(row(report)[1:])}", flush=True)
    if not report.good:
        print(f"not allowed: {report.not_allowed}", flush=True)
    print(report.verdict, flush=True)


class _Ticker:
    """Tells now and then how far a scenario is."""

    def __init__(self, name: str, acts: int) -> None:
        self._name = name
        self._acts = acts
        self._act = 0
        self._stage: Stage | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def start(self) -> None:
        self._began_s = time.monotonic()
        self._thread.start()

    def watch(self, stage: Stage) -> None:
        self._act += 1
        self._stage = stage

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _tick(self) -> None:
        while not self._over.wait(TELL_EVERY_S):
            if self._stage is None:
                continue
            requests, faults = len(self._stage.clients.told), len(self._stage.faults)
            minutes, seconds = divmod(int(time.monotonic() - self._began_s), 60)
            act = f"act {self._act} of {self._acts}: " if self._acts > 1 else ""
            print(f"{self._name}: {minutes}:{seconds:02d}, {act}{requests:,} requests, {faults:,} faults", flush=True)


@contextmanager
def _ticker(scenario: Scenario, acts: int) -> Iterator[_Ticker]:
    ticker = _Ticker(scenario.name, acts)
    ticker.start()
    try:
        yield ticker
    finally:
        ticker.stop()


if __name__ == "__main__":
    sys.exit(main())
