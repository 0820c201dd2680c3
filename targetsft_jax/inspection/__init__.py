"""Inspection: one page of what every method teaches on a user's own rows.

Python measures the tokens and writes them into a container of arrays; the page reads it
without a server or network. Every weight and normaliser is computed by `targets`.
"""
