"""The checker: a short-lived process that looks for a reload whether Kafka is as a new configuration needs it.

A start is refused when a topic is missing or not fit, and so is a reload. The supervisor has no Kafka client and must
not wait for anybody, so it has a child of its own ask. Where Kafka does not answer the reload is refused as well: what
cannot be checked could not serve either, as a worker becomes ready by a record that it sees coming back.
"""

from __future__ import annotations

import signal

import structlog
from setproctitle import setproctitle

from fastgw import logs
from fastgw.agent.agent import read_config, tell
from fastgw.errors import FastgwError
from fastgw.kafka import topic_checks

log = structlog.get_logger("fastgw.checker")


def main(
    *,
    config_fd: int,
    ready_fd: int,
    life_fd: int,  # noqa: ARG001  (children are started alike; this one ends soon by itself)
    table_fd: int,  # noqa: ARG001
    run_dir: str = "",  # noqa: ARG001
) -> int:
    """The process: `fastgw checker`, started by the supervisor. Says `ready` when the configuration can be served.

    Returns:
        The exit code: 0 when it can, 2 when it cannot.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's
    logs.configure("checker")
    try:
        config = read_config(config_fd)
        setproctitle(f"fastgw: {config.gateway.name} checker")
        for warning in topic_checks.check(config):
            log.warning("topic check", finding=str(warning))
    except FastgwError as error:
        tell(ready_fd, f"error {' '.join(str(error).split())}\n")
        return error.exit_code
    tell(ready_fd, "ready\n")
    return 0
