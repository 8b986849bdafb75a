"""Secrets that are replaced by reloads: what stood under the old one stays valid, on one node and on two of them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from confluent_kafka.admin import AdminClient

from fastgw.dialects import streams
from tests.actors.commands import fastgw
from tests.actors.hand_service import HandService, hand_service
from tests.actors.raw_http import Answer, RawConnection
from tests.actors.stream_client import StreamClient
from tests.conftest import MakeTopics
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

OLD, NEW = "the old secret of all tests about secrets", "the new secret of all tests about secrets"
ROUTES = """
[[route]]
name = "report"
method = "POST"
path = "/report"
topic = "{orders}"
later = true
[[route]]
name = "pay"
method = "POST"
path = "/pay"
topic = "{orders}"
idempotency = "require"
timeout = "20s"
[[route]]
name = "lasting"
method = "GET"
path = "/lasting"
topic = "{orders}"
reply = "stream"
resume = true
[store]
dir = "{store}"
[later]
topic = "{later}"
[streams]
topic = "{streams}"
[cluster]
mode = "static"
node_index = {index}
node_count = {count}
"""


def signed(*told: str) -> str:
    return f"secrets = {json.dumps(told)}"


class Node:
    """A gateway that hands out all kinds of tokens."""

    def __init__(
        self, place: Path, bootstrap: str, topics: dict[str, str], service: HandService, index: int, count: int
    ):
        self.service = service
        place.mkdir()
        more = ROUTES.format(**topics, store=place / "store", index=index, count=count)
        self.gateway = Gateway(
            place, bootstrap, topics["replies"], [], workers=1, more=more, settings=signed(OLD), drain_timeout="5s"
        )
        self._told = signed(OLD)

    def reload(self, *told: str) -> None:
        """Have it use these secrets."""
        text = self.gateway.config.read_text()
        assert self._told in text
        self.gateway.config.write_text(text.replace(self._told, signed(*told)))
        self._told = signed(*told)
        code, _, err = fastgw("reload", self.gateway.config)
        assert code == 0, err

    def ask(self, method: str, path: str, body: bytes = b"", *headers: str) -> Answer:
        with RawConnection(self.gateway.port) as client:
            return client.request(method, path, body, headers)

    def deferred(self) -> str:
        """The status URL of a request that nobody has answered."""
        answer = self.ask("POST", "/report", secrets.token_bytes(8), "Prefer: respond-async")
        assert answer.status == 202, answer
        return answer.headers["location"]

    def reported(self, body: bytes) -> str:
        """The status URL of a request that was answered."""
        answer = self.ask("POST", "/report", body, "Prefer: respond-async")
        assert answer.status == 202, answer
        self.service.reply(self.service.take(body), b"report of " + body)
        return answer.headers["location"]

    @contextmanager
    def paying(self, key: str) -> Iterator[RawConnection]:
        """A request with this key that is under way."""
        with RawConnection(self.gateway.port) as client:
            client.ask("POST", "/pay", key.encode(), [f'Idempotency-Key: "{key}"'])
            yield client

    def pay(self, key: str) -> Answer:
        """A request with a key; its service answers."""
        with self.paying(key) as client:
            self.service.reply(self.service.take(key.encode()), b"paid " + key.encode())
            return client.answer()

    def joined(self) -> float:
        return self.gateway.metric("fastgw_idempotency_total", result="joined")

    def streamed(self) -> str:
        """The position of a client that has read one of two items of a stream, which has ended."""
        with StreamClient(self.gateway.port, "/lasting", headers={"Accept": "text/event-stream"}) as client:
            request = self.service.take(b"")
            home, topic = int(request.headers["reply_partition"]), request.headers["reply_to"].decode()
            for told, value in (
                (streams.items_headers(b"a", 0, 2), b"1\n2"),
                (streams.end_headers(b"a", True, 2), b""),
            ):
                self.service.post(topic, home, request.correlation_id, value, told)
            return client.event()["id"]

    def resumed(self, position: str) -> str:
        """The next event behind a position."""
        told = {"Accept": "text/event-stream", "Last-Event-ID": position}
        with StreamClient(self.gateway.port, "/lasting", headers=told) as client:
            return client.event().get("data", "")


class Handed:
    """What one node has handed out under its present secret."""

    def __init__(self, node: Node) -> None:
        self.key, self._body = secrets.token_hex(8), secrets.token_hex(8).encode()
        answer = node.pay(self.key)
        assert (answer.status, answer.body) == (200, b"paid " + self.key.encode()), answer
        self._done, self._open = node.reported(self._body), node.deferred()
        self._position = node.streamed()

    def check(self, node: Node) -> None:
        """Have a node recognize everything."""
        done = node.ask("GET", self._done, b"", "Prefer: wait=10")
        assert (done.status, done.body) == (200, b"report of " + self._body)
        again = node.ask("POST", "/pay", self.key.encode(), f'Idempotency-Key: "{self.key}"')
        assert (again.body, again.headers.get("idempotency-replayed")) == (b"paid " + self.key.encode(), "true")
        assert node.resumed(self._position) == "2"

    def cancel(self, node: Node) -> None:
        cancelled = node.ask("DELETE", self._open)
        assert (cancelled.status, json.loads(cancelled.body)["status"]) == (202, "cancelled"), cancelled

    def check_cancelled(self, node: Node) -> None:
        eventually(lambda: node.ask("GET", self._open).status == 410, 10, "every node knows of the cancellation")


@contextmanager
def nodes(
    folder: Path, bootstrap: str, admin: AdminClient, make_topics: MakeTopics, count: int
) -> Iterator[Sequence[Node]]:
    topics = make_topics({"replies": 8, "orders": 1, "streams": 8})
    topics["later"] = topics["replies"] + ".later"
    with hand_service(bootstrap, [topics["orders"]]) as service, ExitStack() as stack:
        every = [Node(folder / str(index), bootstrap, topics, service, index, count) for index in range(count)]
        code, _, err = fastgw("topics", every[0].gateway.config)
        assert code == 0, err
        stack.callback(lambda: [future.result() for future in admin.delete_topics([topics["later"]]).values()])
        for node in every:
            stack.enter_context(node.gateway)
            eventually(lambda node=node: node.gateway.status()["store"]["trouble"] is None, 30, "the store can answer")
        yield every


def test_a_secret_is_replaced_in_three_reloads(
    tmp_path: Path, kafka_bootstrap: str, kafka_admin: AdminClient, make_topics: MakeTopics
) -> None:
    with nodes(tmp_path, kafka_bootstrap, kafka_admin, make_topics, 1) as (node,):
        store = [pid for pid, title in node.gateway.children().items() if title.endswith("store")]
        before = Handed(node)
        node.reload(OLD, NEW)
        before.check(node)
        between = Handed(node)
        node.reload(NEW, OLD)
        for handed in (before, between):
            handed.check(node)
            handed.cancel(node)
            handed.check_cancelled(node)
        last = Handed(node)
        node.reload(NEW)
        last.check(node)
        last.cancel(node)
        last.check_cancelled(node)
        Handed(node).check(node)
        assert node.ask("GET", before._done).status == 404, "the old secret is gone"
        assert node.gateway.metric("fastgw_store_garbage_total") == 0
        assert store == [pid for pid, title in node.gateway.children().items() if title.endswith("store")]


def test_two_nodes_may_be_one_step_apart(
    tmp_path: Path, kafka_bootstrap: str, kafka_admin: AdminClient, make_topics: MakeTopics
) -> None:
    """Each node sends a key once, whoever has claimed it, and recognizes what the other one has handed out."""
    with nodes(tmp_path, kafka_bootstrap, kafka_admin, make_topics, 2) as (first, second):
        for told in ((OLD, NEW), (NEW, OLD), (NEW,)):
            for node, other in ((first, second), (second, first)):
                node.reload(*told)
                _check_both(node, other)
                _check_both(other, node)


def _check_both(here: Node, there: Node) -> None:
    handed = Handed(here)
    handed.check(there)
    handed.cancel(there)
    handed.check_cancelled(here)
    key, joined = secrets.token_hex(8), there.joined()
    with here.paying(key) as first:
        request = here.service.take(key.encode())
        with there.paying(key) as second:
            eventually(lambda: there.joined() == joined + 1, 10, "it has joined")
            here.service.reply(request, b"once")
            assert [client.answer().body for client in (first, second)] == [b"once", b"once"]
