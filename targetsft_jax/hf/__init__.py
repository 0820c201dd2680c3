"""Hugging Face checkpoints and adapters: import, export, and their sidecar files."""
