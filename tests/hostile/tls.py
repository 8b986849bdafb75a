"""sslyze against a TLS listener: `python -m tests.hostile.tls PROGRAM`, some seconds.

It is held against Mozilla's "intermediate" recommendation. Exit code 1 when there is a finding beyond the one that a
certificate for tests has to have.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from tests.fronts.houses import House, LoopThread
from tests.fronts.kinds import FRONTS, TLS

TIMEOUT_S = 300
TAKEN = {"certificate_path_validation"}  # nobody trusts the authority of a test
_FINDING = re.compile(r"^ {8}\* (\w+): (.*)$", re.MULTILINE)


def certificate(folder: Path) -> dict[str, str]:
    """A certificate like one from the web: it names a host, and is valid for three months."""
    now = datetime.now(UTC)
    issued = trustme.CA().issue_cert(
        "localhost", common_name="localhost", not_before=now - timedelta(days=1), not_after=now + timedelta(days=90)
    )
    files = {"tls_cert": str(folder / "chain.pem"), "tls_key": str(folder / "key.pem")}
    issued.private_key_pem.write_to_path(files["tls_key"])
    for pem in issued.cert_chain_pems:
        pem.write_to_path(files["tls_cert"], append=True)
    return files


def findings(program: str, port: str) -> dict[str, str]:
    """What sslyze has to say against the listener."""
    command = [program, "--mozilla_config=intermediate", f"localhost:{port}"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False).stdout
    assert "COMPLIANCE AGAINST TLS CONFIGURATION" in said, said
    return dict(_FINDING.findall(said.partition("COMPLIANCE")[2]))


def main() -> int:
    loop_thread = LoopThread()
    unexpected: set[str] = set()
    for kind in FRONTS:
        if TLS not in kind.abilities:
            continue
        with tempfile.TemporaryDirectory() as folder:
            house = House(loop_thread, kind, {}, (), "127.0.0.1:0", http="auto", **certificate(Path(folder)))
            found = findings(sys.argv[1], house.address.rpartition(":")[2])
            house.leave()
        unexpected |= found.keys() - TAKEN
        print(f"sslyze, {kind.name}, mozilla intermediate: {found or 'no finding'}")
    loop_thread.stop()
    return int(bool(unexpected))


if __name__ == "__main__":
    sys.exit(main())
