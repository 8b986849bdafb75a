"""Builds the extensions; everything else is in pyproject.toml."""

from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

FLAGS = ["-O3", "-std=c11", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"]

setup(
    ext_modules=cythonize(
        [
            Extension("fastgw._ctable", ["fastgw/_ctable.pyx"], depends=glob("fastgw/*.h"), extra_compile_args=FLAGS),
            Extension("fastgw._klink", ["fastgw/_klink.pyx"], depends=glob("fastgw/*.h"), extra_compile_args=FLAGS),
            Extension("fastgw._ids", ["fastgw/_ids.pyx"], extra_compile_args=FLAGS),
            Extension("fastgw._http1", ["fastgw/_http1.pyx"], extra_compile_args=FLAGS),
        ],
        language_level=3,
    )
)
