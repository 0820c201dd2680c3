"""Models and training states on disk: saved, found, opened and restored."""
