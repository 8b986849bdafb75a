"""The gateway's door: the calls that a front makes for a request, from its head to its end."""

from __future__ import annotations

import time

from fastgw import errors
from fastgw._ctable import Table
from fastgw.admission import Admission, Refusal
from fastgw.body_memory import BodyMemory
from fastgw.core.exchange import OWN_ERROR, Exchange, Journal
from fastgw.core.routing import Router
from fastgw.errors import Ending
from fastgw.http.cors import Policies, is_preflight
from fastgw.messages import Answer, Cut, Head


class GatewayDoor:
    """Implements `admission.Door` for all fronts of one worker."""

    def __init__(
        self,
        router: Router,
        exchange: Exchange,
        bodies: BodyMemory,
        table: Table,
        process_index: int,
        journal: Journal,
        policies: Policies | None = None,
        keeps_heads: bool = False,
    ) -> None:
        """
        Args:
            router: admits or refuses requests.
            exchange: takes the requests that are admitted.
            bodies: bounds the memory that the fronts use for incoming bodies.
            table, process_index: where cut connections are counted.
            journal: logs unexpected errors.
            policies: CORS policies; None: CORS is off.
            keeps_heads: whether to set `Refusal.head`.
        """
        self._router = router
        self._exchange = exchange
        self.bodies = bodies
        self._table = table
        self._process_index = process_index
        self._journal = journal
        self._policies = policies
        self._keeps_heads = keeps_heads

    def admit(self, head: Head) -> Admission | Refusal:
        try:
            if self._policies is not None and is_preflight(head):
                preflight = self._preflight(head, self._policies)
                if preflight is not None:
                    return preflight
            verdict = self._router.admit(head)
        except MemoryError:
            raise  # ends the worker
        except Exception:
            self._journal.broke("request not admitted", "", b"")
            kept = head if self._keeps_heads else None
            return Refusal(errors.REFUSED_SEND, OWN_ERROR, head=kept)
        refusal = verdict if isinstance(verdict, Refusal) else self._exchange.reserve(verdict)
        if refusal is None:
            return verdict
        return refusal._replace(head=head) if self._keeps_heads else refusal

    def _preflight(self, head: Head, policies: Policies) -> Refusal | None:
        """The answer to a CORS preflight; None: the route has no policy, so the request is handled like any other."""
        routes = self._router.routes_at(head)
        if not routes:
            return None
        wanted = head.get("access-control-request-method") or ""
        route = routes.get(wanted) or next(iter(routes.values()))
        policy = policies.of(route.number)
        if policy is None:
            return None
        self._router.identify(head)
        headers = policy.of_preflight(head, sorted(routes))
        return Refusal(errors.ANSWERED, "", route.number, headers, head, is_options=True)

    def refuse(self, refusal: Refusal, answer: Answer) -> None:
        self._exchange.refuse(refusal, answer)

    def abandon(self, admission: Admission, ending: Ending, detail: str, answer: Answer | None) -> None:
        self._exchange.abandon(admission, ending, detail, answer)

    def open(self, admission: Admission, body: bytes, answer: Answer) -> int:
        return self._exchange.open(admission, body, answer, time.monotonic_ns())

    def gone(self, token: int) -> None:
        self._exchange.cancel(token)

    def cut(self, why: Cut) -> None:
        self._table.add_tally(self._process_index, why, 1)
