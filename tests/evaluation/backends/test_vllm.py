"""vLLM's arguments, by a module in its place; the real one was not run."""

import sys
from types import SimpleNamespace

import pytest

from targetsft_jax.evaluation.backends.backend import Work
from targetsft_jax.evaluation.backends.vllm import Vllm
from targetsft_jax.generation.sampling import SamplingSettings


def test_prompts_are_token_ids_with_a_seed_per_sample(monkeypatch):
    calls = []

    class LLM:
        def __init__(self, **arguments):
            calls.append(arguments)

        def generate(self, prompts, parameters):
            calls.append((prompts, parameters))
            ended = SimpleNamespace(token_ids=(9, 2), finish_reason="stop")
            limit = SimpleNamespace(token_ids=(9, 9), finish_reason="length")
            outputs = [ended, limit]
            return [SimpleNamespace(outputs=[output]) for output in outputs]

    module = SimpleNamespace(LLM=LLM, SamplingParams=dict, __version__="0.33.0")
    monkeypatch.setitem(sys.modules, "vllm", module)
    backend = Vllm("folder", [2], "bfloat16")
    assert backend.name == "vllm 0.33.0, bfloat16"
    settings = SamplingSettings(samples=2, max_new_tokens=5)
    ((first, second),) = backend.complete([Work("p", [4], range(2))], settings, 0)
    assert calls[0] == {"model": "folder", "dtype": "bfloat16"}
    prompts, parameters = calls[1]
    assert prompts == [{"prompt_token_ids": [4]}] * 2
    assert parameters[0]["seed"] != parameters[1]["seed"]
    assert parameters[0]["top_k"] == -1 and parameters[0]["stop_token_ids"] == [2]
    assert (first.tokens, first.finished) == ([9], True)
    assert (second.tokens, second.finished) == ([9, 9], False)


def test_without_vllm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match=r"targetsft-jax\[vllm\]"):
        Vllm("folder", [], "auto").complete([Work("p", [4], range(1))], None, 0)
