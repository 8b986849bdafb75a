"""Requests and replies as Kafka records and back, one file for each dialect. Bytes only, no client.

A dialect is a module with two classes, of which each route has an instance of its own, and what they promise is written
below. `plain` is the only one so far. The exchange calls its classes by their concrete types: they are compiled, and a
call through a protocol would cost each request two look-ups. So nothing inherits from these protocols;
tests/dialects/test_contract.py holds the classes to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fastgw.messages import Head, HeaderList, Reply

RecordHeaders = list[tuple[str, bytes]]


class BadReply(ValueError):
    """The reply cannot become an HTTP answer; the text says what was expected and what was got."""


class RequestWire(Protocol):
    """How one route's requests look as records. Their value is the body, as it came; their key is the route's."""

    def headers(
        self,
        correlation_id: bytes,
        reply_partition: int,
        deadline_epoch_ms: int,
        method: str,
        path: str,
        query: str,
        params: tuple[tuple[str, str], ...],
        http_headers: Head,
    ) -> RecordHeaders:
        """The headers of one request record.

        Args:
            correlation_id: names the request; the service gives it back with its reply.
            reply_partition: of the response topic, where its worker reads.
            deadline_epoch_ms: nobody waits after it.
            path, query, params: as they came (percent-encoded).
            http_headers: the request's; which of them go on the record is the route's to say.
        """


class ReplyWire(Protocol):
    """What one route's replies become in HTTP."""

    def answer(self, reply: Reply) -> tuple[int, HeaderList, bytes]:
        """Status 200 to 599, headers (lower-case names, none of `header_names.OF_THE_GATEWAY`) and body.

        The headers are not to be changed: they can be those of other answers.

        Raises:
            BadReply: the reply cannot become an HTTP answer.
        """


class Message(Protocol):
    """What is asked of a record that a Kafka client hands over."""

    def key(self) -> bytes | str | None: ...
    def value(self) -> bytes | str | None: ...
    def headers(self) -> Sequence[tuple[str, bytes | None]] | None: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
