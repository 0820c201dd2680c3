"""Data pipeline, from rows of files or generated problems to batches of tokens.

config → sources → record → chat (tokens and loss mask) → packing → pipeline. The rows
of a step are a pure function of (seed, step). `catalogue/` has public data sets by
name, `templates/` chat templates.
"""
