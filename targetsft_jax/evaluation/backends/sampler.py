"""Backend of this package: the sampler on the mesh."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from targetsft_jax.checkpoints.open import StoredModel, open_model
from targetsft_jax.command import UsageError
from targetsft_jax.config.schema import MeshConfig
from targetsft_jax.data.chat import stop_tokens
from targetsft_jax.data.chat_templates import with_template
from targetsft_jax.evaluation.backends.backend import Sample, Work
from targetsft_jax.evaluation.likelihood import log_likelihoods
from targetsft_jax.generation.generate import generate
from targetsft_jax.generation.sampling import SamplingSettings
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.unstacked import Weights, decoding_weights
from targetsft_jax.parallel import mesh as meshes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sampler:
    """Completes prompts with `generation.generate`.

    Attributes:
        config: the decoder.
        weights: its parameters, on the mesh.
        stop_ids: tokens that end a completion.
        vocab_size: tokens of the tokenizer.
        dtype: compute dtype.
        row_sharding: sharding of the rows of a batch; None on one device.
    """

    config: DecoderConfig
    weights: Weights
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
            self.weights,
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

    def log_likelihoods(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> np.ndarray:
        """Sum of the log-probabilities of each pair's second tokens, [N] float64."""
        return log_likelihoods(
            self.config,
            self.weights.params,
            pairs,
            vocab_size=self.vocab_size,
            dtype=self.dtype,
            row_sharding=self.row_sharding,
        )


def open_sampler(
    path: str, chat_template: str | None = None, dtype: str | None = None
) -> tuple[Sampler, "PreTrainedTokenizerBase"]:
    """Open a model by its path, on all devices, with its tokenizer.

    Args:
        path: as in `checkpoints.open.open_model`.
        chat_template: name or file in place of the tokenizer's template.
        dtype: compute dtype; None: by platform.

    Raises:
        FileNotFoundError, ValueError: as `open_model`.
        UsageError: the tokenizer has no chat template.
    """
    model = open_model(path)
    tokenizer = chat_tokenizer(model, chat_template)
    return load_sampler(model, tokenizer, MeshConfig(), dtype), tokenizer


def load_sampler(
    model: StoredModel,
    tokenizer: "PreTrainedTokenizerBase",
    axes: MeshConfig,
    dtype: str | None,
) -> Sampler:
    """Load the parameters of a model onto a mesh.

    Args:
        model: the stored model.
        tokenizer: its tokenizer.
        axes: axes of the mesh.
        dtype: compute dtype; None: by platform.
    """
    mesh = meshes.make_mesh(axes.data, axes.fsdp, axes.tensor, context=axes.context)
    kind = compute_dtype(dtype)
    return Sampler(
        model.config,
        decoding_weights(model.load(mesh, kind), kind),
        stop_ids(tokenizer),
        min(len(tokenizer), model.config.vocab_size),
        kind,
        meshes.rows_over(mesh),
    )


def chat_tokenizer(
    model: StoredModel, chat_template: str | None
) -> "PreTrainedTokenizerBase":
    """Tokenizer of a model, with a chat template.

    Raises:
        UsageError: neither the tokenizer nor the argument has a template.
    """
    tokenizer = with_template(model.tokenizer(), chat_template, "chat_template")
    if not tokenizer.chat_template:
        raise UsageError(
            f"the tokenizer of {model.path} has no chat template; set --chat_template "
            "to a name such as qwen_boxed or deepseek_math, or to a file that ends in "
            ".jinja, or --rendering plain for a base model"
        )
    return tokenizer


def stop_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Tokens that end a completion; without a chat template, eos alone."""
    if tokenizer.chat_template:
        return stop_tokens(tokenizer)
    eos = tokenizer.eos_token_id
    return [] if eos is None else [eos]


def compute_dtype(dtype: str | None) -> Any:
    """Compute dtype; None: bfloat16 on accelerators, float32 on CPUs."""
    is_cpu = jax.default_backend() == "cpu"
    return jax.numpy.dtype(dtype or ("float32" if is_cpu else "bfloat16"))
