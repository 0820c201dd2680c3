"""Experiments: comparisons of runs, as cells, tables and figures.

Every module reads run directories; only `compare` runs models.
"""
