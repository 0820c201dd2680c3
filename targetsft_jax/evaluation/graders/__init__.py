"""Graders: extract the stated answer of a completion and compare it with the gold."""

from targetsft_jax.evaluation.graders.grade import Grade
from targetsft_jax.evaluation.graders.registry import GRADERS, find_grader

__all__ = ["GRADERS", "Grade", "find_grader"]
