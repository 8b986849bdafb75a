"""Streamed answers over real sockets, as the clients that people use see them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import h11
import pytest

from fastgw.http.stream_formats import EventStream, JsonLines
from fastgw.messages import Cut
from tests.clients import fleet
from tests.fronts.kinds import STREAMS, UNIX, fronts
from tests.fronts.test_answers import get
from tests.waiting import eventually

every_front = fronts()
streaming_fronts = fronts(STREAMS)

REQUEST_ID = b"00000000-0000-8000-8000-000000000001"
PIECE = bytes(range(256)) * 256
KERNEL_KEEPS = 4_194_304  # bytes that Linux keeps at most of what a socket sends, by tcp_wmem as it comes
SCRIPTS = Path(__file__).parents[1] / "clients"
SCRIPT_TIMEOUT_S = 60


class Stream:
    """The sink of the stream that was opened last, called on the front's loop."""

    def __init__(self, house, number: int = 1) -> None:
        eventually(lambda: len(house.door.sinks) >= number, message=f"{number} streams in {house.door}")
        self._call = house.call
        self._sink = house.door.sinks[number - 1]

    def answer(self, status: int, body: bytes) -> None:
        self._call(self._sink.answer, status, [], body, REQUEST_ID)

    def begin(self, status=200, headers=(), data=b"") -> bool:
        return self._call(lambda: self._sink.begin(status, list(headers), REQUEST_ID, data))

    def write(self, data: bytes) -> bool:
        return self._call(self._sink.write, data)

    def end(self, data: bytes = b"") -> None:
        self._call(self._sink.end, data)

    def abort(self) -> None:
        self._call(self._sink.abort)

    def play(self, part) -> None:
        """`part` is called with the sink, in one turn of the loop."""
        self._call(part, self._sink)


def begun(house, *lines: str, method="GET", **options):
    """A client and the stream that has begun for it."""
    client = house.client(**options)
    client.send(get("/stream", *lines, method=method))
    stream = Stream(house)
    stream.begin()
    return client, stream


# What clients see.


@streaming_fronts
def test_each_piece_reaches_the_client_when_it_is_written(house):
    client, stream = begun(house)
    assert client.up_to(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    for number in range(3):
        stream.write(b"%d;" % number)
        assert client.up_to(b"\r\n%d;\r\n" % number) == b"2\r\n%d;\r\n" % number
    stream.end()
    assert client.up_to(b"0\r\n\r\n") == b"0\r\n\r\n"


@streaming_fronts
def test_a_connection_carries_streams_and_ordinary_answers_in_the_order_of_the_requests(house):
    client = house.client()
    client.send((get("/stream") + get("/echo")) * 3)
    for number in range(1, 4):
        stream = Stream(house, number)
        stream.begin(data=b"first")
        stream.end(b" last")
        assert client.answer().body == b"first last"
        assert client.answer().body == b""


@streaming_fronts
def test_a_stream_may_be_large(house):
    client = house.client()
    client.send(get("/stream"))

    def write_all(sink):
        sink.begin(200, [])
        for _ in range(64):
            sink.write(PIECE)
        sink.end()

    Stream(house).play(write_all)
    assert client.answer().body == PIECE * 64


@streaming_fronts
def test_the_answer_to_head_is_a_head(house):
    client, stream = begun(house, method="HEAD")
    stream.write(b"hello")
    stream.end()
    answer = client.answer("HEAD")
    assert answer.values("transfer-encoding") == ["chunked"]
    client.send(get("/echo"))
    assert client.answer().status == 200


@streaming_fronts
def test_an_aborted_stream_breaks_off(house):
    client, stream = begun(house)
    stream.write(b"hello")
    client.up_to(b"hello\r\n")
    stream.abort()
    assert client.rest() == b""
    assert house.door.gone_tokens == []


@streaming_fronts
def test_h11_sees_a_complete_stream_and_an_incomplete_one(house):
    def events(finish) -> Iterator[object]:
        house.door.sinks.clear()
        client, stream = begun(house)
        stream.write(b"hello")
        finish(stream)
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="GET", target="/stream", headers=[("Host", "shop.test")]))
        parser.send(h11.EndOfMessage())
        if finish is Stream.abort:
            parser.receive_data(client.rest())
            parser.receive_data(b"")  # the end of the connection
        else:
            parser.receive_data(client.up_to(b"0\r\n\r\n"))
        return iter(parser.next_event, None)

    kinds = [type(event) for event in islice(events(Stream.end), 3)]
    assert kinds == [h11.Response, h11.Data, h11.EndOfMessage]
    with pytest.raises(h11.RemoteProtocolError, match="incomplete"):
        list(islice(events(Stream.abort), 3))


