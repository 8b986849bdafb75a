"""Does what a page says, from top to bottom, in a directory of its own.

What differs from a reader's machine: 127.0.0.1:9092 is the Kafka of the tests, unless the page starts a broker there;
every other port of the loopback address is one that is free; the admin port of a configuration that names none as well;
`make` only says whether it knows the target; `fastgw` and `python` are those of this environment.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from tests.docs import checks
from tests.docs.pages import REPOSITORY, Block, relative
from tests.ports import free_port

BLOCK_S = 150.0  # a Go that has compiled nothing yet builds its standard library first
UNTIL_S = 60.0
REPEAT_S = 30.0
END_S = 25.0  # a gateway drains for 10 s
LOOK_AGAIN_S = 0.05
SHOWN = 4000  # characters of an output in a failure

KAFKA = "127.0.0.1:9092"
ADMIN = "127.0.0.1:9100"
ADDRESS = re.compile(r"(?<![\w.])(127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1?\]):(\d{2,5})(?!\d)")
STARTS_A_BROKER = re.compile(r"fastgw broker[^\n]*--listen[ =]" + re.escape(KAFKA))

SHELL = ("sh", "bash")

# By language of a block, and by word of a command: what has to be on the machine.
NEEDS = {"java": "jdk", "go": "go", "js": "node", "javascript": "node", "typescript": "node",
         "haproxy": "haproxy", "nginx": "nginx", "ini": "systemd-analyze"}  # fmt: skip
COMMAND_NEEDS = {"curl": "curl", "go": "go", "node": "node", "npm": "node", "java": "jdk", "javac": "jdk", "jq": "jq"}

# A terminal shows no progress of a download, and no target of this Makefile is to be made here.
SHIMS = {
    "curl": 'exec {curl} -sS "$@"\n',
    "make": 'exec {make} --directory={repository} --dry-run "$@" > /dev/null\n',
}


def needs(page_blocks: list[Block]) -> list[str]:
    """What has to be on the machine to do what a page says; names as in tests/surroundings.py."""
    found = {NEEDS[block.language] for block in page_blocks if block.language in NEEDS and not block.not_run}
    for block in page_blocks:
        if block.language in SHELL and not block.not_run:
            words = set(re.findall(r"(?:^|[|;&(]|\$\()\s*(\w+)", block.text, re.MULTILINE))
            found |= {COMMAND_NEEDS[word] for word in words if word in COMMAND_NEEDS}
    return sorted(found)


def runs(page_blocks: list[Block]) -> bool:
    """Whether a page has commands; otherwise it needs no Kafka."""
    return any(block.language in SHELL and not block.not_run for block in page_blocks)


class Running(NamedTuple):
    """A command with its output; what it started in the background is in its group as well."""

    block: Block
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")


class Play:
    """One page in one directory; a context manager that ends all that the page has started."""

    def __init__(self, page: Path, page_blocks: list[Block], folder: Path, kafka: str) -> None:
        self._page = page
        self._blocks = page_blocks
        self._folder = folder / "page"
        self._aside = folder / "aside"
        starts_a_broker = any(STARTS_A_BROKER.search(block.text) for block in page_blocks)
        self._addresses = {} if starts_a_broker or not kafka else {9092: kafka}
        self._texts: dict[str, str] = {}  # files of the page as it shows them
        self._running: list[Running] = []

    def __enter__(self) -> Play:
        self._folder.mkdir()
        bin_folder = self._aside / "bin"
        bin_folder.mkdir(parents=True)
        for name, text in SHIMS.items():
            if tool := shutil.which(name):
                filled = text.format(**{name: shlex.quote(tool)}, repository=shlex.quote(str(REPOSITORY)))
                (bin_folder / name).write_text(f"#!/bin/sh\n{filled}")
                (bin_folder / name).chmod(0o755)
        # A reader's checkout has these; a page may say .venv/bin/fastgw.
        environment = Path(sys.executable).parent.parent
        (self._folder / ".venv").symlink_to(environment)
        self._environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "FASTGW", "MAKE"))
        }
        self._environ |= {
            "PATH": os.pathsep.join([str(bin_folder), str(environment / "bin"), os.environ.get("PATH", os.defpath)]),
            "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "TERM": "dumb", "NO_UPDATE_NOTIFIER": "1",
        }  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        held_out = self._end_all()
        if kind is None and held_out:
            self._fail(held_out[0].block, f"did not end within {END_S:g} s of SIGTERM", held_out[0].said)

    def run(self) -> None:
        """Does all that the page says."""
        for index, block in enumerate(self._blocks):
            if block.not_run:
                continue
            for text in block.stops:
                self._stop(block, text)
            for command in block.before:
                self._finish(block._replace(text=command, expected=None, exit_code=0, repeat=False))
            if block.title:
                self._write(block)
                self._is_used(block, self._blocks[index + 1 :])
            elif block.language not in SHELL:
                self._check(block)
            elif block.until:
                self._start_in_background(block)
            elif block.repeat:
                self._repeat(block)
            else:
                self._finish(block)

    # ---- files and fragments ---------------------------------------------------------------------------------------

    def _write(self, block: Block) -> None:
        name = block.title.lstrip("/")
        before = self._texts.get(name, "") if block.append else ""
        if block.append and not before:
            self._fail(block, "there is no such file to append to")
        text = self._texts[name] = before + ("\n" if before else "") + block.text
        if block.language == "toml" and "[gateway]" in text and "[admin]" not in text:
            text += f'\n[admin]\nlisten = "{ADMIN}"\n'
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._here(text))
        if block.language in checks.CHECKERS and block.language not in ("toml", "", "text", "dockerfile", "python"):
            self._check(block)

    def _is_used(self, block: Block, later: list[Block]) -> None:
        name = Path(block.title).name
        stem = name.partition(".")[0]
        if block.language in ("ini", "haproxy", "nginx", "dockerfile"):
            return  # checked
        if not any(re.search(rf"\b{re.escape(stem)}\b", other.text) or other.title == block.title for other in later):
            self._fail(block, "nothing below uses this file")

    def _check(self, block: Block) -> None:
        folder = self._aside / f"line-{block.line}"
        folder.mkdir()
        wrong = ""
        try:
            checks.check(block, folder)
        except checks.CheckFailed as failure:
            wrong = str(failure)
        if wrong:
            self._fail(block, wrong)

    # ---- commands --------------------------------------------------------------------------------------------------

    def _launch(self, block: Block) -> Running:
        output = self._aside / f"output-{len(self._running)}"
        with output.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-e", "-c", self._here(block.text)], cwd=self._folder, env=self._environ,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        running = Running(block, process, output)
        self._running.append(running)
        return running

    def _finish(self, block: Block) -> None:
        if wrong := self._try(block):
            self._fail(block, *wrong)

    def _repeat(self, block: Block) -> None:
        deadline = time.monotonic() + REPEAT_S
        while wrong := self._try(block):
            if time.monotonic() > deadline:
                self._fail(block, *wrong)
            time.sleep(0.3)

    def _try(self, block: Block) -> tuple[str, str] | None:
        """Run a command to its end; what is wrong, and what it said."""
        running = self._launch(block)
        try:
            code = running.process.wait(BLOCK_S)
        except subprocess.TimeoutExpired:
            return f"did not end within {BLOCK_S:g} s", running.said
        if code != block.exit_code:
            return f"exit code {code}, expected {block.exit_code}", running.said
        if block.expected is not None and not matches(self._here(block.expected), running.said):
            return f"does not print what the page says:\n{self._here(block.expected).rstrip()}\n---- but", running.said
        return None

    def _start_in_background(self, block: Block) -> None:
        running = self._launch(block)
        until = self._here(block.until)
        deadline = time.monotonic() + UNTIL_S
        while until not in running.said:
            if running.process.poll() is not None:
                self._fail(block, f"ended with exit code {running.process.returncode}, without {until!r}", running.said)
            if time.monotonic() > deadline:
                self._fail(block, f"did not print {until!r} within {UNTIL_S:g} s", running.said)
            time.sleep(LOOK_AGAIN_S)
        if block.expected is not None and not matches(self._here(block.expected).rstrip() + "\n...\n", running.said):
            self._fail(block, f"does not print what the page says:\n{self._here(block.expected)}---- but", running.said)

    def _stop(self, block: Block, text: str) -> None:
        """Ctrl-C in the terminal of a command in the background."""
        found = [
            one for one in self._running if one.block.until and text in one.block.text and one.process.poll() is None
        ]
        if not found:
            self._fail(block, f"nothing with {text!r} in it runs in the background")
        for one in found:
            self._signal(one, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(END_S)
            if one.process.poll() is None:
                self._fail(one.block, f"did not end within {END_S:g} s of Ctrl-C", one.said)

    def _end_all(self) -> list[Running]:
        """Ends all; those that would not."""
        left = [running for running in self._running if self._signal(running, signal.SIGTERM)]
        deadline = time.monotonic() + END_S
        while left and time.monotonic() < deadline:
            for running in left:
                running.process.poll()
            left = [running for running in left if self._signal(running, 0)]
            time.sleep(LOOK_AGAIN_S)
        for running in left:
            self._signal(running, signal.SIGKILL)
        for running in self._running:
            running.process.wait()
        return left

    @staticmethod
    def _signal(running: Running, number: int) -> bool:
        """Signals a command and what it has started; False when nothing of it is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.process.pid, number)
            return True
        return False

    # ---- words -----------------------------------------------------------------------------------------------------

    def _here(self, text: str) -> str:
        """A text of the page with the addresses of this machine."""
        return ADDRESS.sub(self._address, text)

    def _address(self, found: re.Match[str]) -> str:
        port = int(found[2])
        if port not in self._addresses:
            self._addresses[port] = f"127.0.0.1:{free_port()}"
        if port == 9092:
            return self._addresses[port]
        return f"{found[1]}:{self._addresses[port].rpartition(':')[2]}"

    def _fail(self, block: Block, what: str, said: str = "") -> NoReturn:
        told = f"{block}: {what}"
        if said:
            told += f":\n{said[-SHOWN:]}"
        background = [one for one in self._running if one.block.until and one.block is not block]
        for one in background:
            told += f"\n---- {relative(self._page)}:{one.block.line} goes on in the background and said at last:\n"
            told += one.said[-SHOWN // 2 :]
        pytest.fail(told, pytrace=False)


def matches(expected: str, said: str) -> bool:
    """Whether an output is the expected one: a line `...` stands for any lines, `...` within a line for any text."""
    pattern = ""
    if not expected.strip():
        return not said.strip()
    for line in expected.strip("\n").splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(piece) for piece in line.rstrip().split("...")) + r"[ \t]*\n"
    lines = [line.rstrip() for line in said.replace("\r\n", "\n").split("\n")]
    return re.fullmatch(pattern, "\n".join(lines).strip("\n") + "\n") is not None
