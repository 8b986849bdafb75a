"""Which media type an answer gets: the one that the client's Accept prefers (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from fastgw.messages import HeaderList

VARY_ACCEPT: HeaderList = [("vary", "accept")]
"""Belongs on every answer whose media type was chosen, 406 included."""

RANGES_MAX = 64  # further ones are ignored: browsers send about eight, and each costs two microseconds
_SHOWN_CHARS_MAX = 200

# Possessive quantifiers: a value that does not match costs one pass, whatever a client writes into it.
_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = r'"(?:[^"\\]|\\.)*+"'
# Up to a comma that is not in a quoted string; a string that does not end takes the rest.
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))++', re.DOTALL)
_PARAMETER = re.compile(rf"[ \t]*+;[ \t]*+(?:({_WORD})=({_WORD}|{_QUOTED}))?+", re.DOTALL)
_RANGE = re.compile(rf"[ \t]*+({_WORD})/({_WORD})((?:{_PARAMETER.pattern})*+)[ \t]*+", re.DOTALL)
_WEIGHT = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)").fullmatch

_ANY, _ANY_OF_TYPE, _EXACT = range(1, 4)  # how specific a media range is


class MediaRange(NamedTuple):
    """One element of an Accept, in lower case."""

    type: str  # "*": any
    subtype: str  # "*": any
    weight: float  # 0 to 1; 0: not acceptable

    def specificity_for(self, media_type: str) -> int:
        """How specifically this range names the media type; 0: not at all."""
        if self.type == "*":
            return _ANY
        if self.subtype == "*":
            return _ANY_OF_TYPE if media_type.startswith(f"{self.type}/") else 0
        return _EXACT if media_type == f"{self.type}/{self.subtype}" else 0


def chosen(accept: str | None, offers: Sequence[str]) -> str | None:
    """The media type that a client prefers.

    The most specific range that names an offer decides about its weight. The highest weight wins; of equal weights the
    offer that is named more specifically, then the one that is listed first. So `text/event-stream, */*` gets an event
    stream, and `*/*` the first offer.

    Args:
        accept: all lines of the header, joined (`Head.get`). None or blank: everything is acceptable.
        offers: media types in lower case, without parameters; the preferred one first.

    Returns:
        One of `offers`, or None if no offer is acceptable: answer 406.
    """
    if accept is None or not accept.strip(" \t,"):
        return offers[0]
    ranges = parsed(accept)
    best, best_rank = None, (0.0, 0)
    for offer in offers:
        specificity, weight = (
            max((media.specificity_for(offer), media.weight) for media in ranges) if ranges else (0, 0)
        )
        rank = (weight, specificity)
        if specificity and weight and rank > best_rank:
            best, best_rank = offer, rank
    return best


def why_none(accept: str | None, offers: Sequence[str]) -> str:
    """The detail of the 406 that a client gets if `chosen` is None."""
    return f"expected Accept to allow {' or '.join(offers)}, got {(accept or '')[:_SHOWN_CHARS_MAX]!r}"


def parsed(accept: str) -> list[MediaRange]:
    """The media ranges of an Accept. Elements that are none are left out.

    Media types have no parameters here, so a range with parameters names none of them, except `charset=utf-8`, which is
    what all of them use.
    """
    ranges = []
    for element in islice(_ELEMENT.finditer(accept), RANGES_MAX):
        match = _RANGE.fullmatch(element[0])
        if match is None:
            continue
        kind, subtype, parameters = match.groups()[:3]
        weight = _weight_in(parameters)
        if weight is not None and (kind != "*" or subtype == "*"):
            ranges.append(MediaRange(kind.lower(), subtype.lower(), weight))
    return ranges


def _weight_in(parameters: str) -> float | None:
    """The weight among the parameters of a media range; None: they narrow the range to nothing that is offered.

    Parameters behind the weight are extensions, which no RFC defines any more (RFC 9110, 12.5.1).
    """
    for name, value in _PARAMETER.findall(parameters):
        if name.lower() == "q":
            return weight_of(value)
        if name and (name.lower(), value.strip('"').lower()) != ("charset", "utf-8"):
            return None
    return 1.0


def weight_of(value: str) -> float:
    """The value of a `q` parameter (RFC 9110, 12.4.2); a malformed one counts as 0."""
    return float(value) if _WEIGHT(value) else 0.0
