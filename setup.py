"""Builds the extensions; everything else is in pyproject.toml.

Two kinds: the native modules (_*.pyx), and the Python modules of the hot path. A .pxd beside a .py gives its fields and
calls C types and has Cython compile it; the .py stays what people read, lint and type-check.
"""

import os
import shlex
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

CORES = os.cpu_count() or 1
FLAGS = ["-O3", "-std=c11", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"]
FLAGS += shlex.split(os.environ.get("FASTGW_CFLAGS", ""))  # of two that contradict the later wins: "-O1" is quick

NEEDED_BY_NATIVE = [Path("fastgw/messages.py")]  # _http1.pyx calls its C functions

native = list(Path("fastgw").rglob("*.pyx"))
compiled = [path.with_suffix(".py") for path in Path("fastgw").rglob("*.pxd") if path.with_suffix(".py").exists()]


def module(source: Path) -> str:
    return ".".join(source.with_suffix("").parts)


def sources() -> list[Path]:
    wanted = os.environ.get("FASTGW_EXTENSIONS")
    if wanted == "no":
        return []  # an editable installation of what has been compiled in place already (prepare.py)
    if wanted == "native":
        return sorted([*native, *NEEDED_BY_NATIVE])  # the rest runs as Python, where coverage sees it (make coverage)
    return sorted(native + compiled)


def extensions() -> list[Extension]:
    return cythonize(
        [
            # cythonize finds the headers that a source or a .pxd names, so that only what includes them is built again.
            # A module of a package includes those of the table, which stand in the root, through its .pxd.
            Extension(module(source), [str(source)], extra_compile_args=FLAGS, include_dirs=["fastgw"])
            for source in sources()
        ],
        language_level=3,
        # Annotations are for mypy, which has another idea of an int than C; what C is told stands in the .pxd.
        compiler_directives={"annotation_typing": False},
    )


setup(ext_modules=extensions(), options={"build_ext": {"parallel": CORES}})
