"""Teachers: run a teacher once over the training data, store its distributions.

Training then reads them with its batches, without the memory and FLOPs of a teacher.
Imports `training` for models, mesh and forward pass.
"""
