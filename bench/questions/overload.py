"""What becomes of a gateway that is asked for more than there is? An open loop at shares of the capacity, and above it.

    python -m bench.questions.overload                               # 50, 100, 200 and 500 % of what the service can do
    python -m bench.questions.overload --shares 200 --seconds 30 --busy-us 1000

The service can do one request in `--busy-us` microseconds. Its route lets as many requests wait as it can do in a
quarter of their deadline; who comes beyond that is refused with 503. Beside it, another route of the same gateway goes
to a service that has nothing to do. Prints one JSON line a share: goodput (requests a second that came back right) and
its ratio to the best of all shares, p99 of the refusals and of the other route, growth of the gateway's memory, and
whether each request that was not refused has one record and each refused one none.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer

from bench.rig.commands import run
from bench.rig.gateways import FastgwSettings, Gateway, Topics, start_fastgw
from bench.rig.lineup import WARM_UP_CONNECTIONS, Lineup, empty_stage
from bench.rig.load import closed_loop
from bench.rig.openloop import OpenLoop, open_loop
from bench.rig.processes import memory, wait_for
from bench.rig.progress import say
from bench.rig.stage import PARTITIONS

DEADLINE_S = 2
CONNECTIONS = 2048  # more than wait at once: the others are refused within milliseconds
OTHER_RATE = 100.0  # requests a second on the other route
CAPACITY_S = 4.0


def start(on_stage: Lineup, busy_us: int) -> Gateway:
    """A fastgw with a route to a service of limited means, and one to the other service."""
    stage = on_stage.stage
    slow = stage.topic("bench.slow")
    stage.echo([slow], "--busy", str(busy_us))
    waiting_max = max(1, int(DEADLINE_S / 4 * 1e6 / busy_us))
    other = f'[[route]]\nmethod = "POST"\npath = "/other"\ntopic = "{on_stage.request_topic}"\n'
    settings = FastgwSettings(route={"timeout": f"{DEADLINE_S}s", "max_in_flight": waiting_max}, extra=other)
    topics = Topics(slow, stage.topic("fastgw.park"), stage.topic("fastgw.replies"))
    return start_fastgw(stage, "fastgw", settings, topics)


def waiting(gateway: Gateway) -> int:
    """Requests that are under way."""
    return sum(int(sample.value) for sample in gateway.samples("fastgw_in_flight"))


def measure(on_stage: Lineup, gateway: Gateway, rate: float, seconds: float) -> dict[str, Any]:
    """One share: the load, the other route's beside it, and the evidence."""
    stage = on_stage.stage
    records_before = stage.record_count(gateway.topics.request, PARTITIONS)
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(open_loop, gateway.port, OTHER_RATE, seconds, on_stage.body_file, "/other", 64)
        load = open_loop(gateway.port, rate, seconds, on_stage.body_file, connections=CONNECTIONS)
        other = asked.result()
    records = stage.record_count(gateway.topics.request, PARTITIONS) - records_before
    return _line(load, other, records, memory(gateway.pid).pss_mb)


def _line(load: OpenLoop, other: OpenLoop, records: int, pss_mb: float) -> dict[str, Any]:
    sent_s = load.sent / load.rate  # the settling as well
    return {
        "rate": load.rate,
        "sent": load.sent,
        "goodput": round(load.good / sent_s, 1),
        "p99_us": load.percentiles["p99_us"],
        "refused": load.refused,
        "refused_p99_us": load.refused_p99_us,
        "other_ways": load.errors - load.refused,
        "records_too_many": records - (load.sent - load.refused),
        "other_route_p99_us": other.percentiles["p99_us"],
        "other_route_errors": other.errors,
        "client_lag_p99_us": load.lag_p99_us,
        "pss_mb": round(pss_mb, 1),
    }


def main(
    shares: Annotated[str, typer.Option(help="Percents of the service's capacity, with commas.")] = "50,100,200,500",
    seconds: Annotated[float, typer.Option(min=1, help="Length of each share.")] = 15.0,
    busy_us: Annotated[int, typer.Option(min=50, help="What a request takes the service.")] = 500,
) -> None:
    with empty_stage() as on_stage:
        gateway = start(on_stage, busy_us)
        closed_loop(gateway.port, WARM_UP_CONNECTIONS, CAPACITY_S, on_stage.body_file)
        load = closed_loop(gateway.port, WARM_UP_CONNECTIONS, CAPACITY_S, on_stage.body_file)
        capacity = load.requests / load.seconds
        wait_for(lambda: waiting(gateway) == 0, DEADLINE_S + 1, "no request of the warm-up is under way")
        say(f"the service can do {capacity:.0f} requests a second")
        lines = []
        for share in [int(share) for share in shares.split(",")]:
            say(f"{share} % of that for {seconds:g} s")
            lines.append({"share": share} | measure(on_stage, gateway, capacity * share / 100, seconds))
    peak = max(line["goodput"] for line in lines)
    least_mb = lines[0]["pss_mb"]
    for line in lines:
        line |= {"goodput_to_peak": round(line["goodput"] / peak, 3)}
        line |= {"memory_to_first": round(line["pss_mb"] / least_mb, 3)}
        print(json.dumps({"bench": "overload", "capacity": round(capacity, 1), **line}), flush=True)
    if wrong := [line["share"] for line in lines if line["records_too_many"] > 0]:
        sys.exit(f"bench: refused requests were recorded at {wrong} % of capacity")


if __name__ == "__main__":
    run(main, __doc__)
