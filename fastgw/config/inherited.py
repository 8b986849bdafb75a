"""The configuration that the supervisor passes to its children."""

from __future__ import annotations

import os
import stat

from fastgw.config.loading import from_json
from fastgw.config.schema import Config


def read(config_fd: int) -> Config:
    """Read the configuration from an inherited descriptor.

    Raises:
        ConfigError: another version of fastgw has written it.
    """
    return from_json(_read_all(config_fd))


def _read_all(fd: int) -> bytes:
    # `pread` does not move the file's offset, which all processes that inherited the descriptor share.
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return os.pread(fd, status.st_size, 0)
    with os.fdopen(fd, "rb") as pipe:
        return pipe.read()
