"""Heads are read twice, by llhttp and by `scan`: where both accept, they must have read the same."""

from __future__ import annotations

import pytest
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http._http1 import scan
from fastgw.http.heads import AnswerHeads, BadHead, complete, excess
from fastgw.messages import joined


class Heard:
    """What llhttp says of a head."""

    def __init__(self, raw: bytes) -> None:
        self.url = b""
        self.headers: list[tuple[str, str]] = []
        self.is_kept_alive = False
        self._parser = HttpRequestParser(self)
        self.is_upgrade = False
        try:
            self._parser.feed_data(raw)
        except HttpParserUpgrade:
            self.is_upgrade = True
        self.method = self._parser.get_method().decode()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode().lower(), value.decode("latin-1").strip(" \t")))

    def on_headers_complete(self) -> None:
        self.is_kept_alive = self._parser.should_keep_alive()


LINES = [
    "Host: a.test", "hOST:b.test", "HOST:", "Content-Length: 5", "content-length:\t0 ", "CONTENT-LENGTH: 007",
    "Content-Length: " + "9" * 18, "Transfer-Encoding: chunked", "transfer-encoding:Chunked ", "Connection: close",
    "connection: keep-alive", "Connection: foo, CLOSE", "Connection: close ,foo", "Connection: keep-alive, close",
    "Connection:", "Connection: upgrade", "Upgrade: h2c", "Proxy-Connection: close", "Proxy-Connection: keep-alive",
    "Expect: 100-continue", "Expect:", "X-A: 1", "x-a: 2", "X-A: \t a:b, c \t", "X-\u00e4: \u00e4", "X-B: \u00e4",
    "Hos: a", "Hostt: a", "Content-Lengt: 1", "Content-Lengthh: 1",
]  # fmt: skip
REQUEST_LINES = st.builds(
    "{} {} HTTP/1.{}".format,
    st.sampled_from(["GET", "POST", "HEAD", "PATCH", "CONNECT", "OPTIONS", "QUERY"]),
    st.sampled_from(["/", "/a?b", "/a?b?c", "*", "a:1", "http://a/b?c", "/%2F", "/a#b", "?", "/?"]),
    st.sampled_from("01"),
)
MUTATIONS = st.sampled_from(
    ["", "", "", " ", "\t", "\r", "\n", "\r\n", "\r\n ", ":", ",", "\0", "\u00e4", "0", "x", "?"]
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """An honest head, most of the time with something put into it or in the place of something."""
    lines = [draw(REQUEST_LINES), *draw(st.lists(st.sampled_from(LINES), max_size=5))]
    raw = "\r\n".join(lines) + "\r\n\r\n"
    at = draw(st.integers(0, len(raw)))
    return (raw[:at] + draw(MUTATIONS) + raw[at + draw(st.sampled_from([0, 0, 1])) :]).encode("latin-1")


@given(heads())
def test_what_both_accept_both_have_read_alike(raw):
    head = scan(raw, 0)
    if head is None or head.fault is not None:
        return
    try:
        heard = Heard(raw[: head.end])
    except HttpParserError:
        return
    assert (head.method, head.target) == (heard.method, heard.url.decode("latin-1"))
    assert head.target == head.path + ("?" + head.query if "?" in head.target else "")
    for name in {name for name, _ in heard.headers} | {"x-none"}:
        values = [value for key, value in heard.headers if key == name]
        assert head.get_all(name) == values
        assert head.get(name) == joined(name, values)
    by_name = dict(heard.headers)
    assert head.hosts == tuple(value for key, value in heard.headers if key == "host" and value.isascii())
    assert head.is_streamed is ("transfer-encoding" in by_name)
    assert head.content_length == (int(by_name["content-length"]) if "content-length" in by_name else None)
    assert head.is_expecting is ("expect" in by_name)
    assert head.is_head is (head.method == "HEAD")
    assert not head.cannot_stream
    assert heard.is_kept_alive or not head.is_kept_alive, "ours may be stricter, never more generous"


@given(heads(), st.binary(max_size=30), st.binary(max_size=30))
def test_a_head_is_found_wherever_it_begins_and_ends_at_its_first_empty_line(raw, before, after):
    data = before + raw + after
    head = scan(data, len(before))
    end = data.find(b"\r\n\r\n", len(before))
    assert (head.end if head is not None else -1) == (end + 4 if end >= 0 else -1)
    alone = scan(data[len(before) : end + 4], 0) if end >= 0 else None
    assert repr(head) == repr(alone)


@given(st.binary(max_size=200), st.integers(-5, 205))
def test_any_bytes_are_a_head_or_none(data, at):
    head = scan(data, at)
    if head is not None:
        assert head.fault is not None or head.get("host") == joined("host", head.hosts)
        assert head.fault is not None or head.get_all("host") == list(head.hosts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-a", "1, 2, 3"),
        ("x-A", None),
        ("cookie", "a=1; b=2"),
        ("x-empty", ""),
        ("x-blank", "first"),
        ("x-obs", "\xe4\xff"),
        ("forwarded", ""),
    ],
)
def test_lines_of_one_name_are_one_value(name, value):
    lines = (
        "X-A: 1\r\nCookie: a=1\r\nx-a:2\r\nX-Empty:\r\nX-Blank:\r\nX-Blank: first\r\ncookie: b=2\r\nX-Obs: \xe4\xff\r\n"
    )
    raw = f"GET / HTTP/1.1\r\n{lines}X-A: 3\r\nForwarded: \r\nFORWARDED:\r\n\r\n"
    head = scan(raw.encode("latin-1"), 0)
    assert head is not None
    assert head.get(name) == value


