"""h2spec against every front that speaks HTTP/2: `python -m tests.hostile.h2spec PROGRAM`, some seconds.

Exit code 1 when a case fails that is not one of those below.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from tests.fronts.houses import House, LoopThread
from tests.fronts.kinds import FRONTS, HTTP2

TIMEOUT_S = 300
CASE_TIMEOUT_S = 2

# The server ends the connection with a reset, because bytes of the client are unread; h2spec wants to see an end.
TAKEN = {"http2/3.5: Sends invalid connection preface"}


def failures(program: str, port: str, report: Path) -> tuple[int, set[str]]:
    """How many cases there were, and which of them failed."""
    command = [program, "-h", "127.0.0.1", "-p", port, "-P", "/raw", "-o", str(CASE_TIMEOUT_S), "-S", "-j", str(report)]
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False)
    count, failed = 0, set()
    for suite in ElementTree.parse(report).iter("testsuite"):
        for case in suite.iter("testcase"):
            count += 1
            if case.find("failure") is not None or case.find("error") is not None:
                failed.add(f"{case.get('package')}: {case.get('classname')}")
    return count, failed


def main() -> int:
    loop_thread = LoopThread()
    unexpected: set[str] = set()
    for kind in FRONTS:
        if HTTP2 not in kind.abilities:
            continue
        house = House(loop_thread, kind, {}, (), "127.0.0.1:0", http="2")
        house.door.raw_answer = (200, [("content-type", "text/plain")], b"h2spec wants an answer with a body")
        with tempfile.TemporaryDirectory() as folder:
            count, failed = failures(sys.argv[1], house.address.rpartition(":")[2], Path(folder) / "report.xml")
        house.leave()
        unexpected |= failed - TAKEN
        print(f"h2spec, {kind.name}: {count} cases, {count - len(failed)} passed; failed: {sorted(failed) or 'none'}")
        assert count > 100, "h2spec did not run"
    loop_thread.stop()
    return int(bool(unexpected))


if __name__ == "__main__":
    sys.exit(main())
