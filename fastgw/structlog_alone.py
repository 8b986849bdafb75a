"""Imports structlog without the libraries that it would take along. A process does this before anything that logs.

structlog imports rich if it is installed, for coloured tracebacks that nothing of fastgw prints. That takes a third of
the import time of a process, and a worker that has died must be replaced quickly.
"""

from __future__ import annotations

import sys


def import_structlog() -> None:
    """Import structlog while rich cannot be imported; afterwards rich can be imported as before."""
    before = sys.modules.get("rich")
    sys.modules["rich"] = None  # type: ignore[assignment]  # makes the import fail
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
        if before is not None:
            sys.modules["rich"] = before
