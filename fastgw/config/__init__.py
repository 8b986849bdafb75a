"""The configuration: one TOML file, one list of settings (`schema`), one frozen `Config` that everything else receives.

    text ── loading ──> tree, ${VARIABLES} put in ── draft ──> sections ── checks ──> Config
                                                       │
                       schema: the settings ───────────┴── reference: JSON Schema, Markdown

A mistake anywhere on the way is told to the file's author with its line (`mistakes`, `toml_text`), and all at once.
"""

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
    Limits,
    Listen,
    Log,
    Route,
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
    "Limits",
    "Listen",
    "Log",
    "Route",
    "cores",
    "from_json",
    "json_schema",
    "load",
    "loads",
    "markdown_reference",
    "to_json",
]
