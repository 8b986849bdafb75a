"""What a page can read of the gateway's answers across origins: headless Chromium with a real page.

The page writes what it can read into its document, and sends that text to the server that it came from.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.actors.hand_service import values_in
from tests.actors.raw_http import RawConnection
from tests.actors.repliers import replier
from tests.gateway.gateways import Gateway
from tests.waiting import eventually

pytestmark = pytest.mark.needs("chromium")

PAGE_S = 60
CHROMIUM = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
]  # fmt: skip

CONFIG = """
[cors]
origins = ["{origin}"]
[[route]]
method = "POST"
path = "/capped"
topic = "{silent}"
timeout = "20s"
max_in_flight = 1
"""

PAGE = """<!doctype html>
<title>a page of another origin</title>
<pre id="told"></pre>
<script>
const gateway = "%s";
const echo = "%s";
const json = { method: "POST", headers: { "content-type": "application/json" } };

async function read(path, options) {
  try {
    const answer = await fetch(gateway + path, options);
    const text = await answer.text();
    return {
      status: answer.status,
      outcome: answer.headers.get("fastgw-outcome"),
      retry_after: answer.headers.get("retry-after"),
      request_id: answer.headers.get("x-request-id"),
      body: text.startsWith("{") ? JSON.parse(text) : text,
    };
  } catch (error) {
    return { error: String(error) };
  }
}

(async () => {
  const told = {
    capped: await read("/capped", { method: "POST", body: "too many" }),
    json: await read(echo, { ...json, body: JSON.stringify({ from: location.origin }) }),
    nowhere: await read("/nowhere", {}),
  };
  document.getElementById("told").textContent = JSON.stringify(told);
  await fetch("/told", { method: "POST", body: document.getElementById("told").textContent });
})();
</script>
"""


@contextmanager
def page(text: str = "") -> Iterator[SimpleNamespace]:
    """A server of its own for one page: its `origin`, its `text`, and the queue `told` with what the page sent back."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(house.text.encode() if self.path == "/" else b"")

        def do_POST(self) -> None:
            house.told.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    house = SimpleNamespace(origin=f"http://127.0.0.1:{server.server_port}", text=text, told=queue.Queue())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield house
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def read_by(place: SimpleNamespace, profile: Path) -> dict[str, Any]:
    """What the page at `place` could read, in a browser of its own."""
    with (profile / "chromium.log").open("wb") as log:
        command = [*CHROMIUM, f"--user-data-dir={profile / 'profile'}", f"{place.origin}/"]
        browser = subprocess.Popen(command, stderr=log, start_new_session=True)
        try:
            return place.told.get(timeout=PAGE_S)
        except queue.Empty:
            raise AssertionError((profile / "chromium.log").read_text()[-2000:]) from None
        finally:
            os.killpg(browser.pid, signal.SIGKILL)  # it is many processes
            browser.wait()


@pytest.fixture(params=["express", "granian"])
def house(request, tmp_path, kafka_bootstrap, make_topics):
    """A gateway that allows the pages of one origin, `page`, and has no room on one of its routes."""
    topics = make_topics({"replies": 2, "orders": 1, "silent": 1})
    orders = topics["orders"]
    with page() as allowed, replier(kafka_bootstrap, "header", [orders]):
        more = CONFIG.format(origin=allowed.origin, silent=topics["silent"])
        with (
            Gateway(
                tmp_path, kafka_bootstrap, topics["replies"], [orders], workers=1, more=more, front=request.param
            ) as gateway,
            RawConnection(gateway.port) as parked,
        ):
            parked.ask("POST", "/capped", b"waits")
            eventually(lambda: gateway.metric("fastgw_in_flight") == 1, message="the only place is taken")
            text = PAGE % (f"http://127.0.0.1:{gateway.port}", f"/{orders}")
            allowed.text = text
            yield SimpleNamespace(page=allowed, text=text, orders=orders, bootstrap=kafka_bootstrap)


def test_a_page_reads_the_outcome_of_a_refusal_and_posts_json(house, tmp_path):
    told = read_by(house.page, tmp_path)
    capped = told["capped"]
    assert (capped["status"], capped["outcome"]) == (503, "not_recorded")
    assert int(capped["retry_after"]) >= 1
    assert capped["body"]["outcome"] == "not_recorded"
    assert capped["body"]["type"].endswith("in_flight_cap")
    assert capped["request_id"] == capped["body"]["request_id"]
    assert (told["json"]["status"], told["json"]["outcome"]) == (200, "recorded")
    assert told["json"]["body"] == {"from": house.page.origin}
    assert told["json"]["request_id"]
    assert told["nowhere"]["status"] == 404
    assert len(values_in(house.bootstrap, house.orders)) == 1, "its preflight left no record"


def test_a_page_of_another_origin_reads_nothing_and_its_json_is_not_sent(house, tmp_path):
    with page(house.text) as other:
        told = read_by(other, tmp_path)
    assert {name: answer.keys() for name, answer in told.items()} == dict.fromkeys(
        ("capped", "json", "nowhere"), {"error": ""}.keys()
    )
    assert values_in(house.bootstrap, house.orders) == []
