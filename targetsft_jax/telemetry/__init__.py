"""Metrics, progress, goodput and anomalies of a run, and the files they go to.

Every number per step is declared here once; log line, TensorBoard, plots and tables
follow from the declaration. The devices never wait for it.
"""
