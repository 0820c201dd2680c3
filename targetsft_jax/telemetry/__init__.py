"""Metrics, progress, goodput and anomalies of a run, and the files they go to."""
