"""Asks the hosts of all external links of the pages whether they still have them: python -m tests.docs.external

It needs the internet, so it is no part of `make test`. Prints each link that does not lead anywhere, with the page and
the line, and exits with 1 if there is one.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import all_pages, links, relative

TIMEOUT_S = 20
EXAMPLES = ("http://127.0.0.1", "http://localhost")  # what a reader opens on their own machine


def external_links(pages: list[Path]) -> Iterator[tuple[str, str]]:
    """(page:line, address) of every link to another host."""
    for page in pages:
        for line, target in links(page):
            if target.startswith(("http://", "https://")) and not target.startswith(EXAMPLES):
                yield f"{relative(page)}:{line}", target


def failure(address: str) -> str:
    """Why the address leads nowhere; "" if it does lead somewhere."""
    request = urllib.request.Request(address, headers={"User-Agent": "fastgw-docs"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except OSError as error:
        return str(error)


def main() -> int:
    asked: dict[str, str] = {}
    for where, address in external_links(all_pages()):
        if address not in asked:
            asked[address] = failure(address)
        if asked[address]:
            print(f"{where}: {address}: {asked[address]}")
    print(f"{len(asked)} addresses, {sum(map(bool, asked.values()))} lead nowhere")
    return 1 if any(asked.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
