"""Playing a scenario: clients at work, faults, then the evidence from Kafka, the oracle's verdict and a report."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import floor

from fastgw.core.idempotency import key_hash
from fastgw.tokens import Secrets, open_ticket
from tests.faults.clients import Habits
from tests.faults.echo_service import TRANSACTS
from tests.faults.key_clients import ROUTE, KeyClients
from tests.faults.key_oracle import judge_keys, log_of
from tests.faults.key_topics import ends_of, sent_in
from tests.faults.oracle import AS_ASKED, Told, Verdict, judge
from tests.faults.stage import IDLE_S, LONGEST_S, SECRET, TAKE_OVER_MS, Fault, Furniture, House, Stage, clients_of
from tests.faults.stream_clients import StreamClients
from tests.faults.stream_oracle import Limits, judge_streams
from tests.faults.ticket_clients import TicketClients
from tests.faults.ticket_oracle import Followed, judge_former_tickets, judge_tickets
from tests.faults.topic_slice import TopicSlice
from tests.waiting import eventually

ANY = 1 << 30  # any number of requests may end so
LONG_S = 3600.0
UNREAD_MS = 20_000  # how long the transactions of the service hide records: each reply in one makes it longer


@dataclass(frozen=True)
class Scenario:
    """One row of the table.

    Attributes:
        name: a few words, unique.
        house: what it plays in.
        play: injects the faults; the clients are at work meanwhile.
        may_fail: ending -> how many requests may end so for each fault; any other failure is a defect.
        short, long: how many faults in the test and in the soak.
        habits: how the clients behave.
        alone: leaves its house in ruins, so nobody follows it there.
        ends_service: so does this one, and at its end there is nobody to ask.
        replies_kept: False when the fault destroys records of the response topic.
        later_kept: the same about the topic of kept replies.
        long_house: where the soak plays it, if it needs more room there.
        long_habits: how the clients behave in the soak, if there are more of them.
        only_soak: the tests leave it out: a shorter scenario has the same mechanism, or it takes minutes.
    """

    name: str
    house: House
    play: Callable[[Stage], None]
    may_fail: Mapping[str, int] = field(default_factory=dict)
    short: int = 1
    long: int = 100
    habits: Habits = field(default_factory=Habits)
    alone: bool = False
    ends_service: bool = False
    replies_kept: bool = True
    later_kept: bool = True
    long_house: House | None = None
    long_habits: Habits | None = None
    only_soak: bool = False


def name_of(scenario: Scenario) -> str:
    """How its test is called."""
    return scenario.name.replace(" ", "_")


@dataclass
class Report:
    """What one scenario came to."""

    scenario: str
    requests: int
    faults: int
    lies: int
    failed: dict[str, int]
    not_allowed: dict[str, int]
    recover_s: float | None  # None: there is nothing that could
    seconds: float
    verdict: str  # in words, with the first offenders

    @property
    def good(self) -> bool:
        """No lie, and nothing failed that may not fail."""
        return not self.lies and not self.not_allowed

    def as_dict(self) -> dict[str, object]:
        """For the results file."""
        return {name: value for name, value in asdict(self).items() if name != "verdict"}


def in_all(reports: Sequence[Report]) -> Report:
    """The acts of one scenario as one report: counts summed, the worst recovery, the verdict on the last act."""
    recoveries = [report.recover_s for report in reports if report.recover_s is not None]
    return replace(
        reports[-1],
        requests=sum(report.requests for report in reports),
        faults=sum(report.faults for report in reports),
        lies=sum(report.lies for report in reports),
        failed=dict(sum((Counter(report.failed) for report in reports), Counter())),
        not_allowed=dict(sum((Counter(report.not_allowed) for report in reports), Counter())),
        recover_s=max(recoveries, default=None),
        seconds=round(sum(report.seconds for report in reports), 1),
    )


HEAD = ("scenario", "requests", "faults", "lies", "failed requests", "time to recover")


def row(report: Report) -> tuple[str, ...]:
    """The report as a row of the table whose head is HEAD."""
    failed = ", ".join(f"{count} {ending}" for ending, count in sorted(report.failed.items())) or "0"
    recover = f"{report.recover_s:.1f} s" if report.recover_s is not None else "-"
    return report.scenario, f"{report.requests:,}", f"{report.faults:,}", str(report.lies), failed, recover


def play(
    scenario: Scenario,
    furniture: Furniture,
    requests: int,
    faults: int,
    progress: Callable[[str], None] = lambda _text: None,
    watch: Callable[[Stage], None] = lambda _stage: None,
) -> Report:
    """Plays a scenario until it is over and at least `requests` requests have ended.

    Args:
        progress: told what happens, for people.
        watch: given the stage once, to look at it from another thread while it is played on.
    """
    bootstrap = furniture.kafka.bootstrap
    asked = TopicSlice(bootstrap, furniture.requests)
    told = TopicSlice(bootstrap, furniture.replies) if scenario.replies_kept else None
    began_s = time.monotonic()
    kept = TopicSlice(bootstrap, furniture.later, not scenario.later_kept) if scenario.habits.defers else None
    streams = StreamSlices(furniture) if scenario.habits.streams else None
    keys = KeySlices(furniture, scenario.later_kept) if scenario.habits.keys else None
    clients = clients_of(furniture, scenario.habits)
    stage = Stage(furniture, clients, scenario.habits, faults, progress, random.Random())
    watch(stage)
    with clients:
        clients.sent(requests if scenario.ends_service else scenario.habits.connections, timeout_s=LONG_S)
        scenario.play(stage)
        missing = requests - len(clients.told)
        if missing > 0 and not scenario.ends_service:
            clients.sent(missing, timeout_s=LONG_S)
    seconds = time.monotonic() - began_s
    settle(furniture)
    groups = (clients, *stage.more_clients)
    tickets = [ticket for group in groups if isinstance(group, TicketClients) for ticket in group.tickets]
    for group in groups:
        if isinstance(group, TicketClients):
            group.ask_again()
    log = [one for group in groups for one in group.told]
    judged_here = [one for group in groups if not isinstance(group, KeyClients) for one in group.told]
    records, kept_records = asked.read(), kept.read() if kept else []
    streamed = streams.requests.read() if streams else []
    has_replies = told is not None and scenario.later_kept
    verdict = judge(judged_here, [*records, *streamed], [*told.read(), *kept_records] if has_replies else None)
    if not scenario.later_kept:
        tickets, former = by_topic(tickets, furniture.later_ids[0])
        judge_former_tickets(verdict, former, stage.faults[-1].recovered_s)
    judge_tickets(verdict, tickets, records, kept_records)
    if streams is not None:
        got = [stream for group in groups if isinstance(group, StreamClients) for stream in group.streams]
        judge_streams(verdict, got, streamed, streams.records.read(), limits_of(furniture.house))
    for group in groups:
        if isinstance(group, KeyClients) and keys is not None:
            keys.judge(verdict, group, stage.faults)
    report = report_of(scenario, verdict, log, stage.faults, seconds)
    return replace(report, verdict="\n".join([report.verdict, *stage.notes]))


def by_topic(tickets: list[Followed], topic_id: bytes) -> tuple[list[Followed], list[Followed]]:
    """The tickets of this topic of kept replies, and those of former ones."""
    secrets = Secrets([SECRET])
    ids = [open_ticket(secrets, one.location.rpartition("/")[2], 0).topic_id for one in tickets]
    pairs = list(zip(tickets, ids, strict=True))
    return [one for one, of in pairs if of == topic_id], [one for one, of in pairs if of != topic_id]


class KeySlices:
    """The requests with keys, and the lanes, since a moment."""

    def __init__(self, furniture: Furniture, later_kept: bool) -> None:
        """
        Args:
            later_kept: see `Scenario`.
        """
        bootstrap = furniture.kafka.bootstrap
        self._furniture = furniture
        self._later_kept = later_kept
        self._sent = ends_of(bootstrap, furniture.keyed)
        self._lanes = ends_of(bootstrap, furniture.later) if later_kept else {}

    def judge(self, verdict: Verdict, clients: KeyClients, faults: Sequence[Fault]) -> None:
        """Adds what these clients were told, and the lies about keys."""
        verdict.note(clients.told)
        furniture, lost = self._furniture, frozenset[bytes]()
        if not self._later_kept:
            known_s = faults[-1].recovered_s
            lost = frozenset(key_hash(ROUTE, "", one.body.decode()) for one in clients.told if one.began_s < known_s)
        sent = sent_in(furniture.kafka.bootstrap, furniture.keyed, ROUTE, self._sent)
        lanes, unread_ms = furniture.lanes(self._lanes), UNREAD_MS if TRANSACTS in furniture.house.manners else 0
        for lie, who in judge_keys(clients.heard, sent, lanes, TAKE_OVER_MS, lost, unread_ms):
            verdict.accuse(lie, f"{who}, in the lane:\n    {log_of(who.key_hash, lanes)}")


class StreamSlices:
    """The requests for streams, and their records, since a moment."""

    def __init__(self, furniture: Furniture) -> None:
        bootstrap = furniture.kafka.bootstrap
        self.requests = TopicSlice(bootstrap, furniture.streamed)
        self.records = TopicSlice(bootstrap, furniture.streams)


def limits_of(house: House) -> Limits:
    """The deadlines of the routes that stream."""
    # What a leader has appended cannot be read before its followers have it, or are given up.
    slack_ms = 6000 if house.kafka == "cluster" else 2000
    return Limits(int(house.timeout.removesuffix("s")) * 1000, IDLE_S * 1000, LONGEST_S * 1000, slack_ms)


def settle(furniture: Furniture) -> None:
    """Waits until the living gateways have nothing in hand, so that no record can follow."""
    for gateway in furniture.gateways:
        if not gateway.ended:
            eventually(lambda node=gateway: node.metric("fastgw_in_flight") == 0, 30, "nothing is in flight")


def report_of(scenario: Scenario, verdict: Verdict, told: list[Told], faults: list[Fault], seconds: float) -> Report:
    """The report on a verdict."""
    failed = {ending: count for ending, count in verdict.endings.items() if ending not in AS_ASKED}
    not_allowed = {
        ending: count
        for ending, count in failed.items()
        if count > scenario.may_fail.get(ending, 0) * max(1, len(faults))
    }
    return Report(
        scenario.name,
        verdict.requests,
        sum(fault.count for fault in faults),
        sum(verdict.lies.values()),
        failed,
        not_allowed,
        None if scenario.ends_service or not faults else round(worst_recovery_s(told, faults), 2),
        round(seconds, 1),
        f"{verdict}\n{story_of_the_worst(told, faults)}",
    )


def worst_recovery_s(told: list[Told], faults: list[Fault]) -> float:
    """The longest time from the end of a fault to the recovery, or to the start of the last request that failed."""
    return max(
        (max([fault.recovered_s, *late]) - fault.over_s for fault, late in _aftermaths(told, faults)), default=0.0
    )


def _aftermaths(told: list[Told], faults: list[Fault]) -> list[tuple[Fault, list[float]]]:
    """Each fault with the times at which requests began, between its end and the next fault, that failed."""
    failed = [one.began_s for one in told if one.ending not in AS_ASKED]
    ends = [*(fault.began_s for fault in faults[1:]), float("inf")][: len(faults)]
    return [
        (fault, [at_s for at_s in failed if fault.over_s <= at_s < end_s])
        for fault, end_s in zip(faults, ends, strict=True)
    ]


def story_of_the_worst(told: list[Told], faults: list[Fault]) -> str:
    """What failed around the fault with the longest recovery, second by second after its end."""
    aftermaths = _aftermaths(told, faults)
    if not aftermaths:
        return "no faults"
    worst, _ = max(aftermaths, key=lambda pair: max([pair[0].recovered_s, *pair[1]]) - pair[0].over_s)
    end_s = next((fault.began_s for fault in faults if fault.began_s > worst.began_s), float("inf"))
    around = [one for one in told if one.ending not in AS_ASKED and worst.began_s <= one.began_s < end_s]
    seconds = Counter((floor(one.began_s - worst.over_s), one.ending) for one in around)
    failures = ", ".join(f"{second:+d} s: {count} {ending}" for (second, ending), count in sorted(seconds.items()))
    lasted_s, recovered_s = worst.over_s - worst.began_s, worst.recovered_s - worst.over_s
    return f"the worst fault lasted {lasted_s:.1f} s, ready {recovered_s:.1f} s after it; began and failed: {failures}"
