"""Devices and processes: the mesh, shardings of parameters and batches. Imports jax."""
