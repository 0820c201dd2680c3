"""A reader of compiled programs in XLA's HLO text."""
