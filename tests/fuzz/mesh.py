"""Promise: any stream of bytes, cut anywhere, gives replies or a FrameError; what comes before a broken frame is not
lost, the cuts make no difference, and a reply that was read is written as it was. Unknown frames are skipped. Whatever
a worker answers when it is asked for its streams, it is read or a FrameError, however it is cut."""

from __future__ import annotations

from fastgw.mesh import frames, status
from fastgw.mesh.framing import FrameError, FrameReader
from fastgw.messages import Reply
from fastgw.open_streams import OpenStream, OpenStreams
from tests.fuzz.drawing import Draw

FRAME_BYTES_MAX = 4096
_REPLIES = [
    Reply(b"00000000-0000-8000-8000-000000000001", 5, 123, [("status", b"201"), ("x-\u00e4", b"\0\xff")], b"value"),
    Reply(b"", 0, 0, [], b""),
    Reply(b"x" * 255, 65_535, (1 << 62), [("a", b"")] * 3, b"v" * 300),
]
_STREAMS = OpenStreams(1, [OpenStream("orders", "x" * 36, "flows", False, 2, 3, 4, 5, 6)])
SEEDS = [b"\1" + frames.encode(reply) for reply in _REPLIES]
SEEDS += [b"\1" + b"\0\0\0\4\x09new" + frames.encode(_REPLIES[0])]
SEEDS += [b"\2" + status.QUESTION + frames.encode(_REPLIES[1]), b"\3" + status.encode(_STREAMS)]
SEEDS += [b"\7" + b"".join(map(frames.encode, _REPLIES)), b"\0GET / HTTP/1.1\r\n"]


def feed(reader: FrameReader, parts: list[bytes]) -> tuple[list, bool]:
    """What all frames of a stream say, and whether it broke."""
    replies: list = []
    for part in parts:
        try:
            replies += reader.feed(part)
        except FrameError as error:
            return replies + list(error.before or ()), True
    return replies, False


def target(data: bytes) -> None:
    draw = Draw(data)
    step = 1 + draw.number(40)
    stream = draw.rest()
    reader, in_parts = frames.reader(FRAME_BYTES_MAX), frames.reader(FRAME_BYTES_MAX)
    whole, broke = feed(reader, [stream])
    parts = [stream[at : at + step] for at in range(0, len(stream), step)]
    assert feed(in_parts, parts) == (whole, broke)
    assert in_parts.skipped == reader.skipped
    replies = [reply for reply in whole if reply is not frames.ASKED]
    for reply in replies:
        assert frames.encode(reply, FRAME_BYTES_MAX) in stream
    if not reader.skipped and replies == whole:
        assert stream.startswith(b"".join(frames.encode(reply, FRAME_BYTES_MAX) for reply in whole))
    assert feed(status.reader(), [stream]) == feed(status.reader(), parts)
