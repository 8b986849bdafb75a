"""librdkafka for one event loop: types and promises. How it works stands at the top of _klink.pyx.

Every call is made by one thread and none of them waits, but `close` and, by its name, `flush`. Nothing works before
`load`. A client that was closed does nothing more and tells nothing more.
"""

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from fastgw._ctable import SlotRange
from fastgw.messages import Reply

UNTRACKED: Final[int]  # the token of a record whose fate nobody waits for
OFFSET_BEGINNING: Final[int]
OFFSET_END: Final[int]
REPLIES_MAX: Final[int]  # the most replies that `replies` gives at once
LAST_BATCH: Final[int]  # batches have the numbers from 1 to this one

# What became of a record that failed.
NOT_PERSISTED: Final[int]  # never given to a broker, or refused by it: it is in no log
POSSIBLY_PERSISTED: Final[int]  # given to a broker, which did not say
PERSISTED: Final[int]  # in its log, all the same

class Delivered(NamedTuple):
    """A record is in its topic."""

    token: int
    at_ns: int  # when that was taken in, monotonic

class Undelivered(NamedTuple):
    """A record has failed for good."""

    token: int
    code: int  # rd_kafka_resp_err_t
    status: int  # NOT_PERSISTED, POSSIBLY_PERSISTED, PERSISTED
    text: str

class ClientError(NamedTuple):
    """Something is wrong with a client or with a partition that is read; librdkafka goes on trying unless `fatal`."""

    code: int
    name: str  # "_TRANSPORT", "TOPIC_AUTHORIZATION_FAILED"
    text: str
    fatal: bool

class LogLine(NamedTuple):
    """A line of librdkafka's own log."""

    level: int  # as syslog: 0 emergency ... 7 debug
    facility: str
    text: str

class Statistics(NamedTuple):
    """librdkafka's statistics (its STATISTICS.md), every `statistics.interval.ms`."""

    text: str  # JSON

class Offsets(NamedTuple):
    """The answer to `ask_offsets`; a partition that is in neither was not answered for."""

    request: int
    found: dict[int, int]  # partition -> offset
    failed: dict[int, str]  # partition -> why
    text: str  # why there is no answer at all

def load(path: str) -> tuple[int, str]:
    """Find every function that is used here in a librdkafka that this process has loaded already.

    Returns:
        Its version as a number (0x02100000 and a last byte: 2.16.0) and as text.

    Raises:
        OSError: the library at `path` is not loaded, or lacks a function; the text names which.
    """

def clear(fd: int) -> bool:
    """Take back the wake-ups of an eventfd or an alarm; False if there were none."""

def alarm() -> int:
    """A descriptor that can be read once its time has come.

    Raises:
        OSError: no descriptor is left.
    """

def set_alarm(fd: int, at_ns: int) -> None:
    """Set its time (monotonic), in place of any other."""

class Client:
    """What both clients have. Settings are librdkafka properties as text; ValueError says what is wrong with one."""

    @property
    def closed(self) -> bool:
        """After `close`."""

    def fatal(self) -> tuple[int, str] | None:
        """Code and text of the error that this client will not recover from."""

    def mute(self) -> None:
        """Write to no descriptor any more."""

    def close(self) -> None:
        """Destroy the client. Waits for librdkafka's threads, without the GIL."""

class Producer(Client):
    def __init__(
        self,
        settings: list[tuple[str, str]],
        slots: SlotRange | None,
        event_fd: int,
        partitioners: dict[str, str] | None = None,
    ) -> None:
        """`partitioners`: for some topics, librdkafka's name of the one for records with key."""

    def events(self) -> list[Delivered | Undelivered | ClientError | LogLine | Statistics]:
        """All that has come since the last call; `event_fd` tells when.

        Records that are in their topics are among it only where there are no `slots`; else their slots are marked as
        recorded, and that is all.
        """

    def preload_topic(self, topic: str) -> None:
        """Asks Kafka about a topic before the first record for it."""

    def send(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        headers: list[tuple[str, bytes]],
        partition: int,
        token: int,
        batch: int = 0,
        keyless_to: int = -1,
    ) -> tuple[int, str] | None:
        """Give a record to librdkafka, which copies it.

        Args:
            partition: -1: with a key the partitioner's choice, without one as `keyless_to` says.
            token: names the record in what is told of it later: 0 or more and below 2^52 - 1, or UNTRACKED.
            batch: the number of its batch, up to LAST_BATCH; 0: it is unbatched.
            keyless_to: a partition, or a larger number of which the remainder is taken; -1: any, drawn for each record.

        Returns:
            None; or, if it was refused here and now, code and text of the error.

        Raises:
            TypeError, ValueError: an argument is of another type, or the topic's name is impossible; nothing was sent.
        """

    def partitions(self, topic: str) -> int:
        """How many partitions a record without key may go to, as of the last record sent; 0: not known yet."""

    def acknowledged(self) -> list[int]:
        """Batches of which, since the last call, the last record's fate has been told by `events`."""

    def unbatched_since_ns(self) -> int:
        """Since when (monotonic) the fate of the oldest unbatched record is not known; 2^63 - 1 if there is none.

        Roughly: while one is stuck, those that came more than 100 ms later can seem as old as the first of them.
        """

    def waiting(self) -> int:
        """Records whose fate is not known yet, and events not taken."""

    def flush(self, timeout_ms: int) -> None:
        """Send without lingering, and wait until nothing waits any more or the time is up."""

    def purge(self) -> None:
        """Give up all records; each is told as undelivered, those on their way to a broker as possibly persisted."""

class Consumer(Client):
    def __init__(
        self, settings: list[tuple[str, str]], topic: str, correlation_header: str, reply_fd: int, event_fd: int
    ) -> None: ...
    def events(self) -> list[ClientError | LogLine | Statistics | Offsets]:
        """All that has come since the last call; `event_fd` tells when."""

    def replies(self) -> list[Reply]:
        """The next records that were fetched, at most REPLIES_MAX; `reply_fd` tells when there are some again.

        Errors of partitions that are met on the way come with the next `events`.
        """

    def ask_offsets(self, partitions: Iterable[int], at: int, request: int, timeout_ms: int) -> None:
        """Ask for the offsets at OFFSET_BEGINNING or OFFSET_END; an `Offsets` with `request` will be among the events.

        Raises:
            ValueError: the consumer is closed.
        """

    def assign(self, offsets: dict[int, int]) -> tuple[int, str] | None:
        """Read these partitions as well, from these offsets; code and text if none of them could be added.

        Raises:
            ValueError: the consumer is closed.
        """

    def unassign(self, partitions: Collection[int]) -> tuple[int, str] | None:
        """Read these partitions no longer; records of them that were fetched already are dropped.

        Raises:
            ValueError: the consumer is closed.
        """
