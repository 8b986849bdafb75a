"""Bodies in chunks, where they are taken: bounded in size and time, and the next request begins where they end."""

from __future__ import annotations

import pytest

from fastgw import errors
from tests.fronts.kinds import CHUNKED, fronts
from tests.fronts.test_answers import get
from tests.waiting import eventually

pytestmark = fronts(CHUNKED)


def chunked(path: str = "/echo", *lines: str) -> bytes:
    return get(path, "Transfer-Encoding: chunked", *lines, method="POST")


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


END = b"0\r\n\r\n"


def test_a_body_in_chunks_is_one_body(house):
    client = house.client()
    for parts in ([b"hello"], [b"h", b"ello"], [b"\r\n\r\n", b"0\r\n\r\n", b"\r"], [bytes(70_000)] * 3, []):
        client.send(chunked() + chunks(*parts) + END)
        assert client.answer().body == b"".join(parts)


def test_it_may_come_byte_by_byte(house):
    client = house.client()
    for byte in chunked() + chunks(b"hello", b"\r\n\r\n") + END:
        client.send(bytes([byte]))
    assert client.answer().body == b"hello\r\n\r\n"


def test_requests_in_chunks_may_be_pipelined(house):
    client = house.client()
    client.send(b"".join(chunked(f"/echo?{n}") + chunks(b"%d" % n, b"\r\n\r\n") + END for n in range(20)))
    assert [client.answer().body for _ in range(20)] == [b"%d\r\n\r\n" % n for n in range(20)]


def test_trailers_are_no_part_of_the_request(house):
    client = house.client()
    client.send(chunked() + chunks(b"hello") + b"0\r\nX-Asked: trailer\r\nHost: evil.test\r\n\r\n" + get("/echo?next"))
    assert client.answer().body == b"hello"
    assert client.answer().status == 200
    assert house.door.opened[0][0].headers.get("x-asked") is None


def test_the_limit_of_the_route_is_for_chunks_as_well(house):
    client = house.client()
    client.send(chunked("/small") + chunks(b"0123456789abcdef") + END)
    assert client.answer().body == b"0123456789abcdef"
    client.send(chunked("/small") + chunks(b"0123456789abcdef", b"!") + END + get("/echo?next"))
    answers = client.answers_until_end()
    assert [(answer.status, answer.closes) for answer in answers] == [(413, True)]
    assert [ending for ending, _ in house.door.abandoned] == [errors.BODY_TOO_LARGE]
    assert len(house.door.opened) == 1


def test_a_body_without_end_is_refused_as_soon_as_it_is_too_large(serve):
    house = serve(max_body="1KiB")
    client = house.client()
    client.send(chunked())
    for _ in range(1000):
        client.send_while_open(chunks(bytes(1000)))
    assert client.answer().status == 413
    client.rest()


@pytest.mark.parametrize("sent", [b"", b"5\r\nhel", b"5\r\nhello\r\n0\r\n"])
def test_chunks_that_do_not_come_are_408(serve, sent):
    house = serve(body_timeout="200ms")
    client = house.client()
    client.send(chunked() + sent)
    assert [answer.status for answer in client.answers_until_end()] == [408]
    assert [ending for ending, _ in house.door.abandoned] == [errors.BODY_TIMEOUT]


def test_a_client_that_leaves_in_the_middle_was_never_there(house, kind):
    """granian says the same of a client that has left as of broken chunks, which have to be answered."""
    client = house.client()
    client.send(chunked() + b"5\r\nhel")
    eventually(lambda: house.door.heads)
    client.reset()
    eventually(house.empty)
    told = {"express": errors.CANCELLED_EARLY, "granian": errors.MALFORMED}[kind.name]
    assert [ending for ending, _ in house.door.abandoned] == [told]


def test_a_client_that_asks_first_is_told_to_continue(house):
    client = house.client()
    client.send(chunked("/echo", "Expect: 100-continue"))
    assert client.answer().status == 100
    client.send(chunks(b"hello") + END)
    assert client.answer().body == b"hello"


def test_what_has_come_of_bodies_without_a_length_is_bounded_for_the_worker(serve):
    """Nobody knows what is to come: such a body is refused at the part that does not fit."""
    house = serve(max_body="64KiB", body_memory="64KiB", connection_body_memory="64KiB")
    first, second = house.client(), house.client()
    part = chunks(bytes(8192))
    first.send(chunked() + 6 * part)
    eventually(lambda: house.door.bodies.held_bytes == 48 << 10)
    second.send(chunked() + 2 * part)
    eventually(lambda: house.door.bodies.held_bytes == 64 << 10, message="this much fits")
    second.send_while_open(part)
    refused = second.answer()
    assert (refused.status, refused.values("retry-after")) == (503, ["1"])
    assert [ending for ending, _ in house.door.abandoned] == [errors.BODIES_FULL]
    eventually(lambda: house.door.bodies.held_bytes == 48 << 10, message="what was refused is not kept")
    first.send(part + END)
    assert first.answer().body == bytes(7 * 8192)
    assert house.door.bodies.held_bytes == 0
