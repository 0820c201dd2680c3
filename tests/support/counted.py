"""What tests count for the end of pytest's output, over all of its processes."""

COUNTED = "malformed inputs: "
"""How the names of such properties of a test begin."""
