"""Races and deaths in the correlation table: the C core run as threads, and processes that are killed at every step.

The harnesses in tests/table/races hold the legal outcomes, a sentence each, and end with the rule that was broken.
ThreadSanitizer sees races between threads, not between processes, so the same headers are compiled as threads.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw import _ctable, table
from fastgw._ctable import CLAIMED, CLAIMING, RECORDED, SENT, Table
from tests.actors.tables import live_states, slot_of
from tests.places import REPOSITORY

pytestmark = pytest.mark.slow

CORE = REPOSITORY / "fastgw"
RACES = REPOSITORY / "tests" / "table" / "races"
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-pthread"]
SANITIZED = ["-O1", "-fsanitize=thread"]
RUN_TIMEOUT_S = 120


def compiled(source: Path, target: Path, *flags: str, headers: Path = CORE) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "expected a C compiler (gcc or cc) on PATH: the table's core is tested as C"
    command = [compiler, *FLAGS, *flags, "-I", str(headers), str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return target


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )


def printed(program: Path, *arguments: object) -> str:
    done = run(program, *arguments)
    assert done.returncode == 0, f"{program.name} {arguments} ended with {done.returncode}\n{done.stdout}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    there = tmp_path_factory.mktemp("races")
    compiled(RACES / "slot_races.c", there / "plain", "-O2")
    compiled(RACES / "deaths.c", there / "deaths", "-O2")
    return there


UNORDERED = """
#include <pthread.h>
static volatile int word; /* or the compiler drops the stores */
static void *write_it(void *value) { word = *(int *)value; return 0; }
int main(void)
{
    int one = 1, two = 2;
    pthread_t a, b;
    pthread_create(&a, 0, write_it, &one);
    pthread_create(&b, 0, write_it, &two);
    pthread_join(a, 0);
    pthread_join(b, 0);
    return 0;
}
"""


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The races under ThreadSanitizer, after a proof that it works on this kernel."""
    there = tmp_path_factory.mktemp("sanitized")
    (there / "unordered.c").write_text(UNORDERED)
    done = run(compiled(there / "unordered.c", there / "unordered", *SANITIZED))
    if "WARNING: ThreadSanitizer: data race" not in done.stdout:
        random_bits = Path("/proc/sys/vm/mmap_rnd_bits")
        bits = random_bits.read_text().strip() if random_bits.exists() else "unknown"
        pytest.fail(
            "ThreadSanitizer does not work here: expected it to report a plain data race, got exit code "
            f"{done.returncode} and {done.stdout.strip()!r}. With 'unexpected memory mapping' the kernel places memory "
            f"where it cannot: vm.mmap_rnd_bits is {bits}, 28 works with every gcc."
        )
    return compiled(RACES / "slot_races.c", there / "sanitized", *SANITIZED)


# ---- races


@pytest.mark.parametrize(
    ("scenario", "rounds"), [("one_winner", 2000), ("recycle", 10_000), ("map", 10_000), ("records", 4000)]
)
def test_every_race_ends_in_a_legal_outcome(built: Path, scenario: str, rounds: int) -> None:
    printed(built / "plain", scenario, rounds)


@pytest.mark.parametrize(
    ("scenario", "rounds"), [("one_winner", 300), ("recycle", 3000), ("map", 300), ("records", 1000)]
)
def test_the_sanitizer_sees_no_race(sanitized: Path, scenario: str, rounds: int) -> None:
    assert "ThreadSanitizer" not in printed(sanitized, scenario, rounds)


def weakened(there: Path, was: str, now: str) -> Path:
    """The headers with one rule taken out."""
    for header in CORE.glob("_ctable*.h"):
        (there / header.name).write_text(re.sub(was, now, header.read_text()))
    assert any((there / header.name).read_text() != header.read_text() for header in CORE.glob("_ctable*.h"))
    return there


