"""Support code of the tests: models, batches, comparisons, runs, golden makers."""
