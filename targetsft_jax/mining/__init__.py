"""Mining: per-token columns from a model's own answers, to train on.

run → sampler (greedy answers and alternatives) → answers (correct ones, as they would
be tokenized for training) → criticality (masks) → mined_file.
"""
