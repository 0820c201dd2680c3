"""Manifests that start a run on a cluster.

Pure functions of what is requested; the command `jobset` prints the result.
"""
