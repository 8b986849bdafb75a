"""Converts requests into Kafka records and records into replies, one file per dialect. Bytes only, no Kafka client.

A dialect is a module with two classes that implement the protocols below; each route has its own instances. `plain` is
the only dialect so far. The exchange uses its classes by their concrete types, because they are compiled and a call
through a protocol would cost each request two look-ups. So the classes do not inherit from these protocols;
tests/dialects/test_contract.py checks that they implement them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fastgw.messages import Head, HeaderList, Reply

RecordHeaders = list[tuple[str, bytes]]


class BadReply(ValueError):
    """The reply cannot be converted into an HTTP answer; the text says what was expected and what was got."""


class RequestWire(Protocol):
    """Converts one route's requests. The record's value is the unchanged body; its key depends on the route."""

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
            correlation_id: identifies the request; the service sends it back with its reply.
            reply_partition: the partition of the response topic that the worker reads.
            deadline_epoch_ms: after this time no one waits for the reply.
            path, query, params: as the client sent them (percent-encoded).
            http_headers: the request's headers; the route decides which of them are copied to the record.
        """


class ReplyWire(Protocol):
    """Converts one route's replies into HTTP answers."""

    def answer(self, reply: Reply) -> tuple[int, HeaderList, bytes]:
        """Status 200 to 599, headers (lower-case names, none of `header_names.OF_THE_GATEWAY`) and body.

        Do not modify the list of headers: other answers may share it.

        Raises:
            BadReply: the reply cannot be converted into an HTTP answer.
        """


class Message(Protocol):
    """The methods of a Kafka client's message that are used here."""

    def key(self) -> bytes | str | None: ...
    def value(self) -> bytes | str | None: ...
    def headers(self) -> Sequence[tuple[str, bytes | None]] | None: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
