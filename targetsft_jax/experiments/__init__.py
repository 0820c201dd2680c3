"""Experiments: runs side by side, as cells of a comparison, tables and pictures.

Reads run directories; everything but `compare` works without a device.
"""
