"""`fastgw doctor`: each finding provoked once, and all of it on a real Kafka, on the embedded one, and on none."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from fastgw import config
from fastgw.config import Config
from fastgw.doctor import doctor
from fastgw.doctor import kafka as kafka_survey
from fastgw.doctor.doctor import Finding
from fastgw.doctor.host import Host, Node, Room, look_at_host, look_at_node, open_files, room_for
from fastgw.doctor.kafka import Broker, Group, Traffic
from fastgw.kafka.cluster import Topic
from tests.brokers.kafka_server import RealKafka
from tests.conftest import MakeTopics
from tests.gateway.gateways import Gateway
from tests.ports import free_port
from tests.waiting import eventually

CONFIG = """
[gateway]
name = "shop"
workers = 2
[kafka]
bootstrap = "{bootstrap}"
[admin]
listen = "127.0.0.1:{admin_port}"
[[route]]
method = "POST"
path = "/orders"
topic = "orders"
{more}
"""


def configured(bootstrap: str = "127.0.0.1:9", more: str = "", admin_port: int = 9) -> Config:
    return config.loads(CONFIG.format(bootstrap=bootstrap, more=more, admin_port=admin_port), "shop.toml")


def topic(name: str = "shop.replies", replicas: int = 3, **settings: str) -> Topic:
    named = {key.replace("_", "."): value for key, value in settings.items()}
    return Topic(name, 8, replicas=replicas, in_sync=replicas, operations=frozenset(), settings=named)


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


# Each finding by itself. The facts are what Kafka, the kernel and the admin port were seen to say.


@pytest.mark.parametrize(
    ("releases", "level", "found"),
    [
        (["4.1", "4.1", "4.1"], "ok", "3 brokers, Kafka 4.1 or later"),
        (["4.1"], "warning", "1 broker, Kafka 4.1 or later"),
        (["4.1", "3.9", "4.1"], "warning", "3 brokers with different releases: b1:9092 4.1, b2:9092 3.9, b3:9092 4.1"),
        (["4.1", ""], "error", "2 brokers, older than Kafka 3.0: b2:9092"),
        (["embedded"], "warning", "1 broker, embedded"),
    ],
)
def test_brokers(releases: list[str], level: str, found: str) -> None:
    brokers = [Broker(number, f"b{number}:9092", release) for number, release in enumerate(releases, 1)]
    finding = doctor.judge_brokers(brokers)
    assert (finding.level, finding.found) == (level, found)
    assert bool(finding.advice) is (level != "ok")


@pytest.mark.parametrize(
    ("apis", "release"),
    [
        ({"Produce": 13, "Fetch": 18, "ListOffsets": 10}, "4.1"),
        ({"Produce": 12, "Fetch": 17, "ListOffsets": 10}, "4.0"),
        ({"Produce": 9, "Fetch": 12, "ListOffsets": 7}, "3.0"),
        ({"Produce": 8, "Fetch": 11, "ListOffsets": 5}, ""),
        ({}, "unknown"),
    ],
)
def test_a_release_is_known_by_the_requests_that_it_takes(apis: dict[str, int], release: str) -> None:
    assert kafka_survey.release(apis) == release


def test_one_replica_where_there_could_be_more() -> None:
    finding = only(doctor.judge_copies(topic(replicas=1), brokers=3))
    assert (finding.level, finding.found) == ("warning", "1 replica")


def test_one_copy_that_confirms_alone() -> None:
    finding = only(doctor.judge_copies(topic(min_insync_replicas="1"), brokers=3))
    assert finding.found == "min.insync.replicas = 1"
    assert "--add-config min.insync.replicas=2" in finding.advice


@pytest.mark.parametrize(("replicas", "least", "brokers"), [(3, "2", 3), (1, "1", 1)])
def test_copies_in_order(replicas: int, least: str, brokers: int) -> None:
    assert list(doctor.judge_copies(topic(replicas=replicas, min_insync_replicas=least), brokers)) == []


@pytest.mark.parametrize(("kept_ms", "told"), [("-1", "forever"), ("604800000", "for 168 hours")])
def test_replies_that_are_kept_too_long(kept_ms: str, told: str) -> None:
    finding = only(doctor.judge_retention(topic(retention_ms=kept_ms)))
    assert (finding.level, finding.found) == ("warning", f"replies are kept {told}")
    assert "--add-config retention.ms=3600000" in finding.advice


def test_replies_that_are_kept_for_an_hour() -> None:
    assert list(doctor.judge_retention(topic(retention_ms="3600000"))) == []


def test_a_topic_that_does_not_take_the_largest_request() -> None:
    cfg = configured(more='max_body = "1MiB"')
    finding = only(doctor.judge_size(cfg, topic("orders", max_message_bytes="1048588")))
    assert (
        finding.found
        == "accepts records of 1048588 bytes; a body of 1048576 bytes can become a record of 1140736 bytes"
    )
    assert "--add-config max.message.bytes=1140736; or set limits.max_body to 956428" in finding.advice


def test_a_topic_that_takes_small_records_but_not_a_batch_of_them() -> None:
    cfg = configured(more='max_body = "1kB"')
    finding = only(doctor.judge_size(cfg, topic("orders", max_message_bytes="100000")))
    assert finding.found.startswith("accepts batches of 100000 bytes; the gateway sends up to 1000000")
    assert '"batch.size" = 100000 in [kafka.client]' in finding.advice


def test_the_advice_about_sizes_helps() -> None:
    for more in ('max_body = "956428B"', 'max_body = "900kB"'):
        assert list(doctor.judge_size(configured(more=more), topic("orders", max_message_bytes="1048588"))) == []


def test_rights_that_the_broker_does_not_tell() -> None:
    finding = doctor.judge_rights([topic()._replace(operations=None)])
    assert (finding.level, finding.found) == ("warning", "the broker does not report the rights on shop.replies")


@pytest.mark.parametrize(
    ("group", "level", "found"),
    [
        (Group(4, True), "ok", "4 nodes with 2 workers each for 8 partitions"),
        (Group(5, True), "error", "5 nodes with 2 workers each for 8 partitions"),
        (Group(0, False), "error", "expected the right to READ group shop, got none"),
        (None, "warning", "the broker does not describe group shop"),
    ],
)
def test_the_group_of_the_nodes(group: Group | None, level: str, found: str) -> None:
    finding = doctor.judge_group(configured(more='[cluster]\nmode = "group"'), group, partitions=8)
    assert (finding.level, finding.found) == (level, found)


@pytest.mark.parametrize(
    ("group", "level", "found"),
    [
        (Group(0, True), "ok", "the nodes may keep their positions in group shop"),
        (Group(0, False), "warning", "expected the right to READ group shop, got none"),
        (Group(2, True), "error", "group shop has 2 members, and Kafka takes no positions of static nodes for it"),
    ],
)
def test_the_group_in_which_static_nodes_keep_their_positions(group: Group, level: str, found: str) -> None:
    cfg = configured(more='[cluster]\nmode = "static"\nnode_count = 2')
    finding = doctor.judge_group(cfg, group, partitions=8)
    assert (finding.level, finding.found) == (level, found)


@pytest.mark.parametrize(
    ("youngest_ms", "oldest_ms", "by_broker", "level", "found"),
    [
        (1.0, 60.0, True, "ok", "within 500 ms of the broker's clock"),
        (-900.0, -800.0, True, "warning", "0.9 s behind the broker's clock"),
        (7000.0, 7100.0, True, "error", "7.1 s ahead of the broker's clock"),
        (-6000.0, 3.0, False, "error", "6.0 s behind the clocks of the services"),
    ],
)
def test_the_clock(youngest_ms: float, oldest_ms: float, by_broker: bool, level: str, found: str) -> None:
    finding = doctor.judge_clock(Traffic(3.0, 5, by_broker, youngest_ms, oldest_ms))
    assert (finding.level, finding.found) == (level, found)


def test_a_response_topic_on_which_nothing_comes() -> None:
    finding = only(doctor.judge_traffic(Traffic(3.0, 0, False, 0.0, 0.0)))
    assert (finding.level, finding.found) == ("warning", "no record within 3 s")


def test_too_few_descriptors() -> None:
    finding = doctor.judge_files(configured(), 1024, measured=True)
    assert (finding.level, finding.found) == ("error", "1024 for a running worker, 16896 needed")
    assert "LimitNOFILE=16896" in finding.advice
    assert doctor.judge_files(configured(), 16896, measured=False).level == "ok"


def test_every_listener_has_its_own_connections() -> None:
    two = configured(more='[[listen]]\nbind = "127.0.0.1:1"\n[[listen]]\nbind = "127.0.0.1:2"')
    assert doctor.judge_files(two, 16896, measured=False).found.endswith("33280 needed")
    localhost = configured(more='[[listen]]\nbind = "localhost:1"')
    assert doctor.judge_files(localhost, 16896, measured=False).found.endswith("33280 needed")


def test_a_short_accept_queue() -> None:
    finding = doctor.judge_queue(128)
    assert (finding.level, finding.found) == ("warning", "net.core.somaxconn = 128, each worker needs 1024")
    assert doctor.judge_queue(4096).level == "ok"


@pytest.mark.parametrize(("value", "level"), [(1, "ok"), (0, "warning"), (None, "warning")])
def test_queues_that_do_not_move(value: int | None, level: str) -> None:
    assert doctor.judge_migration(value).level == level


def test_more_workers_than_cores() -> None:
    assert doctor.judge_workers(4, 2).level == "warning"
    assert doctor.judge_workers(2, 2).level == "ok"


@pytest.mark.parametrize(
    ("fates", "found"),
    [
        ({"answered": 900, "late": 100}, "10% of the replies arrived too late"),
        ({"answered": 900, "misrouted": 300}, "33% of the replies reached another worker first"),
        ({"forged": 2, "malformed": 1}, "3 records with an id that this gateway never issued"),
        ({"dropped": 2}, "2 replies were lost between workers"),
    ],
)
def test_fates_of_replies(fates: dict[str, int], found: str) -> None:
    warning, told = doctor.judge_fates(fates)
    assert (warning.level, warning.found, told.level) == ("warning", found, "ok")


def test_a_rival_is_an_error() -> None:
    rival, told = doctor.judge_fates({"rival": 9})
    assert (rival.level, told.level) == ("error", "ok")
    assert "node_index" in rival.advice


def test_few_late_replies_say_nothing() -> None:
    assert [finding.level for finding in doctor.judge_fates({"answered": 5, "late": 5, "misrouted": 5})] == ["ok"]


def test_a_gateway_that_is_another_one_older_or_not_ready() -> None:
    node = Node("", False, ["worker 0: no process"], {"name": "other", "version": "0.0.1", "workers": []}, {})
    told = {finding.found: finding.level for finding in doctor.judge_node(configured(), node)}
    assert told["not ready: worker 0: no process"] == "error"
    assert told['the gateway on 127.0.0.1:9 is "other", not "shop"'] == "error"
    assert told[f"runs fastgw 0.0.1, but {doctor.__version__} is installed"] == "warning"


def with_store(store_dir: str = "/srv/shop") -> Config:
    text = CONFIG.format(bootstrap="127.0.0.1:9", more="", admin_port=9).replace(
        'name = "shop"', f'name = "shop"\nsecrets = ["{"s" * 32}"]'
    )
    return config.loads(f'{text}later = true\n[store]\ndir = "{store_dir}"\nmax_bytes = "1GiB"\n', "shop.toml")


@pytest.mark.parametrize(
    ("room", "level", "part"),
    [
        (Room(2 << 30, 0), "ok", "2048 MiB are free for /srv/shop, which has 0 MiB"),
        (Room(100 << 20, 950 << 20), "ok", "which has 950 MiB"),  # what it has is its own
        (Room(100 << 20, 900 << 20), "warning", "100 MiB are free"),
        (Room(100 << 20, None), "ok", "may not look into /srv/shop"),
    ],
)
def test_room_for_the_store(room: Room, level: str, part: str) -> None:
    told = only(doctor.judge_store_folder(with_store(), lambda folder: room))
    assert (told.level, told.check) == (level, "store")
    assert part in told.found
    assert ("1024 MiB" in told.advice) == (level == "warning")


def test_the_room_of_a_folder_counts_its_files_and_needs_no_folder(tmp_path: Path) -> None:
    assert room_for(tmp_path / "not" / "there").used_bytes == 0
    (tmp_path / "data").write_bytes(bytes(100_000))
    room = room_for(tmp_path)
    assert room.used_bytes is not None
    assert 100_000 <= room.used_bytes < 200_000
    assert room.free_bytes > 0


def test_without_a_route_that_needs_it_nothing_is_said_of_the_store() -> None:
    assert list(doctor.judge_store_folder(configured())) == []


IN_ORDER = {
    "trouble": None,
    "topic": "shop.later",
    "entries": 7,
    "bytes": 3 << 20,
    "max_bytes": 1 << 30,
} | dict.fromkeys(("garbage", "split", "split_lost", "unknown"), 0)


@pytest.mark.parametrize(
    ("state", "level", "found"),
    [
        ({"trouble": "it has not started yet"}, "error", "it has not started yet"),
        ({"bytes": 950 << 20}, "error", "93% of store.max_bytes are in use"),
        ({"bytes": 850 << 20}, "warning", "83% of store.max_bytes are in use"),
        ({"garbage": 3}, "warning", "3 records of shop.later without a valid MAC"),
        ({"unknown": 2}, "warning", "2 records of shop.later of an unknown kind"),
        ({"split": 4}, "warning", "4 replies arrived on another partition than their request's"),
        ({"split_lost": 2}, "error", "2 of them were lost: Kafka refuses them on the right partition"),
    ],
)
def test_the_running_store(state: dict[str, Any], level: str, found: str) -> None:
    finding, told = doctor.judge_store({**IN_ORDER, **state})
    assert (finding.level, finding.found) == (level, found)
    assert finding.advice
    assert told.level == "ok"


def test_a_store_in_order_is_one_line() -> None:
    assert only(doctor.judge_store({**IN_ORDER})) == Finding("ok", "store", "7 entries, 3 MiB")


def test_the_streams_of_the_running_store() -> None:
    figures = {"topic": "shop.streams", "partitions": 2, "open": 3, "behind": 1, "items": 40}
    *_, told = doctor.judge_store({**IN_ORDER, "streams": figures})
    assert told == Finding("ok", "streams", "3 open, 1 of them with clients that are behind; 40 items so far")
    *_, told = doctor.judge_store({**IN_ORDER, "streams": {**figures, "partitions": 0}})
    assert (told.level, told.found) == ("error", "this node reads no partition of shop.streams")


def test_streams_need_no_room_on_the_disk() -> None:
    assert list(doctor.judge_store_folder(configured(more='reply = "stream"'))) == []


def test_a_gateway_without_an_admin_port_is_not_asked() -> None:
    assert only(doctor.judge_node(configured(), None)) == Finding("ok", "gateway", "not asked: admin.listen is empty")


# Looking at this machine.


def test_kernel_settings_are_read_and_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "net/core").mkdir(parents=True)
    (tmp_path / "net/core/somaxconn").write_text("128\n")
    assert look_at_host(tmp_path) == Host(config.cores(), 128, None)


def test_descriptors_are_read_from_a_worker_and_from_no_other_process(tmp_path: Path) -> None:
    for pid, title, limit in (
        (1, b"init\0", 7),
        (2, b"fastgw: shop worker 1\0", 9),
        (3, b"fastgw: shop worker 2\0", 8),
    ):
        place = tmp_path / str(pid)
        place.mkdir()
        (place / "cmdline").write_bytes(title)
        (place / "limits").write_text(
            f"Max open files            {limit}                 {limit}                files\n"
        )
    assert open_files([0, 1, 2, 3], tmp_path) == (9, True)
    assert open_files([1], tmp_path)[1] is False


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Somebody else's port that says this to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(3):
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b""])
def test_an_admin_port_that_is_somebody_elses(answer: bytes) -> None:
    with answering(answer) as address:
        assert look_at_node(address).trouble


def test_in_a_pipe_each_finding_is_one_line_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    found = [Finding("error", "topic orders", "wrong " * 100, "do " * 100), Finding("ok", "clock", "right\nindeed")]
    doctor.print_table(found)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"error    topic orders  {('wrong ' * 100).strip()} -> {('do ' * 100).strip()}"
    assert second == "ok       clock         right indeed"


# The whole of it.


def run_doctor(path: Path, *options: str) -> tuple[int, list[dict[str, Any]] | str]:
    done = subprocess.run(
        [sys.executable, "-m", "fastgw", "doctor", str(path), *options],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout) if options else done.stdout


def test_a_gateway_that_serves_on_a_real_kafka_is_in_order(
    tmp_path: Path, kafka_bootstrap: str, make_topics: MakeTopics
) -> None:
    stamped = {"message.timestamp.type": "LogAppendTime", "retention.ms": "3600000", "max.message.bytes": "2000000"}
    names = make_topics({"replies": 8, "orders": 4}, stamped)
    with Gateway(tmp_path, kafka_bootstrap, names["replies"], [names["orders"]]) as gateway:
        code, findings = run_doctor(gateway.config, "--json")
        code_of_table, table = run_doctor(gateway.config)
    assert (code, code_of_table) == (0, 0)
    told = {finding["check"]: (finding["level"], finding["found"]) for finding in findings}
    assert told["brokers"][1].endswith("Kafka 4.1 or later")
    assert told[f"topic {names['replies']}"] == ("ok", "8 partitions, 1 replicas, min.insync.replicas 1")
    assert told["clock"] == ("ok", "within 500 ms of the broker's clock")
    assert told["response topic"][0] == "ok"
    assert told["open files"][1].endswith("for a running worker, 16896 needed")
    assert told["gateway"] == ("ok", f"ready, according to 127.0.0.1:{gateway.admin_port}")
    assert {finding["level"] for finding in findings if finding["check"] not in ("brokers", "stopping")} == {"ok"}
    assert "\nok       gateway" in str(table)


def test_what_is_wrong_on_a_real_kafka_is_found_and_told(
    tmp_path: Path, kafka_bootstrap: str, make_topics: MakeTopics
) -> None:
    names = make_topics({"replies": 1}, {"retention.ms": "-1", "cleanup.policy": "compact"})
    path = tmp_path / "shop.toml"
    text = CONFIG.format(bootstrap=kafka_bootstrap, more="", admin_port=free_port())
    path.write_text(text.replace("workers = 2", f'workers = 2\nresponse_topic = "{names["replies"]}"'))
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    with keep_writing(producer, names["replies"], ahead_s=1800):  # brokers refuse what is an hour off
        code, findings = run_doctor(path, "--json")
    assert code == 1
    told = {(finding["check"], finding["level"]): finding for finding in findings}
    replies = [finding["found"] for finding in findings if finding["check"] == f"topic {names['replies']}"]
    assert replies == [
        "expected at least 2 partitions, one for each worker, got 1",
        "cleanup.policy = compact never deletes replies, because each reply has its own key",
        "replies are kept forever",
    ]
    assert "`fastgw topics " in told["topic orders", "error"]["advice"]
    assert told["clock", "error"]["found"].endswith("behind the clocks of the services")
    assert told["gateway", "warning"]["found"].endswith("Connection refused")


@contextmanager
def keep_writing(producer: Producer, name: str, ahead_s: float) -> Iterator[None]:
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(0.1):
            producer.produce(name, b"", key=b"x", timestamp=int((time.time() + ahead_s) * 1000))
            producer.flush(5)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_the_embedded_broker_is_told_as_what_it_is(tmp_path: Path, embedded_bootstrap: str) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(CONFIG.format(bootstrap=embedded_bootstrap, more="", admin_port=free_port()))
    code, findings = run_doctor(path, "--json")
    assert {finding["found"] for finding in findings} >= {"1 broker, embedded"}
    assert code == 1, "its topics are not there"


def test_without_a_broker_the_rest_is_looked_at_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(CONFIG.format(bootstrap="127.0.0.1:9", more="", admin_port=free_port()))
    code, findings = run_doctor(path, "--json")
    assert code == 1
    assert findings[0]["check"] == "brokers"
    assert findings[0]["found"].startswith("kafka.bootstrap = 127.0.0.1:9: expected a broker within 5 s, got: ")
    assert {"open files", "accept queue", "gateway"} <= {finding["check"] for finding in findings}


def test_a_wrong_configuration_is_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastgw", "doctor", str(tmp_path / "none.toml")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no such file" in done.stderr


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """A Kafka that asks for rights; what no rule speaks of is allowed."""
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with RealKafka(properties=properties) as kafka:
        yield kafka.bootstrap


@pytest.mark.real_kafka
def test_rights_that_are_missing_are_errors(guarded: str) -> None:
    admin = AdminClient({"bootstrap.servers": guarded})
    for future in admin.create_topics([NewTopic("shop.replies", 8, 1), NewTopic("orders", 1, 1)]).values():
        future.result(10)
    for kind, name, operation in (
        (ResourceType.TOPIC, "orders", AclOperation.WRITE),
        (ResourceType.TOPIC, "shop.replies", AclOperation.READ),
        (ResourceType.GROUP, "shop", AclOperation.READ),
    ):
        _deny(admin, kind, name, operation)
    cfg = configured(guarded, more='[cluster]\nmode = "group"')

    def told() -> dict[str, Finding]:
        found = doctor.examine(cfg, watch_s=0)
        return {f"{finding.check}: {finding.found}": finding for finding in found if finding.level == "error"}

    errors = eventually(lambda: len(seen := told()) >= 3 and seen, 20, "the rules are in force everywhere")
    assert any(text.startswith("topic orders: expected the right to WRITE, got ") for text in errors)
    assert any(text.startswith("topic shop.replies: expected the right to READ, got ") for text in errors)
    assert "group: expected the right to READ group shop, got none" in errors


def _deny(admin: AdminClient, kind: ResourceType, name: str, operation: AclOperation) -> None:
    """Everything is allowed on it but this: a rule for one right takes "no rule at all" away from the others."""
    for right, verdict in ((AclOperation.ALL, AclPermissionType.ALLOW), (operation, AclPermissionType.DENY)):
        rule = AclBinding(kind, name, ResourcePatternType.LITERAL, "User:*", "*", right, verdict)
        for future in admin.create_acls([rule]).values():
            future.result(10)
