"""The access log: a line for each request that is to have one, valid JSON, never in the way, no silent loss."""

from __future__ import annotations

import os
import select
import threading
import time
from datetime import UTC, datetime

import orjson
import pytest
import structlog

from fastgw import config, errors
from fastgw.config import Log
from fastgw.errors import ConfigError
from fastgw.worker.access_log import GATHERED_BYTES_MAX, AccessLog, LineWriter, Note, pieces
from tests.waiting import eventually

ID = b"00000000-0000-8000-8000-000000000001"
TRACE = "0af7651916cd43dd8448eb211c80319c"
NOTE = Note("POST /o", "POST", "/o", "a=secret", "10.0.0.1", 5, "abc", f"00-{TRACE}-b7ad6b7169203331-01")
TIMES = (1, 2_000_001, 5_000_001, 0)


class Lines:
    """An access log into a file, read back."""

    def __init__(self, path, **settings):
        self.path = path
        self.dropped = []
        self.log = AccessLog(Log(**{"access": "all", "access_file": str(path), **settings}), 3, self.dropped.append)

    def write(self, ending=errors.ANSWERED, status=200, note=NOTE, times=TIMES, request_id=ID):
        self.log.write(note, ending, status, request_id, 7, times)

    def read(self):
        self.log.close()
        return [orjson.loads(line) for line in self.path.read_bytes().splitlines()] if self.path.exists() else []


@pytest.fixture
def lines(tmp_path):
    return Lines(tmp_path / "access.log")


def test_a_line_has_all_that_is_known(lines):
    before = datetime.now(UTC)
    lines.write()
    [line] = lines.read()
    at = datetime.fromisoformat(line.pop("time"))
    assert abs((at - before).total_seconds()) < 60
    assert line.pop("total_ms") >= line.pop("ack_to_reply_ms") >= 0
    assert line == {
        "request_id": ID.decode(), "status": 200, "ending": "answered", "outcome": "recorded", "worker": 3,
        "route": "POST /o", "method": "POST", "path": "/o", "client": "10.0.0.1", "bytes_in": 5, "bytes_out": 7,
        "queue_ms": 3.0, "client_request_id": "abc", "trace_id": TRACE,
    }  # fmt: skip


def test_an_answer_to_head_has_no_bytes(lines):
    lines.write(note=Note("GET /o", "HEAD", "/o", "", "", 0, "", ""))
    assert "bytes_out" not in lines.read()[0], "0 is left out"


@pytest.mark.parametrize("trace", ["z" * 32, "\x85" * 32, "0AF7651916CD43DD8448EB211C80319C"])
def test_a_trace_that_is_none_is_left_out(lines, trace):
    lines.write(note=Note("", "GET", "/", "", "", 0, "", f"00-{trace}-b7ad6b7169203331-01"))
    assert "trace_id" not in lines.read()[0]


@pytest.mark.parametrize("more", ["", "-and-what-a-later-version-has"])
def test_a_trace_of_any_version_is_shown(lines, more):
    lines.write(note=Note("", "GET", "/", "", "", 0, "", f"01-{TRACE}-b7ad6b7169203331-01{more}"))
    assert lines.read()[0]["trace_id"] == TRACE


def test_no_method_makes_a_line_long(lines):
    lines.write(note=Note("", "X" * 9000, "/", "", "", 0, "", ""))
    assert lines.read()[0]["method"] == "X" * 32


def test_the_time_is_utc_with_milliseconds(lines):
    lines.write()
    time_text = lines.read()[0]["time"]
    assert time_text.endswith("Z")
    assert len(time_text) == len("2026-11-30T14:26:42.123Z")


def test_what_is_not_known_is_left_out(lines):
    lines.write(errors.MALFORMED, 400, Note("", "", "", "", "", 0, "", ""), None)
    assert lines.read()[0].keys() == {"time", "request_id", "status", "ending", "outcome", "worker", "bytes_out"}


@pytest.mark.parametrize(("target", "keys"), [("none", set()), ("path", {"path"}), ("full", {"path", "query"})])
def test_the_query_may_hold_secrets_and_is_logged_only_where_that_is_asked_for(tmp_path, target, keys):
    lines = Lines(tmp_path / "access.log", access_target=target)
    lines.write()
    assert lines.read()[0].keys() & {"path", "query"} == keys


