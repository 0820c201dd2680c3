"""Data: rows of files, or generated problems, to batches of tokens.

config → sources → record → chat (tokens and loss mask) → packing → pipeline. The rows
of a step are a pure function of (seed, step). Known data sets are in `catalogue/`, chat
templates in `templates/`.
"""
