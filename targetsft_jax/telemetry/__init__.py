"""Telemetry of a run: metrics, progress, goodput, anomalies, profiles."""
