"""The programs, what each of them can speak, and how to start them all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.places import REPOSITORY

HERE = Path(__file__).resolve().parent
NPM_RELEASES = ("undici@7.30.2", "axios@1.21.1")
FETCH_S = 180
BUILD_S = 300
END_S = 75  # beyond the time-out of a request in any of the programs

EXPRESS, GRANIAN, TLS = "express", "granian", "tls"  # the listeners of the gateway in trip.py


class Stream(NamedTuple):
    """Requests of one program over one HTTP version to one listener."""

    door: str
    version: str  # that the program is told to speak
    spoken: str  # that the answers are then in


class Program(NamedTuple):
    """One library."""

    name: str
    streams: tuple[Stream, ...]

    def names(self) -> dict[str, Stream]:
        """What its streams are called."""
        return {f"{self.name}-{stream.version}-{stream.door}": stream for stream in self.streams}


FIRST = tuple(Stream(door, "1", "1.1") for door in (EXPRESS, GRANIAN, TLS))
SECOND = tuple(Stream(door, "2", "2") for door in (GRANIAN, TLS))
# Asked for HTTP/2 the JDK offers an upgrade where there is no TLS, which both fronts pass by.
UPGRADES = tuple(Stream(door, "2", "1.1") for door in (EXPRESS, GRANIAN))

PROGRAMS = (
    Program("curl", FIRST + SECOND),
    Program("requests", FIRST),
    Program("httpx", FIRST + SECOND),
    Program("aiohttp", FIRST),
    Program("undici", FIRST + SECOND),
    Program("axios", FIRST + SECOND),
    Program("go", FIRST + SECOND),
    Program("jdk", (*FIRST, *UPGRADES, Stream(TLS, "2", "2"))),
)


class NoPackages(Exception):
    """npm could not get them; the message says why."""


class Line(NamedTuple):
    """What one client was told about one request; see the package."""

    client: str
    body: str
    status: int
    version: str
    answer: str
    outcome: str
    error: str
    heard_s: float = 0.0  # when the line came, monotonic


class Fleet:
    """The programs at work.

    Attributes:
        lines: what they wrote so far, in the order in which it came.
        streams: all that are at work, by name.
    """

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.streams: dict[str, Stream] = {}
        self._readers: list[threading.Thread] = []
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def answered(self, since: int = 0) -> dict[str, int]:
        """How many answers of its service each stream got, lines from number `since` on."""
        counts = dict.fromkeys(self.streams, 0)
        for line in self.lines[since:]:
            if line.status == 200:
                counts[line.client] += 1
        return counts

    def start(
        self, program: Program, command: Sequence[str], arguments: Sequence[str], environ: Mapping[str, str]
    ) -> None:
        """Starts one program."""
        process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
            env={**os.environ, **environ}, start_new_session=True,
        )  # fmt: skip
        self.streams.update(program.names())
        self._processes[program.name] = process
        reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for text in process.stdout:
            self.lines.append(Line(**json.loads(text), heard_s=time.monotonic()))

    def ended_early(self) -> list[str]:
        """Programs that are no longer there, though nobody ended them."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def end(self) -> None:
        """Lets them finish what is under way; all their lines are there on return."""
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()
        codes = {name: process.wait(END_S) for name, process in self._processes.items()}
        for reader in self._readers:
            reader.join(END_S)
        assert not any(codes.values()), f"programs ended with {codes}"

    def kill(self) -> None:
        """For a play that failed."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


@contextmanager
def fleet(
    ports: Mapping[str, int], path: str, authority: Path, folder: Path, connections: int, pause_ms: int
) -> Iterator[Fleet]:
    """All programs, at work on the doors at `ports`; ended on the way out, killed after a failure."""
    commands = all_commands(folder)
    environ = {"CLIENTS_NODE_MODULES": str(node_modules()), "PYTHONPATH": str(REPOSITORY), "NO_PROXY": "*"}
    ships = Fleet()
    with ExitStack() as stack:
        stack.callback(ships.kill)
        for program in PROGRAMS:
            modes = [f"{name}={stream.version}={_url(stream, ports, path)}" for name, stream in program.names().items()]
            arguments = [str(authority), str(connections), str(pause_ms), *modes]
            ships.start(program, commands[program.name], arguments, environ)
        yield ships


def _url(stream: Stream, ports: Mapping[str, int], path: str) -> str:
    scheme = "https" if stream.door == TLS else "http"
    return f"{scheme}://127.0.0.1:{ports[stream.door]}{path}"


def all_commands(folder: Path) -> dict[str, list[str]]:
    """How to run each of the programs; builds what has to be built, into `folder`."""
    subprocess.run(
        ["go", "build", "-buildvcs=false", "-o", str(folder / "golang"), "."],
        cwd=HERE / "golang",
        check=True,
        timeout=BUILD_S,
    )
    subprocess.run(["javac", "-d", str(folder), str(HERE / "WithJdk.java")], check=True, timeout=BUILD_S)
    python = {
        name: [sys.executable, "-m", f"tests.clients.with_{name}"] for name in ("curl", "requests", "httpx", "aiohttp")
    }
    node = {name: ["node", str(HERE / f"with_{name}.mjs")] for name in ("undici", "axios")}
    java = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", str(folder), "WithJdk"]
    return {**python, **node, "go": [str(folder / "golang")], "jdk": java}


def node_modules() -> Path:
    """The folder with the npm packages, which is filled first if need be. Safe to call from several processes.

    Raises:
        NoPackages: npm could not get them.
    """
    base = Path(os.environ.get("FASTGW_CLIENTS_CACHE") or REPOSITORY / ".clients")
    place = base / "-".join(NPM_RELEASES).replace("@", "-")
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            _install(place)
            (place / "complete").touch()
    return place / "node_modules"


def _install(place: Path) -> None:
    options = ["--prefix", str(place), "--no-audit", "--no-fund", "--ignore-scripts", "--no-save", "--silent"]
    try:
        done = subprocess.run(
            ["npm", "install", *options, *NPM_RELEASES], capture_output=True, text=True, timeout=FETCH_S, check=False
        )
    except FileNotFoundError:
        raise NoPackages("there is no npm") from None
    except subprocess.TimeoutExpired:
        raise NoPackages(f"npm install did not end within {FETCH_S} s") from None
    if done.returncode != 0:
        raise NoPackages((done.stderr.strip().splitlines() or ["npm install failed"])[-1])


def has_node() -> bool:
    """Whether there is a Node that undici and axios run on, and npm to get them."""
    return _is_as_new("node", ["--version"], (20, 18)) and shutil.which("npm") is not None


def has_go() -> bool:
    """Whether there is a Go that speaks HTTP/2 without TLS."""
    return _is_as_new("go", ["env", "GOVERSION"], (1, 24))


def has_jdk() -> bool:
    """Whether there is a JDK, compiler included."""
    return _is_as_new("javac", ["-version"], (17,))


def has_curl() -> bool:
    """Whether there is a curl that can pace its requests."""
    return _is_as_new("curl", ["--version"], (7, 84))


def _is_as_new(program: str, arguments: Sequence[str], wanted: tuple[int, ...]) -> bool:
    if shutil.which(program) is None:
        return False
    said = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False).stdout
    words = said.replace("v", " ").replace("go", " ").split()
    found = next((word for word in words if word[0].isdigit()), "0")
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    return numbers >= wanted
