"""`fastgw doctor`: checks a live installation and says what to do about each problem.

Observing and judging are separate steps, as in `topics`. `examine` collects the facts about Kafka, the machine and the
running gateway. The judges are pure functions that turn facts into findings, one judge for each question. Each finding
is one row of the printed table. Checks that pass are rows too, so that the table shows everything that was checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fastgw import __version__
from fastgw.config import ACCEPT_BACKLOG, Config
from fastgw.config.directories import store_dir
from fastgw.doctor.host import Host, Node, Room, look_at_host, look_at_node, open_files, room_for
from fastgw.doctor.kafka import EMBEDDED, UNKNOWN, WATCH_S, Broker, Group, Survey, Traffic, survey
from fastgw.errors import StartError
from fastgw.kafka.cluster import BrokersUnreachable, Met, Topic
from fastgw.kafka.properties import record_bytes
from fastgw.kafka.topics import BROKER_RECORD_BYTES, RESPONSE_RETENTION_MS, own_topics
from fastgw.store_folder import FULL_AT, SHORT_AT

Level = Literal["ok", "warning", "error"]

GUIDE = "deploy/sysctl.d/90-fastgw.conf"
RETENTION_MAX_MS = 24 * RESPONSE_RETENTION_MS
BATCH_BYTES = 1_000_000  # librdkafka's batch.size
CLOCK_WARNING_MS, CLOCK_ERROR_MS = 500, 5000  # records carry deadlines as wall-clock times
# Descriptors of a worker besides client connections: Kafka, links to siblings, listening sockets, libraries.
OWN_FILES = 512
MISROUTED_MAX, LATE_MAX = 0.2, 0.02  # share of all replies; each misrouted reply takes a detour
JUDGED_FROM = 100  # replies; a share of fewer is not meaningful


class Finding(NamedTuple):
    """One row: the check, what it found, and what to do about it."""

    level: Level
    check: str
    found: str
    advice: str = ""


def examine(config: Config, watch_s: float = WATCH_S) -> list[Finding]:
    """All findings about an installation. Takes `watch_s` seconds plus the time for the requests.

    Raises:
        ConfigError: librdkafka refuses [kafka.client].
    """
    node = look_at_node(config.admin.listen) if config.admin.listen else None
    try:
        kafka: list[Finding] = list(judge_kafka(config, survey(config, watch_s)))
    except BrokersUnreachable as error:
        kafka = [Finding("error", "brokers", str(error))]
    except StartError as error:
        kafka = [Finding("error", "brokers", str(error), "start it, or correct kafka.bootstrap or [kafka.client]")]
    files, measured = open_files(node.worker_pids if node else ())
    host = [*judge_host(config, look_at_host(), files, measured), *judge_store_folder(config)]
    return [*kafka, *host, *judge_node(config, node)]


def exit_code(findings: Iterable[Finding]) -> int:
    """0: nothing worse than a warning."""
    return int(any(finding.level == "error" for finding in findings))


# --- Kafka -----------------------------------------------------------------------------------------------------------


def judge_kafka(config: Config, seen: Survey) -> Iterator[Finding]:
    """Findings about the Kafka cluster."""
    facts = seen.findings.facts
    response = facts.topics[config.gateway.response_topic]
    yield judge_brokers(seen.brokers)
    yield from judge_meetings(facts.met)
    for known in seen.findings.found:
        if not known.about.startswith("topic "):
            yield Finding(known.level, known.about, known.text, known.advice)
    yield from _judge_topics(config, seen)
    if facts.has_admin:
        yield judge_rights(facts.topics.values())
    if config.cluster.mode != "single":
        yield judge_group(config, seen.group, response.partitions)
    yield from judge_traffic(seen.traffic)


def judge_brokers(brokers: Iterable[Broker]) -> Finding:
    """The number of brokers and their releases."""
    brokers = list(brokers)
    releases = sorted({broker.release for broker in brokers})
    count = "1 broker" if len(brokers) == 1 else f"{len(brokers)} brokers"
    if releases == [EMBEDDED]:
        return Finding("warning", "brokers", f"{count}, embedded", "for demos and tests only: it keeps nothing on disk")
    if "" in releases:
        old = ", ".join(broker.address for broker in brokers if not broker.release)
        return Finding("error", "brokers", f"{count}, older than Kafka 3.0: {old}", "upgrade them to Kafka 3 or 4")
    if UNKNOWN in releases:
        unasked = ", ".join(broker.address for broker in brokers if broker.release == UNKNOWN)
        return Finding("warning", "brokers", f"{count}, unknown release: {unasked}", "fastgw needs Kafka 3 or 4")
    if len(releases) > 1:
        found = ", ".join(f"{broker.address} {broker.release}" for broker in brokers)
        return Finding("warning", "brokers", f"{count} with different releases: {found}", "finish the upgrade")
    if len(brokers) == 1:
        advice = "while it is down, every request fails; with three brokers, two copies remain when one is down"
        return Finding("warning", "brokers", f"{count}, Kafka {releases[0]} or later", advice)
    return Finding("ok", "brokers", f"{count}, Kafka {', '.join(releases)} or later")


def judge_meetings(met: Met) -> Iterator[Finding]:
    """Settings that the brokers reported. Unreachable brokers are findings of their own."""
    if met.creates_topics:
        found = "brokers create topics on demand (auto.create.topics.enable = true)"
        advice = (
            "a client that uses a missing or deleted topic creates it with the wrong number of partitions: set it to "
            "false, and create topics with `fastgw topics`"
        )
        yield Finding("warning", "topics", found, advice)


def _judge_topics(config: Config, seen: Survey) -> Iterator[Finding]:
    for name, topic in seen.findings.facts.topics.items():
        found = [
            Finding(known.level, f"topic {name}", known.text, known.advice)
            for known in seen.findings.found
            if known.about == f"topic {name}"
        ]
        if topic.partitions:
            found += judge_copies(topic, len(seen.brokers))
            if name == config.gateway.response_topic:
                found += judge_retention(topic)
            elif name not in own_topics(config):
                found += judge_size(config, topic)
        yield from found or [Finding("ok", f"topic {name}", _described(topic))]


def _described(topic: Topic) -> str:
    replicas = "" if topic.replicas is None else f", {topic.replicas} replicas"
    least = (topic.settings or {}).get("min.insync.replicas")
    return f"{topic.partitions} partitions{replicas}" + (f", min.insync.replicas {least}" if least else "")


def judge_copies(topic: Topic, brokers: int) -> Iterator[Finding]:
    """Whether "recorded" survives the loss of a broker. Not judged for a cluster of one broker."""
    check = f"topic {topic.name}"
    if topic.replicas is None or brokers < 2:
        return
    if topic.replicas == 1:
        advice = "if the broker is lost, the records are lost: use 3 replicas (kafka-reassign-partitions)"
        yield Finding("warning", check, "1 replica", advice)
    elif (topic.settings or {}).get("min.insync.replicas") == "1":
        advice = (
            f"a record that only one broker confirmed is lost with it: {_alter(topic.name, 'min.insync.replicas=2')}"
        )
        yield Finding("warning", check, "min.insync.replicas = 1", advice)


def judge_retention(topic: Topic) -> Iterator[Finding]:
    """Replies should not be kept long: they are not an archive and may contain personal data."""
    kept_ms = (topic.settings or {}).get("retention.ms")
    if kept_ms is None:
        return
    if int(kept_ms) < 0 or int(kept_ms) > RETENTION_MAX_MS:
        kept = "forever" if int(kept_ms) < 0 else f"for {int(kept_ms) / 3_600_000:g} hours"
        advice = f"an hour is enough: {_alter(topic.name, f'retention.ms={RESPONSE_RETENTION_MS}')}"
        yield Finding("warning", f"topic {topic.name}", f"replies are kept {kept}", advice)


def judge_size(config: Config, topic: Topic) -> Iterator[Finding]:
    """Whether the topic accepts the record of a request of the largest allowed size."""
    taken = (topic.settings or {}).get("max.message.bytes")
    routes = [route for route in config.routes if route.topic == topic.name]
    needed = record_bytes(config.limits, routes)
    if taken is None:
        return
    batch = int(config.kafka.client.get("batch.size", BATCH_BYTES))
    if int(taken) < batch:
        # The broker limits batches. librdkafka does not split a refused batch: all of its records fail.
        found = (
            f"accepts batches of {int(taken)} bytes; the gateway sends up to {batch}, and small requests fail together"
        )
        advice = (
            f'set "batch.size" = {int(taken)} in [kafka.client]; or {_alter(topic.name, f"max.message.bytes={batch}")}'
        )
        yield Finding("warning", f"topic {topic.name}", found, advice)
    if int(taken) >= needed:
        return
    # A body near the limit is refused only after it has been read.
    largest = max(route.max_body_bytes for route in routes)
    found = f"accepts records of {int(taken)} bytes; a body of {largest} bytes can become a record of {needed} bytes"
    lower = largest - (needed - min(int(taken), BROKER_RECORD_BYTES))
    advice = f"{_alter(topic.name, f'max.message.bytes={needed}')}; or set limits.max_body to {max(0, lower)}"
    yield Finding("warning", f"topic {topic.name}", found, advice)


def _alter(topic: str, setting: str) -> str:
    return f"kafka-configs --alter --topic {topic} --add-config {setting}"


def judge_rights(described: Iterable[Topic]) -> Finding:
    """Whether the broker reports our rights. Missing rights are findings about their topics."""
    unknown = [topic.name for topic in described if topic.partitions and topic.operations is None]
    if unknown:
        advice = "grant DESCRIBE on them; otherwise missing READ and WRITE rights show only at the first request"
        return Finding("warning", "rights", f"the broker does not report the rights on {', '.join(unknown)}", advice)
    return Finding("ok", "rights", "checked on every topic")


def judge_group(config: Config, group: Group | None, partitions: int) -> Finding:
    """Whether the nodes may use their group, and the response topic has enough partitions for them."""
    workers, name = config.gateway.workers, config.cluster.group_id or config.gateway.name
    if group is None:
        return Finding("warning", "group", f"the broker does not describe group {name}", f"grant DESCRIBE on {name}")
    if group.may_read is False:
        # Static nodes run without it; after a node has died, replies to others may be skipped.
        level: Level = "error" if config.cluster.mode == "group" else "warning"
        return Finding(level, "group", f"expected the right to READ group {name}, got none", "grant it")
    if config.cluster.mode == "static":
        return _judge_members(name, group.nodes)
    needed = group.nodes * workers
    found = f"{group.nodes} nodes with {workers} workers each for {partitions} partitions"
    if needed > partitions:
        advice = f"workers without a partition serve no requests: fastgw topics --response-partitions {4 * needed}"
        return Finding("error", "group", found, advice)
    return Finding("ok", "group", found)


def _judge_members(name: str, members: int) -> Finding:
    if members:
        found = f"group {name} has {members} members, and Kafka takes no positions of static nodes for it"
        return Finding("error", "group", found, "set cluster.group_id to a name that no other client uses")
    return Finding("ok", "group", f"the nodes may keep their positions in group {name}")


def judge_traffic(traffic: Traffic | None) -> Iterator[Finding]:
    """The traffic on the response topic, and what its timestamps say about the clocks."""
    if traffic is None:
        return
    check = "response topic"
    if not traffic.records:
        advice = "a running gateway sends itself a canary record every second"
        yield Finding("warning", check, f"no record within {traffic.watched_s:g} s", advice)
        return
    yield Finding("ok", check, f"{traffic.records / traffic.watched_s:.0f} records a second")
    yield judge_clock(traffic)


def judge_clock(traffic: Traffic) -> Finding:
    """Clock difference from the age of records. The real transport time is small compared with the limits here."""
    whose = "the broker's clock" if traffic.by_broker else "the clocks of the services"
    off_ms = -traffic.youngest_ms if traffic.youngest_ms < -CLOCK_WARNING_MS else traffic.oldest_ms
    if abs(off_ms) <= CLOCK_WARNING_MS:
        return Finding("ok", "clock", f"within {CLOCK_WARNING_MS} ms of {whose}")
    direction = "behind" if traffic.youngest_ms < -CLOCK_WARNING_MS else "ahead of"
    found = f"{abs(off_ms) / 1000:.1f} s {direction} {whose}"
    advice = "services drop expired requests by their own clock: run chrony or systemd-timesyncd on every machine"
    return Finding("error" if abs(off_ms) >= CLOCK_ERROR_MS else "warning", "clock", found, advice)


# --- this machine ----------------------------------------------------------------------------------------------------


def judge_host(config: Config, host: Host, files: int, measured: bool) -> Iterator[Finding]:
    """Limits and kernel settings. `measured`: `files` is the limit of a running worker."""
    yield judge_files(config, files, measured)
    yield judge_queue(host.somaxconn)
    yield judge_migration(host.tcp_migrate_req)
    yield judge_workers(config.gateway.workers, host.cores)


def judge_files(config: Config, files: int, measured: bool) -> Finding:
    """Whether a worker may open enough descriptors for its connections."""
    # max_connections counts per listening address, and localhost has two. One process serves all addresses.
    addresses = sum(2 if listen.bind.lower().startswith("localhost:") else 1 for listen in config.gateway.listens)
    needed = config.limits.max_connections * addresses + OWN_FILES
    whose = "a running worker" if measured else "a gateway started from here"
    found = f"{'unlimited' if files >= 1 << 62 else files} for {whose}, {needed} needed"
    if files < needed:
        advice = f"LimitNOFILE={needed} in the unit (ulimit -n), or a lower limits.max_connections"
        return Finding("error", "open files", found, advice)
    return Finding("ok", "open files", found)


def judge_queue(somaxconn: int | None) -> Finding:
    if somaxconn is not None and somaxconn < ACCEPT_BACKLOG:
        advice = f"sysctl -w net.core.somaxconn=4096 ({GUIDE})"
        found = f"net.core.somaxconn = {somaxconn}, each worker needs {ACCEPT_BACKLOG}"
        return Finding("warning", "accept queue", found, advice)
    return Finding("ok", "accept queue", f"up to {ACCEPT_BACKLOG} connections can wait for each worker")


def judge_migration(tcp_migrate_req: int | None) -> Finding:
    if tcp_migrate_req == 1:
        return Finding("ok", "stopping", "waiting connections move to another worker (net.ipv4.tcp_migrate_req = 1)")
    if tcp_migrate_req is None:
        found, advice = "this kernel has no net.ipv4.tcp_migrate_req", "it came with Linux 5.14"
    else:
        found, advice = "net.ipv4.tcp_migrate_req = 0", f"sysctl -w net.ipv4.tcp_migrate_req=1 ({GUIDE})"
    return Finding("warning", "stopping", found, f"{advice}: connections that wait for a stopping worker are reset")


def judge_workers(workers: int, cores: int) -> Finding:
    found = f"{workers} workers on {cores} cores"
    if workers > cores:
        return Finding("warning", "workers", found, "more workers than cores slow each other down")
    return Finding("ok", "workers", found)


def judge_store_folder(config: Config, room_for: Callable[[Path], Room] = room_for) -> Iterator[Finding]:
    """Whether the disk has room for all that the store may keep. No finding if no route needs that."""
    if not config.keeps_replies:  # streams leave nothing on the disk
        return
    folder = store_dir(config.store, config.gateway)
    if folder is None:
        yield Finding("ok", "store", "its directory is not known: store.dir is empty, and so is $STATE_DIRECTORY here")
        return
    room = room_for(folder)
    if room.used_bytes is None:
        yield Finding("ok", "store", f"{room.free_bytes >> 20} MiB are free; this user may not look into {folder}")
        return
    found = f"{room.free_bytes >> 20} MiB are free for {folder}, which has {room.used_bytes >> 20} MiB"
    if room.free_bytes + room.used_bytes < config.store.max_bytes:
        advice = f"lower store.max_bytes ({config.store.max_bytes >> 20} MiB), or choose a larger disk"
        yield Finding("warning", "store", found, f"{advice}: a store that cannot write ends, and its requests get 503")
    else:
        yield Finding("ok", "store", found)


# --- the running gateway ---------------------------------------------------------------------------------------------


def judge_node(config: Config, node: Node | None) -> Iterator[Finding]:
    """Findings from the admin port of the running gateway."""
    address = config.admin.listen
    if node is None:
        yield Finding("ok", "gateway", "not asked: admin.listen is empty")
    elif node.trouble:
        advice = "start it (fastgw run), or run fastgw doctor on its machine"
        yield Finding("warning", "gateway", f"admin port {address}: {node.trouble}", advice)
    else:
        yield _judge_readiness(address, node)
        yield from _judge_identity(config, node.status)
        yield from judge_fates(node.fates)
        if node.status.get("store") is not None:
            yield from judge_store(node.status["store"])


def _judge_readiness(address: str, node: Node) -> Finding:
    if node.ready:
        return Finding("ok", "gateway", f"ready, according to {address}")
    advice = "it gets no traffic while it is not ready; its log has the details"
    return Finding("error", "gateway", f"not ready: {'; '.join(node.reasons)}", advice)


def _judge_identity(config: Config, status: Mapping[str, object]) -> Iterator[Finding]:
    if status["name"] != config.gateway.name:
        found = f'the gateway on {config.admin.listen} is "{status["name"]}", not "{config.gateway.name}"'
        yield Finding("error", "gateway", found, "this is the configuration of another gateway, or its port is taken")
    if status["version"] != __version__:
        found = f"runs fastgw {status['version']}, but {__version__} is installed"
        yield Finding("warning", "gateway", found, "restart it")


def judge_fates(fates: Mapping[str, int]) -> Iterator[Finding]:
    """What happened to the records on the response topic since the gateway started."""
    answered = fates.get("answered", 0)
    replies = answered + fates.get("late", 0)
    late, misrouted = fates.get("late", 0) / max(1, replies), fates.get("misrouted", 0) / max(1, answered)
    if replies >= JUDGED_FROM and late > LATE_MAX:
        advice = "the services are slower than the route's timeout: raise the timeout, or find out why they are slow"
        yield Finding("warning", "replies", f"{late:.0%} of the replies arrived too late", advice)
    if replies >= JUDGED_FROM and misrouted > MISROUTED_MAX:
        advice = 'each is forwarded: set the route\'s partitioner, or let services use the header "reply_partition"'
        yield Finding("warning", "replies", f"{misrouted:.0%} of the replies reached another worker first", advice)
    if forged := fates.get("forged", 0) + fates.get("malformed", 0):
        advice = "another program writes to the response topic; no request was affected"
        yield Finding("warning", "replies", f"{forged} records with an id that this gateway never issued", advice)
    if fates.get("rival", 0):
        advice = "are two gateways started with the same response topic and the same [cluster] node_index?"
        yield Finding("error", "replies", "another node claims partitions of this node", advice)
    if dropped := fates.get("dropped", 0):
        advice = "links between workers were full or broken; their requests expired"
        yield Finding("warning", "replies", f"{dropped} replies were lost between workers", advice)
    yield Finding("ok", "replies", f"{answered} requests answered so far")


def judge_store(store: Mapping[str, Any]) -> Iterator[Finding]:
    """What the running store says of itself, as in `/status`."""
    used = store["bytes"] / max(1, store["max_bytes"])
    if store["trouble"]:
        advice = "requests that need it get 503 meanwhile; the log of the store has the details"
        yield Finding("error", "store", store["trouble"], advice)
    if used >= FULL_AT:
        advice = "new requests that need the store get 503: raise store.max_bytes, or lower later.keep"
        yield Finding("error", "store", f"{used:.0%} of store.max_bytes are in use", advice)
    elif used >= SHORT_AT:
        advice = f"above {FULL_AT:.0%}, new requests that need it get 503: raise store.max_bytes, or lower later.keep"
        yield Finding("warning", "store", f"{used:.0%} of store.max_bytes are in use", advice)
    if garbage := store["garbage"]:
        advice = "another program writes to this topic, or a node has other gateway.secrets; no request was affected"
        yield Finding("warning", "store", f"{garbage} records of {store['topic']} without a valid MAC", advice)
    if unknown := store["unknown"]:
        advice = "another node has a newer version: upgrade this one"
        yield Finding("warning", "store", f"{unknown} records of {store['topic']} of an unknown kind", advice)
    if split := store["split"]:
        advice = 'each is sent on: let services reply to the partition in the header "reply_partition"'
        yield Finding("warning", "store", f"{split} replies arrived on another partition than their request's", advice)
    if lost := store["split_lost"]:
        advice = 'the log has their ids; their requests end with work_expired: services must use "reply_partition"'
        yield Finding("error", "store", f"{lost} of them were lost: Kafka refuses them on the right partition", advice)
    yield Finding("ok", "store", f"{store['entries']} entries, {store['bytes'] >> 20} MiB")
    if store.get("streams"):
        yield _judge_streams(store["streams"])


def _judge_streams(streams: Mapping[str, Any]) -> Finding:
    if not streams["partitions"]:
        text = f"this node reads no partition of {streams['topic']}"
        advice = "requests for streams get 503: give the topic as many partitions as the response topic has"
        return Finding("error", "streams", text, advice)
    found = f"{streams['open']} open, {streams['behind']} of them with clients that are behind"
    return Finding("ok", "streams", f"{found}; {streams['items']} items so far")


# --- telling ---------------------------------------------------------------------------------------------------------

_COLOURS: dict[Level, str] = {"ok": "green", "warning": "yellow", "error": "bold red"}


def print_table(findings: Iterable[Finding]) -> None:
    """Print the findings as a table. If stdout is not a terminal, each finding is one line, for grep and logs."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        _print_lines(list(findings))
        return
    table = Table("", "check", Column("found, and what to do", overflow="fold"), box=None, pad_edge=False)
    for finding in findings:
        level = Text(finding.level, _COLOURS[finding.level])
        told = finding.found + (f"\n-> {finding.advice}" if finding.advice else "")
        table.add_row(level, Text(finding.check), Text(told))
    console.print(table)


def _print_lines(findings: Sequence[Finding]) -> None:
    width = max((len(finding.check) for finding in findings), default=0)
    for finding in findings:
        told = finding.found + (f" -> {finding.advice}" if finding.advice else "")
        print(f"{finding.level:<7}  {finding.check:<{width}}  {' '.join(told.split())}")
