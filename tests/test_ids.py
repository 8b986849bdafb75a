"""Correlation ids: what is made parses back, lands where promised, and cannot be changed without being noticed.

The hash functions are judged by two strangers: librdkafka (through confluent_kafka) and aiokafka's murmur2.
"""

from __future__ import annotations

import os
import uuid
from typing import NamedTuple

import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from confluent_kafka import consistent, fnv1a, murmur2
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.ids import PARTITIONS_MAX, CorrelationId, IdMaker, Partitioner, explains, parse, partition_of

ORACLES = {Partitioner.MURMUR2: murmur2, Partitioner.CRC32: consistent, Partitioner.FNV1A: fnv1a}
KNOWN = tuple(ORACLES)
HEX = "0123456789abcdef"
SLOT_MAX = 2**20 - 1
UNHURRIED = settings(deadline=None)  # a busy machine is no defect of ours
PARTITION_COUNTS = st.one_of(st.sampled_from([1, 2, 7, 12, 16, 24, 64]), st.integers(1, 64))

# Keys and their partitions of 12 by murmur2, crc32 and fnv1a, taken from the clients that own these functions.
VECTORS = [
    (b"k", 8, 1, 10),
    (b"21", 0, 4, 0),
    (b"foo", 8, 5, 1),
    (b"a-little-bit-long-string", 8, 6, 4),
    (b"a-little-bit-longer-string", 11, 2, 9),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", 5, 1, 10),
    (b"abc", 3, 6, 11),
    (b"kafka", 4, 11, 5),
    (b"giberish123456789", 8, 11, 5),
    (b"1234", 0, 7, 3),
    (b"00000000-0000-0000-0000-000000000000", 9, 1, 7),
    (b"550e8400-e29b-41d4-a716-446655440000", 11, 1, 4),
    (b"0123456789abcdef0123456789abcdef", 5, 10, 7),
    (b"W00000000001", 8, 6, 5),
    (b"gw1-00-000000000000002a", 0, 0, 3),
    (bytes(range(16)), 9, 0, 3),
    (b"\xff" * 16, 10, 10, 1),
    (bytes.fromhex("0080ff7f01"), 7, 0, 2),
    (bytes.fromhex("d0bad0bbd18ed187"), 8, 6, 11),
    (b"fastgw:1:deadbeef:3", 2, 0, 1),
]


class Ownership(NamedTuple):
    """What a worker is told by set_ownership."""

    partition_count: int
    owned: list[int]
    home: int


@st.composite
def ownerships(draw: st.DrawFn) -> Ownership:
    partition_count = draw(PARTITION_COUNTS)
    owned = draw(st.lists(st.integers(0, partition_count - 1), min_size=1, unique=True))
    return Ownership(partition_count, owned, draw(st.sampled_from(owned)))


def maker_for(ownership: Ownership, node: int = 0xABCDEF, worker: int = 3, generation: int = 7) -> IdMaker:
    maker = IdMaker(node, worker, generation)
    maker.set_ownership(*ownership)
    return maker


def landings(raw: bytes, partition_count: int) -> dict[Partitioner, int]:
    """Where the strangers send this key."""
    return {partitioner: oracle(raw, partition_count) for partitioner, oracle in ORACLES.items()}


# --- Hash functions ---


@pytest.mark.parametrize(("key", "by_murmur2", "by_crc32", "by_fnv1a"), VECTORS)
def test_the_known_vectors_hash_as_in_their_clients(key: bytes, by_murmur2: int, by_crc32: int, by_fnv1a: int) -> None:
    assert [partition_of(function, key, 12) for function in KNOWN] == [by_murmur2, by_crc32, by_fnv1a]


@UNHURRIED
@given(key=st.binary(min_size=1, max_size=80), partition_count=st.integers(1, PARTITIONS_MAX))
def test_partitions_agree_with_librdkafka_and_aiokafka(key: bytes, partition_count: int) -> None:
    for partitioner, partition in landings(key, partition_count).items():
        assert partition_of(partitioner, key, partition_count) == partition
    by_aiokafka = (aiokafka_murmur2(key) & 0x7FFFFFFF) % partition_count
    assert partition_of(Partitioner.MURMUR2, key, partition_count) == by_aiokafka


def test_the_one_fnv1a_value_without_a_positive_twin_agrees_too() -> None:
    """The key hashes to the smallest signed 32-bit number, whose absolute value overflows."""
    key = b"1468509572224"
    for partition_count in (1, 7, 12, 16, 4095):
        assert partition_of(Partitioner.FNV1A, key, partition_count) == 2**31 % partition_count


