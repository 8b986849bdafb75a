"""The file of a shared library that this process has loaded."""

from __future__ import annotations

import os


def path_of(name: str) -> str:
    """The path of the library whose file name begins with `name`; "" if none is mapped.

    The librdkafka of the confluent-kafka wheel has another file name in every wheel. What the process has mapped is
    right for wheels and for other builds.
    """
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            if os.path.basename(path).startswith(name):
                return f"/{path}"
    return ""
