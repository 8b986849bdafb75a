"""A real gateway for tests: `fastgw run` with its real processes, on ports of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.ports import free_port
from tests.waiting import eventually

READY_S = 30.0


def title_of(pid: int) -> str:
    """The title of a process; empty when it has ended, or is a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


class Gateway:
    """One node; a context manager that drains it at the end and fails if that is not clean."""

    def __init__(
        self,
        folder: Path,
        bootstrap: str,
        replies: str,
        topics: Sequence[str],
        workers: int = 2,
        timeout: str = "20s",
        more: str = "",
        settings: str = "",
        kafka: str = "",
        drain_timeout: str = "10s",
        front: str = "auto",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Each topic is the route POST /<topic>; `more` is TOML after the routes, `settings` and `kafka` are further
        lines of [gateway] and [kafka], `environ` are further variables of its processes."""
        self.port, self.admin_port = free_port(), free_port()
        self.config = folder / f"gateway-{self.port}.toml"
        self._log = folder / f"gateway-{self.port}.log"
        routes = "".join(
            f'[[route]]\nmethod = "POST"\npath = "/{topic}"\ntopic = "{topic}"\ntimeout = "{timeout}"\n'
            for topic in topics
        )
        listen = "" if "[[listen]]" in more else f'listen = [{{ bind = "127.0.0.1:{self.port}", front = "{front}" }}]\n'
        self.config.write_text(
            f'[gateway]\nname = "test"\nresponse_topic = "{replies}"\n{listen}'
            f'workers = {workers}\ndrain_timeout = "{drain_timeout}"\n{settings}\n'
            f'[admin]\nlisten = "127.0.0.1:{self.admin_port}"\n'
            f'[kafka]\nbootstrap = "{bootstrap}"\n{kafka}\n{routes}{more}'
        )
        self.process: subprocess.Popen[bytes] | None = None
        self._environ = {**os.environ, **(environ or {})}
        self.exit_code = 0  # what its end is expected to say
        self._told_to_end = False

    @property
    def log_text(self) -> str:
        return self._log.read_text()

    def logged(self, event: str, child: str) -> dict[str, Any]:
        """The last log line of this event about this child."""
        lines = (json.loads(line) for line in self.log_text.splitlines())
        return [line for line in lines if line["event"] == event and line.get("child") == child][-1]

    def __enter__(self) -> Gateway:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop(failed=failure[0] is not None)

    def start(self) -> None:
        """Starts it; it is ready on return. What it logs goes behind what it logged before."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Starts it, and waits for nothing."""
        self._told_to_end = False
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fastgw", "run", str(self.config)],
                stderr=log,
                start_new_session=True,
                env=self._environ,
            )

    def await_ready(self) -> None:
        """Returns when it is ready; fails when it ended instead."""
        eventually(lambda: self.ended or self.ready, READY_S, "the gateway is ready")
        assert not self.ended, self.log_text

    def stop(self, failed: bool = False) -> None:
        """Drains it and sees that it ends in order; after a failure it need not, and its log is printed."""
        if not self.ended and not self._told_to_end:  # told twice, it could die of it in its very last moment
            self.signal(signal.SIGTERM)
        assert self.process is not None
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        if not failed:
            assert code == self.exit_code, self.log_text
        else:
            print(self.log_text[-4000:])

    def signal_all(self, number: int) -> None:
        """The same signal to the supervisor and to all its children."""
        assert self.process is not None
        for pid in (self.process.pid, *self.children()):
            os.kill(pid, number)

    def titles(self) -> list[str]:
        """The process titles of the supervisor's children, such as "fastgw: shop worker 0"."""
        return list(self.children().values())

    @property
    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def signal(self, number: int) -> None:
        assert self.process is not None
        self._told_to_end = self._told_to_end or number == signal.SIGTERM
        self.process.send_signal(number)

    def admin(self, path: str) -> tuple[int, bytes]:
        """An answer of the admin port; status 0 when nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    @property
    def ready(self) -> bool:
        return self.admin("/readyz")[0] == 200

    def page(self, path: str) -> bytes:
        """A page of the admin port that has to be there.

        Raises:
            ConnectionError: it is not: the gateway starts or ends, or its agent is being replaced. `eventually` looks
                again then.
        """
        code, text = self.admin(path)
        if code != 200:
            raise ConnectionError(f"{path} at port {self.admin_port}: expected 200, got {code or 'no answer'}")
        return text

    def status(self) -> dict[str, Any]:
        return json.loads(self.page("/status"))

    def children(self) -> dict[int, str]:
        """Living child processes, by pid: their titles."""
        assert self.process is not None
        try:
            pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            return {}
        return {int(pid): title for pid in pids if (title := title_of(int(pid)))}

    def worker_pid(self, slot: int) -> int:
        return next(worker["pid"] for worker in self.status()["workers"] if worker["slot"] == slot)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        text = self.page("/metrics").decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def replies(self, fate: str) -> float:
        return self.metric("fastgw_replies_total", fate=fate)
