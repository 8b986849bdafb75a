"""What a reload may not change is named, and routes keep their numbers over one."""

from __future__ import annotations

import pytest

from fastgw import _ctable
from fastgw.config import ROUTES_MAX, Config, changes
from fastgw.config.schema import TICKETS_NUMBER
from fastgw.errors import ConfigError
from tests.config.files import GATEWAY, KAFKA, MINIMAL, ROUTE, loads


def test_a_reload_names_what_it_cannot_change() -> None:
    old = loads(MINIMAL)
    new = loads(
        '[gateway]\nname = "store"\nworkers = 99\nlisten = ["0.0.0.0:1"]\nresponse_topic = "r"\nrun_dir = "/r"\n'
        '[kafka]\nbootstrap = "elsewhere:9092"\n[admin]\nlisten = ""\n[cluster]\nmode = "group"\n'
        + ROUTE.replace("orders", "other")
    )
    assert changes.restart_only_changes(old, new) == [
        "gateway.name",
        "gateway.response_topic",
        "gateway.listen",
        "gateway.workers",
        "gateway.slots",
        "gateway.run_dir",
        "cluster.mode",
        "cluster.group_id",
        "admin.listen",
        "later.topic",
        "streams.topic",
    ]
    assert changes.restart_only_changes(old, old) == []


def test_a_reload_may_change_what_is_behind_an_address() -> None:
    old = loads(MINIMAL + '[[listen]]\nbind = "a:1"\n')
    new = loads(MINIMAL + '[[listen]]\nbind = "a:1"\ntls_cert = "c"\ntls_key = "k"\n')
    assert changes.restart_only_changes(old, new) == []


def test_the_rights_of_a_unix_socket_need_a_restart() -> None:
    old, new = (loads(MINIMAL + f'[[listen]]\nbind = "unix:/s"\nmode = "{mode}"\n') for mode in ("0600", "0660"))
    assert changes.restart_only_changes(old, new) == ["gateway.listen"]


def keeping(keep: str, more: str = "later = true") -> Config:
    secrets = 'secrets = ["a secret that has at least 32 bytes"]\n[store]\ndir = "/store"\n'
    return loads(GATEWAY + secrets + f'[later]\nkeep = "{keep}"\n' + KAFKA + ROUTE + more)


def test_a_reload_may_not_shorten_what_status_urls_promise() -> None:
    day, hour = keeping("24h"), keeping("2h")
    assert changes.broken_promise(day, hour) == (
        "later.keep: expected at least 86400 s while the gateway runs, because status URLs that clients have are valid"
        " for so long, got 7200 s; restart the gateway to end them earlier"
    )
    assert changes.broken_promise(hour, day) == changes.broken_promise(day, day) == ""
    assert changes.broken_promise(keeping("24h", ""), hour) == "", "there are no status URLs"


def with_routes(*names: str) -> Config:
    return loads(
        GATEWAY
        + KAFKA
        + "".join(f'[[route]]\nmethod="GET"\npath="/{name}"\ntopic="t"\nname="{name}"\n' for name in names)
    )


def numbers(one: Config) -> dict[str, int]:
    return {route.name: route.number for route in one.routes}


def test_routes_keep_their_numbers_over_a_reload() -> None:
    first = with_routes("a", "b", "c")
    second = changes.keep_route_numbers(first, with_routes("d", "c", "a"))
    assert numbers(second) == {"d": 3, "c": 2, "a": 0}
    third = changes.keep_route_numbers(second, with_routes("b", "d"))
    assert numbers(third) == {"b": 4, "d": 3}, "b was away: its counters may belong to another by now"


def test_route_numbers_never_run_out() -> None:
    everything = with_routes(*(f"a{number}" for number in range(ROUTES_MAX)))
    others = with_routes(*(f"b{number}" for number in range(ROUTES_MAX)))
    assert sorted(numbers(changes.keep_route_numbers(everything, others)).values()) == list(range(ROUTES_MAX))


def test_no_route_ever_gets_the_number_of_requests_without_a_route() -> None:
    one = with_routes("a")
    seen = set()
    for reloads in range(_ctable.ROUTES_MAX + 10):
        one = changes.keep_route_numbers(one, with_routes(f"a{reloads}"))
        seen |= set(numbers(one).values())
    assert seen == set(range(TICKETS_NUMBER))


def test_a_table_has_a_row_of_counters_for_every_route_and_one_for_none() -> None:
    most = with_routes(*(f"a{number}" for number in range(ROUTES_MAX)))
    assert not {TICKETS_NUMBER, _ctable.UNROUTED} & set(numbers(most).values())
    with pytest.raises(ConfigError, match=f"at most {ROUTES_MAX} routes"):
        with_routes(*(f"a{number}" for number in range(ROUTES_MAX + 1)))
