"""Hugging Face checkpoints: reading straight into device shards, bit-exact writing.

`families` is one table per model family that drives import, export, adapters and shape
checks. Tensors are memory-mapped and move in bounded pieces.
"""
