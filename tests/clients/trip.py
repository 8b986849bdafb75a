"""The play: all clients at work, two reloads, an end.

    python -m tests.clients.trip              ten times, five reloads each: a quarter of an hour
    python -m tests.clients.trip --rounds 1   less

A service that takes two seconds for each fourth request stands behind the gateway, so that at every moment some of them
wait.
"""

from __future__ import annotations

import argparse
import re
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trustme
from confluent_kafka.admin import AdminClient, NewTopic

from tests.brokers.choice import KafkaForTests
from tests.clients.fleet import EXPRESS, GRANIAN, TLS, Fleet, fleet
from tests.clients.judge import End, Verdict, judge
from tests.faults.echo_service import echo_service
from tests.faults.topic_slice import TopicSlice
from tests.gateway.gateways import Gateway, title_of
from tests.ports import free_port
from tests.waiting import eventually

CONNECTIONS = 2
PAUSE_MS = 200
ANSWERS = 6  # of each stream before the next thing happens: a slow one of each connection is among them
PHASE_S = 90.0  # for all streams, JVM start included
RELOAD_S = 60.0
END_S = 20.0
TOPIC_S = 30.0
REQUEST_PARTITIONS, REPLY_PARTITIONS = 2, 8

LISTEN = """
[[listen]]
bind = "127.0.0.1:{express}"
front = "express"
[[listen]]
bind = "127.0.0.1:{granian}"
front = "granian"
[[listen]]
bind = "127.0.0.1:{tls}"
tls_cert = "{folder}/cert.pem"
tls_key = "{folder}/key.pem"
[[route]]
method = "PUT"
path = "/{topic}"
topic = "{topic}"
timeout = "20s"
"""


def write_certificates(folder: Path) -> Path:
    """A certificate for 127.0.0.1 with its key; the file of the authority that issued it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(folder / "cert.pem", append=True)
    authority.cert_pem.write_to_path(folder / "authority.pem")
    return folder / "authority.pem"


def play(
    bootstrap: str, requests: str, replies: str, folder: Path, reloads: int, say: Callable[[str], None]
) -> Verdict:
    """Puts the clients to work, reloads the gateway under them, ends it, and judges.

    Args:
        bootstrap: a Kafka with the topics `requests` and `replies`.
        folder: for certificates, configuration and logs.
        reloads: how often SIGHUP is sent before SIGTERM.
        say: told what happens.
    """
    began_s = time.monotonic()
    ports = {door: free_port() for door in (EXPRESS, GRANIAN, TLS)}
    authority = write_certificates(folder)
    topic = TopicSlice(bootstrap, requests)
    with ExitStack() as stack:
        stack.enter_context(echo_service(bootstrap, requests))
        gateway = Gateway(
            folder, bootstrap, replies, [requests], more=LISTEN.format(folder=folder, topic=requests, **ports)
        )
        stack.enter_context(gateway)
        ships = stack.enter_context(fleet(ports, f"/{requests}", authority, folder, CONNECTIONS, PAUSE_MS))
        _all_answered(ships, 0)
        say(f"{time.monotonic() - began_s:.1f} s: {len(ships.streams)} streams are answered")
        ends: list[End] = []
        for number in range(1, reloads + 1):
            with _generation_ends(gateway, ends):
                gateway.signal(signal.SIGHUP)
                eventually(lambda: gateway.log_text.count('"reloaded"') == number, RELOAD_S, "it is reloaded")  # noqa: B023
            _all_answered(ships, len(ships.lines))
            say(f"{time.monotonic() - began_s:.1f} s: reload {number}, and all are answered since")
        lost = Counter(line.client for line in ships.lines if not line.status)
        say(f"requests without answer so far: {dict(lost)}")
        with _generation_ends(gateway, ends):
            gateway.signal(signal.SIGTERM)
            eventually(lambda: gateway.ended, END_S, "the gateway has ended")
        ships.end()
    verdict = judge(ships.lines, topic.read(), ships.streams, ends, CONNECTIONS)
    for program, error in sorted(_kinds_of_errors(ships)):
        say(f"{program}: {error}")
    say(f"{time.monotonic() - began_s:.1f} s: {verdict}")
    return verdict


@contextmanager
def _generation_ends(gateway: Gateway, ends: list[End]) -> Iterator[None]:
    """Notes the end of the workers that are there at the beginning; returns when they are gone."""
    workers = {pid for pid, title in gateway.children().items() if " worker " in title}
    began_s = time.monotonic()
    yield
    eventually(lambda: not any(map(title_of, workers)), END_S, "the old workers are gone")
    ends.append(End(began_s, time.monotonic(), len(workers)))


def _kinds_of_errors(ships: Fleet) -> set[tuple[str, str]]:
    """What the libraries call a request without answer, numbers left out."""
    return {
        (line.client.partition("-")[0], re.sub(r"0x[0-9a-f]+|\d+", "#", line.error)[:100])
        for line in ships.lines
        if line.error
    }


def _all_answered(ships: Fleet, since: int) -> None:
    def all_are() -> bool:
        assert not ships.ended_early(), f"ended early: {ships.ended_early()}"
        return min(ships.answered(since).values()) >= ANSWERS

    try:
        eventually(all_are, PHASE_S)
    except AssertionError as error:
        counts = {name: count for name, count in ships.answered(since).items() if count < ANSWERS}
        last = {line.client: line for line in ships.lines if line.client in counts and line.status != 200}
        raise AssertionError(f"{error}: {counts}, whose last troubles were {last}") from None


def main() -> int:
    parser = argparse.ArgumentParser(description="All clients, through reloads and an end of the gateway.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--reloads", type=int, default=5, help="in each round")
    options = parser.parse_args()
    kafka = KafkaForTests()
    kafka.start()
    if not kafka.bootstrap:
        print(f"needs a real Kafka: {kafka.told}", file=sys.stderr)
        return 2
    good = True
    try:
        for number in range(1, options.rounds + 1):
            print(f"round {number}", flush=True)
            good = _round(kafka.bootstrap, options.reloads) and good
    finally:
        kafka.stop()
    return int(not good)


def _round(bootstrap: str, reloads: int) -> bool:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    requests, replies = (f"clients-{what}-{secrets.token_hex(4)}" for what in ("requests", "replies"))
    new = [NewTopic(requests, REQUEST_PARTITIONS, -1), NewTopic(replies, REPLY_PARTITIONS, -1)]
    for future in admin.create_topics(new).values():
        future.result(TOPIC_S)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return play(bootstrap, requests, replies, Path(folder), reloads, lambda text: print(text, flush=True)).good
    finally:
        for future in admin.delete_topics([requests, replies]).values():
            future.result(TOPIC_S)


if __name__ == "__main__":
    sys.exit(main())
