"""curl: a process for each connection, which reads its requests from a configuration and keeps its connection.

curl asks again by itself, on a fresh connection, when a kept one ends before a byte of the answer has come.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from tests.clients.python_loops import Mode, Told, ended, job, request, streams, tell, watch_input

AT_ONCE = 500  # requests of one process
# HTTP/2 by prior knowledge: curl 7.88, Debian 12's, fails with "Error in the HTTP2 framing layer" where it uses such a
# connection a second time, whoever the server is.
AT_ONCE_H2C = 1
# To the standard error, which nobody buffers.
REPORT = r'"%{stderr}%{http_code}\t%{http_version}\t%header{fastgw-outcome}\t%{exitcode}\t%{errormsg}\n"'
VERSIONS = {"1": "http1.1", "2": "http2"}


def is_h2c(mode: Mode) -> bool:
    """HTTP/2 without TLS."""
    return mode.version == "2" and mode.url.startswith("http:")


class Feeder:
    """Writes the bodies that curl streams into pipes, one after the other: `curl -T` a pipe knows no length."""

    def __init__(self, pipes: dict[Path, str]) -> None:
        self._pipes = pipes
        self._ended = False
        for pipe in pipes:
            os.mkfifo(pipe)
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def _feed(self) -> None:
        for pipe, body in self._pipes.items():
            with suppress(BrokenPipeError), pipe.open("w") as out:  # waits for curl to open it
                out.write(body)
            if self._ended:
                return

    def end(self) -> None:
        """When curl has ended: nobody opens the other pipes."""
        self._ended = True
        readers = [os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) for pipe in self._pipes]
        self._thread.join()
        for reader in readers:
            os.close(reader)


def configuration(mode: Mode, authority: str, index: int, numbers: range, folder: Path) -> str:
    """Requests as curl reads them; each has its answer written to a file of its own."""
    version = "http2-prior-knowledge" if is_h2c(mode) else VERSIONS[mode.version]
    transfers = []
    for number in numbers:
        method, body = request(mode, index, number)
        sent = f'upload-file = "{pipe_of(folder, number)}"' if streams(number) else f'data = "{body}"'
        transfers.append(
            f'url = "{mode.url}"\nrequest = {method}\n{sent}\noutput = "{folder}/{number}"\n'
            f'cacert = "{authority}"\n{version}\nmax-time = 60\nwrite-out = {REPORT}\n'
        )
    return "next\n".join(transfers)


def pipe_of(folder: Path, number: int) -> Path:
    return folder / f"{number}.body"


def loop(mode: Mode, authority: str, index: int, pause_s: float) -> None:
    at_once = AT_ONCE_H2C if is_h2c(mode) else AT_ONCE
    first = 0
    while not ended.is_set():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            numbers = range(first, first + at_once)
            feeder = Feeder({pipe_of(folder, n): request(mode, index, n)[1] for n in numbers if streams(n)})
            text = configuration(mode, authority, index, numbers, folder)
            rate = f"{round(60 / pause_s)}/m"
            process = subprocess.Popen(
                ["curl", "-q", "--silent", "--noproxy", "*", "--rate", rate, "--config", "-"],
                stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.write(text)
            process.stdin.close()
            threading.Thread(target=end_with_input, args=(process,), daemon=True).start()
            for number, line in enumerate(process.stderr, first):
                status, version, outcome, code, error = line.rstrip("\n").split("\t")
                _, body = request(mode, index, number)
                answer = folder / str(number)
                told = Told(int(status), version, answer.read_text() if answer.exists() else "", outcome)
                tell(mode, body, told if code == "0" else None, error)
            process.wait()
            feeder.end()
        first += at_once
        ended.wait(pause_s)


def end_with_input(process: subprocess.Popen[str]) -> None:
    """Whoever ends the input has nobody left to ask: what curl still wants to send would be refused."""
    ended.wait()
    process.terminate()


def main() -> None:
    work = job()
    threads = [
        threading.Thread(target=loop, args=(mode, work.authority, index, work.pause_s))
        for mode in work.modes
        for index in range(work.connections)
    ]
    for thread in threads:
        thread.start()
    watch_input()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
