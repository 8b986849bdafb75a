"""Frames between workers: every sample is fed whole, byte by byte, and with bytes after it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.mesh import frames
from fastgw.mesh.framing import FrameError
from fastgw.messages import Reply

ID = b"01234567-89ab-8cde-8f01-23456789abcd"
SMALL = Reply(ID, 6, 41, [("status", b"201")], b'{"id":42}')
SMALL_FRAME = (
    b"\x00\x00\x00\x4e"  # 78 bytes follow
    b"\x01\x00\x06\x00\x00\x00\x00\x00\x00\x00\x29\x00\x01\x24" + ID + b"\x00\x06status\x00\x00\x00\x03201"
    b"\x00\x00\x00\x09" + b'{"id":42}'
)
EMPTY = Reply(ID, 0, 0, [], b"")

replies = st.builds(
    Reply,
    correlation_id=st.binary(max_size=255),
    partition=st.integers(0, 0xFFFF),
    offset=st.integers(-(2**63), 2**63 - 1),
    headers=st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=20), st.binary(max_size=40)), max_size=5),
    value=st.binary(max_size=300),
)


def decode_every_way(raw: bytes) -> list[Reply]:
    """Feed `raw` whole and byte by byte; both must give the same replies."""
    whole = frames.reader().feed(raw)
    reader = frames.reader()
    piecewise = [reply for index in range(len(raw)) for reply in reader.feed(raw[index : index + 1])]
    assert piecewise == whole
    return whole


def feed_or_refuse(raw: bytes) -> list[Reply]:
    """The replies in `raw`, or those before its broken frame; any other exception fails the test."""
    try:
        return frames.reader().feed(raw)
    except FrameError as error:
        return error.before


def test_the_bytes_of_a_frame_are_these() -> None:
    assert frames.encode(SMALL) == SMALL_FRAME


@pytest.mark.parametrize("reply", [SMALL, EMPTY, SMALL._replace(headers=[("a", b""), ("a", b"2"), ("", b"x")])])
def test_a_reply_comes_back_as_it_went(reply: Reply) -> None:
    frame = frames.encode(reply)
    assert decode_every_way(frame) == [reply]
    assert decode_every_way(frame + SMALL_FRAME) == [reply, SMALL]


def test_the_start_of_the_next_frame_is_kept_for_later() -> None:
    reader = frames.reader()
    assert reader.feed(SMALL_FRAME + SMALL_FRAME[:10]) == [SMALL]
    assert reader.feed(b"") == []
    assert reader.feed(SMALL_FRAME[10:]) == [SMALL]
    assert "pending=0" in repr(reader)


@given(st.lists(replies, max_size=4), st.data())
def test_any_replies_survive_any_cut_of_the_stream(sent: list[Reply], data: st.DataObject) -> None:
    raw = b"".join(frames.encode(reply) for reply in sent)
    reader, received, at = frames.reader(), [], 0
    while at < len(raw):
        size = data.draw(st.integers(1, len(raw) - at))
        received += reader.feed(raw[at : at + size])
        at += size
    assert received == sent


@given(st.binary(max_size=200))
def test_junk_gives_replies_or_a_frame_error_and_nothing_else(junk: bytes) -> None:
    assert all(isinstance(reply, Reply) for reply in feed_or_refuse(junk))


@given(st.integers(0, len(SMALL_FRAME) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_another_reply_an_error_or_a_longer_wait(index: int, byte: int) -> None:
    raw = SMALL_FRAME[:index] + bytes([byte]) + SMALL_FRAME[index + 1 :]
    assert len(feed_or_refuse(raw)) <= 1


def broken(at: int, replacement: bytes) -> bytes:
    return SMALL_FRAME[:at] + replacement + SMALL_FRAME[at + len(replacement) :]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (struct.pack(">I", (16 << 20) + 1), "frame length: expected 1 to 16777216 bytes, got 16777217"),
        (struct.pack(">I", 0), "frame length: expected 1 to 16777216 bytes, got 0"),
        (b"GET / HTTP/1.1\r\n", "got 1195725856"),
        (b"\0\0\0\x02\x01\0", "reply: expected at least 18 bytes, got 2"),
        (broken(15, b"\x00\x00"), "value: expected 422772 bytes at byte 54, got 24"),
        (broken(15, b"\xff\xff"), "header value: expected 621346 bytes at byte 71, got 7"),
        (broken(17, b"\xff"), "correlation id: expected 255 bytes at byte 14, got 64"),
        (broken(54, b"\xff\xff"), "header name: expected 65535 bytes at byte 52, got 26"),
        (broken(56, b"\xff"), "header name: expected UTF-8, got b'\\xfftatus'"),
        (broken(62, b"\xff\xff\xff\xff"), "header value: expected 4294967295 bytes"),
        (broken(69, b"\x00\x00\x00\x0a"), "value: expected 10 bytes at byte 69, got 9"),
        (broken(69, b"\x00\x00\x00\x08"), "got 1 more"),
    ],
)
def test_a_broken_frame_is_named_with_what_was_expected_and_got(raw: bytes, text: str) -> None:
    with pytest.raises(FrameError) as caught:
        frames.reader().feed(raw)
    assert text in str(caught.value)


def test_good_replies_before_a_broken_frame_are_not_lost_and_the_reader_stays_broken() -> None:
    reader = frames.reader()
    with pytest.raises(FrameError) as caught:
        reader.feed(SMALL_FRAME + SMALL_FRAME + b"\xff" * 80)
    assert caught.value.before == [SMALL, SMALL]
    with pytest.raises(FrameError) as again:
        reader.feed(SMALL_FRAME)
    assert again.value.before == []


@pytest.mark.parametrize("body", [b"", b"x", bytes(100)])
def test_a_frame_of_an_unknown_kind_is_skipped_and_counted(body: bytes) -> None:
    unknown = struct.pack(">IB", 1 + len(body), 7) + body
    assert decode_every_way(SMALL_FRAME + unknown + unknown + SMALL_FRAME) == [SMALL, SMALL]
    reader = frames.reader()
    reader.feed(unknown + SMALL_FRAME + unknown)
    assert reader.skipped == 2
    assert "skipped=2" in repr(reader)


def test_a_frame_above_the_given_limit_is_refused_at_both_ends() -> None:
    large = SMALL._replace(value=bytes(100))
    with pytest.raises(FrameError, match="expected at most 100 bytes"):
        frames.encode(large, max_frame_bytes=100)
    with pytest.raises(FrameError, match="expected 1 to 100 bytes"):
        frames.reader(max_frame_bytes=100).feed(frames.encode(large)[:4])


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (SMALL._replace(correlation_id=b"x" * 256), "got partition 6, 1 headers, id of 256 bytes"),
        (SMALL._replace(partition=65536), "got partition 65536"),
        (SMALL._replace(headers=[("n" * 65536, b"")]), "header name: expected at most 65535 bytes, got 65536"),
        (SMALL._replace(headers=[("n", b"")] * 65536), "65536 headers"),
    ],
)
def test_a_reply_that_does_not_fit_the_format_is_refused_by_name(reply: Reply, text: str) -> None:
    with pytest.raises(FrameError) as caught:
        frames.encode(reply)
    assert text in str(caught.value)
