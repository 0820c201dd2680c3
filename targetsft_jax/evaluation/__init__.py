"""Evaluation of models on problems: sample completions, grade them, aggregate.

evaluate.py     a model and problems in, a score and graded completions out
graders/        the answer that a completion states, and whether it is correct
results.py      scores and exports that a run has finished
statistics.py   Average@k and its standard error, from arrays of verdicts
"""
