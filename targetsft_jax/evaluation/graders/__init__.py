"""Graders: the answer that a completion states, compared with the gold answer."""
