"""Promise: whatever stands in an Accept, the answer is one of the offers or 406. It is the offer of the highest weight,
each by its most specific range; and who names an offer first, without a weight, gets one of weight 1."""

from __future__ import annotations

from fastgw.http.negotiation import RANGES_MAX, chosen, parsed, why_none
from fastgw.http.stream_formats import OFFERS
from tests.fuzz.drawing import Draw

SEEDS = [
    b"\0text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", b"\1text/event-stream",
    b"\2*/*;q=0.1, text/*",
    b"\3application/json;profile=\"a,b;q=1\\\"\";q=0.5 , application/*;q=0", b"\0a/b;  ;;q=1.000;x=\"", b"\1;q=,\"\\",
]  # fmt: skip


def plainly_read(accept: str, offer: str) -> float:
    """The weight of an offer, with the ranges that `parsed` has found: the most specific one decides."""
    kind, _, subtype = offer.partition("/")
    for names in ((kind, subtype), (kind, "*"), ("*", "*")):
        found = [media.weight for media in parsed(accept) if (media.type, media.subtype) == names]
        if found:
            return max(found)
    return 0.0


def target(data: bytes) -> None:
    draw = Draw(data)
    wanted = draw.choice(OFFERS)
    accept = draw.rest().decode("latin-1")
    best = chosen(accept, OFFERS)
    assert best is None or best in OFFERS
    if accept.strip(" \t,"):
        weights = {offer: plainly_read(accept, offer) for offer in OFFERS}
        assert (best is None) == (max(weights.values()) == 0)
        assert best is None or weights[best] == max(weights.values())
    assert len(parsed(accept)) <= RANGES_MAX
    assert all(0 <= media.weight <= 1 for media in parsed(accept))
    assert all(offer in why_none(accept, OFFERS) for offer in OFFERS)
    first = chosen(f"{wanted}, {accept}", OFFERS)
    assert first is not None
    assert plainly_read(f"{wanted}, {accept}", first) == 1
