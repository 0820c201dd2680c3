"""Graders: extract the stated answer of a completion and compare it with the gold."""
