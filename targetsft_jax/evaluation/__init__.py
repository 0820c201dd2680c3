"""Evaluation of models on problems: sample completions, grade them, aggregate.

estimates.py    intervals, paired differences, pass@k and majority@k, from verdicts
evaluate.py     sampling and grading of completions, aggregated to a score
graders/        extraction of the stated answer, and comparison with the gold answer
grading.py      grading of many completions in worker processes
results.py      finished evaluations and export of a run
statistics.py   Average@k and its standard error, from arrays of verdicts
"""

from targetsft_jax.evaluation.graders.choices import grade_choice
from targetsft_jax.evaluation.graders.grade import Grade
from targetsft_jax.evaluation.graders.maths import grade_math

__all__ = ["Grade", "grade_choice", "grade_math"]
