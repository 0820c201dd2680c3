"""The decoder: tokens in, hidden states out; parameters are nested dicts."""
