"""Where the fault scenarios are played: one house at a time, the next scenario's if it is the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from tests.faults.disks import why_no_disks
from tests.faults.kafkas import Kafkas
from tests.faults.play import Scenario, play, row
from tests.faults.stage import Furniture, open_house

REQUESTS = 300


def for_tests(*tables: Sequence[Scenario]) -> list[Scenario]:
    """The scenarios of these tables that the tests play; those of one house follow one another."""
    played = [one for table in tables for one in table if not one.only_soak]
    houses = [one.house for one in played]
    return sorted(played, key=lambda one: houses.index(one.house))


class Houses:
    """The house that is open now; another one takes its place when a scenario needs it."""

    def __init__(self, kafkas: Kafkas, folders: pytest.TempPathFactory) -> None:
        self._kafkas = kafkas
        self._folders = folders
        self._opened = ExitStack()
        self._furniture: Furniture | None = None

    @contextmanager
    def ready_for(self, scenario: Scenario) -> Iterator[Furniture]:
        """The scenario's house; who leaves it in ruins, or fails in it, leaves it to nobody."""
        if self._furniture is None or self._furniture.house != scenario.house:
            self.close()
            house = open_house(scenario.house, self._kafkas.get(scenario.house.kafka), self._folders.mktemp("house"))
            self._furniture = self._opened.enter_context(house)
        with ExitStack() as after:
            after.callback(self.close)
            yield self._furniture
            if not (scenario.alone or scenario.ends_service):
                after.pop_all()

    def close(self) -> None:
        self._furniture = None
        self._opened.close()

    def play(self, scenario: Scenario) -> None:
        """The scenario's short version: no lie, and nothing fails that may not.

        Its clients are at full work around each fault. They rest while a scenario waits, for sessions to end or brokers
        to come back: all that they would do there is take both cores from the other tests.
        """
        if not scenario.habits.rate:
            scenario = replace(scenario, habits=replace(scenario.habits, rests=True))
        if scenario.house.own_disks and (why := why_no_disks()):
            pytest.skip(why)
        with self.ready_for(scenario) as furniture:
            report = play(scenario, furniture, REQUESTS, scenario.short, progress=print)
            print(" | ".join(row(report)))
            assert report.lies == 0, report.verdict
            assert report.not_allowed == {}, report.verdict
            assert report.faults >= scenario.short
