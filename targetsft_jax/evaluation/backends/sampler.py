"""Backend of this package: the sampler on the mesh."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from targetsft_jax.evaluation.backends.backend import Sample, Work
from targetsft_jax.generation.generate import generate
from targetsft_jax.generation.sampling import SamplingSettings
from targetsft_jax.models.config import DecoderConfig


@dataclass(frozen=True)
class Sampler:
    """Completes prompts with `generation.generate`.

    Attributes:
        config: the decoder.
        params: its parameters, on the mesh.
        stop_ids: tokens that end a completion.
        vocab_size: tokens of the tokenizer.
        dtype: compute dtype.
        row_sharding: sharding of the rows of a batch; None on one device.
    """

    config: DecoderConfig
    params: Any
    stop_ids: Sequence[int]
    vocab_size: int
    dtype: Any
    row_sharding: Any = None

    @property
    def name(self) -> str:
        """Name, and the compute dtype."""
        return f"sampler, {jax.numpy.dtype(self.dtype).name}"

    def complete(
        self, work: Sequence[Work], settings: SamplingSettings, seed: int
    ) -> list[list[Sample]]:
        """Draw the samples of every prompt, all with the same sample numbers."""
        samples = work[0].samples
        completions = generate(
            self.config,
            self.params,
            [item.prompt for item in work],
            samples=len(samples),
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            stop_ids=self.stop_ids,
            key=jax.random.key(seed),
            vocab_size=self.vocab_size,
            dtype=self.dtype,
            row_sharding=self.row_sharding,
            numbers=[item.number for item in work],
            first_sample=samples.start,
        )
        return [
            [Sample(sample.tokens, None, sample.finished) for sample in row]
            for row in completions
        ]
