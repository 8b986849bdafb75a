"""What the store of a node is given while workers with several configurations live."""

from __future__ import annotations

from fastgw.config import Config
from fastgw.config.of_store import for_store
from tests.config.files import KAFKA, loads

FIRST, SECOND, THIRD = (f"the {number} of three secrets, long enough" for number in ("first", "second", "third"))
ROUTE = """
[[route]]
method = "POST"
path = "/{name}"
name = "{name}"
topic = "orders"
{more}
"""


def made(secrets: list[str], keep: str, **routes: str) -> Config:
    every = "".join(ROUTE.format(name=name, more=more) for name, more in routes.items())
    told = ", ".join(f'"{secret}"' for secret in secrets)
    later = f'[later]\nkeep = "{keep}"\n[store]\ndir = "/store"\n'
    return loads(f'[gateway]\nname = "shop"\nsecrets = [{told}]\n' + KAFKA + later + every)


def test_one_configuration_is_given_as_it_is() -> None:
    one = made([FIRST], "24h", report="later = true")
    assert for_store(one, []) == for_store(one, [one, one]) == one


def test_every_secret_is_known_and_the_running_configuration_signs() -> None:
    running, fresh = made([FIRST, SECOND], "24h", report=""), made([SECOND, THIRD], "24h", report="")
    assert for_store(running, [fresh]).gateway.secrets == (FIRST, SECOND, THIRD)


def test_parts_and_times_are_those_of_whoever_needs_most() -> None:
    running = made([FIRST], "24h", report="", orders="", same="")
    old = made([FIRST], "48h", report='later = true\nwork_timeout = "6h"', orders="", stream='reply = "stream"')
    both = for_store(running, [old])
    assert (running.needs_store, both.keeps_replies, both.has_streams) == (False, True, True)
    assert (both.later.keep_ns, both.longest_work_ns) == (old.later.keep_ns, old.longest_work_ns)
    assert [route.name for route in both.routes] == ["report", "report", "orders", "same", "stream"]
