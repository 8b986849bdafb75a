"""Micro-benchmarks. `make test` runs each once, so that none rots; `make micro` measures, bench/compare.py judges."""
