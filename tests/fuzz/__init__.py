"""Fuzz targets for the parsers of our own: one function from bytes to nothing for each, with what it promises.

`make fuzz SECONDS=60` runs each of them under atheris (libFuzzer), guided by the lines that an input reaches. In
`make test` each runs on its seeds and on some hundred inputs of hypothesis, so that no target rots.
"""
