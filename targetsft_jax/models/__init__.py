"""Decoder-only transformers: tokens in, hidden states out; parameters are nested dicts.

Pure functions of a `DecoderConfig`, with attention kernels, rotary embeddings and LoRA.
The only room that imports flax.
"""
