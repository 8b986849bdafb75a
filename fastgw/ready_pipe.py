"""The one line that a child reports to the supervisor: `ready`, or `error` and why it cannot start."""

from __future__ import annotations

import os

TOLD_MAX = 3000  # characters of an error text: the supervisor reads 4,096 bytes


def tell(ready_fd: int, line: str) -> None:
    """Write the line that the supervisor waits for. A negative descriptor: no one waits."""
    if ready_fd < 0:
        return
    if len(line) > TOLD_MAX:
        line = f"{line[:TOLD_MAX]} ... and more; `fastgw check --live` shows everything\n"
    with os.fdopen(ready_fd, "w") as pipe:
        pipe.write(line)