@UNHURRIED
@given(key=st.binary(min_size=1, max_size=40), partition_count=PARTITION_COUNTS, partition=st.integers(-1, 64))
def test_explains_names_exactly_the_functions_that_lead_there(key: bytes, partition_count: int, partition: int) -> None:
    reaching = [function for function, reached in landings(key, partition_count).items() if reached == partition]
    assert explains(key, partition_count, partition) == sum(1 << function for function in reaching)


@pytest.mark.parametrize("partitioner", [Partitioner.ANY, Partitioner.HEADER, -1, 5])
def test_a_partitioner_without_a_hash_function_has_no_partition(partitioner: int) -> None:
    with pytest.raises(ValueError, match="expected MURMUR2, CRC32 or FNV1A"):
        partition_of(partitioner, b"key", 12)


@pytest.mark.parametrize("partition_count", [0, -1])
def test_a_topic_without_partitions_is_refused(partition_count: int) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        partition_of(Partitioner.CRC32, b"key", partition_count)
    with pytest.raises(ValueError, match="expected 1 or more"):
        explains(b"key", partition_count, 0)


# --- What is made ---


@UNHURRIED
@given(
    node=st.integers(0, 2**24 - 1),
    worker=st.integers(0, 255),
    generation=st.integers(0, 255),
    slot=st.integers(0, SLOT_MAX),
    partitioner=st.sampled_from(Partitioner),
    ownership=ownerships(),
)
def test_an_id_parses_back_to_all_of_its_fields(
    node: int, worker: int, generation: int, slot: int, partitioner: Partitioner, ownership: Ownership
) -> None:
    maker = maker_for(ownership, node, worker, generation)
    raw = maker.make(slot, partitioner)
    parsed = parse(raw)
    assert type(parsed) is CorrelationId
    assert parsed[:4] == (node, worker, generation, slot)
    assert parsed.home == ownership.home
    assert parsed.tag == maker.tag == parsed.topic << 60 | parsed.nonce << 32 | parsed.home << 20 | parsed.salt
    assert raw == write_id(parsed)


def write_id(fields: CorrelationId) -> bytes:
    """Write an id as the drawing in ids.py says, in the slowest possible way."""
    bits = (
        f"{fields.node:024b}{fields.worker:08b}{fields.generation:08b}{fields.slot >> 12:08b}"
        f"{8:04b}{fields.slot & 0xFFF:012b}10{fields.topic:02b}{fields.nonce:028b}{fields.home:012b}{fields.salt:020b}"
    )
    return str(uuid.UUID(int=int(bits, 2))).encode()


def test_a_parsed_id_is_the_same_key_of_a_dictionary_as_one_made_by_hand() -> None:
    parsed = parse(maker_for(Ownership(4096, [0x700], 0x700)).make(7, Partitioner.HEADER))
    assert parsed is not None
    assert {CorrelationId(*parsed): "found"}[parsed] == "found"


def test_an_id_looks_as_drawn() -> None:
    maker = maker_for(Ownership(4096, [0x700], 0x700), node=0x123456, worker=0xAB, generation=2)
    raw = maker.make(0x03456, Partitioner.HEADER)
    assert raw[:19] == b"123456ab-0203-8456-"
    assert raw[28:31] == b"700"
    assert uuid.UUID(raw.decode()).version == 8
    assert uuid.UUID(raw.decode()).variant == uuid.RFC_4122


@UNHURRIED
@given(ownership=ownerships(), slot=st.integers(0, SLOT_MAX))
def test_with_an_unknown_partitioner_every_function_lands_on_owned_partitions(ownership: Ownership, slot: int) -> None:
    maker = maker_for(ownership)
    missed = 0
    for _ in range(3):
        raw = maker.make(slot, Partitioner.ANY)
        missed += not set(landings(raw, ownership.partition_count).values()) <= set(ownership.owned)
    assert maker.missed == missed
    if ownership.partition_count <= 4 * len(ownership.owned):
        assert missed == 0  # 64 tries on average: a miss would need the luck of e**-128


@UNHURRIED
@given(ownership=ownerships(), partitioner=st.sampled_from(KNOWN), slot=st.integers(0, SLOT_MAX))
def test_a_known_partitioner_lands_exactly_on_home(ownership: Ownership, partitioner: Partitioner, slot: int) -> None:
    maker = maker_for(ownership)
    for _ in range(3):
        raw = maker.make(slot, partitioner)
        assert ORACLES[partitioner](raw, ownership.partition_count) == ownership.home
    assert maker.missed == 0


