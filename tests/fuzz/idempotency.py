"""Promise: whatever a client sends as Idempotency-Key, it is a key of 1 to 255 characters of ASCII, no key, or a BadKey
whose words do not repeat it. A key that is sent again in quotes, escaped, is the same key; and any request has a
fingerprint."""

from __future__ import annotations

from fastgw.core.idempotency import KEY_BYTES_MAX, BadKey, fingerprint, key_hash, key_of
from tests.fuzz.drawing import Draw

SEEDS = [b"", b'\1\x0a"8e03978e"', b"\1\x088e03978e", b'\1\x08"a\\"\\\\"x', b'\2\3"a"\3"b"']
SEEDS += [b'\1\xff"' + b"k" * 300, b'\1\7"a";b=1\3/%4']


class Headers:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def get(self, _name: str) -> str | None:
        return ", ".join(self._lines) if self._lines else None

    def get_all(self, _name: str) -> list[str]:
        return self._lines


def found(lines: list[str]) -> str | None:
    try:
        return key_of(Headers(lines))
    except BadKey as error:
        words = str(error)
    assert words.isprintable()
    assert all(len(line) < 16 or line not in words for line in lines)
    return None


def target(data: bytes) -> None:
    draw = Draw(data)
    lines = [draw.some_bytes(600).decode("latin-1") for _ in range(draw.number(3))]
    key = found(lines)
    if key is not None:
        assert 1 <= len(key) <= KEY_BYTES_MAX
        assert key.isascii()
        assert key.isprintable()
        escaped = key.replace("\\", "\\\\").replace('"', '\\"')
        assert found([f' "{escaped}" ']) == key
        assert len(key_hash("route", "subject", key)) == 32
    path = "/" + draw.some_text(40)
    assert len(fingerprint("POST", path, "", draw.rest(), ("x-a",), Headers(lines))) == 32
