"""Lines of progress on stderr; stdout is for results."""

from __future__ import annotations

import sys
import time

_STARTED_S = time.monotonic()


def say(line: str) -> None:
    """Tell what is being done, and how many seconds after the start."""
    print(f"bench {time.monotonic() - _STARTED_S:4.0f} s: {line}", file=sys.stderr, flush=True)
