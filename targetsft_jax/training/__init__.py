"""Training: the models of a run, the jitted step, the loop, the run.

`step` runs student, teacher and reference in one SPMD program; `fit` is the loop over
batches; `run` opens the models, checks the data, trains, evaluates and exports.
"""
