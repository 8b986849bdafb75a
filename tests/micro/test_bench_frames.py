"""What a forwarded reply costs as a frame, on both sides."""

from __future__ import annotations

from fastgw.mesh.frames import encode
from fastgw.mesh.frames import reader as frame_reader
from fastgw.messages import Reply

REPLY = Reply(b"0" * 36, 3, 123_456, [("status", b"201"), ("content-type", b"application/json")], b"x" * 256)
FRAMES = 64


def test_writing_a_frame(benchmark):
    assert frame_reader().feed(benchmark(encode, REPLY)) == [REPLY]


def test_reading_64_frames_that_came_together(benchmark):
    data = encode(REPLY) * FRAMES
    reader = frame_reader()
    assert benchmark(reader.feed, data) == [REPLY] * FRAMES