@streaming_fronts
def test_pythons_http_client_tells_a_complete_stream_from_an_incomplete_one(house):
    host, _, port = house.address.rpartition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10)) as connection:
        for number in (1, 2):
            connection.request("GET", "/stream", headers={"Host": "shop.test"})
            stream = Stream(house, number)
            stream.begin(data=b"hello")
            answer = connection.getresponse()
            assert answer.read(5) == b"hello"
            if number == 1:
                stream.end(b"!")
                assert answer.read() == b"!"
            else:
                stream.abort()
                with pytest.raises(http.client.IncompleteRead):
                    answer.read()


def run_node(script: str, address: str, *, modules: bool) -> subprocess.Popen[str]:
    environ = {**os.environ, "NO_PROXY": "*"}
    if modules:
        environ["CLIENTS_NODE_MODULES"] = str(fleet.node_modules())
    return subprocess.Popen(
        ["node", str(SCRIPTS / script), f"http://{address}/stream"], env=environ, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.needs("node")
@streaming_fronts
def test_fetch_reads_lines_as_they_come_and_tells_a_complete_stream_from_an_incomplete_one(house):
    node = run_node("read_lines.mjs", house.address, modules=False)
    assert node.stdout is not None
    try:
        for number in (1, 2):
            stream, lines = Stream(house, number), JsonLines()
            stream.begin(200, lines.head_headers(), lines.first())
            assert json.loads(node.stdout.readline()) == {"status": 200, "type": "application/x-ndjson"}
            for at in range(3):
                stream.write(lines.items(b'{"at": %d}\n"more"' % at, 2, 2 * at))
                assert json.loads(node.stdout.readline()) == {"at": at}
                assert json.loads(node.stdout.readline()) == "more"
            if number == 1:
                stream.end(lines.end(6, "recorded"))
            else:
                stream.abort()
            assert json.loads(node.stdout.readline()) == ("complete" if number == 1 else "incomplete")
        assert node.wait(SCRIPT_TIMEOUT_S) == 0
    finally:
        node.kill()
        node.communicate()


@pytest.mark.needs("node-clients")
@streaming_fronts
def test_an_event_source_gets_each_event_and_comes_back_with_its_position_until_it_is_told_204(house):
    node = run_node("event_source.mjs", house.address, modules=True)
    assert node.stdout is not None
    try:
        stream, events = Stream(house), EventStream(retry_ms=50, event_id=b"t.0.")
        stream.begin(200, events.head_headers(), events.first())
        stream.write(events.items(b'{"at": 0}\n{"at": 1}', 2, 0, b"t.9."))
        assert json.loads(node.stdout.readline()) == ["message", '{"at": 0}', "t.9.0"]
        assert json.loads(node.stdout.readline()) == ["message", '{"at": 1}', "t.9.1"]
        stream.end()  # not aborted: the EventSource of undici gives up then, that of a browser does not
        again = Stream(house, 2)
        assert house.door.heads[-1].get("last-event-id") == "t.9.1"
        again.begin(200, events.head_headers(), events.first() + events.comment())
        again.end(events.end(2, "recorded", b"t.end"))
        kind, _, last_event_id = json.loads(node.stdout.readline())
        assert (kind, last_event_id) == ("end", "t.end")
        last = Stream(house, 3)
        assert house.door.heads[-1].get("last-event-id") == "t.end"
        last.begin(204)
        last.end()
        assert json.loads(node.stdout.readline()) == "closed"
        assert node.wait(SCRIPT_TIMEOUT_S) == 0
    finally:
        node.kill()
        node.communicate()


# Clients that leave, and clients that are behind.


@streaming_fronts
@pytest.mark.parametrize("leave", ["close", "reset", "half-close"])
def test_a_client_that_leaves_is_reported(house, leave):
    client, stream = begun(house)
    stream.write(b"hello")
    client.up_to(b"hello\r\n")
    {"close": client.sock.close, "reset": client.reset, "half-close": client.end_sending}[leave]()
    eventually(lambda: len(house.door.gone_tokens) == 1, message="the client is reported")
    assert stream.write(b"more") is True
    stream.end()


def fill(stream: Stream, sent: bytearray) -> None:
    """Writes until the client is behind."""
    while stream.write(PIECE):
        sent += PIECE
    sent += PIECE


@fronts(STREAMS, UNIX)
@pytest.mark.parametrize("is_unix", [False, True])
def test_a_client_that_does_not_read_is_reported_as_behind_and_again_when_it_has_caught_up(serve, is_unix, tmp_path):
    house = serve(bind=f"unix:{tmp_path}/s" if is_unix else "127.0.0.1:0")
    client, stream = begun(house)
    sent = bytearray()
    for turn in range(1, 4):
        fill(stream, sent)
        assert len(house.door.writable_tokens) == turn - 1
        client.read(len(sent) - client.unused_bytes)
        eventually(lambda turn=turn: len(house.door.writable_tokens) == turn, message="it has caught up")
    stream.end()
    assert client.answer().body == sent


@streaming_fronts
def test_a_stream_to_a_client_that_is_behind_can_be_aborted(house):
    client, stream = begun(house, receive_buffer_bytes=4096)
    fill(stream, bytearray())
    stream.abort()
    eventually(lambda: house.front.open_connections == 0, message="the connection has ended")
    assert client.rest().endswith(b"0\r\n\r\n") is False
    assert house.door.writable_tokens == []


@pytest.mark.slow
@fronts(STREAMS, UNIX)
@pytest.mark.parametrize("is_unix", [False, True])
def test_a_client_that_reads_nothing_is_cut_and_reported(serve, is_unix, tmp_path):
    house = serve(bind=f"unix:{tmp_path}/s" if is_unix else "127.0.0.1:0", write_timeout="1s")
    client, stream = begun(house, receive_buffer_bytes=4096)
    fill(stream, bytearray())
    eventually(lambda: len(house.door.gone_tokens) == 1, message="the client is reported")
    assert house.door.cuts == ([Cut.SLOW_READER] if is_unix else []), "a TCP connection is ended by the kernel"
    assert stream.write(b"more") is True
    client.sock.close()


@pytest.mark.slow
@streaming_fronts
def test_a_client_that_reads_slowly_but_steadily_keeps_its_stream(serve):
    """It is behind for much longer than the timeout, and takes something in time again and again."""
    house, clock = serve(write_timeout="1s"), serve(write_timeout="300ms")
    client, stream = begun(house, receive_buffer_bytes=65_536)
    fill(stream, bytearray())
    for _ in range(2 * KERNEL_KEEPS // len(PIECE)):  # the kernel takes more, the faster the client reads
        stream.write(PIECE)
    for tick in range(1, 8):
        stalled = clock.client(receive_buffer_bytes=4096)
        stalled.send(get("/stream"))
        unread = Stream(clock, tick)
        unread.begin()
        fill(unread, bytearray())
        client.read(2 * len(PIECE))
        assert [stream.write(PIECE) for _ in range(3)] == [False] * 3, "it does not catch up"
        eventually(lambda tick=tick: len(clock.door.gone_tokens) == tick, message="300 ms have passed")
    assert (house.door.writable_tokens, house.door.gone_tokens, house.door.cuts) == ([], [], [])
    client.sock.close()
    eventually(lambda: len(house.door.gone_tokens) == 1, message="it has left")


# Drain, and who cannot be streamed to.


@streaming_fronts
def test_a_front_that_drains_ends_with_its_last_stream_and_not_before(house):
    client, stream = begun(house)
    house.drain()
    closing = house.closing()
    stream.write(b"hello")
    assert client.up_to(b"hello\r\n")
    assert not closing.done()
    stream.end()
    assert client.rest() == b"0\r\n\r\n"
    closing.result(10)


@streaming_fronts
def test_a_client_may_send_one_more_request_when_its_stream_ends_in_a_drain(house):
    """The head came before the drain, so it did not say that the connection closes."""
    client, stream = begun(house)
    house.call(house.front.drain, 0.5)
    stream.end()
    assert client.up_to(b"0\r\n\r\n")
    client.send(get("/echo"))
    answer = client.answer()
    assert (answer.status, answer.closes) == (200, True)
    assert client.rest() == b""
    house.closed()


@streaming_fronts
def test_http_1_0_is_told_505_and_has_no_stream(house):
    client = house.client()
    client.send(b"GET /stream HTTP/1.0\r\nHost: shop.test\r\n\r\n")
    assert client.answer().status == 505
    assert house.door.opened == []


@every_front
def test_a_front_that_cannot_stream_says_so_in_its_heads(house, kind):
    client = house.client()
    client.send(get("/stream"))
    if STREAMS in kind.abilities:
        Stream(house).answer(200, b"whole")
        assert client.answer().body == b"whole"
    else:
        assert client.answer().status == 501
        assert house.door.opened == []
    assert house.door.heads[0].cannot_stream is (STREAMS not in kind.abilities)


@every_front
@pytest.mark.parametrize(("version", "is_http10"), [("1.0", True), ("1.1", False)])
def test_a_head_says_whether_its_client_can_read_chunks(house, version, is_http10):
    client = house.client()
    client.versions = ("HTTP/1.1", "HTTP/1.0")
    client.send(f"GET /echo HTTP/{version}\r\nHost: shop.test\r\n\r\n".encode())
    assert client.answer().status == 200
    assert house.door.heads[0].is_http10 is is_http10
