"""What a reload may not change is named, and routes keep their numbers over one."""

from __future__ import annotations

from fastgw import reload
from fastgw.config import ROUTES_MAX, Config
from tests.test_config import GATEWAY, KAFKA, MINIMAL, ROUTE, loads


def test_a_reload_names_what_it_cannot_change() -> None:
    old = loads(MINIMAL)
    new = loads(
        '[gateway]\nname = "store"\nworkers = 99\nlisten = ["0.0.0.0:1"]\nresponse_topic = "r"\nrun_dir = "/r"\n'
        '[kafka]\nbootstrap = "elsewhere:9092"\n[admin]\nlisten = ""\n[cluster]\nmode = "group"\n'
        + ROUTE.replace("orders", "other")
    )
    assert reload.restart_only_changes(old, new) == [
        "gateway.name",
        "gateway.response_topic",
        "gateway.listen",
        "gateway.workers",
        "gateway.slots",
        "gateway.run_dir",
        "cluster.mode",
        "cluster.group_id",
        "admin.listen",
    ]
    assert reload.restart_only_changes(old, old) == []


def test_a_reload_may_change_what_is_behind_an_address() -> None:
    old = loads(MINIMAL + '[[listen]]\nbind = "a:1"\n')
    new = loads(MINIMAL + '[[listen]]\nbind = "a:1"\ntls_cert = "c"\ntls_key = "k"\n')
    assert reload.restart_only_changes(old, new) == []


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
    second = reload.keep_route_numbers(first, with_routes("d", "c", "a"))
    assert numbers(second) == {"d": 3, "c": 2, "a": 0}
    third = reload.keep_route_numbers(second, with_routes("b", "d"))
    assert numbers(third) == {"b": 4, "d": 3}, "b was away: its counters may belong to another by now"


def test_route_numbers_never_run_out() -> None:
    everything = with_routes(*(f"a{number}" for number in range(ROUTES_MAX)))
    others = with_routes(*(f"b{number}" for number in range(ROUTES_MAX)))
    assert sorted(numbers(reload.keep_route_numbers(everything, others)).values()) == list(range(ROUTES_MAX))
