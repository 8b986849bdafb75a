"""Bad input at every public door of a running gateway: each is told or counted by name, and nobody else notices."""

from __future__ import annotations

import random
import secrets
import shutil
import signal
import socket
import tempfile
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastgw import ids
from fastgw.mesh import frames, framing
from fastgw.messages import Reply
from tests.actors.good_traffic import unharmed
from tests.actors.hand_service import hand_service, values_in
from tests.actors.raw_http import RawConnection
from tests.actors.raw_producer import produce_raw
from tests.actors.repliers import replier
from tests.fronts.hostile import HOSTILE, NEXT, SERVED
from tests.gateway.gateways import Gateway
from tests.ports import free_port
from tests.waiting import eventually

PARTITIONS = 8
FATES = (
    "answered",
    "misrouted",
    "late",
    "duplicate",
    "orphan",
    "foreign",
    "rerouted",
    "forged",
    "malformed",
    "dropped",
)

CONFIG = """
[limits]
header_timeout = "300ms"
body_timeout = "300ms"
idle_timeout = "1s"
[[listen]]
bind = "127.0.0.1:{express}"
[[listen]]
bind = "127.0.0.1:{granian}"
front = "granian"
http = "1"
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory, kafka_bootstrap, make_module_topics):
    """A gateway of two workers with both fronts. `echo` is answered by an echo service, `hand` by the tests."""
    topics = make_module_topics({"replies": PARTITIONS, "echo": 4, "hand": 1})
    ports = {"express": free_port(), "granian": free_port()}
    run_dir = Path(tempfile.mkdtemp(prefix="fastgw-test-"))  # short: the names of Unix sockets are limited
    gateway = Gateway(
        tmp_path_factory.mktemp("bad"), kafka_bootstrap, topics["replies"], [topics["echo"], topics["hand"]],
        settings=f'run_dir = "{run_dir}"', more=CONFIG.format(**ports),
    )  # fmt: skip
    with (
        replier(kafka_bootstrap, "header", [topics["echo"]]),
        gateway,
        hand_service(kafka_bootstrap, [topics["hand"]]) as service,
    ):
        yield SimpleNamespace(
            gateway=gateway, service=service, replies=topics["replies"], bootstrap=kafka_bootstrap, run_dir=run_dir,
            echo=f"/{topics['echo']}", hand=f"/{topics['hand']}", **ports,
        )  # fmt: skip
    shutil.rmtree(run_dir)


@pytest.fixture
def steady(house):
    """Good requests run before, during and after the test, and no process is replaced."""
    with unharmed(house.gateway, house.express, house.echo):
        yield


# HTTP.

NOISE = random.Random(20)
WITHOUT_LINE_END = {"express": "408", "granian": "400"}  # hyper looks at a line before it is complete
UNFINISHED_HEAD = {"express": "408", "granian": ""}  # hyper cannot be asked to say 408
# Each piece, and what it is told: everywhere the same, or by front; "": the connection ends without an answer.
GARBAGE: list[tuple[bytes, str | dict[str, str]]] = [
    *((NOISE.randbytes(size), "400") for size in (1, 10)),
    (NOISE.randbytes(100), WITHOUT_LINE_END),
    *((NOISE.randbytes(size), "400") for size in (1000, 10_000, 100_000)),
    *((b"POST / HTTP/1.1\r\nHost: test\r\n" + NOISE.randbytes(size) + b"\r\n\r\n", "400") for size in (10, 100, 1000)),
    (b"\r\n" * 10_000, ""),
    (b"\0" * 100_000, "400"),
    (b"POST / HTTP/1.1", UNFINISHED_HEAD),
    (b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n", "404"),
    (b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhal", "404"),
]


def last_words(connection):
    """Everything that comes until the other side closes."""
    said = b""
    try:
        while data := connection.recv(65536):
            said += data
    except ConnectionResetError:
        return said
    return said


def answers_to(port, pieces):
    """What comes back on as many connections, each of which sends one of the pieces and waits for its end."""
    with ExitStack() as opened:
        connections = []
        for data in pieces:
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            connections.append(connection)
            try:
                connection.sendall(data)
            except OSError:
                continue  # it has hung up in the middle of it
        return [last_words(connection) for connection in connections]


@pytest.mark.parametrize("front", ["express", "granian"])
def test_http_garbage_is_refused_and_its_connections_end(house, steady, front):
    said = [words[9:12].decode() for words in answers_to(getattr(house, front), [piece for piece, _ in GARBAGE])]
    assert said == [told if isinstance(told, str) else told[front] for _, told in GARBAGE]


@pytest.mark.parametrize("front", ["express", "granian"])
def test_hostile_requests_are_refused_and_their_connections_end(house, steady, front):
    pieces = [row.raw.replace(b"/echo", house.echo.encode()) + NEXT for row in HOSTILE]
    said = [words[9:12].decode() for words in answers_to(getattr(house, front), pieces)]
    told = {row.name: (words, status_of(row, front)) for row, words in zip(HOSTILE, said, strict=True)}
    assert not {name: both for name, both in told.items() if both[0] != both[1]}


def status_of(row, front):
    """What the first answer says; the route allows only POST."""
    (status,) = row.allowed(front)
    if status == SERVED and not row.raw.startswith(b"POST"):
        return "405"
    return str(status or "")


@pytest.mark.parametrize("front", ["express", "granian"])
def test_of_a_request_that_must_not_be_served_and_of_what_is_hidden_in_it_there_is_no_record(house, front):
    topic, port = house.hand.strip("/"), getattr(house, front)
    before = values_in(house.bootstrap, topic)
    hostile = [row.raw for row in HOSTILE if SERVED not in row.allowed(front)]
    answers_to(
        port,
        [raw.replace(b"shop.test", b"test").replace(b"GET ", b"POST ").replace(b"/echo", house.hand.encode())
         for raw in hostile],
    )  # fmt: skip
    assert len(hostile) > 50
    with RawConnection(port) as honest:
        honest.ask("POST", house.hand, b"honest")
        house.service.reply(house.service.take(b"honest"))
        assert honest.answer().status == 200
    assert values_in(house.bootstrap, topic) == [*before, b"honest"]


def test_clients_that_leave_at_any_moment_leave_nothing_behind(house, steady):
    request = f"POST {house.echo} HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n".encode() + b"x" * 100
    for port in (house.express, house.granian):
        for end in range(1, len(request), 7):
            with RawConnection(port) as connection:
                connection.send(request[:end])
    eventually(lambda: house.gateway.metric("fastgw_in_flight") <= 1, 10, "nothing but the good request in flight")


# Configuration.

BROKEN = {
    "nothing": b"",
    "no TOML": b"[gateway\nname = ",
    "no text": b"\xff\xfe\x00",
    "another file": b"\x7fELF" + bytes(1000),
    "an unknown key": b"[gatway]\n",
    "nested too deeply": b"a = " + b"[" * 100_000,
}


@contextmanager
def other_config(house, content):
    """The configuration file with other content; None: without the file."""
    config, good = house.gateway.config, house.gateway.config.read_bytes()
    if content is None:
        config.unlink()
    else:
        config.write_bytes(content)
    try:
        yield
    finally:
        config.write_bytes(good)


def hang_up_and_expect(house, event):
    before = house.gateway.log_text.count(event)
    house.gateway.signal(signal.SIGHUP)
    eventually(lambda: house.gateway.log_text.count(event) == before + 1, 20, event)
    return house.gateway.log_text.rpartition(event)[0].rpartition("\n")[2] + house.gateway.log_text.rpartition(event)[2]


@pytest.mark.parametrize("content", [*BROKEN.values(), None], ids=[*BROKEN, "no file"])
def test_a_broken_configuration_is_told_in_one_line_and_the_old_one_stays(house, steady, content):
    with other_config(house, content):
        line = hang_up_and_expect(house, "reload refused, the old configuration stays")
        assert str(house.gateway.config) in line


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("workers = 2", "workers = 3", "gateway.workers"),
        ("response_topic = ", "slots = 64\nresponse_topic = ", "gateway.slots"),
        ("[limits]", '[cluster]\nmode = "group"\n[limits]', "cluster.mode"),
        ('path = "/', 'path = "', "route[0].path"),
    ],
)
def test_a_configuration_that_cannot_be_taken_over_names_the_key(house, steady, before, after, named):
    text = house.gateway.config.read_text()
    assert before in text
    with other_config(house, text.replace(before, after, 1).encode()):
        assert named in hang_up_and_expect(house, "reload refused, the old configuration stays")


# The mesh: other workers' sockets, which a process of the same user can reach.


def frame(**changes):
    fields = {"correlation_id": b"0" * 36, "partition": 0, "offset": 0, "headers": [], "value": b""}
    return frames.encode(Reply(**{**fields, **changes}))


BROKEN_FRAMES = {
    "noise": NOISE.randbytes(1000),
    "a huge length": b"\xff\xff\xff\xff",
    "no length": b"\0\0\0\0",
    "a length above the limit": (framing.MAX_FRAME_BYTES + 1).to_bytes(4, "big"),
    "a length that is too short": b"\0\0\0\x01\x01",
    "inner lengths that are too long": b"\0\0\0\x20\x01" + b"\xff" * 31,
    "HTTP": b"GET / HTTP/1.1\r\nHost: test\r\n\r\n",
}


@pytest.fixture
def mesh_sockets(house):
    paths = sorted(house.run_dir.glob("*/worker-*.sock"))
    assert len(paths) == 2
    return [str(path) for path in paths]


@pytest.mark.parametrize("data", BROKEN_FRAMES.values(), ids=BROKEN_FRAMES)
def test_a_broken_frame_ends_its_connection(house, steady, mesh_sockets, data):
    for path in mesh_sockets:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10)
            link.connect(path)
            link.sendall(data)
            assert last_words(link) == b""
    assert "link broken" in house.gateway.log_text


def test_half_frames_and_idle_links_cost_nothing_but_themselves(house, steady, mesh_sockets):
    whole = frame(value=b"x" * 1000)
    with ExitStack() as opened:
        for number in range(100):
            link = opened.enter_context(socket.socket(socket.AF_UNIX))
            link.connect(mesh_sockets[number % 2])
            link.sendall(whole[: number * 10])
        good = opened.enter_context(socket.socket(socket.AF_UNIX))
        good.connect(mesh_sockets[0])
        with fates(house, orphan=1):
            good.sendall(whole)


def test_frames_with_replies_that_are_nobodys_are_counted(house, steady, mesh_sockets):
    strange = [frame(correlation_id=raw) for raw in (b"", b"x", b"\0" * 255, b"0" * 36)]
    strange.append(frame(partition=65535, offset=-1, headers=[("", b"")] * 100))
    with fates(house, orphan=len(strange)), socket.socket(socket.AF_UNIX) as link:
        link.connect(mesh_sockets[0])
        link.sendall(b"".join(strange))


# Replies.


def counts(house):
    return {fate: house.gateway.replies(fate) for fate in FATES}


@contextmanager
def fates(house, **expected):
    """The replies that come inside are counted like this, and not otherwise; the good ones aside."""
    before = counts(house)
    yield
    wanted = {fate: before[fate] + expected.get(fate, 0) for fate in FATES if fate != "answered"}
    got = lambda: {fate: count for fate, count in counts(house).items() if fate in wanted}  # noqa: E731
    eventually(lambda: got() == wanted, 10, f"{expected}")


@pytest.fixture
def parked(house):
    """A request that waits, and its record."""
    body = secrets.token_hex(8).encode()
    with RawConnection(house.express) as client:
        client.ask("POST", house.hand, body)
        yield SimpleNamespace(client=client, taken=house.service.take(body))


def post(house, key, value=b"", headers=(), partition=0):
    house.service.post(house.replies, partition, key, value, headers)


NOT_AN_ID = {
    "no key": None,
    "an empty key": b"",
    "a random key": NOISE.randbytes(16),
    "a random key of the right length": NOISE.randbytes(36),
    "some other UUID": b"550e8400-e29b-41d4-a716-446655440000",
    "a huge key": b"k" * 500_000,
    "JSON of nothing": b'""',
    "a schema registry prefix alone": b"\0\0\0\0\1",
}


@pytest.mark.parametrize("key", NOT_AN_ID.values(), ids=NOT_AN_ID)
def test_a_reply_without_an_id_is_malformed(house, steady, key):
    with fates(house, malformed=3):
        post(house, key)
        post(house, key, None)  # a tombstone
        post(house, key, b"v", [("status", None), ("", b""), ("correlation_id", None)])


def fate_of(changed, cid, worker_count):
    """What has to become of a reply whose id is nearly that of a request that waits, on that request's partition."""
    got = ids.parse(changed)
    if got is None:
        return ["malformed"]
    if got.node != cid.node:
        return ["foreign"] if got.home == cid.home else ["rerouted", "foreign"]
    if got.generation != cid.generation or got.worker >= worker_count:
        return ["orphan"]
    if got.worker != cid.worker:
        return ["misrouted", "forged"]
    return ["forged"]


