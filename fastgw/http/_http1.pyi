"""The head of an HTTP/1.1 request, the fast half: see heads.py for what it is for, _http1.pyx for how."""

from typing import final

from fastgw.messages import Head

@final
class RequestHead(Head):
    """One head. Says nothing of whether it is a valid one.

    `path` and `query` are the target in front of and behind its question mark. `is_streamed`: the body comes in chunks.
    """

    @property
    def end(self) -> int:
        """Where it ends in the bytes it was found in: behind the empty line."""
    @property
    def fault(self) -> str | None:
        """What was expected instead, where another reader might see something else in these bytes."""
    @property
    def target(self) -> str:
        """As sent."""
    @property
    def is_plain(self) -> bool:
        """HTTP/1.1 or 1.0, a path without fragment, and no other protocol is offered."""
    @property
    def is_head(self) -> bool:
        """The method is HEAD."""
    @property
    def is_kept_alive(self) -> bool:
        """The client does not want the connection to end behind the answer."""
    @property
    def is_expecting(self) -> bool:
        """There is an Expect."""
    def get(self, key: str, /) -> str | None:
        """The value of the header of that name (lower case), its lines joined."""
    def get_all(self, key: str, /) -> list[str]:
        """The values of all headers of that name (lower case), in their order."""

def scan(data: bytes, at: int) -> RequestHead | None:
    """The head that begins at `at`, or None while its end has not come."""

def whole_answer(head: bytes, request_id: bytes, body: bytes) -> bytes:
    """An answer in one piece: `head`, `x-request-id` unless it is empty, `content-length`, the empty line, `body`."""

@final
class MessageEnd:
    """Callbacks of a parser: it has seen the end of a message."""

    seen: bool
    def on_message_complete(self) -> None: ...