@pytest.mark.parametrize("name", ["", "x", "content-length", "ä", "x" * 300])
def test_a_header_that_is_not_there_is_none(name):
    head = scan(b"GET / HTTP/1.1\r\nHost: a\r\nX-Other: b\r\n\r\n", 0)
    assert head is not None
    assert (head.get(name), head.get_all(name)) == (None, [])


def test_a_head_keeps_its_bytes():
    head = scan(b"GET / HTTP/1.1\r\nX-A: " + b"a" * 1000 + b"\r\n\r\n", 0)
    assert head is not None
    scan(b"GET / HTTP/1.1\r\nX-A: " + b"b" * 1000 + b"\r\n\r\n", 0)
    assert head.get("x-a") == "a" * 1000


# Targets.


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a", "/a", ""),
        (b"/a?", "/a", ""),
        (b"/a?b=%20&c?d", "/a", "b=%20&c?d"),
        (b"/a%2Fb%2fc%zz", "/a%2Fb%2fc%zz", ""),
        (b"//a", "//a", ""),
        (b"http://a.test/b%20c?d", "/b%20c", "d"),
        (b"HTTP://A.test:80", "/", ""),
        (b"http://a.test?x", "/", "x"),
        (b"*", "*", ""),
        (b"a.test:80", "a.test:80", ""),
    ],
)
def test_a_target_is_path_and_query_as_they_came(target, path, query):
    head = scan(b"GET " + target + b" HTTP/1.1\r\nHost: a.test\r\n\r\n", 0)
    assert head is not None
    if not head.is_plain:
        complete(head)
    assert (head.path, head.query) == (path, query)


@pytest.mark.parametrize(
    "target",
    [b"http://b.test/", b"http://a.test:81/", b"http://u@a.test/", b"ftp://a.test/", b"/a#b", b"//a#", b"http:///"],
)
def test_a_target_that_names_something_else_is_bad(target):
    head = scan(b"GET " + target + b" HTTP/1.1\r\nHost: a.test\r\n\r\n", 0)
    assert head is not None
    assert not head.is_plain
    with pytest.raises(BadHead):
        complete(head)


# Sizes.


@given(st.integers(0, 60), st.integers(0, 60), st.data())
def test_what_is_said_of_a_part_is_said_of_the_whole(line_bytes, header_bytes, data):
    raw = b"GET /" + b"a" * line_bytes + b"\r\nX: " + b"b" * header_bytes + b"\r\n\r\n"
    part = raw[: data.draw(st.integers(1, len(raw)))]
    said = excess(part, 30, 30, 3)
    if said is not None:
        assert said == excess(raw, 30, 30, 0)
    assert (excess(raw, 30, 30, 0) is None) == (5 + line_bytes <= 30 and 9 + header_bytes <= 30)


# Answers.


def test_an_answer_with_an_unknown_status_has_a_reason_all_the_same():
    heads = AnswerHeads()
    assert heads.make(299, [])[0].startswith(b"HTTP/1.1 299 Unknown\r\n")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (413, b"Content Too Large"),
        (414, b"URI Too Long"),
        (416, b"Range Not Satisfiable"),
        (422, b"Unprocessable Content"),
    ],
)
def test_the_reason_is_as_rfc_9110_has_it(status, words):
    assert AnswerHeads().make(status, [])[0].startswith(b"HTTP/1.1 %d %s\r\n" % (status, words))


def test_an_answers_head_is_made_once_a_second():
    heads = AnswerHeads()
    heads.set_time(0.2)
    made = heads.make(200, [("x-a", "1")])
    heads.set_time(0.9)
    assert heads.made[200, ("x-a", "1")] is made
    heads.set_time(1.1)
    assert heads.made == {}


def test_a_large_head_is_not_remembered() -> None:
    heads = AnswerHeads()
    heads.make(200, [("x-a", "1" * 4096)])
    assert heads.made == {}
