"""Backend of vLLM in this process, fed with token ids (extra `vllm`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from targetsft_jax.evaluation.backends.backend import Sample, Work
from targetsft_jax.extras import import_extra
from targetsft_jax.generation.sampling import SamplingSettings


@dataclass
class Vllm:
    """Completes prompts with `vllm.LLM`.

    Attributes:
        folder: Hugging Face folder of the model.
        stop_ids: tokens that end a completion.
        dtype: compute dtype.
    """

    folder: str
    stop_ids: Sequence[int]
    dtype: str
    _engine: Any = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Name with the version, and the dtype: both change results."""
        return f"vllm {_import().__version__}, {self.dtype}"

    def complete(
        self, work: Sequence[Work], settings: SamplingSettings, seed: int
    ) -> list[list[Sample]]:
        """Draw the samples of every prompt, each with its own seed."""
        vllm = _import()
        if self._engine is None:
            self._engine = vllm.LLM(model=self.folder, dtype=self.dtype)
        calls = [(item, sample) for item in work for sample in item.samples]
        outputs = self._engine.generate(
            [{"prompt_token_ids": item.prompt} for item, _ in calls],
            [
                vllm.SamplingParams(
                    n=1,
                    seed=item.seed(sample, seed),
                    max_tokens=settings.max_new_tokens,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    top_k=settings.top_k or -1,
                    stop_token_ids=list(self.stop_ids),
                )
                for item, sample in calls
            ],
        )
        samples = iter(_sample(output.outputs[0], self.stop_ids) for output in outputs)
        return [[next(samples) for _ in item.samples] for item in work]


def _sample(output: Any, stop_ids: Sequence[int]) -> Sample:
    tokens = list(output.token_ids)
    if tokens and tokens[-1] in stop_ids:
        tokens.pop()
    return Sample(tokens, None, output.finish_reason == "stop")


def _import() -> Any:
    return import_extra("vllm", "vllm", "backend vllm", "or set backend to sampler")
