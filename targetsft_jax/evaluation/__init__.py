"""From a model and problems to a score: sample, grade, aggregate."""
