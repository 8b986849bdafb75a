"""More is asked than a service can do: who is refused leaves no record, who is not is answered."""

from __future__ import annotations

from tests.faults.clients import Habits
from tests.faults.echo_service import SLOW
from tests.faults.play import ANY, Scenario
from tests.faults.stage import House, Stage

WAITING_MAX = 32  # of one worker; the limit of a route, unless it has its own
HOUSE = House(workers=2, gateway_settings=f"slots = {WAITING_MAX}")
CROWD = Habits(connections=4 * 2 * WAITING_MAX, manners=(SLOW,))
CAPPED = "in_flight_cap"


def crowd(stage: Stage) -> None:
    """Four times as many clients as may wait ask for something that takes seconds, and ask again when refused."""
    for _ in range(stage.faults_wanted):
        with stage.fault():
            with stage.also(CROWD) as asking:
                asking.sent(4 * CROWD.connections)
            assert any(one.ending == CAPPED for one in asking.told)


SCENARIOS = [Scenario("more requests than the service can do", HOUSE, crowd, {CAPPED: ANY}, long=50)]
