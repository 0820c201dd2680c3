"""Telemetry of a run: metrics, progress, goodput, anomalies, and their files."""
