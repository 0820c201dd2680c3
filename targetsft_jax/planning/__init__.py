"""What a training step will hold, compute and move, from its compiled program alone."""
