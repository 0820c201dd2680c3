"""Interactive use of one model: generate, score and inspect text.

`load` opens any model path; its results display themselves in a notebook.
"""

from targetsft_jax.interactive.model import Model, load

__all__ = ["Model", "load"]
