"""The head of an HTTP/1.1 request, the fast half: see http1_wire.py for what it is for, _http1.pyx for how."""

from typing import final

@final
class RequestHead:
    """One head. Says nothing of whether it is a valid one. Satisfies `messages.Head` and `messages.Headers`."""

    path: str
    """The target up to its question mark; once it is decoded, the decoded one."""
    query: str
    """The target behind its question mark."""

    @property
    def end(self) -> int:
        """Where it ends in the bytes it was found in: behind the empty line."""
    @property
    def fault(self) -> str | None:
        """What was expected instead, where another reader might see something else in these bytes."""
    @property
    def method(self) -> str: ...
    @property
    def target(self) -> str:
        """As sent."""
    @property
    def is_plain(self) -> bool:
        """The path begins with a slash and needs no decoding, and there is no fragment."""
    @property
    def is_http10(self) -> bool: ...
    @property
    def chunked(self) -> bool:
        """Transfer-Encoding is there, once, and is exactly `chunked`."""
    @property
    def is_kept_alive(self) -> bool:
        """The client does not want the connection to end behind the answer."""
    @property
    def is_expecting(self) -> bool:
        """There is an Expect."""
    @property
    def headers(self) -> RequestHead:
        """The head itself."""
    @property
    def bodiless(self) -> bool:
        """True: a request of HTTP/1.1 without length and chunks has no body."""
    @property
    def bounds_body(self) -> bool:
        """True: who reads this head reads the body as well, and counts."""
    @property
    def content_length(self) -> int | None: ...
    @property
    def hosts(self) -> tuple[str, ...]:
        """Every Host."""
    def get(self, key: str, /) -> str | None:
        """The value of the first header of that name (lower case); one that is not ASCII counts as absent."""
    def get_all(self, key: str, /) -> list[str]:
        """The values of all headers of that name (lower case), in their order."""

def scan(data: bytes, at: int) -> RequestHead | None:
    """The head that begins at `at`, or None while its end has not come."""

@final
class MessageEnd:
    """Callbacks of a parser: it has seen the end of a message."""

    seen: bool
    def on_message_complete(self) -> None: ...
