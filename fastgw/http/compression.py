"""Compression of answers, for clients that accept it (RFC 9110, 12.5.3), on routes where it is switched on.

Compression runs on the event loop, like all work for a request. A large body would delay all other requests, so there
is a limit (`compression.max_size`), and the fast levels are used. JSON took, with gzip and zstd: 16 KiB 0.2 and 0.04
ms, 256 KiB 2.6 and 0.8 ms, 1 MiB 19 and 8 ms. If that is too much, let the proxy in front compress.

Bodies are never decoded: a body that the service has encoded is sent unchanged.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Sequence

import structlog
import zstandard

from fastgw.config import Compression
from fastgw.http.negotiation import weight_of
from fastgw.messages import Answer, Head, HeaderList

log = structlog.get_logger("fastgw.http")

GZIP_LEVEL = 1  # as nginx: level 6 took two to six times as long for one eighth fewer bytes
ZSTD_LEVEL = 1
REMEMBERED_MAX, REMEMBERED_CHARS_MAX = 256, 256  # cached values of Accept-Encoding: browsers send about a dozen

IDENTITY = "identity"
_VARY = ("vary", "accept-encoding")

# Answers with these statuses have no content or only a part of it.
_NEVER = frozenset({204, 205, 206, 304})
# Answers with these headers are not compressed: they are encoded or partial, or the header describes the exact bytes.
_KEEPS_ITS_BYTES = frozenset(
    {"content-encoding", "content-range", "content-digest", "repr-digest", "digest", "content-md5"}
)

_NO_TRANSFORM = re.compile(r"(?:^|[,\s])no-transform(?:$|[,\s])", re.IGNORECASE).search


class Compressor:
    """Compresses according to `[compression]`; for one thread."""

    def __init__(self, settings: Compression) -> None:
        self._encodings = settings.encodings
        self._min_bytes = settings.min_size_bytes
        self._max_bytes = settings.max_size_bytes
        self._is_wanted_type = _types(settings.types)
        zstd = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self._encode: dict[str, Callable[[bytes], bytes]] = {"gzip": _gzip, "zstd": zstd.compress}
        self._chosen: dict[str, tuple[str, bool]] = {}

    def __repr__(self) -> str:
        return f"<Compressor {', '.join(self._encodings)}>"

    def wrapping(self, answer: Answer, head: Head) -> Answer:
        """An `answer` that compresses, if this request accepts it."""
        encoding, refuses_identity = self._choice(head.get("accept-encoding"))
        if head.method == "HEAD":
            encoding, refuses_identity = IDENTITY, False  # there is nothing to compress

        def compressed(status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
            try:
                told = self._compressed(status, headers, body, encoding, refuses_identity)
            except MemoryError:
                raise  # ends the worker
            except Exception:  # the client still gets its answer
                log.exception("answer not compressed", encoding=encoding)
                told = headers, body
            answer(status, *told, request_id)

        return compressed

    def _compressed(
        self, status: int, headers: HeaderList, body: bytes, encoding: str, refuses_identity: bool
    ) -> tuple[HeaderList, bytes]:
        """Headers and body of the answer. `headers` may be shared, so it is not changed."""
        size = len(body)
        if status in _NEVER or not 0 < size <= self._max_bytes or not _may_change(headers):
            return headers, body
        is_worth_it = size >= self._min_bytes and self._is_wanted_type(_value(headers, "content-type"))
        if not is_worth_it and not refuses_identity:
            return headers, body
        told = _varying(headers)
        if encoding == IDENTITY:
            return told, body
        smaller = self._encode[encoding](body)
        if len(smaller) >= size and not refuses_identity:
            return told, body
        return [*filter(None, map(_of_encoded, told)), ("content-encoding", encoding)], smaller

    def _choice(self, accepted: str | None) -> tuple[str, bool]:
        """The encoding that the client prefers, and whether it refuses "identity"."""
        if not accepted:
            return IDENTITY, False
        chosen = self._chosen.get(accepted)
        if chosen is None:
            chosen = choice(accepted, self._encodings)
            if len(accepted) <= REMEMBERED_CHARS_MAX:
                if len(self._chosen) >= REMEMBERED_MAX:
                    self._chosen.clear()
                self._chosen[accepted] = chosen
        return chosen


def choice(accepted: str, encodings: Sequence[str]) -> tuple[str, bool]:
    """The one of `encodings` that an Accept-Encoding prefers, and whether it refuses "identity".

    Of equal weights the first encoding is used. Each is preferred to identity, unless identity has a higher weight. A
    malformed weight counts as 0.
    """
    weights: dict[str, float] = {}
    for element in accepted.lower().split(","):
        coding, *parameters = (part.strip(" \t") for part in element.split(";"))
        if coding:
            weights["gzip" if coding == "x-gzip" else coding] = _weight(parameters)
    others = weights.get("*")
    identity = weights.get(IDENTITY, others)  # None: acceptable without a weight
    best, best_weight = IDENTITY, 0.0
    for encoding in encodings:
        weight = weights.get(encoding, others or 0.0)
        if weight > best_weight and (IDENTITY not in weights or weight >= weights[IDENTITY]):
            best, best_weight = encoding, weight
    return best, identity == 0 and best != IDENTITY


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip(" \t") == "q":
            return weight_of(value.strip(" \t"))
    return 1.0


def _types(patterns: Iterable[str]) -> Callable[[str], object]:
    """A function that matches a content type with these patterns, each of which may contain a `*`."""
    words = [re.escape(pattern).replace(r"\*", "[^;,]*") for pattern in patterns]
    return re.compile(rf"(?:{'|'.join(words)})[ \t]*(?:;.*)?", re.IGNORECASE).fullmatch


def _value(headers: HeaderList, name: str) -> str:
    return next((value for other, value in headers if other == name), "")


def _may_change(headers: HeaderList) -> bool:
    for name, value in headers:
        if name in _KEEPS_ITS_BYTES or (name == "cache-control" and _NO_TRANSFORM(value)):
            return False
    return True


def _varying(headers: HeaderList) -> HeaderList:
    """The headers with a Vary that makes caches distinguish encodings."""
    named = {word.strip(" \t").lower() for name, value in headers if name == "vary" for word in value.split(",")}
    return headers if named & {"*", "accept-encoding"} else [*headers, _VARY]


def _of_encoded(header: tuple[str, str]) -> tuple[str, str] | None:
    """A header of an encoded answer, as in nginx: the ETag becomes weak, and Accept-Ranges is dropped."""
    name, value = header
    if name == "accept-ranges":
        return None
    if name == "etag" and not value.startswith("W/"):
        return name, f"W/{value}"
    return header


def _gzip(body: bytes) -> bytes:
    maker = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return maker.compress(body) + maker.flush()
