"""Memory, FLOPs and traffic of a train step, from its compiled program."""
