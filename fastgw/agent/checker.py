"""The checker: a short-lived process that checks, before a reload, whether Kafka fits the new configuration.

A start or a reload is refused when a topic is missing or unsuitable. The supervisor has no Kafka client and must not
wait, so it starts this child for the check. If Kafka does not answer, the reload is refused, too: new workers could not
become ready anyway, because each needs a record that comes back from Kafka.
"""

from __future__ import annotations

import signal

import structlog
from setproctitle import setproctitle

from fastgw import logs, ready_pipe
from fastgw.config import inherited
from fastgw.errors import FastgwError
from fastgw.kafka import topic_checks

log = structlog.get_logger("fastgw.checker")


def main(
    *,
    config_fd: int,
    ready_fd: int,
    life_fd: int,  # noqa: ARG001  (all children are started with the same arguments; this one ends soon by itself)
    table_fd: int,  # noqa: ARG001
    run_dir: str = "",  # noqa: ARG001
) -> int:
    """Run `fastgw checker`, started by the supervisor. Writes `ready` to `ready_fd` if the configuration can be served.

    Returns:
        The exit code: 0 if it can be served, 2 if not.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles Ctrl-C
    logs.configure("checker")
    try:
        config = inherited.read(config_fd)
        setproctitle(f"fastgw: {config.gateway.name} checker")
        for warning in topic_checks.check(config):
            log.warning("topic check", finding=str(warning))
    except FastgwError as error:
        ready_pipe.tell(ready_fd, f"error {' '.join(str(error).split())}\n")
        return error.exit_code
    ready_pipe.tell(ready_fd, "ready\n")
    return 0
