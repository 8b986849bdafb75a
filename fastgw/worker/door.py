"""The gateway's door: the calls that a front makes for a request, from its head to its end."""

from __future__ import annotations

import time

from fastgw import errors
from fastgw._ctable import Table
from fastgw.admission import KEYED, PLAIN, RESUME, STOP, STREAM, TICKET, WITHOUT_SLOT, Admission, Refusal, Sink
from fastgw.body_memory import AnswerMemory, BodyMemory
from fastgw.core.exchange import OWN_ERROR, Exchange, Journal
from fastgw.core.keyed import KeyedRequests
from fastgw.core.later import Later
from fastgw.core.resumed import FIRST_RESUMED
from fastgw.core.routing import Router
from fastgw.core.streams import Streams
from fastgw.core.tickets import FIRST_TOKEN, Tickets
from fastgw.errors import Ending
from fastgw.http.cors import Policies, is_preflight
from fastgw.messages import Answer, Cut, Head
from fastgw.worker.stream_routes import StreamRoutes


class GatewayDoor:
    """Implements `admission.Door` for all fronts of one worker."""

    def __init__(
        self,
        router: Router,
        exchange: Exchange,
        bodies: BodyMemory,
        answers: AnswerMemory,
        table: Table,
        process_index: int,
        journal: Journal,
        policies: Policies | None = None,
        keeps_heads: bool = False,
        later: Later | None = None,
        tickets: Tickets | None = None,
        keyed: KeyedRequests | None = None,
        streams: Streams | None = None,
        stream_routes: StreamRoutes | None = None,
    ) -> None:
        """
        Args:
            router: admits or refuses requests.
            exchange: takes the requests that are admitted.
            bodies: bounds the memory that the fronts use for incoming bodies.
            answers: the fronts count there what clients have not read; the exchange has the same object.
            table, process_index: where cut connections are counted.
            journal: logs unexpected errors.
            policies: CORS policies; None: CORS is off.
            keeps_heads: whether to set `Refusal.head`.
            later, tickets, keyed: take the requests whose replies are kept, those for status URLs, and those with an
                idempotency key; None: no route has any.
            streams, stream_routes: take the requests whose answers are streamed; None: no route has any.
        """
        self._router = router
        self._exchange = exchange
        self.bodies = bodies
        self.answers = answers
        self._table = table
        self._process_index = process_index
        self._journal = journal
        self._policies = policies
        self._keeps_heads = keeps_heads
        self._later = later
        self._tickets = tickets
        self._keyed = keyed
        self._streams = streams
        self._stream_routes = stream_routes

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
        if isinstance(verdict, Refusal):
            refusal: Refusal | None = verdict
        elif verdict.kind == PLAIN:
            refusal = self._exchange.reserve(verdict)
        else:
            refusal = self._refusal_of_stream(verdict)
            if refusal is None and verdict.kind not in WITHOUT_SLOT:
                refusal = self._exchange.reserve(verdict)
        if refusal is None:
            return verdict
        return refusal._replace(head=head) if self._keeps_heads else refusal

    def _refusal_of_stream(self, admission: Admission) -> Refusal | None:
        if admission.kind != STREAM:
            return None
        assert self._stream_routes is not None, "the router knows a route that streams"
        return self._stream_routes.refusal(admission)

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
        if admission.kind not in WITHOUT_SLOT:
            self._exchange.abandon(admission, ending, detail, answer)
        elif answer is not None:  # it has no slot
            self._exchange.refuse(Refusal(ending, detail, admission.route_number, head=admission.headers), answer)

    def open(self, admission: Admission, body: bytes, answer: Answer) -> int:
        if admission.kind != PLAIN:
            return self._open_kept(admission, body, answer)
        return self._exchange.open(admission, body, answer, time.monotonic_ns())

    def _open_kept(self, admission: Admission, body: bytes, answer: Answer) -> int:
        if admission.kind == TICKET:
            assert self._tickets is not None, "the router knows the path of status URLs"
            return self._tickets.open(admission, answer, time.monotonic_ns())
        if admission.kind == STOP:
            assert self._streams is not None, "the router knows a route that streams"
            return self._streams.stop(admission, answer, time.monotonic_ns())
        if admission.kind == KEYED:
            assert self._keyed is not None, "the router knows a route with idempotency keys"
            return self._keyed.open(admission, body, answer, time.monotonic_ns())
        assert self._later is not None, "the router knows a route with deferred answers"
        return self._later.open(admission, body, answer, time.monotonic_ns())

    def open_stream(self, admission: Admission, body: bytes, sink: Sink) -> int:
        assert self._streams is not None, "the router knows a route that streams"
        if admission.kind == RESUME:
            return self._streams.resume(admission, sink, time.monotonic_ns())
        return self._streams.open(admission, body, sink, time.monotonic_ns())

    def writable(self, token: int) -> None:
        assert self._streams is not None, "only streams tell that a client is behind"
        self._streams.writable(token)

    def gone(self, token: int) -> None:
        if token > FIRST_TOKEN:
            self._gone_without_slot(token)
        else:
            self._exchange.cancel(token)

    def _gone_without_slot(self, token: int) -> None:
        if token > FIRST_RESUMED:
            assert self._streams is not None, "only it gives such tokens"
            self._streams.resumed.cancel(token)
        else:
            assert self._tickets is not None, "only it gives such tokens"
            self._tickets.gone(token)

    def cut(self, why: Cut) -> None:
        self._table.add_tally(self._process_index, why, 1)
