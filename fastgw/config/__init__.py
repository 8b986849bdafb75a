"""The configuration: a TOML file, the list of settings (`schema`), and the frozen `Config` that all other code uses.

    text ── loading ──> tree, ${VARIABLES} put in ── draft ──> sections ── checks ──> Config
                                                       │
                       schema: the settings ───────────┴── reference: JSON Schema, Markdown

All mistakes of a file are reported together, each with its line (`mistakes`, `toml_text`).
"""

from fastgw.config.checks import warnings_about
from fastgw.config.cpus import cores
from fastgw.config.loading import from_json, load, loads, to_json
from fastgw.config.reference import json_schema, markdown_reference
from fastgw.config.schema import (
    ACCEPT_BACKLOG,
    METHODS,
    ROUTES_MAX,
    SLOTS_MAX,
    WORKERS_MAX,
    Admin,
    Cluster,
    Compression,
    Config,
    Cors,
    Gateway,
    Kafka,
    Later,
    Limits,
    Listen,
    Log,
    Route,
    Store,
    Streams,
)

__all__ = [
    "ACCEPT_BACKLOG",
    "METHODS",
    "ROUTES_MAX",
    "SLOTS_MAX",
    "WORKERS_MAX",
    "Admin",
    "Cluster",
    "Compression",
    "Config",
    "Cors",
    "Gateway",
    "Kafka",
    "Later",
    "Limits",
    "Listen",
    "Log",
    "Route",
    "Store",
    "Streams",
    "cores",
    "from_json",
    "json_schema",
    "load",
    "loads",
    "markdown_reference",
    "to_json",
    "warnings_about",
]
