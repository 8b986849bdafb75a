"""Requests with an idempotency key, with the real table and exchange; Kafka, the store and the clock are played."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from fastgw import errors, ids
from fastgw.admission import KEYED, NEVER, Admission
from fastgw.core import idempotency
from fastgw.core.exchange import REFUSED
from fastgw.core.keyed import KeyedRequests, KeySettings
from fastgw.core.later import Later, LaterSettings
from fastgw.core.plan import KeyRules
from fastgw.dialects import control
from fastgw.dialects.control import Claim, Released
from fastgw.dialects.plain import RequestWire
from fastgw.ids import IdMaker, ReplyTopic
from fastgw.kept_replies import KeyKnown, KeyState, Known, State, Topics
from fastgw.messages import Head, Record, Reply, Tally
from fastgw.tokens import Secrets, Ticket, open_ticket
from tests.core.test_exchange import MS, Client, House
from tests.core.test_routing import FakeHeaders

S = 1000 * MS
SECRETS = Secrets([b"a secret that has at least 32 bytes"])
TOPIC_ID = bytes(range(16))
LANES = 8
EPOCH_MS = 1_800_000_000_000
TIMEOUT_NS = 5 * S
TAKE_OVER_MS = 15_000
KEEP_MS = 86_400_000
BODIES_BYTES = 10
KEY = "key-1"
HASH = idempotency.key_hash("POST /o", "", KEY)
LANE = control.lane_of(HASH, LANES)
BODY = b"{}"
OTHERS_ID = b"11111111-2222-8333-9444-555555555555"


class FakeStore:
    """The store of the node: says what a test lets it say."""

    def __init__(self) -> None:
        self.topics: Topics | None = Topics(TOPIC_ID, LANES, True)
        self.key_watches: dict[int, tuple[bytes, int, str, Callable[[KeyState], None]]] = {}
        self.watches: dict[int, tuple[bytes, int, int, Callable[[State], None]]] = {}
        self._number = 0

    def watch_key(self, key_hash, lane, route, on_state) -> int:
        self._number += 1
        self.key_watches[self._number] = key_hash, lane, route, on_state
        return self._number

    def watch(self, correlation_id, partition, until_ms, on_state) -> int:
        self._number += 1
        self.watches[self._number] = correlation_id, partition, until_ms, on_state
        return self._number

    def watch_holding(self, key_hash, lane, first_id, until_ms, on_state) -> int:
        raise AssertionError("only status URLs ask about a holding")

    def unwatch(self, number: int) -> None:
        (self.key_watches if number in self.key_watches else self.watches).pop(number)


class Place:
    """A worker's part for idempotency keys, at a time that only tests move."""

    def __init__(self, max_kept: int = 10, headers: tuple[str, ...] = ()) -> None:
        self.house, self.store, self.now_ns = House(), FakeStore(), 0
        self.exchange = self.house.exchange
        self.exchange.epoch_offset_ns = EPOCH_MS * MS
        plan = self.house.plan
        plan.later_wire = RequestWire("shop.later", "/o", ["POST"], [])
        plan.work_timeout_ns = TIMEOUT_NS
        plan.key_rules = KeyRules(headers, TAKE_OVER_MS, max_kept, "plain")
        self.written: list[Record] = []
        self.is_writing = True
        self.counts: Counter[Tally] = Counter()
        self.keyed = KeyedRequests(
            KeySettings("shop.later", LANES, KEEP_MS, BODIES_BYTES),
            SECRETS,
            self.exchange,
            self.store,
            lambda: IdMaker(1, 0, 0, ReplyTopic.LATER),
            self.write,
            lambda tally: self.counts.update([tally]),
            lambda: self.now_ns,
            self.house.journal,
            Later(
                LaterSettings("shop.later", "/_later", KEEP_MS, 2), SECRETS, self.exchange, self.store,
                IdMaker(1, 0, 0, ReplyTopic.LATER), turn=0, clock_ns=lambda: self.now_ns,
            ),
        )  # fmt: skip

    def write(self, record: Record) -> bool:
        if self.is_writing:
            self.written.append(record)
        return self.is_writing

    @property
    def controls(self) -> list[control.Control | None]:
        """What was written to the lane."""
        return [
            control.decode(Reply(one.key or b"", one.partition, 0, one.headers, one.value), SECRETS, TOPIC_ID)
            for one in self.written
        ]

    @property
    def claim(self) -> Claim:
        """The last claim."""
        return [one for one in self.controls if isinstance(one, Claim)][-1]

    @property
    def released(self) -> list[bytes]:
        return [one.correlation_id for one in self.controls if isinstance(one, Released)]

    @property
    def sent(self) -> list[Record]:
        return [record for record, _ in self.house.send.records]

    def open(
        self, body: bytes = BODY, key: str = KEY, defer_after_ns: int = NEVER, **headers: str
    ) -> tuple[Client, int]:
        lines = FakeHeaders(
            {"idempotency-key": [key], **{name.replace("_", "-"): [it] for name, it in headers.items()}}
        )
        head = Head("POST", "/o", "", lines, ["shop.test"], len(body), False)
        admission = Admission(0, "POST", "/o", "", (), head, len(body), TIMEOUT_NS)
        admission.kind, admission.defer_after_ns, admission.is_async = KEYED, defer_after_ns, defer_after_ns >= 0
        assert self.exchange.reserve(admission) is None
        client = Client()
        return client, self.keyed.open(admission, body, client, self.now_ns)

    def passes(self, ns: int) -> None:
        self.now_ns += ns
        self.exchange.expire(self.now_ns)
        self.keyed.tick(self.now_ns)

    # The store speaks.

    def says(self, known: KeyKnown, *ids: bytes, **fields) -> None:
        for number, (_, _, _, on_state) in list(self.store.key_watches.items()):
            on_state(KeyState(number, known, ids, **fields))

    def is_free(self, kept: int = 0) -> None:
        self.says(KeyKnown.FREE, kept=kept)

    def is_held(self, *ids: bytes, attempt: int = 1, left_ms: int = TAKE_OVER_MS, fingerprint: bytes = b"") -> None:
        self.says(
            KeyKnown.HELD, *ids, fingerprint=fingerprint or fingerprint_of(), attempt=attempt, take_over_in_ms=left_ms,
            first_id=ids[-1], first_ms=EPOCH_MS,
        )  # fmt: skip

    def is_answered(self, by: bytes, value: bytes = b"done", status: bytes = b"201", fingerprint: bytes = b"") -> None:
        print_, headers = fingerprint or fingerprint_of(), [("status", status)]
        self.says(
            KeyKnown.ANSWERED, by, fingerprint=print_, partition=LANE, offset=7, headers=headers, value=value
        )  # fmt: skip

    def is_freed(self, *ids: bytes, status: bytes = b"") -> None:
        """By a reply with this status; without one: released."""
        reply = {"partition": LANE, "offset": 7, "headers": [("status", status)], "value": b"broken"}
        self.says(KeyKnown.FREED, *ids, fingerprint=fingerprint_of(), **(reply if status else {}))

    def wins(self) -> bytes:
        """The last claim wins. Gives its id."""
        self.is_held(self.claim.correlation_id, attempt=self.claim.attempt)
        return self.claim.correlation_id

    def assert_empty(self) -> None:
        self.house.assert_empty()
        assert (self.store.key_watches, self.store.watches) == ({}, {})
        assert repr(self.keyed) == "<KeyedRequests 0 keys>"
        assert self.keyed.held_bytes == 0


