"""Runs side by side: their metrics read back, tabulated and drawn.

Works on run directories only, never on a model. Behind `report` and `compare`.
"""