@pytest.mark.parametrize("partitioner", KNOWN)
def test_home_is_reached_even_among_the_most_partitions_there_can_be(partitioner: Partitioner) -> None:
    maker = maker_for(Ownership(PARTITIONS_MAX, [4095], 4095))
    for slot in range(50):
        assert ORACLES[partitioner](maker.make(slot, partitioner), PARTITIONS_MAX) == 4095
    assert maker.missed == 0


@pytest.mark.parametrize("partitioner", KNOWN)
def test_the_other_functions_land_on_owned_partitions_where_it_is_easy(partitioner: Partitioner) -> None:
    """Two partitions of four: one salt in 16 pleases all, and 64 tries are made for it."""
    owned = [1, 2]
    maker = maker_for(Ownership(4, owned, 2))
    everywhere = [set(landings(maker.make(slot, partitioner), 4).values()) <= set(owned) for slot in range(500)]
    assert sum(everywhere) > 400  # 492 expected, with a deviation of 3


def test_a_hopeless_search_keeps_the_best_salt_and_counts() -> None:
    """One partition of 64 would take 262,144 tries. The widely used functions come first: crc32, then murmur2."""
    owned = Ownership(64, [5], 5)
    maker = maker_for(owned)
    found = [landings(maker.make(slot, Partitioner.ANY), 64) for slot in range(100)]
    perfect = sum(set(landing.values()) == {5} for landing in found)
    assert maker.missed == 100 - perfect
    assert all(landing[Partitioner.CRC32] == 5 for landing in found)
    assert sum(landing[Partitioner.MURMUR2] == 5 for landing in found) > 40  # 86 expected, with a deviation of 4


def test_a_new_ownership_holds_from_the_next_id_on() -> None:
    maker = maker_for(Ownership(12, [1, 5, 9], 5))
    assert parse(maker.make(0, Partitioner.CRC32)).home == 5
    maker.set_ownership(16, [11], 11)
    raw = maker.make(0, Partitioner.CRC32)
    assert parse(raw).home == 11
    assert consistent(raw, 16) == 11


def test_nonces_and_salts_use_all_of_their_bits_and_differ() -> None:
    """4096 draws: a bit that never changes has a chance of 2**-4095, ten equal nonces one below 10**-20."""
    maker = maker_for(Ownership(1, [0], 0))  # one partition: the first salt fits, so it must be random by itself
    for partitioner in Partitioner:
        ids = [parse(maker.make(0, partitioner)) for _ in range(4096)]
        for field, bits in (("nonce", 28), ("salt", 20)):
            always, ever = 2**bits - 1, 0
            for correlation_id in ids:
                always &= getattr(correlation_id, field)
                ever |= getattr(correlation_id, field)
            assert (always, ever) == (0, 2**bits - 1)
        assert len({correlation_id.nonce for correlation_id in ids}) > 4086
        assert len({correlation_id.tag for correlation_id in ids}) > 4086


# Python 3.12 warns of threads at a fork; the child here takes none of the locks that they may hold.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_makes_other_ids() -> None:
    maker = maker_for(Ownership(1, [0], 0))
    maker.make(0, Partitioner.HEADER)  # there is randomness in store
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, maker.make(0, Partitioner.HEADER))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 36) != maker.make(0, Partitioner.HEADER)
    os.close(reader)
    os.close(writer)


def test_a_maker_tells_its_state() -> None:
    maker = maker_for(Ownership(12, [1, 5, 9], 5), node=0xABC, worker=3, generation=7)
    assert repr(maker) == "<IdMaker node=000abc worker=3 generation=7 owns=3/12 home=5 missed=0>"


# --- What is refused ---


def any_id() -> bytes:
    return maker_for(Ownership(16, [0, 4, 8, 12], 4)).make(0x12345, Partitioner.ANY)


@UNHURRIED
@given(place=st.integers(0, 35), replacement=st.integers(0, 255))
def test_a_changed_character_never_validates(place: int, replacement: int) -> None:
    raw = any_id()
    if raw[place] == replacement:
        return
    changed = parse(raw[:place] + bytes([replacement]) + raw[place + 1 :])
    if changed is not None:
        original = parse(raw)
        assert (changed[:4], changed.tag) != (original[:4], original.tag)


