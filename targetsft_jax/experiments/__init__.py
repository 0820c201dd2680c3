"""Experiments: comparisons of runs, as cells, tables and figures.

All modules read run directories; only `compare` needs a device.
"""
