"""Directories whose defaults depend on the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fastgw.config.schema import Gateway, Store


def store_dir(store: Store, gateway: Gateway, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where the store keeps its files: `store.dir`, or a directory in $STATE_DIRECTORY, which systemd sets.

    Returns:
        None: neither is set.
    """
    if store.dir:
        return Path(store.dir)
    state = environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd separates several directories with colons
    return Path(state, gateway.name) if state else None
