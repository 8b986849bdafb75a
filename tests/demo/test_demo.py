"""`fastgw demo` as its users meet it: a command that tells three requests, and leaves nothing behind."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fastgw import config
from fastgw.demo import demo
from fastgw.errors import FastgwError, StartError
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.slow

START_S = 60.0
END_S = 40.0


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


class Stat:
    """A process as /proc/PID/stat shows it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        # The name in parentheses may hold anything; what follows it is plain.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.alive = fields[0] not in "ZX"
        self.parent, self.started = int(fields[1]), fields[19]

    def still_runs(self) -> bool:
        try:
            now = Stat(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return now.alive and now.started == self.started


def descendants(pid: int) -> list[Stat]:
    every: list[Stat] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                every.append(Stat(int(entry.name)))
    family = {pid}
    for _ in range(4):  # demo, supervisor, worker, and one to spare
        family |= {each.pid for each in every if each.parent in family}
    return [each for each in every if each.pid in family - {pid}]


class Demo:
    """`python -m fastgw demo` on ports of its own."""

    def __init__(self, told: Path, *arguments: str) -> None:
        self.address, self.admin = free_address(), free_address()
        self.url = f"http://{self.address}"
        self._told = told
        command = [sys.executable, "-m", "fastgw", "demo", "--listen", self.address, "--admin", self.admin, *arguments]
        with told.open("w") as output:
            # A session of its own stands for the user's terminal.
            self.process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        self.family: list[Stat] = []

    @property
    def told(self) -> str:
        return self._told.read_text()

    def works(self) -> None:
        """Waits until it tells its requests."""
        eventually(lambda: "/baskets" in self.told or self.process.poll() is not None, START_S, "told its requests")
        assert self.process.poll() is None, self.told
        self.remember()

    def remember(self) -> None:
        """Notes which processes are there, to ask later whether they have gone."""
        known = {each.pid for each in self.family}
        self.family += [each for each in descendants(self.process.pid) if each.pid not in known]

    def pid_of(self, title: str) -> int:
        return next(
            each.pid for each in self.family if title in Path(f"/proc/{each.pid}/cmdline").read_bytes().decode()
        )

    def interrupt(self) -> None:
        """What a terminal does on Ctrl-C: SIGINT to the whole foreground process group."""
        self.remember()
        os.killpg(self.process.pid, signal.SIGINT)

    def ends(self) -> int:
        """Waits for its end and for the end of all its processes.

        Returns:
            The exit code.
        """
        code = self.process.wait(END_S)
        try:
            eventually(lambda: not self.left_over(), END_S)
        except AssertionError as error:
            titles = [f"{pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()!r}" for pid in self.left_over()]
            raise AssertionError(f"still there: {titles}; it told: {self.told}") from error
        return code

    def left_over(self) -> list[int]:
        return [each.pid for each in self.family if each.still_runs()]


@contextlib.contextmanager
def started(directory: Path, *arguments: str) -> Iterator[Demo]:
    one = Demo(directory / "told", *arguments)
    try:
        yield one
    finally:
        one.remember()
        if one.process.poll() is None:
            one.process.terminate()
            one.process.wait(END_S)
        for pid in one.left_over():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with started(tmp_path_factory.mktemp("demo")) as one:
        one.works()
        yield one


def run_curl(line: str) -> httpx.Response:
    """Does what curl does with this line in a shell; a machine need not have curl to run this test."""
    curl = argparse.ArgumentParser(exit_on_error=False)
    curl.add_argument("url")
    curl.add_argument("-i", action="store_true")
    curl.add_argument("-w")
    curl.add_argument("-X", default="GET")
    curl.add_argument("-H", action="append", default=[])
    curl.add_argument("-d")
    command, *arguments = shlex.split(line)
    assert command == "curl"
    given = curl.parse_args(arguments)
    headers = dict(re.split(r":\s*", header, maxsplit=1) for header in given.H)
    return httpx.request(given.X, given.url, headers=headers, content=given.d, timeout=10)


def test_three_requests_can_be_pasted_as_they_are(running: Demo) -> None:
    curls = [line for line in running.told.splitlines() if line.startswith("curl -i")]
    lines = [line for line in curls if "$location" not in line and "/payments" not in line]
    answers = [run_curl(line) for line in lines]
    assert [answer.status_code for answer in answers] == [201, 200, 201]
    assert [answer.json().get("customer") for answer in answers] == ["ada", None, None]
    assert answers[1].json()["name"] == "Ada Lovelace"
    assert answers[2].json() == {"id": "ada", "items": ["tea", "scones"]}


def test_orders_are_streamed_as_they_come(running: Demo) -> None:
    lines = [line for line in running.told.splitlines() if line.startswith("curl -N ")]
    assert lines == [f"curl -N {running.url}/orders", f"curl -N {running.url}/orders -H 'accept: text/event-stream'"]
    with httpx.Client(base_url=running.url, timeout=20) as client, client.stream("GET", "/orders") as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        made = client.post("/orders", json={"customer": "grace", "items": [7]}).json()
        assert any(json.loads(line) == made for line in answer.iter_lines() if line.strip())


@pytest.mark.needs("curl")
def test_the_slow_report_can_be_pasted_as_it_is(running: Demo) -> None:
    lines = [line for line in running.told.splitlines() if "location" in line and "curl" in line]
    shell = subprocess.run(["bash", "-ec", "\n".join(lines)], capture_output=True, text=True, check=True, timeout=60)
    assert shell.stdout.startswith("HTTP/1.1 200")
    assert '"orders":' in shell.stdout


def test_a_payment_can_be_pasted_twice_and_is_made_once(running: Demo) -> None:
    (line,) = [line for line in running.told.splitlines() if "/payments" in line]
    first, second = run_curl(line), run_curl(line)
    assert (first.status_code, first.json()) == (201, {"order": "1", "amount": 5, "payment": 1})
    assert (second.status_code, second.json()) == (201, first.json())
    assert (first.headers.get("idempotency-replayed"), second.headers["idempotency-replayed"]) == (None, "true")


def test_orders_are_kept(running: Demo) -> None:
    with httpx.Client(base_url=running.url, timeout=10) as client:
        created = client.post("/orders", json={"customer": "grace", "items": [1, 2]})
        assert created.status_code == 201
        shown = client.get(created.headers["location"])
        assert shown.json() == created.json()
        assert shown.json() == {"customer": "grace", "items": [1, 2], "id": shown.json()["id"], "status": "accepted"}


def test_a_basket_is_replaced_as_a_whole(running: Demo) -> None:
    with httpx.Client(base_url=running.url, timeout=10) as client:
        assert client.get("/baskets/new one").status_code == 404
        assert client.put("/baskets/new one", json={"items": [1]}).status_code == 201
        assert client.put("/baskets/new one", json={"items": [2]}).status_code == 200
        assert client.get("/baskets/new one").json() == {"id": "new one", "items": [2]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/orders/none", b"", 404, "there is no order 'none'"),
        ("GET", "/customers/none", b"", 404, "there is no customer 'none'"),
        ("POST", "/orders", b"{", 400, "the body must be JSON"),
        ("POST", "/orders", b"[]", 422, "the body must be a JSON object, got list"),
        ("POST", "/orders", b"{}", 422, 'an order needs "customer"'),
        ("POST", "/payments", b"{}", 400, "expected the header Idempotency-Key"),
        ("PUT", "/baskets/x", b'{"items": 1}', 422, 'a basket needs "items"'),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    running: Demo, method: str, path: str, body: bytes, status: int, says: str
) -> None:
    answer = httpx.request(method, f"{running.url}{path}", content=body, timeout=10)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    with started(tmp_path) as one:
        one.works()
        # Broker, three services, supervisor, agent, store, two workers, and soon after them the worker in waiting.
        eventually(lambda: len(descendants(one.process.pid)) == 10, START_S, "all its processes are there")
        one.interrupt()
        assert one.ends() == 0
    assert "Traceback" not in one.told
    assert one.told.endswith("fastgw demo: stopping\n")


def test_ctrl_c_while_it_starts_ends_everything(tmp_path: Path) -> None:
    with started(tmp_path) as one:
        eventually(lambda: len(descendants(one.process.pid)) >= 5, START_S, "its children are there")
        one.interrupt()
        assert one.ends() == 0
    assert "Traceback" not in one.told


@pytest.mark.parametrize(
    ("title", "says"),
    [
        ("fastgw: customers service", "the demo's customers service ended (signal 9), so the rest was stopped"),
        ("fastgw: demo supervisor", "the demo's gateway ended (signal 9), so the rest was stopped"),
        ("fastgw: broker", "the demo's broker ended (signal 9), so the rest was stopped"),
    ],
)
def test_a_part_that_dies_ends_the_rest(tmp_path: Path, title: str, says: str) -> None:
    with started(tmp_path, "--workers", "1") as one:
        one.works()
        os.kill(one.pid_of(title), signal.SIGKILL)
        assert one.ends() == 1
    assert f"fastgw: {says}\n" in one.told
    assert "Traceback" not in one.told, one.told


def test_a_demo_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    with started(tmp_path, "--workers", "1") as one:
        one.works()
        one.process.kill()
        assert one.ends() == -signal.SIGKILL


@pytest.mark.parametrize("which", ["--listen", "--admin"])
def test_an_address_in_use_is_named_before_anything_starts(which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        other = {"--listen": "--admin", "--admin": "--listen"}[which]
        command = [sys.executable, "-m", "fastgw", "demo", which, address, other, free_address()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fastgw: address {address} in use by process {os.getpid()} (")
    assert done.stderr.endswith(f"; end that process, or change {which}\n")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix:/tmp/demo.sock"])
def test_an_address_that_cannot_be_told_is_refused(address: str) -> None:
    with pytest.raises(StartError, match="expected host:port with a fixed port"):
        demo.run(listen=address)


def test_a_part_that_ends_too_early_is_named() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        part = demo.Part("orders service", process.pid)
        with pytest.raises(StartError, match=r"orders service ended before it was ready \(exit code 3\)"):
            demo._check_alive([part], starting=True)
        with pytest.raises(FastgwError, match=r"orders service ended \(exit code 3\)"):
            demo._check_alive([part], starting=False)


def test_the_gateway_can_read_its_configuration() -> None:
    text = demo.config_text("127.0.0.1:1", "127.0.0.1:8080", "127.0.0.1:9100", 3, "/tmp/store")
    settings = config.loads(text, "demo.toml")
    assert settings.gateway.workers == 3
    assert settings.gateway.response_topic == "demo.replies"
    assert settings.kafka.fetch_wait_ns == 2_000_000
    assert [route.path for route in settings.routes] == [route.path for route in demo.ROUTES]


def test_every_start_has_a_secret_of_its_own() -> None:
    texts = [demo.config_text("127.0.0.1:1", "127.0.0.1:8080", "127.0.0.1:9100", 1, "/tmp/store") for _ in range(2)]
    first, second = (config.loads(text, "demo.toml").gateway.secrets for text in texts)
    assert len({*first, *second}) == 2