def test_an_id_with_one_character_changed_never_answers(house, steady, parked):
    raw, home = parked.taken.correlation_id, int(parked.taken.headers["reply_partition"])
    changed = [
        raw[:at] + bytes([other]) + raw[at + 1 :] for at in range(36) for other in b"0f-" if raw[at] != other
    ]  # fmt: skip
    expected = Counter(fate for one in changed for fate in fate_of(one, ids.parse(raw), 2))
    assert expected.keys() >= {"malformed", "foreign", "orphan", "forged"}
    with fates(house, **expected):
        for one in changed:
            post(house, one, b"evil", partition=home)
    house.service.reply(parked.taken, b"the right one")
    assert parked.client.answer().body == b"the right one"


def test_a_reply_for_a_generation_that_never_lived_is_an_orphan(house, steady, parked):
    raw = parked.taken.correlation_id
    with fates(house, orphan=1):
        # Digits 9 to 11: the generation, see ids.py.
        post(house, raw[:9] + b"7f" + raw[11:], partition=int(parked.taken.headers["reply_partition"]))
    house.service.reply(parked.taken)
    assert parked.client.answer().status == 200


def test_a_second_reply_is_a_duplicate_wherever_it_comes_in(house, steady, parked):
    house.service.reply(parked.taken, b"first")
    assert parked.client.answer().body == b"first"
    with fates(house, duplicate=1):
        house.service.reply(parked.taken, b"second")
    before = counts(house)
    for partition in range(PARTITIONS):
        post(house, parked.taken.correlation_id, b"again", partition=partition)
    eventually(lambda: counts(house)["duplicate"] == before["duplicate"] + PARTITIONS, 10, "duplicates everywhere")
    assert counts(house)["misrouted"] > before["misrouted"], "some came in at the other worker"


