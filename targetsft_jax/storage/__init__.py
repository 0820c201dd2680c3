"""Storage: atomic files and folders, JSON lines, and the names in a run directory.

The only room that renames files into place.
"""