def fingerprint_of(body: bytes = BODY) -> bytes:
    return idempotency.fingerprint("POST", "/o", "", body, (), FakeHeaders({}))


@pytest.fixture
def place() -> Place:
    return Place()


# --- the first request of a key


def test_a_free_key_is_claimed_in_its_lane_and_nothing_is_sent_before_it_has_won(place: Place) -> None:
    place.open()
    assert [watch[:3] for watch in place.store.key_watches.values()] == [(HASH, LANE, "POST /o")]
    assert place.written == []
    place.is_free()
    claim = place.claim
    assert claim == Claim(
        claim.correlation_id, HASH, fingerprint_of(), 1, b"", LANES, TAKE_OVER_MS, KEEP_MS, "POST /o", "plain"
    )
    assert (place.written[0].topic, place.written[0].partition) == ("shop.later", LANE)
    cid = ids.parse(claim.correlation_id)
    assert cid is not None
    assert (cid.topic, cid.home) == (ReplyTopic.LATER, LANE)
    assert place.sent == []


def test_the_winner_sends_one_record_and_the_reply_is_its_answer(place: Place) -> None:
    client, _ = place.open()
    place.is_free()
    place.now_ns += S
    raw = place.wins()
    (record,) = place.sent
    headers = dict(record.headers)
    assert (record.topic, record.value, headers["correlation_id"]) == ("orders", BODY, raw)
    assert (headers["reply_to"], headers["reply_partition"]) == (b"shop.later", b"%d" % LANE)
    assert headers["deadline"] == b"%d" % (EPOCH_MS + TIMEOUT_NS // MS), "counted from the claim"
    assert (headers["idempotency_key"], headers["idempotency_attempt"]) == (KEY.encode(), b"1")
    place.is_answered(raw, b"done")
    status, answer_headers, body = client.only
    assert (status, body) == (201, b"done")
    assert "idempotency-replayed" not in answer_headers
    assert place.counts == {Tally.KEYS_SENT: 1}
    assert place.released == []
    place.assert_empty()


def test_the_news_that_it_has_won_is_believed_only_once(place: Place) -> None:
    place.open()
    place.is_free()
    place.wins()
    place.wins()
    assert len(place.sent) == 1


def test_a_claim_that_is_read_back_too_late_sends_nothing_and_is_released(place: Place) -> None:
    client, _ = place.open()
    place.is_free()
    place.now_ns += TAKE_OVER_MS * MS // 2 + 1
    raw = place.wins()
    client.expect(errors.CLAIM_LATE)
    assert (place.sent, place.released) == ([], [raw])
    place.assert_empty()


def test_a_claim_that_is_not_read_back_before_the_deadline_is_released(place: Place) -> None:
    client, _ = place.open()
    place.is_free()
    place.passes(TIMEOUT_NS + 10 * MS)
    client.expect(errors.CLAIM_LATE)
    assert place.released == [place.claim.correlation_id]
    place.assert_empty()


@pytest.mark.parametrize("topics", [None, Topics(bytes(16), LANES, True, False)])
def test_a_claim_is_released_where_it_is_whatever_has_become_of_the_store(place: Place, topics: Topics | None) -> None:
    client, _ = place.open()
    place.is_free()
    place.store.topics = topics
    place.passes(TIMEOUT_NS + 10 * MS)
    client.expect(errors.CLAIM_LATE)
    assert place.released == [place.claim.correlation_id]


def test_a_winner_that_is_not_answered_keeps_the_key(place: Place) -> None:
    client, token = place.open()
    place.is_free()
    place.wins()
    place.exchange.delivered(token, place.now_ns, 0)
    place.passes(TIMEOUT_NS + 10 * MS)
    client.expect(errors.EXPIRED)
    assert place.released == []
    place.assert_empty()


@pytest.mark.parametrize(("ending", "is_released"), [(errors.NOT_SENT, True), (errors.SEND_UNKNOWN, False)])
def test_a_record_that_is_certainly_not_in_kafka_frees_the_key(place: Place, ending, is_released: bool) -> None:
    client, token = place.open()
    place.is_free()
    raw = place.wins()
    place.exchange.undelivered(token, ending, "so it is")
    client.expect(ending)
    assert place.released == ([raw] if is_released else [])
    place.assert_empty()


def test_a_record_that_is_refused_frees_the_key(place: Place) -> None:
    client, _ = place.open()
    place.is_free()
    place.house.send.refusal = errors.QueueFull("full")
    raw = place.wins()
    client.expect(errors.QUEUE_FULL)
    assert place.released == [raw]
    place.assert_empty()


def test_a_claim_that_cannot_be_sent_ends_the_request(place: Place) -> None:
    client, _ = place.open()
    place.is_writing = False
    place.is_free()
    client.expect(errors.QUEUE_FULL)
    place.assert_empty()


def test_a_client_that_leaves_withdraws_nothing(place: Place) -> None:
    client, token = place.open()
    place.exchange.cancel(token)
    place.is_free()
    place.exchange.cancel(token)
    raw = place.wins()
    place.exchange.cancel(token)
    assert len(place.sent) == 1
    place.is_answered(raw)
    assert client.answers == []
    assert place.released == []
    place.assert_empty()


def test_a_route_that_keeps_enough_keys_claims_no_more() -> None:
    place = Place(max_kept=3)
    client, _ = place.open()
    place.is_free(kept=3)
    client.expect(errors.KEPT_CAP)
    assert place.written == []
    place.assert_empty()


def test_a_drain_gives_up_what_is_not_sent(place: Place) -> None:
    fresh, _ = place.open()
    claiming, _ = place.open(key="key-2")
    number = max(place.store.key_watches)
    place.store.key_watches[number][3](KeyState(number, KeyKnown.FREE))
    place.exchange.drain()
    fresh.expect(errors.DRAINING)
    claiming.expect(errors.DRAINING)
    assert place.released == [place.claim.correlation_id]
    place.assert_empty()


def test_at_the_end_who_waits_for_another_request_is_told_to_ask_again(place: Place) -> None:
    holder, _ = place.open()
    place.is_free()
    place.wins()
    joined, _ = place.open()
    place.exchange.drain()
    assert joined.answers == []
    assert place.keyed.end_all() == 1
    joined.expect(errors.KEY_BUSY)
    place.exchange.end_all("the gateway is shutting down")
    holder.expect(errors.EXPIRED_UNKNOWN)
    place.assert_empty()


# --- repeated requests


def test_an_answered_key_is_replayed_without_any_record(place: Place) -> None:
    client, _ = place.open()
    place.is_answered(OTHERS_ID, b"done before")
    status, headers, body = client.only
    assert (status, body, headers["idempotency-replayed"]) == (201, b"done before", "true")
    assert (place.written, place.sent) == ([], [])
    assert place.counts == {Tally.KEYS_REPLAYED: 1}
    place.assert_empty()


def test_a_held_key_is_joined_and_everybody_gets_the_same_answer(place: Place) -> None:
    first, _ = place.open()
    place.is_free()
    raw = place.wins()
    second, _ = place.open()
    third, token = place.open()
    place.exchange.cancel(token)
    place.is_answered(raw, b"once")
    assert [client.only[2] for client in (first, second)] == [b"once", b"once"]
    assert third.answers == []
    assert "idempotency-replayed" not in second.only[1]
    assert len(place.sent) == 1
    assert place.counts == {Tally.KEYS_SENT: 1, Tally.KEYS_JOINED: 2}
    place.assert_empty()


def test_only_one_request_of_a_worker_claims_and_the_others_join_it(place: Place) -> None:
    clients = [place.open()[0] for _ in range(3)]
    place.is_free()
    assert len(place.written) == 1
    clients.append(place.open()[0])
    raw = place.wins()
    place.is_answered(raw)
    assert [client.only[0] for client in clients] == [201] * 4
    place.assert_empty()


def test_another_request_with_the_same_key_is_refused_whatever_the_state(place: Place) -> None:
    client, _ = place.open(b"other")
    place.is_held(OTHERS_ID)
    client.expect(errors.KEY_REUSED)
    client, _ = place.open(b"other")
    place.is_answered(OTHERS_ID)
    client.expect(errors.KEY_REUSED)
    assert place.written == []
    place.assert_empty()


def test_another_request_that_waits_beside_a_claim_is_refused_when_the_claim_has_won(place: Place) -> None:
    place.open()
    other, _ = place.open(b"other")
    place.is_free()
    place.wins()
    other.expect(errors.KEY_REUSED)


def test_headers_of_the_configuration_belong_to_the_request() -> None:
    place = Place(headers=("x-currency",))
    client, _ = place.open(x_currency="EUR")
    place.is_answered(OTHERS_ID)
    client.expect(errors.KEY_REUSED)


def test_a_request_that_has_joined_and_whose_time_is_over_is_told_to_ask_again(place: Place) -> None:
    client, _ = place.open()
    place.is_held(OTHERS_ID)
    place.passes(TIMEOUT_NS + 10 * MS)
    client.expect(errors.KEY_BUSY)
    assert client.only[1]["retry-after"] == "1"
    place.assert_empty()


def test_a_reply_of_500_is_everybodys_answer_and_the_next_request_claims(place: Place) -> None:
    first, _ = place.open()
    place.is_free()
    raw = place.wins()
    second, _ = place.open()
    place.is_freed(raw, status=b"503")
    assert [client.only[0] for client in (first, second)] == [503, 503]
    place.assert_empty()
    place.open()
    place.is_free()
    assert place.claim.attempt == 1


def test_a_released_key_is_503_for_those_who_have_joined_and_nothing_to_a_claim_under_way(place: Place) -> None:
    joined, _ = place.open()
    place.is_held(OTHERS_ID)
    place.is_freed(OTHERS_ID)
    joined.expect(errors.CLAIM_LATE)
    claiming, _ = place.open()
    place.is_free()
    place.is_freed(OTHERS_ID)
    assert claiming.answers == []
    place.wins()
    assert len(place.sent) == 1


# --- claims that lose


def test_a_claim_that_loses_is_released_and_its_request_joins_the_winner(place: Place) -> None:
    client, _ = place.open()
    place.is_free()
    place.is_held(OTHERS_ID)
    assert place.released == [], "its claim may still be on its way, and win"
    place.says(KeyKnown.LOST, place.claim.correlation_id)
    assert place.released == [place.claim.correlation_id]
    place.is_answered(OTHERS_ID, b"of the winner")
    assert client.only[2] == b"of the winner"
    assert place.sent == []
    place.assert_empty()


def test_a_claim_that_loses_to_another_request_is_told_so(place: Place) -> None:
    client, _ = place.open(b"other")
    place.is_free()
    place.is_held(OTHERS_ID)
    place.says(KeyKnown.LOST, place.claim.correlation_id)
    client.expect(errors.KEY_REUSED)
    place.assert_empty()


def test_a_claim_that_loses_to_an_answer_replays_it(place: Place) -> None:
    client, _ = place.open()
    place.is_free()
    place.is_answered(OTHERS_ID, b"already")
    assert client.answers == []
    place.says(KeyKnown.LOST, place.claim.correlation_id)
    assert client.only[2] == b"already"
    place.assert_empty()


def test_that_another_worker_has_lost_means_nothing(place: Place) -> None:
    place.open()
    place.is_free()
    place.says(KeyKnown.LOST, OTHERS_ID)
    assert place.released == []
    place.wins()
    assert len(place.sent) == 1


# --- another attempt


def test_when_the_holder_has_had_its_time_the_next_attempt_is_claimed(place: Place) -> None:
    place.open()
    place.is_held(OTHERS_ID, attempt=3, left_ms=2000)
    place.passes(1990 * MS)
    assert place.written == []
    place.passes(20 * MS)
    claim = place.claim
    assert (claim.attempt, claim.replaces) == (4, OTHERS_ID)
    place.is_held(claim.correlation_id, OTHERS_ID, attempt=4)
    assert dict(place.sent[0].headers)["idempotency_attempt"] == b"4"
    assert place.counts == {Tally.KEYS_JOINED: 1, Tally.KEYS_TAKEN_OVER: 1}


def test_a_request_that_comes_after_the_time_of_the_holder_claims_at_once(place: Place) -> None:
    place.open()
    place.is_held(OTHERS_ID, left_ms=0)
    assert place.claim.replaces == OTHERS_ID


def test_a_claim_that_was_too_early_by_the_brokers_clock_is_repeated_when_it_is_time(place: Place) -> None:
    place.open()
    place.is_held(OTHERS_ID, left_ms=0)
    first = place.claim.correlation_id
    place.is_held(OTHERS_ID, left_ms=500)
    place.says(KeyKnown.LOST, first)
    assert place.released == [first]
    assert len(place.written) == 2
    place.passes(510 * MS)
    assert (place.claim.attempt, len(place.written)) == (2, 3)


def test_those_who_have_joined_an_attempt_stay_with_the_next_one(place: Place) -> None:
    client, _ = place.open()
    place.is_held(OTHERS_ID)
    next_id = OTHERS_ID[:-1] + b"6"
    place.is_held(next_id, OTHERS_ID, attempt=2)
    assert place.store.watches == {}
    place.is_answered(OTHERS_ID, b"of the first attempt")
    assert client.only[2] == b"of the first attempt"
    place.assert_empty()


def test_a_holder_that_was_replaced_gets_the_answer_of_its_key(place: Place) -> None:
    client, _ = place.open()
    place.is_free()
    raw = place.wins()
    place.is_held(OTHERS_ID, raw, attempt=2)
    place.is_answered(OTHERS_ID, b"of the second attempt")
    assert client.only[2] == b"of the second attempt"
    assert len(place.sent) == 1
    place.assert_empty()


def test_a_take_over_that_is_not_read_back_does_not_say_that_nothing_was_recorded(place: Place) -> None:
    client, _ = place.open()
    place.is_held(OTHERS_ID, left_ms=0)
    place.passes(TIMEOUT_NS + 10 * MS)
    client.expect(errors.KEY_BUSY)
    assert place.released == [place.claim.correlation_id]


def test_a_take_over_that_cannot_be_claimed_now_waits(place: Place) -> None:
    client, _ = place.open()
    place.is_writing = False
    place.is_held(OTHERS_ID, left_ms=0)
    assert client.answers == []
    place.is_writing = True
    place.passes(1010 * MS)
    assert place.claim.attempt == 2


def test_nobody_is_woken_for_a_take_over_that_comes_after_his_time(place: Place) -> None:
    place.open()
    place.is_held(OTHERS_ID, left_ms=4000)
    place.is_held(OTHERS_ID, left_ms=6000)
    assert len(place.keyed._due) == 1, "of a busy gateway with a long work_timeout there would be millions"


def test_bodies_that_wait_for_their_keys_are_bounded_and_those_that_only_wait_for_an_answer_are_none(
    place: Place,
) -> None:
    large = b"12345678"
    first, _ = place.open(large)
    refused, token = place.open(large)
    assert token == REFUSED
    refused.expect(errors.BODIES_FULL)
    place.is_free()
    raw = place.claim.correlation_id
    place.is_held(raw, fingerprint=fingerprint_of(large))
    assert place.keyed.held_bytes == 0, "it was sent"
    joined = [place.open(large)[0] for _ in range(3)]
    assert place.keyed.held_bytes == 0, "another attempt would come after their time"
    place.is_answered(raw, fingerprint=fingerprint_of(large))
    assert [client.only[0] for client in (first, *joined)] == [201] * 4
    place.assert_empty()


def test_a_body_is_held_as_long_as_it_may_be_sent(place: Place) -> None:
    place.open()
    place.is_held(OTHERS_ID, left_ms=1000)
    assert place.keyed.held_bytes == len(BODY)
    place.is_held(OTHERS_ID[:-1] + b"6", OTHERS_ID, attempt=2)
    assert place.keyed.held_bytes == 0
    place.passes(TIMEOUT_NS + 10 * MS)
    place.assert_empty()


def test_a_record_that_cannot_be_built_ends_its_request_and_frees_the_key(place: Place) -> None:
    client, _ = place.open()
    place.is_free()
    place.house.plan.later_wire = None
    raw = place.wins()
    client.expect(errors.REFUSED_SEND)
    assert place.house.journal.broken == [("request with key not handled", "POST /o", raw.decode())]
    assert place.released == [raw]
    place.assert_empty()


# --- the store


@pytest.mark.parametrize(
    ("topics", "ending"),
    [
        (None, errors.STORE_DOWN),
        (Topics(bytes(16), 0, False), errors.STORE_RESTORING),
        (Topics(TOPIC_ID, LANES + 1, True), errors.NOT_READY),
        (Topics(TOPIC_ID, LANES, True, other_lanes=4), errors.NOT_READY),
    ],
)
def test_nothing_is_asked_of_a_store_that_cannot_answer(place: Place, topics: Topics, ending) -> None:
    place.store.topics = topics
    client, token = place.open()
    assert token == REFUSED
    client.expect(ending)
    place.assert_empty()


@pytest.mark.parametrize(
    ("known", "ending"), [(KeyKnown.RESTORING, errors.STORE_RESTORING), (KeyKnown.BEHIND, errors.STORE_BEHIND)]
)
def test_a_store_that_does_not_know_ends_new_requests_and_none_under_way(place: Place, known, ending) -> None:
    client, _ = place.open()
    place.says(known)
    client.expect(ending)
    assert place.written == []
    under_way, _ = place.open()
    place.is_free()
    raw = place.wins()
    place.says(known)
    assert under_way.answers == []
    place.is_answered(raw)
    assert under_way.only[0] == 201
    place.assert_empty()


def test_a_full_store_replays_and_claims_nothing(place: Place) -> None:
    place.store.topics = Topics(TOPIC_ID, LANES, True, is_full=True)
    client, _ = place.open()
    place.is_answered(OTHERS_ID)
    assert client.only[0] == 201
    client, _ = place.open()
    place.is_free()
    client.expect(errors.STORE_FULL)
    assert place.written == []


def test_a_store_that_says_nothing_is_503_at_the_deadline(place: Place) -> None:
    client, _ = place.open()
    place.passes(TIMEOUT_NS + 10 * MS)
    client.expect(errors.STORE_DOWN)
    place.assert_empty()


def test_a_reply_of_500_that_was_missed_is_looked_up(place: Place) -> None:
    """The store was restarted: the key is free again, and its request has not heard why."""
    client, _ = place.open()
    place.is_free()
    raw = place.wins()
    joined, _ = place.open()
    place.is_free()
    assert [watch[:3] for watch in place.store.watches.values()] == [(raw, LANE, 0)] * 2
    for number, (_, _, _, on_state) in list(place.store.watches.items()):
        on_state(State(number, Known.ANSWERED, LANE, 3, [("status", b"500")], b"broken"))
    assert (client.only[0], joined.only[0]) == (500, 500)
    place.assert_empty()


def test_a_holder_that_vanished_without_a_reply_is_nothing_to_wait_for(place: Place) -> None:
    client, _ = place.open()
    place.is_held(OTHERS_ID)
    place.is_held(OTHERS_ID[:-1] + b"6", fingerprint=b"f" * 32)
    ((number, (_, _, _, on_state)),) = place.store.watches.items()
    on_state(State(number, Known.BEHIND))
    assert client.answers == []
    on_state(State(number, Known.OPEN))
    client.expect(errors.KEY_BUSY)
    place.assert_empty()


def test_a_winner_that_missed_the_news_is_told_when_the_store_is_back(place: Place) -> None:
    place.open()
    place.is_free()
    place.is_free()
    assert (len(place.written), place.sent) == (1, [])
    place.wins()
    assert len(place.sent) == 1


# --- deferred answers


def ticket_in(client: Client) -> Ticket:
    """The ticket of a 202."""
    return open_ticket(SECRETS, client.only[1]["location"].removeprefix("/_later/"), EPOCH_MS + 1)


def test_the_holder_is_deferred_when_its_record_is_in_kafka(place: Place) -> None:
    client, token = place.open(defer_after_ns=0)
    place.is_free()
    raw = place.wins()
    assert client.answers == []
    place.exchange.delivered(token, place.now_ns, 4)
    status, headers, _ = client.only
    assert (status, headers["fastgw-outcome"], headers["vary"]) == (202, "recorded", "Prefer")
    assert ticket_in(client) == Ticket(
        raw, HASH, TOPIC_ID, 0, "POST /o", "", EPOCH_MS, EPOCH_MS + TAKE_OVER_MS, EPOCH_MS + KEEP_MS
    )
    assert place.released == []
    place.assert_empty()


def test_who_joins_is_deferred_at_once_with_the_status_url_of_the_holding(place: Place) -> None:
    client, _ = place.open(defer_after_ns=0)
    place.is_held(b"22222222-2222-8333-9444-555555555555", OTHERS_ID, attempt=2)
    status, headers, _ = client.only
    assert (status, headers["fastgw-outcome"]) == (202, "unknown")
    assert ticket_in(client).correlation_id == OTHERS_ID
    assert ticket_in(client).request_partition == 0
    place.assert_empty()


@pytest.mark.parametrize("joins", [False, True])
def test_a_wait_is_for_the_answer_and_then_the_request_is_deferred(place: Place, joins: bool) -> None:
    client, token = place.open(defer_after_ns=2 * S)
    if joins:
        place.is_held(OTHERS_ID)
    else:
        place.is_free()
        place.wins()
        place.exchange.delivered(token, place.now_ns, 4)
    place.passes(2 * S - MS)
    assert client.answers == []
    place.passes(20 * MS)
    assert client.only[0] == 202
    place.assert_empty()


def test_a_record_that_is_not_confirmed_when_it_is_time_is_deferred_when_it_is(place: Place) -> None:
    client, token = place.open(defer_after_ns=2 * S)
    place.is_free()
    place.passes(3 * S)
    place.wins()
    place.passes(S)
    assert client.answers == []
    place.exchange.delivered(token, place.now_ns, 4)
    assert client.only[0] == 202


def test_a_record_that_is_never_confirmed_is_not_deferred(place: Place) -> None:
    client, _ = place.open(defer_after_ns=2 * S)
    place.is_free()
    place.wins()
    place.passes(TIMEOUT_NS + 10 * MS)
    client.expect(errors.EXPIRED_UNKNOWN)


def test_an_answer_that_is_there_is_not_deferred(place: Place) -> None:
    client, _ = place.open(defer_after_ns=0)
    place.is_answered(OTHERS_ID)
    status, headers, body = client.only
    assert (status, body, headers["idempotency-replayed"], headers["vary"]) == (201, b"done", "true", "Prefer")


def test_a_holder_that_had_its_time_is_taken_over_before_its_follower_is_deferred(place: Place) -> None:
    client, token = place.open(defer_after_ns=0)
    place.is_held(OTHERS_ID, left_ms=0)
    assert (client.answers, place.claim.attempt, place.claim.replaces) == ([], 2, OTHERS_ID)
    place.is_held(place.claim.correlation_id, OTHERS_ID, attempt=2)
    place.exchange.delivered(token, place.now_ns, 4)
    assert ticket_in(client).correlation_id == OTHERS_ID, "the status URL names the first attempt"


def test_a_drain_defers_those_who_may_be(place: Place) -> None:
    holder, token = place.open(defer_after_ns=4 * S)
    place.is_free()
    place.wins()
    joined, _ = place.open(defer_after_ns=4 * S)
    other, _ = place.open()
    place.exchange.drain()
    assert (holder.answers, joined.only[0], other.answers) == ([], 202, []), "Kafka has not confirmed the record"
    place.exchange.delivered(token, place.now_ns, 4)
    place.exchange.drain()
    assert (holder.only[0], other.answers) == (202, [])


def test_a_reply_that_the_store_cannot_hand_over_is_a_bad_one(place: Place) -> None:
    client, _ = place.open()
    place.is_free()
    raw = place.wins()
    place.says(KeyKnown.ANSWERED, raw, fingerprint=fingerprint_of(), partition=LANE, offset=7, left_bytes=20_000_000)
    client.expect(errors.BAD_REPLY)
    assert place.released == []
    place.assert_empty()
