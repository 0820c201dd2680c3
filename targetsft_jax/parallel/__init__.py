"""Devices: the mesh, and where parameters lie on it. Imports jax only."""
