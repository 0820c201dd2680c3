"""Hugging Face checkpoints: read straight to device shards, written bit for bit."""
