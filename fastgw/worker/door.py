"""The gateway's door: what a front calls for its requests, from their heads to their clients' leaving."""

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
            router: knows who may enter.
            exchange: takes those who do.
            bodies: bounds what the fronts hold of bodies that are coming in.
            table, process_index: where cut connections are counted.
            journal: takes errors that no code expects.
            policies: of CORS; None: nobody asked for it.
            keeps_heads: `Refusal.head` is wanted.
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
        """The answer to a preflight, of the route that it asks for; None: there is no policy, so it is like others."""
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