def test_each_digit_belongs_to_exactly_one_field() -> None:
    raw = any_id()
    fields_of_place = ["node"] * 6 + ["worker"] * 2 + ["", "generation", "generation", "slot", "slot"]
    fields_of_place += ["", "version", "slot", "slot", "slot", "", "topic"] + ["nonce"] * 3
    fields_of_place += ["", "nonce", "nonce", "nonce", "nonce", "home", "home", "home"] + ["salt"] * 5
    original = parse(raw)._asdict()
    for place, field in enumerate(fields_of_place):
        for digit in HEX.encode():
            changed = parse(raw[:place] + bytes([digit]) + raw[place + 1 :])
            if field == "" or (field == "version" and digit != ord("8")):
                assert changed is None
            elif field == "topic":  # and the variant
                assert (changed is not None) == (digit in b"89ab")
                assert changed is None or changed.topic == b"89ab".index(digit)
            elif digit != raw[place]:
                different = {name for name, value in changed._asdict().items() if value != original[name]}
                assert different == {field} | ({"tag"} if field in ("nonce", "home", "salt") else set())


@UNHURRIED
@given(raw=st.binary(max_size=40))
def test_junk_never_parses(raw: bytes) -> None:
    assert parse(raw) is None


@UNHURRIED
@given(text=st.text(alphabet=HEX + "-ABCDEF", min_size=36, max_size=36))
def test_junk_of_the_right_letters_parses_only_in_the_right_shape(text: str) -> None:
    assert parse(text.encode()) is None or uuid.UUID(text).version == 8


@pytest.mark.parametrize(
    "mangle",
    [
        bytes.upper,
        lambda raw: raw[:-1],
        lambda raw: raw + b"0",
        lambda raw: raw + b"\0",
        lambda raw: b"",
        lambda raw: raw.replace(b"-", b""),
        lambda raw: b"{" + raw + b"}",
        lambda raw: b"urn:uuid:" + raw,
        lambda raw: raw[:14] + b"4" + raw[15:],
        lambda raw: raw[:19] + b"7" + raw[20:],
        lambda raw: raw[:19] + b"c" + raw[20:],
        lambda raw: raw[:8] + b"_" + raw[9:],
        lambda raw: raw[:35] + b"\xb9",
        lambda raw: raw[:34] + "é".encode(),
        lambda raw: raw[:35] + b"\n",
        lambda raw: b"+" + raw[1:],
        bytearray,
        memoryview,
        bytes.decode,
        lambda raw: uuid.UUID(raw.decode()),
        lambda raw: list(raw),
        lambda raw: None,
        lambda raw: 36,
    ],
)
def test_an_id_in_any_other_dress_does_not_parse(mangle) -> None:
    raw = b"abcdef03-0712-8345-9abc-def012004abc"
    assert parse(raw) is not None
    assert parse(mangle(raw)) is None


@pytest.mark.parametrize("fields", [(2**24, 0, 0), (-1, 0, 0), (0, 256, 0), (0, -1, 0), (0, 0, 256), (0, 0, -1)])
def test_an_address_that_does_not_fit_is_refused(fields: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"expected 0 to \d+, got"):
        IdMaker(*fields)


@pytest.mark.parametrize(
    ("ownership", "message"),
    [
        (Ownership(0, [0], 0), "partition_count: expected 1 to 4096, got 0"),
        (Ownership(4097, [0], 0), "partition_count: expected 1 to 4096, got 4097"),
        (Ownership(12, [], 0), "home: expected one of the 0 owned partitions, got 0"),
        (Ownership(12, [3, 12], 3), "owned: expected partitions 0 to 11, got 12"),
        (Ownership(12, [3, -1], 3), "owned: expected partitions 0 to 11, got -1"),
        (Ownership(12, [3, 4], 5), "home: expected one of the 2 owned partitions, got 5"),
    ],
)
def test_an_impossible_ownership_is_refused_and_changes_nothing(ownership: Ownership, message: str) -> None:
    maker = maker_for(Ownership(16, [0, 4, 8, 12], 4))
    with pytest.raises(ValueError, match=message):
        maker.set_ownership(*ownership)
    raw = maker.make(0, Partitioner.MURMUR2)
    assert murmur2(raw, 16) == 4
    assert parse(raw).home == 4


def test_making_an_id_needs_an_ownership_first() -> None:
    with pytest.raises(ValueError, match="expected set_ownership before the first id"):
        IdMaker(1, 2, 3).make(0, Partitioner.HEADER)


@pytest.mark.parametrize("slot", [-1, SLOT_MAX + 1])
def test_a_slot_that_does_not_fit_is_refused(slot: int) -> None:
    with pytest.raises(ValueError, match="slot: expected 0 to 1048575"):
        maker_for(Ownership(1, [0], 0)).make(slot, Partitioner.ANY)


@pytest.mark.parametrize("partitioner", [-1, 5])
def test_an_unknown_partitioner_is_refused(partitioner: int) -> None:
    with pytest.raises(ValueError, match="partitioner: expected 0 to 4"):
        maker_for(Ownership(1, [0], 0)).make(0, partitioner)
