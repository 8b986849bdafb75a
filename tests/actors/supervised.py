"""A supervisor with fake children, as a process of its own: started, signalled and watched from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.places import REPOSITORY
from tests.waiting import eventually

CONFIG = """
[gateway]
name = "shop"
listen = {listen}
workers = {workers}
drain_timeout = "{drain}"
{settings}
[kafka]
bootstrap = "127.0.0.1:9"
[admin]
listen = "{admin}"
[[route]]
path = "/orders"
method = "POST"
topic = "{topic}"
{more}
"""


class Service:
    """One supervisor with its fake children, seen from outside: log, events, signals, messages to systemd."""

    def __init__(self, place: Path, environ: dict[str, str]) -> None:
        self.place = place
        self.run_base = place / "run"
        self._log = place / "log"
        self.config = place / "gateway.toml"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(place / "notify"))
        self.notify.setblocking(False)
        self.environ = {
            **os.environ,
            "FASTGW_LOG": "json",
            "FAKE_DIR": str(place),
            "NOTIFY_SOCKET": str(place / "notify"),
            "XDG_RUNTIME_DIR": str(self.run_base),
            "PYTHONPATH": str(REPOSITORY),
            **environ,
        }
        self.told: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, topic: str = "orders", **changes: Any) -> None:
        values = {"listen": '["127.0.0.1:0"]', "workers": 2, "drain": "1s", "admin": "", "settings": "", "more": ""}
        values |= {"topic": topic, **changes}
        self.config.write_text(CONFIG.format(**values))

    def plan(self, child: str, what: str) -> None:
        (self.place / child).write_text(what)

    def behave(self, child: str) -> None:
        (self.place / child).unlink()

    def launch(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.actors.fake_children", "supervisor", str(self.config)],
                env=self.environ,
                stderr=log,
                stdout=log,
            )

    def start(self) -> Service:
        self.launch()
        eventually(lambda: self.logged("ready") or self.ended(), 20, "the service is ready")
        assert not self.ended(), self.log_text()
        return self

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def exit_code(self) -> int:
        assert self.process is not None
        return self.process.wait(20)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def log_text(self) -> str:
        return self._log.read_text()

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Log entries with this event and these fields."""
        lines = [line for line in self.log_text().splitlines(keepends=True) if line.endswith("}\n")]
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == event and fields.items() <= entry.items()]

    def events(self, start: str = "") -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return [line for line in (self.place / "events").read_text().splitlines() if line.startswith(start)]
        return []

    def pid(self, child: str) -> int:
        return int(self.events(f"{child} started")[-1].split()[-1])

    def standbys(self) -> list[int]:
        """Pids of the processes that have waited to become a worker, in order."""
        return [int(line.split()[-1]) for line in self.events("standby waits")]

    def tellings(self) -> list[str]:
        """All messages to systemd so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.told.append(self.notify.recv(4096).decode())
        return self.told

    def last_telling(self) -> str:
        """The last message to systemd; empty while there is none."""
        return (self.tellings() or [""])[-1]

    def ask(self) -> str:
        """Connect to the first address; the name of the worker that answered."""
        address = self.logged("ready")[-1]["addresses"][0]
        if address.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(address.removeprefix("unix:"))
                return client.recv(100).decode()
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"x")  # DEFER_ACCEPT: a client has to say something first
            return client.recv(100).decode()

    def living(self) -> list[int]:
        """Pids of children that were started and still exist."""
        pids = {int(line.split()[-1]) for line in self.events() if " started " in line or " waits " in line}
        return [pid for pid in pids if Path(f"/proc/{pid}").exists() and self._state(pid) != "Z"]

    @staticmethod
    def _state(pid: int) -> str:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return "Z"

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.notify.close()
        with contextlib.suppress(AssertionError):
            eventually(lambda: not self.living(), 5)
        for pid in self.living():
            os.kill(pid, signal.SIGKILL)


Start = Callable[..., Service]
