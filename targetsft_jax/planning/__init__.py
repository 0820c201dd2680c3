"""Memory, FLOPs and traffic of a training step, from its compiled program alone."""