@pytest.mark.parametrize("query", ["last_event_id={}", "a=1&last_event_id={}", "last_event_id={}&last_event_id={}"])
def test_a_position_in_a_stream_is_logged_nowhere(tmp_path, query):
    lines = Lines(tmp_path / "access.log", access_target="full")
    lines.write(note=Note("GET /o", "GET", "/o", query.replace("{}", "v1.secret"), "", 0, "", ""))
    assert lines.read()[0]["query"] == query.replace("{}", "...")


@pytest.mark.parametrize("path", ['/"\\\n\r\t\0', "/\x7f\x80\xff\u2028", "/" + "x" * 100_000, "/" + "\0" * 9000])
def test_no_path_breaks_its_line_or_makes_it_longer_than_a_pipe_takes_at_once(lines, path):
    note = Note("r" * 100, "POST", path, "", "::1", 1, "c" * 128, f"00-{TRACE}-b7ad6b7169203331-01")
    lines.write(note=note)
    lines.write()
    read = lines.read()
    assert [line["path"] for line in read] == [path[:512], "/o"]
    assert all(len(line) <= select.PIPE_BUF for line in lines.path.read_bytes().splitlines(keepends=True))


def test_errors_are_those_from_400_on(tmp_path):
    lines = Lines(tmp_path / "access.log", access="errors")
    for ending, status in [
        (errors.ANSWERED, 200),
        (errors.ANSWERED, 404),
        (errors.EXPIRED, 504),
        (errors.CANCELLED, 499),
    ]:
        lines.write(ending, status)
    assert [line["status"] for line in lines.read()] == [404, 504, 499]


def test_a_sample_of_the_successes_has_lines_and_every_error(tmp_path):
    lines = Lines(tmp_path / "access.log", sample=0.1)
    for _ in range(2000):
        lines.write()
        lines.write(errors.EXPIRED, 504)
    statuses = [line["status"] for line in lines.read()]
    assert statuses.count(504) == 2000
    assert 100 < statuses.count(200) < 320


def test_a_file_that_was_moved_away_is_made_anew(lines, tmp_path, monkeypatch):
    monkeypatch.setattr("fastgw.worker.access_log.REOPEN_PERIOD_S", 0.0)
    lines.write()
    lines.log.flush()
    eventually(lambda: lines.path.exists() and lines.path.stat().st_size)
    lines.path.rename(tmp_path / "access.log.1")
    lines.write(errors.EXPIRED, 504)
    assert [line["status"] for line in lines.read()] == [504]
    assert len((tmp_path / "access.log.1").read_bytes().splitlines()) == 1


def test_a_file_that_cannot_be_written_costs_its_lines_and_that_is_reported(tmp_path):
    lines = Lines(tmp_path / "nowhere" / "access.log")
    for _ in range(5):
        lines.write()
    lines.read()
    assert sum(lines.dropped) == 5
    (tmp_path / "nowhere").mkdir()
    lines.write()
    assert len(lines.read()) == 1, "it goes on as soon as it can"


class Pipe:
    """A pipe that nobody reads until the test does."""

    def __init__(self, writer):
        self.reading, self.writing = os.pipe()
        self._writer = writer
        writer._fd, writer._is_file = self.writing, False

    def drain(self):
        """Reads all that comes until the writer has nothing left."""
        data = bytearray()
        while not self._writer.is_idle or select.select([self.reading], [], [], 0)[0]:
            if select.select([self.reading], [], [], 0.05)[0]:
                data += os.read(self.reading, 1 << 20)
        return bytes(data)

    def close(self):
        os.close(self.reading)
        os.close(self.writing)


def test_a_pipe_that_nobody_reads_holds_up_nobody_and_what_does_not_fit_is_counted(lines):
    pipe = Pipe(lines.log._writer)
    count = 2 * GATHERED_BYTES_MAX // 200
    began = time.monotonic()
    for number in range(count):
        lines.write()
        if number % 1000 == 0:
            lines.log.flush()
    assert time.monotonic() - began < 30, "it did not wait for a reader"
    assert lines.log._gathered_bytes < GATHERED_BYTES_MAX + 4096
    data = pipe.drain()
    lines.log.flush()
    data += pipe.drain()
    lines.log.flush()
    read = [orjson.loads(line) for line in data.splitlines()]
    assert sum(lines.dropped) > 0
    assert len(read) + sum(lines.dropped) == count
    pipe.close()


