"""One target under atheris: `python -m tests.fuzz.one TARGET [libFuzzer's options and corpora]`."""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    import atheris  # of the extra `fuzz`, which nothing else needs

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["fastgw", "tests.fuzz"]):
        module = importlib.import_module(f"tests.fuzz.{name}")
    atheris.Setup(sys.argv, module.target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
