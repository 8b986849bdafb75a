"""Programs and tests in a process of their own, for what the process of the tests would disturb.

In that one, clients of other tests close their sockets whenever they like: a count of descriptors would count theirs.
A test that counts descriptors or threads of its own process has the mark `alone`; `tests/conftest.py` asks `run_test`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from subprocess import PIPE, STDOUT

import pytest

from tests.brokers.choice import BOOTSTRAP_VARIABLE

ALONE_VARIABLE = "FASTGW_TEST_ALONE"  # set where nothing but one test runs

LISTING = """
import os
before = set(os.listdir("/proc/self/fd"))
{act}
print("left open:", *sorted(set(os.listdir("/proc/self/fd")) - before))
"""


def left_open(imports: str, act: str) -> str:
    """Run `imports`, then `act`, which may print.

    Returns:
        What was printed, stdout and stderr; the last line names the descriptors that `act` opened and did not close.
    """
    program = imports + LISTING.format(act=act)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=PIPE, stderr=STDOUT, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_test(item: pytest.Function, bootstrap: str) -> None:
    """Run a test in a process of its own.

    Args:
        bootstrap: the real Kafka of this run; empty: there is none.
    """
    environ = {**os.environ, ALONE_VARIABLE: "1"} | ({BOOTSTRAP_VARIABLE: bootstrap} if bootstrap else {})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", item.nodeid]
    done = subprocess.run(
        command, cwd=item.config.rootpath, env=environ, stdout=PIPE, stderr=STDOUT, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout
