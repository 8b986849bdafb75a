"""A crowd of clients that hold connections and do nothing useful with them: `python -m tests.hostile.crowd PORT KIND
COUNT PATH` says "here" once all of them are as they will stay, and goes home when its standard input ends.

    idle          one request, then silence on a kept-alive connection
    silent        connect and say nothing
    slow-headers  a byte of a head now and then
    slow-bodies   a whole head, then a byte of the body now and then
    slow-readers  ask for a large answer and do not read it

Who is cut off comes back: that is the point of such an attack.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Callable
from typing import cast

import uvloop

BYTE_EVERY_S = 0.5
BACK_AFTER_S = 0.5
LOOK_AGAIN_S = 0.05
AT_ONCE = 100  # connecting at the same time: the accept queue is not what is tested here
LARGE_BYTES = 500_000
SMALL_WINDOW_BYTES = 4096

ASKING = ("idle", "slow-readers")  # the others never finish a request
LINES = "Host: crowd.test\r\nContent-Length: "


class Member(asyncio.Protocol):
    """One connection. `first` is said at once, `bit` again and again after it.

    Attributes:
        answered: an answer has begun to arrive.
    """

    def __init__(self, first: bytes, bit: bytes, reads: bool, lost: Callable[[], None]) -> None:
        self._first, self._bit, self._reads, self._lost = first, bit, reads, lost
        self.answered = False
        self._watched = -1
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        if not self._reads:
            self._transport.pause_reading()
            self._watch(self._transport.get_extra_info("socket").fileno())
        if self._first:
            self._transport.write(self._first)
        if self._bit:
            asyncio.get_running_loop().call_later(BYTE_EVERY_S, self._go_on)

    def _watch(self, fd: int) -> None:
        """Notices the first byte of an answer without taking it."""
        self._watched = os.dup(fd)  # the descriptor itself is the transport's
        asyncio.get_running_loop().add_reader(self._watched, self._arrived)

    def _arrived(self) -> None:
        self.answered = True
        self._watch_no_more()

    def _watch_no_more(self) -> None:
        if self._watched >= 0:
            asyncio.get_running_loop().remove_reader(self._watched)
            os.close(self._watched)
            self._watched = -1

    def data_received(self, _data: bytes) -> None:
        self.answered = True

    def _go_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._bit)
            asyncio.get_running_loop().call_later(BYTE_EVERY_S, self._go_on)

    def connection_lost(self, error: Exception | None) -> None:
        self._watch_no_more()
        self._lost()

    def leave(self) -> None:
        self._transport.abort()


def behaviour(kind: str, path: str) -> tuple[bytes, bytes, bool]:
    """What a member of this kind says first, says again and again, and whether it reads."""
    head = f"POST {path} HTTP/1.1\r\n{LINES}"
    return {
        "nobody": (b"", b"", True),
        "idle": (f"{head}1\r\n\r\nx".encode(), b"", True),
        "silent": (b"", b"", True),
        "slow-headers": (f"{head}1\r\nX-Slow: ".encode(), b"x", True),
        "slow-bodies": (f"{head}{LARGE_BYTES}\r\n\r\n".encode(), b"x", True),
        "slow-readers": (f"{head}{LARGE_BYTES}\r\n\r\n".encode() + bytes(LARGE_BYTES), b"", False),
    }[kind]


class Crowd:
    """`count` members on a running loop."""

    def __init__(self, port: int, kind: str, count: int, path: str) -> None:
        self._port, self._count = port, count
        self._behaviour = behaviour(kind, path)
        self._asks = kind in ASKING
        self._members: set[Member] = set()
        self._going_home = False
        self._returning: set[asyncio.Task[None]] = set()

    @property
    def here(self) -> int:
        """How many are connected now."""
        return len(self._members)

    async def gather(self) -> None:
        """Returns when all of them have been connected once, and those that ask for something get it.

        Requests that are still under way would be measured as what they are, work, and not as a crowd.
        """
        for start in range(0, self._count, AT_ONCE):
            await asyncio.gather(*(self._come() for _ in range(min(AT_ONCE, self._count - start))))
        while self._asks and not all(member.answered for member in self._members):
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _come(self) -> None:
        loop = asyncio.get_running_loop()
        first, bit, reads = self._behaviour
        sock = socket.socket()
        sock.setblocking(False)
        if not reads:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW_BYTES)
        member = Member(first, bit, reads, lambda: self._lost(member))
        try:
            await loop.sock_connect(sock, ("127.0.0.1", self._port))
            await loop.create_connection(lambda: member, sock=sock)
            self._members.add(member)
        except OSError:
            sock.close()
            self._lost(member)

    def _lost(self, member: Member) -> None:
        self._members.discard(member)
        if not self._going_home:
            asyncio.get_running_loop().call_later(BACK_AFTER_S, self._come_back)

    def _come_back(self) -> None:
        if not self._going_home:
            task = asyncio.get_running_loop().create_task(self._come())
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)

    def go_home(self) -> None:
        self._going_home = True
        for member in list(self._members):
            member.leave()


def main() -> None:
    port, kind, count, path = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def be_there() -> None:
        crowd = Crowd(port, kind, count, path)
        await crowd.gather()
        print("here", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        crowd.go_home()

    uvloop.run(be_there())


if __name__ == "__main__":
    main()
