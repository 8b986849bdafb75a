"""Answers in fewer bytes, for clients that ask (RFC 9110, 12.5.3) on routes where an operator has switched it on.

The work is done on the loop, as all of a request is: a body that is large would hold up everybody, so there is a limit
(`compression.max_size`), and the levels are the quick ones. 256 KiB of JSON took 2.6 ms with gzip and 0.8 with
zstd, 1 MiB 19 and 8, 16 KiB 0.2 and 0.04. Where that is too much, the proxy in front compresses better.

Nothing is ever taken out of an encoding: what a service has encoded goes out as it is.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Sequence

import structlog
import zstandard

from fastgw.config import Compression
from fastgw.messages import Answer, Head, HeaderList

log = structlog.get_logger("fastgw.http")

GZIP_LEVEL = 1  # as nginx: level 6 took two to six times as long for an eighth less
ZSTD_LEVEL = 1
REMEMBERED_MAX, REMEMBERED_CHARS_MAX = 256, 256  # spellings of Accept-Encoding: browsers have a dozen

IDENTITY = "identity"
_VARY = ("vary", "accept-encoding")

# Of these statuses there is no content, or only a part of one.
_NEVER = frozenset({204, 205, 206, 304})
# With these an answer stays as it is: it has an encoding, is a part, or says of its bytes what would no longer be true.
_KEEPS_ITS_BYTES = frozenset(
    {"content-encoding", "content-range", "content-digest", "repr-digest", "digest", "content-md5"}
)

_NO_TRANSFORM = re.compile(r"(?:^|[,\s])no-transform(?:$|[,\s])", re.IGNORECASE).search
_WEIGHT = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)").fullmatch


class Compressor:
    """What `[compression]` says, ready to be used by one thread."""

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
        """An `answer` that compresses what it is told, as far as this request wants it."""
        encoding, refuses_identity = self._choice(head.get("accept-encoding"))
        if head.method == "HEAD":
            encoding, refuses_identity = IDENTITY, False  # there is nothing to compress

        def compressed(status: int, headers: HeaderList, body: bytes, request_id: bytes) -> None:
            try:
                told = self._compressed(status, headers, body, encoding, refuses_identity)
            except MemoryError:
                raise  # ends the worker
            except Exception:  # no reason to leave anybody without an answer
                log.exception("answer not compressed", encoding=encoding)
                told = headers, body
            answer(status, *told, request_id)

        return compressed

    def _compressed(
        self, status: int, headers: HeaderList, body: bytes, encoding: str, refuses_identity: bool
    ) -> tuple[HeaderList, bytes]:
        """Headers and body of the answer. `headers` may be everybody's: it is not changed."""
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
        """The encoding that a client likes best, and whether it refuses to have none."""
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
    """The one of `encodings` that an Accept-Encoding likes best, and whether it refuses "identity".

    Of equals the first one is taken, and any of them rather than identity, unless that has a higher weight. A weight
    that is none counts as 0.
    """
    weights: dict[str, float] = {}
    for element in accepted.lower().split(","):
        coding, *parameters = (part.strip(" \t") for part in element.split(";"))
        if coding:
            weights["gzip" if coding == "x-gzip" else coding] = _weight(parameters)
    others = weights.get("*")
    identity = weights.get(IDENTITY, others)  # None: acceptable, and nobody says how much
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
            value = value.strip(" \t")
            return float(value) if _WEIGHT(value) else 0.0
    return 1.0


def _types(patterns: Iterable[str]) -> Callable[[str], object]:
    """Whether a content type is one of these, of which each may have a `*`."""
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
    """With a Vary that tells caches that other clients get other bytes."""
    named = {word.strip(" \t").lower() for name, value in headers if name == "vary" for word in value.split(",")}
    return headers if named & {"*", "accept-encoding"} else [*headers, _VARY]


def _of_encoded(header: tuple[str, str]) -> tuple[str, str] | None:
    """A header of the answer once it is encoded, as nginx has it: other bytes have no strong tag, and no ranges."""
    name, value = header
    if name == "accept-ranges":
        return None
    if name == "etag" and not value.startswith("W/"):
        return name, f"W/{value}"
    return header


def _gzip(body: bytes) -> bytes:
    maker = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return maker.compress(body) + maker.flush()
