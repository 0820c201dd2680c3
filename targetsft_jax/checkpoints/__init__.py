"""Models and training states on disk: saving, opening, restoring, conversion.

The only room that knows a path may be a hub id, a Hugging Face folder, a run directory
or one of its checkpoints. Takes and returns plain trees of arrays.
"""
