"""Comparison of runs: their metrics read back, tables and figures."""
