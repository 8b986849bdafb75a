"""requests: HTTP/1.1, a session for each connection."""

from __future__ import annotations

from collections.abc import Callable

import requests

from tests.clients.python_loops import Mode, Told, job, run_threads

TIMEOUT_S = 60


def asker(mode: Mode) -> Callable[[str, str, bool], Told]:
    """How one connection asks."""
    session = requests.Session()
    session.verify = job().authority
    session.trust_env = False

    def ask(method: str, body: str, is_streamed: bool) -> Told:
        data = iter([body.encode()]) if is_streamed else body.encode()
        answer = session.request(method, mode.url, data=data, timeout=TIMEOUT_S)
        version = {10: "1.0", 11: "1.1"}[answer.raw.version]
        return Told(answer.status_code, version, answer.text, answer.headers.get("fastgw-outcome", ""))

    return ask


if __name__ == "__main__":
    run_threads(asker)
