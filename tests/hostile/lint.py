"""httplint on every kind of answer, on every front: `python -m tests.hostile.lint PYTHON`, some seconds.

PYTHON is an interpreter that has httplint. Exit code 1 when it calls something BAD, or warns of what is not below.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections import Counter

from tests.fronts.hostile import HOSTILE
from tests.fronts.houses import House, LoopThread
from tests.fronts.kinds import FRONTS
from tests.fronts.raw_http import RawClient

TIMEOUT_S = 300

# Note -> why it is there.
TAKEN = {
    "FRESHNESS_HEURISTIC": "whether an answer may be kept is for its service to say",
    "CHECK_ALL_HEURISTIC": "the same",
    "STATUS_BAD_REQUEST": "a 400 is a 400",
    "STATUS_URI_TOO_LONG": "a 414 is a 414",
}

# Run by PYTHON: answers in, the notes on each of them out. The standard library reads what httplint is then told.
LINT = """
import base64, json, sys
from argparse import Namespace
from httplint.cli.http_parser import HttpCliParser, modes

def lint(at, raw):
    parser = HttpCliParser(Namespace(mode=modes.RESPONSE), float(at))
    parser.input_end = lambda trailers: parser.linter.finish_content(True, trailers)
    parser.handle_input(raw)
    return [(type(note).__name__, note.level.name) for note in parser.linter.notes]

answers = (line.split() for line in sys.stdin)
print(json.dumps([lint(at, base64.b64decode(raw)) for at, raw in answers]))
"""

HOST = b"Host: shop.test\r\n"
PLAIN = (
    b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi",
    b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n",
    b"DELETE /held HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /small HTTP/1.1\r\n" + HOST + b"Content-Length: 17\r\n\r\n",
    b"GET /echo?" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /echo HTTP/1.1\r\n" + HOST + b"Expect: what\r\nContent-Length: 2\r\n\r\n",
    b"GET /echo HTTP/1.0\r\n\r\n",
    b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
)


def raw_answer(house: House, request: bytes) -> bytes:
    """The first answer to a request as it came; empty when the connection ended without one."""
    with RawClient(house.address) as client:
        client.send_while_open(request)
        client.sock.settimeout(5)
        got = b""
        while b"\r\n\r\n" not in got:
            data = _received(client)
            if not data:
                return b""
            got += data
        head, _, body = got.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", b"0"))
        while len(body) < length and (data := _received(client)):
            body += data
        return head + b"\r\n\r\n" + body[:length]


def _received(client: RawClient) -> bytes:
    try:
        return client.sock.recv(65536)
    except OSError:
        return b""


def notes(python: str, answers: list[tuple[float, bytes]]) -> list[list[tuple[str, str]]]:
    """What httplint notes on each answer, which comes with the time at which it came: name and level."""
    lines = "\n".join(f"{at_s} {base64.b64encode(answer).decode()}" for at_s, answer in answers)
    done = subprocess.run(
        [python, "-c", LINT], input=lines, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    return json.loads(done.stdout)


def main() -> int:
    loop_thread = LoopThread()
    unexpected = 0
    for kind in FRONTS:
        house = House(loop_thread, kind, {}, (), "127.0.0.1:0")
        requests = [*PLAIN, *(one.raw for one in HOSTILE)]
        answers = [(time.time(), answer) for request in requests if (answer := raw_answer(house, request))]
        house.leave()
        assert len(answers) > len(requests) / 2, "most of the requests have an answer"
        levels: Counter[str] = Counter()
        objections: Counter[str] = Counter()
        for (_, answer), found in zip(answers, notes(sys.argv[1], answers), strict=True):
            levels.update(level for _, level in found)
            bad = {name for name, level in found if level == "BAD" or level == "WARN"} - TAKEN.keys()
            objections.update(f"{name}, for example {answer[:300]!r}" for name in bad if name not in str(objections))
        print(f"httplint, {kind.name}: {len(answers)} answers, notes by level: {dict(levels)}")
        for objection in objections:
            unexpected += 1
            print(f"  {objection}")
    loop_thread.stop()
    return int(bool(unexpected))


if __name__ == "__main__":
    sys.exit(main())
