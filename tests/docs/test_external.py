"""The check of external links, against a server of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.docs.external import external_links, failure
from tests.places import REPOSITORY
from tests.ports import free_port


class OnlyHere(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/here" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    one = HTTPServer(("127.0.0.1", 0), OnlyHere)
    thread = threading.Thread(target=one.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{one.server_port}"
    one.shutdown()
    thread.join()
    one.server_close()


def test_an_address_leads_somewhere_or_it_is_said_why_not(server: str) -> None:
    assert failure(f"{server}/here") == ""
    assert failure(f"{server}/gone") == "status 404"
    assert "refused" in failure(f"http://127.0.0.1:{free_port()}/")


def test_links_to_other_hosts_are_found_with_their_place() -> None:
    found = list(external_links([REPOSITORY / "README.md"]))
    assert found
    assert all(where.startswith("README.md:") and address.startswith("http") for where, address in found)


def test_links_inside_the_project_and_to_the_reader_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.docs.external.relative", lambda page: page.name)
    page = tmp_path / "page.md"
    page.write_text("[a](other.md) [b](http://127.0.0.1:8080/x)\n\n[c](https://kafka.apache.org)\n")
    assert list(external_links([page])) == [("page.md:3", "https://kafka.apache.org")]
