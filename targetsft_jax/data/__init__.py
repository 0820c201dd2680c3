"""Data: from rows of files, or generated problems, to batches of tokens.

config → sources → record → chat (tokens and loss mask) → packing → pipeline.
"""
