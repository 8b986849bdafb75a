"""What a request costs on a connection of the express front without a socket, from its bytes to those of its answer."""

from __future__ import annotations

import pytest

from fastgw.admission import Admission, Refusal
from fastgw.messages import Answer, Head
from tests.actors.wire_connection import INTAKE, REQUEST_ID, FakeFront, RecordingDoor, Wire

BODY = b"x" * 256
FEW = {"Host": "shop.test", "Content-Type": "application/json", "Content-Length": str(len(BODY)), "Accept": "*/*"}
MANY = FEW | {  # as from a browser behind a proxy
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br",
    "Authorization": "Bearer " + "x" * 300,
    "X-Forwarded-For": "10.1.2.3",
    "X-Forwarded-Proto": "https",
    "X-Request-Id": "7f3b1c2d-5e6f-4a8b-9c0d-1e2f3a4b5c6d",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}


class InstantDoor(RecordingDoor):
    """Answers before it returns and keeps nothing."""

    def admit(self, head: Head) -> Admission | Refusal:
        return INTAKE.admit(head)

    def open(self, admission: Admission, body: bytes, answer: Answer) -> int:
        answer(200, [("fastgw-outcome", "recorded"), ("content-type", "application/json")], body, REQUEST_ID)
        return -1


@pytest.mark.parametrize("headers", [FEW, MANY], ids=["few", "many"])
def test_a_request_on_a_kept_connection(benchmark, headers):
    front = FakeFront()
    front.door = InstantDoor()
    wire = Wire(front)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST /held HTTP/1.1\r\n{lines}\r\n".encode() + BODY

    def ask() -> bytes:
        wire.transport.sent.clear()
        wire.connection.data_received(request)
        return wire.sent

    sent = benchmark(ask)
    assert sent.startswith(b"HTTP/1.1 200 ")
    assert sent.endswith(BODY)
