"""Evaluation: completions of a model, graded and averaged over problems.

Graders are in `graders/`; statistics are pure functions of arrays.
"""
