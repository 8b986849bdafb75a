"""Scenarios of other files once more, behind granian and on the public link; theirs are behind express, on the native
link."""

from __future__ import annotations

from tests.faults.clients import Habits
from tests.faults.oracle import CUT
from tests.faults.play import ANY, Scenario
from tests.faults.reply_scenarios import late
from tests.faults.stage import House
from tests.faults.worker_scenarios import killed_workers

BEHIND_GRANIAN = House(front="granian")
ON_THE_PUBLIC_LINK = House(kafka_settings='link = "public"')
MAY_BE_CUT = {CUT: Habits().connections}
MAY_EXPIRE = {"expired": ANY}

SCENARIOS = [
    Scenario("worker killed, behind granian", BEHIND_GRANIAN, killed_workers, MAY_BE_CUT),
    Scenario("late replies, behind granian", BEHIND_GRANIAN, late, MAY_EXPIRE),
    Scenario("worker killed, public link", ON_THE_PUBLIC_LINK, killed_workers, MAY_BE_CUT),
    Scenario("late replies, public link", ON_THE_PUBLIC_LINK, late, MAY_EXPIRE),
]
