"""Benchmarks of fastgw against the real alternatives; README.md beside this file says what each part answers."""
