"""Measures how fast the project is, beside other ways to do the same; see tools/benchmark.py."""