def test_lines_of_several_workers_on_one_pipe_stay_whole():
    reading, writing = os.pipe()
    writers = [LineWriter("stdout") for _ in range(4)]
    batch = bytes(b"".join(b'{"n":"%b"}\n' % (b"x" * (number % 900)) for number in range(2000)))
    for writer in writers:
        writer._fd = writing
        writer.write(bytes(batch))
    got = bytearray()

    def read():
        while len(got) < 4 * len(batch):
            got.extend(os.read(reading, 1 << 16))

    reader = threading.Thread(target=read)
    reader.start()
    reader.join(30)
    assert sorted(bytes(got).splitlines()) == sorted(4 * bytes(batch).splitlines())
    os.close(reading)
    os.close(writing)


def test_a_reader_that_goes_away_costs_lines_and_nothing_else(lines):
    pipe = Pipe(lines.log._writer)
    os.close(pipe.reading)
    lines.write()
    lines.log.flush()
    eventually(lambda: lines.log._writer.is_idle)
    lines.log.flush()
    assert lines.dropped == [1]
    os.close(pipe.writing)


def test_pieces_are_whole_lines_of_what_a_pipe_takes_at_once():
    batch = bytes(b"".join(b"x" * (number * 37 % 3000) + b"\n" for number in range(100)) + b"y" * 9000 + b"\nz\n")
    found = pieces(batch, False)
    assert b"".join(found) == batch
    assert all(piece[-1:] == b"\n" for piece in found)
    assert all(len(piece) <= select.PIPE_BUF or bytes(piece).count(b"\n") == 1 for piece in found)
    assert [bytes(piece) for piece in pieces(batch, True)] == [bytes(batch)]


def test_the_gateways_log_reports_dropped_lines_once_in_a_while(tmp_path):
    lines = Lines(tmp_path / "nowhere" / "access.log")
    with structlog.testing.capture_logs() as reported:
        for _ in range(20):
            lines.write()
            lines.log.close()
    assert [line["event"] for line in reported] == ["access log lines dropped"]
    assert sum(lines.dropped) == 20


@pytest.mark.parametrize("where", ["nowhere/access.log", "folder"])
def test_a_file_that_could_not_be_written_is_a_mistake_in_the_configuration(tmp_path, where):
    (tmp_path / "folder").mkdir()
    text = f"""
        [gateway]
        name = "shop"
        [kafka]
        bootstrap = "localhost:9092"
        [log]
        access = "all"
        access_file = "{tmp_path}/{where}"
        [[route]]
        method = "POST"
        path = "/o"
        topic = "orders"
    """
    file = tmp_path / "fastgw.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"log\.access_file"):
        config.load(file)
    file.write_text(text.replace(where, "access.log"))
    config.load(file)


@pytest.mark.parametrize(
    ("sample", "is_taken"), [("0", True), ("0.01", True), ("1", True), ("1.1", False), ("-1", False)]
)
def test_a_sample_is_a_part(sample, is_taken):
    text = f'[gateway]\nname = "s"\n[kafka]\nbootstrap = "k:9092"\n[log]\nsample = {sample}\n'
    route = '[[route]]\nmethod = "POST"\npath = "/o"\ntopic = "orders"\n'
    if is_taken:
        assert config.loads(text + route).log.sample == float(sample)
    else:
        with pytest.raises(ConfigError, match=r"log\.sample"):
            config.loads(text + route)


@pytest.mark.parametrize(
    ("ending", "has_reply"), [(errors.ANSWERED, True), (errors.BAD_REPLY, True), (errors.EXPIRED, False)]
)
def test_without_a_reply_there_is_no_time_to_it(lines, ending, has_reply):
    lines.write(ending, ending.status)
    assert ("ack_to_reply_ms" in lines.read()[0]) is has_reply
