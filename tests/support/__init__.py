"""What tests share: models, batches, comparisons, runs, and the makers of golden files."""