def test_the_sanitizer_would_see_a_table_without_memory_order(sanitized: Path, tmp_path: Path) -> None:
    """On x86 a missing release is no bug that shows, so the suite has to be able to see it in another way."""
    headers = weakened(tmp_path, r"memory_order_(acquire|release|acq_rel)", "memory_order_relaxed")
    program = compiled(RACES / "slot_races.c", tmp_path / "weak", *SANITIZED, headers=headers)
    assert "ThreadSanitizer: data race" in run(program, "recycle", 5000).stdout


@pytest.mark.parametrize(
    ("scenario", "was", "now", "rule"),
    [
        ("recycle", r"if \(ending\) \{", "if (0 && ending) {", "one too early"),
        ("one_winner", r"if \(to == CT_CLAIMING\)", "if (0)", "a token is given once"),
        ("map", r"if \(ct_load_acquire\(&map->version\) == version\) return version", "return version", "one map"),
    ],
    ids=["no tombstone", "no generation", "no second look at the map version"],
)
def test_the_races_would_see_a_broken_core(tmp_path: Path, scenario: str, was: str, now: str, rule: str) -> None:
    headers = weakened(tmp_path, was, now)
    program = compiled(RACES / "slot_races.c", tmp_path / "broken", "-O2", headers=headers)
    done = run(program, scenario, 10_000)
    assert done.returncode == 1
    assert rule in done.stdout


# ---- deaths inside the core

LATE, DUPLICATE, FORGED = _ctable.LATE, _ctable.DUPLICATE, _ctable.FORGED

# Slot 0 had an answered occupant, then an expired one; then a worker dies at this step of a third.
#   step: state left behind, (live, repaired), the verdicts on replies for: answered, expired, the third
DEATHS = {
    "USED_WRITTEN": (_ctable.RESTING, (0, 0), (DUPLICATE, LATE, FORGED)),
    "CLAIM_BEGUN": (CLAIMING, (0, 1), (DUPLICATE, LATE, FORGED)),
    "TOMBSTONE_WRITTEN": (CLAIMING, (0, 1), (FORGED, LATE, FORGED)),
    "TAG_WRITTEN": (CLAIMING, (0, 1), (FORGED, LATE, LATE)),  # a tag that nobody ever saw: no reply can come
    "FIELDS_WRITTEN": (CLAIMING, (0, 1), (FORGED, LATE, LATE)),
    "PUBLISHED": (CLAIMED, (1, 0), (FORGED, LATE, LATE)),
    "TIME_WRITTEN": (CLAIMED, (1, 0), (FORGED, LATE, LATE)),
    "AFTER_SENT": (SENT, (1, 0), (FORGED, LATE, LATE)),
    "AFTER_RECORDED": (RECORDED, (1, 0), (FORGED, LATE, LATE)),
    "AFTER_ANSWERED": (_ctable.ANSWERED, (0, 0), (FORGED, LATE, DUPLICATE)),
    "AFTER_EXPIRED": (_ctable.EXPIRED, (0, 0), (FORGED, LATE, LATE)),
    "RESTED": (_ctable.RESTING, (0, 0), (FORGED, LATE, DUPLICATE)),
}


@pytest.mark.parametrize("step", DEATHS)
def test_a_death_at_any_step_leaves_nothing_that_reclaim_cannot_mend(built: Path, step: str) -> None:
    state, (live, repaired), (answered, expired, doomed) = DEATHS[step]
    assert printed(built / "deaths", "at", step) == (
        f"state={state} live={live} repaired={repaired} answered={answered} expired={expired} doomed={doomed}"
    )


def test_a_reclaim_that_dies_half_way_is_finished_by_the_next(built: Path) -> None:
    """Four live slots; the first is done and the second half done when the reclaimer dies: two are left to count."""
    assert printed(built / "deaths", "at", "SLOT_RECLAIMED").startswith("state=10 live=2 repaired=0")


@pytest.mark.parametrize("step", ["MAP_WORD_WRITTEN", "MAP_WRITTEN"])
def test_a_map_writer_that_dies_leaves_the_old_map_and_the_next_writes_a_whole_one(built: Path, step: str) -> None:
    """The next map has two partitions, so partition 2 is nobody's: nothing of the dead writer's 4096 shines through."""
    assert printed(built / "deaths", "at", step) == "version=1 count=16 owner=0 next=2 owner=255"


