"""Interactive use of one model: generate, score and inspect text.

`load` opens any model path; its results display themselves in a notebook.
"""

from targetsft_jax.interactive.model import Model, TextStream, load
from targetsft_jax.interactive.token_table import Entry, ScoreTable, TargetTable

__all__ = ["Entry", "Model", "ScoreTable", "TargetTable", "TextStream", "load"]