HOSTILE_REPLIES = {
    "a value of almost a megabyte": (b"v" * 900_000, []),
    "a tombstone": (None, []),
    "null headers": (b"v", [("x", None), ("content-type", None), ("traceparent", None)]),
    "a flood of headers": (b"v", [(f"x-{number}", b"y" * 40) for number in range(10_000)]),
    "the same header very often": (b"v", [("correlation", b"y")] * 10_000),
    "a huge header": (b"v", [("x-huge", b"y" * 800_000)]),
    "header names that HTTP does not have": (b"v", [("", b"1"), ("a b", b"1"), ("ä\r\n", b"1"), ("x" * 30_000, b"1")]),
    "control characters in the value": (bytes(range(256)), []),
}


@pytest.mark.parametrize(("value", "headers"), HOSTILE_REPLIES.values(), ids=HOSTILE_REPLIES)
def test_a_reply_that_is_strange_but_whole_is_answered(house, steady, parked, value, headers):
    house.service.reply(parked.taken, value, headers)
    answer = parked.client.answer()
    assert (answer.status, answer.body) == (200, value or b"")
    assert len(answer.headers) < 10


def test_header_names_that_are_no_text_poison_nobody(house, steady, parked):
    partition = int(parked.taken.headers["reply_partition"])
    with fates(house, malformed=1):
        produce_raw(house.bootstrap, house.replies, partition, b"no id", [(b"\xff\xfe", b"1"), (b"\xc3", b"2")])
    house.service.reply(parked.taken, b"not poisoned")
    assert parked.client.answer().body == b"not poisoned"


# The admin port.


def test_garbage_at_the_admin_port_stops_neither_probes_nor_requests(house, steady):
    address = ("127.0.0.1", house.gateway.admin_port)
    with ExitStack() as opened:
        for number in range(100):  # more than it holds
            connection = opened.enter_context(socket.create_connection(address, 10))
            connection.sendall(GARBAGE[number % len(GARBAGE)][0][:5000])
        assert house.gateway.admin("/livez")[0] == 200
        assert house.gateway.admin("/readyz")[0] == 200
        assert b"fastgw_requests_total" in house.gateway.admin("/metrics")[1]
    with RawConnection(house.gateway.admin_port) as client:
        assert client.request("POST", "/metrics", b"x").status == 421, "its Host is none of ours"
    for path in ("/", "/status/../../etc/passwd", "/%00", "/metrics/" + "x" * 5000):
        assert house.gateway.admin(path)[0] == 404
