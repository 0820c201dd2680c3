"""Models and training states on disk: save, restore, locate and open."""
