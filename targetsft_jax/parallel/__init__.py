"""Devices and processes: the mesh, and the sharding of parameters and batches.

One table maps logical axes of parameters to mesh axes. Imports jax only.
"""
