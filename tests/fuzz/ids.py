"""Promise: any bytes are a correlation id of ours or none, without an exception; what is one can be told from every
other, and is what it was made from. `find` never makes one id into another."""

from __future__ import annotations

from fastgw import ids

_MAKER = ids.IdMaker(0xABCDEF, 3, 7)
_MAKER.set_ownership(8, [0, 3, 5], 3)
ID_BYTES = 36

SEEDS = [_MAKER.make(slot, partitioner) for slot, partitioner in ((0, 0), (77, 1), ((1 << 20) - 1, 2), (5, 3))]
SEEDS += [SEEDS[0].upper(), b"\0\0\0\0\1H" + SEEDS[0], b"\0\0\0\0\1\0\n$" + SEEDS[0]]
SEEDS += [b'"' + SEEDS[0] + b'"', b"\0\0\0\0\1" + SEEDS[1], b"", b"00000000-0000-8000-8000-000000000000"]


def target(data: bytes) -> None:
    parsed = ids.parse(data)
    if parsed is not None:
        assert len(data) == ID_BYTES
        assert data == data.lower()
        assert data.decode("ascii")[14] == "8", "a UUID of version 8"
        assert ids.parse(data) == parsed
        assert parsed.home < 4096
    for function in (ids.Partitioner.MURMUR2, ids.Partitioner.CRC32, ids.Partitioner.FNV1A):
        assert 0 <= ids.partition_of(function, data, 7) < 7
    found = ids.find(data)
    assert parsed is None or found == data, "an id that is one is found as it is"
    assert found is None or (ids.parse(found) is not None and found in data.lower())