def test_every_step_of_the_headers_is_one_to_die_at(built: Path) -> None:
    steps = {
        step for header in CORE.glob("_ctable*.h") for step in re.findall(r"CT_STEP\((\w+)\);", header.read_text())
    }
    known = set(re.findall(r"each\((\w+)\)", (RACES / "deaths.c").read_text()))
    assert steps <= known
    assert known == {*DEATHS, "SLOT_RECLAIMED", "MAP_WORD_WRITTEN", "MAP_WRITTEN"}


def test_a_worker_killed_anywhere_500_times_loses_no_slot(built: Path) -> None:
    summary = printed(built / "deaths", "anywhere", 500)
    assert summary.startswith("killed=500 ")


# ---- deaths between calls of the Python API, over an inherited fd

STORY = """
import os, signal, sys
from fastgw import _ctable, table

fd, die_after = int(sys.argv[1]), sys.argv[2]
shared = table.attach(fd)
shared.register(0, os.getpid(), 0, 0)

def step(name):
    if name == die_after:
        os.kill(os.getpid(), signal.SIGKILL)

step("register")
slots = shared.open_range(0)
shared.set_reads_from(0, 3, 17)
for tag in (1, 2):  # two in flight all the time, beside the one that dies
    slots.publish(slots.claim(), tag, 1, 3, 1000, 10)
slot = slots.claim()
step("claim")
token = slots.publish(slot, 77, 1, 3, 1000, 11)
step("publish")
assert slots.sent(token, 12)
step("sent")
assert slots.recorded(token, 13)
step("recorded")
assert slots.resolve(slot, 77) == token
step("complete")
slots.release(token)
step("release")
"""

#   step: (live, repaired), the verdict of the range's next owner on a reply for the one that died
BETWEEN = {
    "register": ((0, 0), FORGED),
    "claim": ((2, 1), FORGED),
    "publish": ((3, 0), LATE),
    "sent": ((3, 0), LATE),
    "recorded": ((3, 0), LATE),
    "complete": ((2, 0), DUPLICATE),
    "release": ((2, 0), DUPLICATE),
}


@pytest.fixture
def shared() -> Iterator[tuple[int, Table]]:
    fd, created = table.create(node=0xABCDEF, workers=2, slots_per_process=8)
    yield fd, created
    os.close(fd)


@pytest.mark.parametrize("step", BETWEEN)
def test_a_process_killed_between_two_calls_gives_its_whole_range_back(shared: tuple[int, Table], step: str) -> None:
    fd, owner = shared
    done = subprocess.run(
        [sys.executable, "-c", STORY, str(fd), step], pass_fds=[fd], cwd=REPOSITORY, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert owner.find(0, 0) == 0, "until somebody reclaims, the record stands"

    expected, verdict = BETWEEN[step]
    assert owner.reclaim(0) == expected
    assert owner.reclaim(0) == (0, 0)

    assert owner.find(0, 0) == -1
    assert owner.reads_from(0, 3) == _ctable.NOT_READING
    assert owner.waiting(10) == []
    slots = owner.open_range(0)
    assert slots.resolve(2, 77) == verdict
    assert sorted(slots.claim() for _ in range(8)) == list(range(8))
    assert slots.claim() == -1


def test_the_other_range_of_the_worker_and_its_siblings_are_not_touched_by_a_reclaim(shared: tuple[int, Table]) -> None:
    _, owner = shared
    tokens = {}
    for process in range(4):
        slots = owner.open_range(process)
        tokens[process] = slots, slots.publish(slots.claim(), process + 1, 0, 0, 1000, 10)
    assert owner.reclaim(1) == (1, 0)
    assert live_states(owner) == {slot_of(token): CLAIMED for process, (_, token) in tokens.items() if process != 1}
