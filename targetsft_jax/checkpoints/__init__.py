"""Models and training states on disk: saving, opening, restoring, conversion.

Only this package distinguishes the paths of models: hub ids, Hugging Face folders, run
directories and checkpoints. It takes and returns plain trees of arrays.
"""
