"""What a line of the access log costs the loop: what is kept of the head, the line, and its part of the hand-over."""

from __future__ import annotations

from fastgw import errors
from fastgw.config import Log
from fastgw.http._http1 import scan
from fastgw.http.cors import Policies
from fastgw.worker.access_log import AccessLog
from fastgw.worker.notes import Notes
from tests.micro.test_bench_heads import MANY

ID = b"00000000-0000-8000-8000-000000000001"
ROUNDS = 1000


def test_a_line_of_the_access_log(benchmark, tmp_path):
    access = AccessLog(Log(access="all", access_file=str(tmp_path / "access.log")), 0, lambda _: None)
    notes = Notes(Policies(None, ()), access, {0: "POST /orders"})
    lines = "".join(f"{name}: {value}\r\n" for name, value in MANY.items())
    head = scan(f"POST /orders/4711 HTTP/1.1\r\n{lines}\r\n".encode(), 0)

    def write():
        for _ in range(ROUNDS):
            kept = notes.take(head, 0, 256)
            notes.ended(kept, errors.ANSWERED, 200, ID, 256, (1, 2_000_001, 5_000_001, 0))
        access.flush()

    benchmark(write)  # of ROUNDS lines: milliseconds here are microseconds a line
    assert access._gathered_bytes == 0 or not access._writer.is_idle
