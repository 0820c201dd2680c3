"""Atomic files and folders, JSON Lines, array folders and the names in a run."""
