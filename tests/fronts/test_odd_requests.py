"""Odd and legal requests: both fronts give the same answer and write the same record, or there is a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import orjson
import pytest

from fastgw.messages import Record
from tests.fronts import odd_requests
from tests.fronts.houses import House, LoopThread
from tests.fronts.http2_client import Http2Client
from tests.fronts.kinds import FRONTS, HTTP2, FrontKind
from tests.fronts.odd_requests import (
    EVERY_ANSWER,
    EVERY_RECORD,
    KEY,
    ODD,
    OVER_HTTP2,
    PARTITION,
    VALUE,
    Odd,
    Told,
    over_http2,
    raw_request,
    told,
)
from tests.fronts.raw_http import Answer, RawClient
from tests.waiting import eventually

NEXT = raw_request("/echo?next")


class OldClient(RawClient):
    versions = ("HTTP/1.1", "HTTP/1.0")  # a server may answer a client of 1.0 in its version (RFC 9110, 6.2)


@pytest.fixture(scope="module", params=FRONTS, ids=[kind.name for kind in FRONTS])
def kind(request: pytest.FixtureRequest) -> FrontKind:
    return request.param


@pytest.fixture(scope="module")
def house(kind: FrontKind, loop_thread: LoopThread) -> Iterator[House]:
    """One front for all rows."""
    house = House(loop_thread, kind, {}, (), "127.0.0.1:0", odd_requests.ROUTES, http="1")
    yield house
    house.leave()


def test_there_are_enough_rows_and_each_has_a_name_of_its_own():
    assert len(ODD) >= 300
    assert [name for name, count in Counter(row.name for row in ODD).items() if count > 1] == []


def test_every_stated_difference_is_one_and_has_a_reason():
    fronts = {kind.name for kind in FRONTS}
    for row in ODD:
        assert row.differences.keys() <= fronts, row.name
        for difference in row.differences.values():
            assert difference.outcome != row.outcome, row.name
            assert difference.reason, row.name


@pytest.mark.parametrize("row", ODD, ids=[row.name for row in ODD])
def test_an_odd_request_has_the_stated_answer_and_record(row, kind, house):
    difference = row.differences.get(kind.name)
    outcome = difference.outcome if difference else row.outcome
    answer, goes_on = _play(row, house)
    assert (answer.status, _only(_but_next(house)), goes_on) == (outcome.status, outcome.record, outcome.goes_on)
    assert _told(answer) == told(row, outcome)


@pytest.fixture(scope="module")
def http2_house(loop_thread: LoopThread) -> Iterator[House]:
    """One front for all rows over HTTP/2."""
    [kind] = [kind for kind in FRONTS if HTTP2 in kind.abilities]
    house = House(loop_thread, kind, {}, (), "127.0.0.1:0", odd_requests.ROUTES, http="2")
    yield house
    house.leave()


@pytest.mark.parametrize("row", OVER_HTTP2, ids=[row.name for row in OVER_HTTP2])
def test_an_odd_request_over_http2_has_the_same_answer_and_record(row, http2_house):
    house, request = http2_house, over_http2(row)
    house.door.records.clear()
    with Http2Client(house.address, check=False) as client:
        stream = client.request(*request, authority=None)
        answer = client.answer(stream)
        assert client.answer(client.request("/echo?next")).status == 200, "the connection goes on"
    eventually(house.empty, message=f"{row.name} leaves nothing behind")
    assert (answer.status, _only(_but_next(house))) == (row.outcome.status, row.outcome.record)
    assert _told(answer) == told(row, row.outcome)


def _told(answer: Answer) -> Told:
    headers: dict[str, list[str]] = {}
    for name, value in answer.headers:
        if name not in EVERY_ANSWER:
            headers.setdefault(name, []).append(value)
    if headers.get("content-type") != ["application/problem+json"] or not answer.body:
        return Told(headers, answer.body, "")
    return Told(headers, b"", orjson.loads(answer.body)["type"].removeprefix("urn:fastgw:problem:"))


def _play(row: Odd, house: House) -> tuple[Answer, bool]:
    """Sends one row and an ordinary request behind it; leaves nothing behind for the next row.

    Returns:
        The answer, and whether the next request was served.
    """
    house.door.records.clear()
    with OldClient(house.address) as client:
        client.send_while_open(row.raw)
        answer = client.answer(row.method)
        goes_on = _is_served(client)
    eventually(house.empty, message=f"{row.name} leaves nothing behind")
    return answer, goes_on


def _is_served(client: RawClient) -> bool:
    """Whether a further request on the connection is answered, rather than the connection ended."""
    client.send_while_open(NEXT)
    try:
        return client.answer().status == 200
    except AssertionError:
        return False


def _but_next(house: House) -> list[Record]:
    return [record for record in house.door.records if ("http_query", b"next") not in record.headers]


def _only(records: list[Record]) -> odd_requests.Record | None:
    """The one record as a table has it; None if there is none."""
    if not records:
        return None
    [record] = records
    headers = [(name, value) for name, value in record.headers if name not in EVERY_RECORD]
    assert len(dict(headers)) == len(headers), f"a header is there twice: {headers}"
    return {VALUE: record.value, KEY: record.key, PARTITION: record.partition, **dict(headers)}
