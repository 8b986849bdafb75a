"""Programs in a process of their own, for what the process of the tests would disturb.

In that one, clients of other tests close their sockets whenever they like: a count of descriptors would count theirs.
"""

from __future__ import annotations

import subprocess
import sys
from subprocess import PIPE, STDOUT

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
