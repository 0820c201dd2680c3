"""Training: the models of a run, the jitted step, the loop, the run.

One SPMD program holds student, teacher and reference (`step`); `fit` drives it batch by
batch; `run` opens the models, proves the data, trains, evaluates and exports.
"""
