"""schemathesis against an OpenAPI description of the routes, on every front: `python -m tests.hostile.openapi PROGRAM`.

A minute. It makes requests from the description, legal and illegal ones, and checks each answer against it: status,
media type, the shape of problem documents, the `Allow` of a 405. Exit code 1 when it finds a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fastgw import errors
from tests.fronts.houses import House, LoopThread
from tests.fronts.kinds import FRONTS

TIMEOUT_S = 300
EXAMPLES = 40  # for each operation
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method"
)

PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "outcome", "request_id"],
    "properties": {
        "type": {"type": "string", "pattern": "^urn:fastgw:problem:[a-z_]+$"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri"},
        "outcome": {"enum": ["not_recorded", "recorded", "unknown"]},
        "request_id": {"type": "string", "format": "uuid"},
    },
}
HEADERS = {
    "fastgw-outcome": {"required": True, "schema": {"enum": ["not_recorded", "recorded", "unknown"]}},
    "x-request-id": {"required": True, "schema": {"type": "string", "format": "uuid"}},
}
REFUSED = {
    "description": "a problem (RFC 9457)",
    "headers": HEADERS,
    "content": {"application/problem+json": {"schema": PROBLEM}},
}
ANSWERED = {"description": "what the service says", "headers": HEADERS}


def description() -> dict[str, Any]:
    """The routes of tests/fronts/door.py that answer at once."""
    statuses = {str(row.status) for row in errors.ENDINGS if 400 <= row.status < 500 and row.status != 499}
    responses = {"200": ANSWERED, **dict.fromkeys(sorted(statuses), REFUSED)}
    body = {
        "content": {"application/json": {"schema": {"type": "object"}}, "text/plain": {"schema": {"type": "string"}}}
    }
    prefer = {"name": "prefer", "in": "header", "schema": {"type": "string"}}
    asked = {"name": "x-asked", "in": "header", "schema": {"type": "string"}}
    query = {"name": "page", "in": "query", "schema": {"type": "integer"}}
    item = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    writing = {"parameters": [prefer, asked, query], "requestBody": body, "responses": responses}
    return {
        "openapi": "3.2.0",
        "info": {"title": "echo", "version": "1"},
        "paths": {
            "/echo": {
                "get": {"parameters": [prefer, asked, query], "responses": responses},
                "post": writing,
                "put": writing,
                "patch": writing,
                "delete": {"parameters": [prefer, query], "responses": responses},
                "head": {"parameters": [query], "responses": {"200": ANSWERED}},
                "options": {"parameters": [query], "responses": responses},
                "query": writing,
            },
            "/items/{id}": {
                "get": {"parameters": [item, query], "responses": responses},
                "head": {"parameters": [item], "responses": {"200": ANSWERED, "400": {"description": "no body"}}},
            },
            "/small": {"post": writing},
        },
    }


def run(program: str, address: str, folder: Path) -> tuple[bool, str]:
    """Whether it found nothing, and what it said."""
    (folder / "openapi.json").write_text(json.dumps(description()))
    command = [
        program, "run", str(folder / "openapi.json"), "--url", f"http://{address}", "--checks", CHECKS,
        "--max-examples", str(EXAMPLES), "--phases", "examples,coverage,fuzzing", "--no-color", "--seed", "1",
        "--continue-on-failure", "--suppress-health-check", "all",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=folder)
    return done.returncode == 0, done.stdout + done.stderr


def main() -> int:
    loop_thread = LoopThread()
    all_good = True
    for kind in FRONTS:
        house = House(loop_thread, kind, {}, (), "127.0.0.1:0")
        with tempfile.TemporaryDirectory() as folder:
            good, said = run(os.path.abspath(sys.argv[1]), house.address, Path(folder))
        opened = len(house.door.opened)
        house.leave()
        assert opened > EXAMPLES, f"schemathesis did not run: {said}"
        all_good = all_good and good
        print(f"schemathesis, {kind.name}: {opened} requests went to the service; {'no finding' if good else said}")
    loop_thread.stop()
    return int(not all_good)


if __name__ == "__main__":
    sys.exit(main())
