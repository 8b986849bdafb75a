"""Builds the benchmark's C programs, on the librdkafka of the confluent-kafka wheel where they need Kafka."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import confluent_kafka

from bench.rig.processes import BenchError, run_to_end

HERE = Path(__file__).resolve().parent.parent  # bench/
SOURCES = HERE / "native"
TABLE = HERE.parent / "fastgw"  # has the headers of the shared table
BUILD = HERE / ".build"  # not in git: programs, the peers' builds, their dependencies
FLAGS = ["-O2", "-std=gnu11", "-Wall", "-Wextra"]
COMPILE_TIMEOUT_S = 120
WITH_KAFKA = {"echo", "pingpong"}
_compiling = Lock()  # two loads may be started side by side


def librdkafka() -> Path:
    """The shared library inside the installed confluent-kafka wheel.

    Raises:
        BenchError: it is not where Linux wheels have it.
    """
    libraries = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    found = sorted(libraries.glob("librdkafka*.so*"))
    if not found:
        raise BenchError(f"no librdkafka in {libraries}: is confluent-kafka installed from a wheel?")
    return found[0]


def program(name: str) -> Path:
    """The program made from `native/NAME.c`, compiled if it is older than its sources.

    Raises:
        BenchError: no compiler, or it found a mistake.
    """
    target, told = BUILD / name, BUILD / f"{name}.command"
    sources = [SOURCES / f"{name}.c", *SOURCES.glob("*.h"), *TABLE.glob("_ctable*.h")]
    library = librdkafka() if name in WITH_KAFKA else None
    with_kafka = [str(library), f"-Wl,-rpath,{library.parent}"] if library else []
    command = ["cc", *FLAGS, "-o", str(target), str(sources[0]), *with_kafka, "-lpthread", "-lm"]
    newest = max(source.stat().st_mtime for source in sources)
    with _compiling:
        same_command = told.exists() and told.read_text() == str(command)  # not so in a checkout that was moved
        if not same_command or not target.exists() or target.stat().st_mtime < newest:
            BUILD.mkdir(exist_ok=True)
            run_to_end(command, COMPILE_TIMEOUT_S)
            told.write_text(str(command))
    return target
