"""What does the correlation table cost? Run `python -m bench.questions.table`; it prints one JSON line a measurement.

A cycle is claim, publish, resolve, release: what every answered request costs in the table. It is measured as a loop
in C (`core`) and as four calls from Python (`python`), in a range of the default size, so that each cycle meets the
slot that has rested longest and is in no near cache. The empty Python loop is not taken off.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import fastgw
from bench.rig import native
from bench.rig.processes import run_to_end
from fastgw import _ctable, table
from fastgw._ctable import SlotRange, Table

SLOTS = 32_768  # the default of gateway.slots
RUNS = 9
IN_FLIGHT = 64  # a sweep's surroundings: as many requests as the closed loop of the gateway benchmark has
SECOND_NS = 1_000_000_000
TIMEOUT_S = 120


def per_round_ns(rounds: int, body: Callable[[int], object]) -> list[float]:
    """Run `body(rounds)`, which does something `rounds` times; give nanoseconds a time, once for each run."""
    runs = []
    for _ in range(RUNS):
        started_ns = time.perf_counter_ns()
        body(rounds)
        runs.append((time.perf_counter_ns() - started_ns) / rounds)
    return runs


def in_c(what: str, rounds: int) -> list[float]:
    """The same without Python, by `native/table.c`: "cycles" or "counts"."""
    command = [str(native.program("table")), what, str(rounds), str(SLOTS), str(RUNS)]
    return [float(line) for line in run_to_end(command, TIMEOUT_S).split()]


def cycles_in_python(slots: SlotRange) -> Callable[[int], object]:
    claim, publish, resolve, release = slots.claim, slots.publish, slots.resolve, slots.release

    def body(rounds: int) -> None:
        for tag in range(rounds):
            slot = claim()
            publish(slot, tag, 1, 2, SECOND_NS, 1)
            release(resolve(slot, tag))

    return body


def full_lives_in_python(slots: SlotRange) -> Callable[[int], object]:
    """A cycle with everything that exchange asks of the table: sent, recorded and times as well."""
    claim, publish, sent, recorded = slots.claim, slots.publish, slots.sent, slots.recorded
    resolve, times, release = slots.resolve, slots.times, slots.release

    def body(rounds: int) -> None:
        for tag in range(rounds):
            slot = claim()
            token = publish(slot, tag, 1, 2, SECOND_NS, 1)
            sent(token, 2)
            recorded(token, 3)
            resolve(slot, tag)
            times(token)
            release(token)

    return body


def counting_in_python(shared: Table) -> Callable[[int], object]:
    """What a request counts that ends without a reply, and what a reply counts that nobody waits for."""
    count, count_disposition = shared.count, shared.count_disposition

    def body(rounds: int) -> None:
        for _ in range(rounds):
            count(0, 1, 0)
            count_disposition(0, 0)

    return body


def sweeps(slots: SlotRange) -> Callable[[int], object]:
    """A sweep every 10 ms that finds nothing due, with some requests waiting."""
    now_ns = 1

    def body(rounds: int) -> None:
        nonlocal now_ns
        for _ in range(rounds):
            now_ns += 10_000_000
            slots.expired(now_ns, 256)

    return body


def expiries(slots: SlotRange) -> Callable[[int], object]:
    """Requests that nobody answers: claimed, published, found by the sweep, finished, released."""
    now_ns = 1 << 40

    def body(rounds: int) -> None:
        nonlocal now_ns
        for tag in range(0, rounds, 256):
            for i in range(256):
                slots.publish(slots.claim(), tag + i, 1, 2, now_ns, now_ns)
            now_ns += 10_000_000
            for token in slots.expired(now_ns, 256):
                slots.finish(token, _ctable.EXPIRED)
                slots.release(token)

    return body


def fresh() -> tuple[Table, SlotRange]:
    fd, shared = table.create(node=1, workers=1, slots_per_process=SLOTS)
    os.close(fd)
    return shared, shared.open_range(0)


def range_with_waiting() -> SlotRange:
    _, slots = fresh()
    for tag in range(IN_FLIGHT):
        slots.publish(slots.claim(), tag, 1, 2, 2**62, 1)
    return slots


def whole_table() -> dict[str, float]:
    """Milliseconds of what is done rarely and looks at every slot: list what waits, reclaim, open."""
    shared, slots = fresh()
    for tag in range(SLOTS):
        slots.publish(slots.claim(), tag, 1, 2, 2**62, tag)
    took_ms = {}
    for name, call in (
        ("ms_waiting_100", lambda: shared.waiting(100)),
        ("ms_reclaim", lambda: shared.reclaim(0)),
        ("ms_open_range", lambda: shared.open_range(0)),
    ):
        started_ns = time.perf_counter_ns()
        call()
        took_ms[name] = round((time.perf_counter_ns() - started_ns) / 1e6, 3)
    return took_ms


def report(what: str, runs_ns: list[float], **details: object) -> None:
    """Print one measurement with what is needed to compare it with another day's."""
    print_line(what, ns_best=round(min(runs_ns), 1), ns_median=round(statistics.median(runs_ns), 1), **details)


def print_line(what: str, **details: object) -> None:
    line = {
        "bench": "table",
        "what": what,
        **details,
        "slots": SLOTS,
        "fastgw": fastgw.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {cpu_name()}",
    }
    print(json.dumps(line), flush=True)


def cpu_name() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    shared, slots = fresh()
    report("cycle, core", in_c("cycles", 1_000_000), ns_target=300)
    report("cycle, from Python", per_round_ns(100_000, cycles_in_python(slots)))
    report("full life, from Python", per_round_ns(100_000, full_lives_in_python(slots)))
    report("expiry, from Python", per_round_ns(256 * 400, expiries(slots)))
    report("sweep that finds nothing", per_round_ns(20_000, sweeps(range_with_waiting())), in_flight=IN_FLIGHT)
    report("count and observe, core", in_c("counts", 1_000_000))
    report("two counters, from Python", per_round_ns(100_000, counting_in_python(shared)))
    print_line("whole table", **whole_table())


if __name__ == "__main__":
    main()
