"""Generation: prompts in, sampled completions out.

One prefill per prompt, then one jitted loop over all samples with a KV cache.
"""
