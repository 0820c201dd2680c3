"""Graders: what a completion states, and whether it is right."""
