"""Every block of every page does what the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.docs import play
from tests.docs.conftest import LEFT_OUT
from tests.docs.pages import Block, PageError, all_pages, blocks, relative

UNIQUE = re.compile(r"-[0-9a-f]{8}$")
TOPICS_S = 30.0
# What a newcomer pastes runs here as well, all of it.
ALL_RUN = {"README.md", "docs/tutorial.md", "docs/services.md", "docs/protocol.md"}


def readable_blocks(page: Path) -> list[Block]:
    try:
        return blocks(page)
    except PageError:
        return []  # the test of the page says why


def parameter(page: Path) -> object:
    page_blocks = readable_blocks(page)
    marks = [pytest.mark.needs(*needs)] if (needs := play.needs(page_blocks)) else []
    if play.runs(page_blocks):
        marks.append(pytest.mark.real_kafka)
    return pytest.param(page, id=page.stem, marks=marks)


@pytest.fixture
def kafka(request: pytest.FixtureRequest) -> Iterator[str]:
    """A real Kafka for the pages that have commands; the topics and groups of a page go with it."""
    if not request.node.get_closest_marker("real_kafka"):
        yield ""
        return
    bootstrap = request.getfixturevalue("kafka_bootstrap")
    admin = AdminClient({"bootstrap.servers": bootstrap})
    before = set(admin.list_topics(timeout=TOPICS_S).topics)
    yield bootstrap
    # Not those that other tests have made meanwhile, whose names are unique (see `make_topics`).
    made = [
        name
        for name in admin.list_topics(timeout=TOPICS_S).topics
        if name not in before and name[:2] != "__" and not UNIQUE.search(name)
    ]
    if made:
        for future in admin.delete_topics(made).values():
            future.result(TOPICS_S)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", [parameter(page) for page in all_pages()])
def test_page(page: Path, kafka: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    try:
        page_blocks = blocks(page)
    except PageError as error:
        pytest.fail(str(error), pytrace=False)
    left_out = [block for block in page_blocks if block.not_run]
    pytestconfig.stash.setdefault(LEFT_OUT, []).extend(left_out)
    assert not (left_out and relative(page) in ALL_RUN), f"{left_out[0]}: every block of this page has to run"
    with play.Play(page, page_blocks, tmp_path, kafka) as one:
        one.run()
