"""A loaded model: generate text, score it, and show the target of any method on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

from targetsft_jax.checkpoints.open import StoredModel, open_model, shared_tokenizer
from targetsft_jax.data.chat_templates import with_template
from targetsft_jax.evaluation.backends.sampler import compute_dtype, stop_ids
from targetsft_jax.generation.generate import generate
from targetsft_jax.generation.rows import Completion
from targetsft_jax.generation.stream import stream
from targetsft_jax.generation.text_stream import completion_text, text_pieces
from targetsft_jax.interactive.measure import Plan, measure_scores, measure_target
from targetsft_jax.interactive.text_input import (
    Text,
    Tokens,
    is_messages,
    prompt_ids,
    scored_tokens,
)
from targetsft_jax.interactive.token_table import ScoreTable, TargetTable
from targetsft_jax.models.chunked_logits import logits_in_chunks
from targetsft_jax.models.unstacked import Weights, decoding_weights
from targetsft_jax.parallel.mesh import make_mesh, rows_over
from targetsft_jax.targets.method import Method

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Model:
    """A model on its devices, with its tokenizer; `load` returns one.

    Attributes:
        stored: the opened path.
        params: parameters, the tree of `models.decoder.init_params`.
        tokenizer: with the chat template of messages.
        dtype: dtype of parameters and forward passes.
        mesh: devices.
        vocab_size: tokens that have a probability: the tokenizer's.
        stop_ids: tokens that end a completion.
    """

    stored: StoredModel
    params: dict[str, Any] = field(repr=False)
    tokenizer: "PreTrainedTokenizerBase" = field(repr=False)
    dtype: Any
    mesh: Mesh = field(repr=False)
    vocab_size: int
    stop_ids: tuple[int, ...]

    def __repr__(self) -> str:
        """Path, size and dtype."""
        count = sum(x.size for x in jax.tree.leaves(self.params))
        return (
            f"Model({self.stored.path}, {self.stored.config.model_type}, "
            f"{count / 1e6:,.1f} M parameters, {jax.numpy.dtype(self.dtype).name})"
        )

    def generate(
        self,
        prompts: Text | Sequence[Text],
        *,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        samples: int = 1,
        seed: int = 0,
    ) -> Any:
        """Complete prompts.

        Args:
            prompts: text to continue, messages to answer (the last of the user), or a
                list of either.
            max_new_tokens, temperature, top_p, top_k: as in
                `generation.sampling.SamplingSettings`; temperature 0 decodes greedily.
            samples: completions per prompt.
            seed: equal seeds give equal completions, for each position in the list.

        Returns:
            Text for one prompt, a list of them for a list; with several samples, a list
            of texts in place of each text.

        Raises:
            ValueError: messages without a chat template; a setting outside its domain.
        """
        is_one = isinstance(prompts, str) or is_messages(prompts)
        every: Any = [prompts] if is_one else prompts
        completions = self.complete(
            list(every),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            samples=samples,
            seed=seed,
        )
        texts = [[self.text(one.tokens) for one in row] for row in completions]
        results = texts if samples > 1 else [row[0] for row in texts]
        return results[0] if is_one else results

    def complete(
        self, prompts: Sequence[Text], *, seed: int = 0, **settings: Any
    ) -> list[list[Completion]]:
        """Completions of each prompt as tokens; `settings` as in `generate`."""
        return generate(
            self.stored.config,
            self._weights,
            [prompt_ids(prompt, self.tokenizer) for prompt in prompts],
            stop_ids=self.stop_ids,
            key=jax.random.key(seed),
            vocab_size=self.vocab_size,
            dtype=self.dtype,
            row_sharding=rows_over(self.mesh) if self.mesh.size > 1 else None,
            **settings,
        )

    def stream(
        self, prompt: Text, *, seed: int = 0, max_new_tokens: int = 128, **settings: Any
    ) -> "TextStream":
        """Iterate over the text of one completion while it is sampled.

        The pieces join to the result of `generate` with the same settings.
        """
        tokens = stream(
            self.stored.config,
            self._weights,
            prompt_ids(prompt, self.tokenizer),
            max_new_tokens=max_new_tokens,
            stop_ids=self.stop_ids,
            key=jax.random.key(seed),
            vocab_size=self.vocab_size,
            dtype=self.dtype,
            **settings,
        )
        return TextStream(self.tokenizer, tokens, max_new_tokens)

    def text(self, tokens: Sequence[int]) -> str:
        """Decode a completion, without special tokens."""
        return completion_text(self.tokenizer, tokens)

    def logprobs(self, text: Text, *, top: int = 5) -> ScoreTable:
        """Log-probability of each token of a text, with the most probable tokens.

        Args:
            text: plain text, whose first token has no prediction; or messages, of
                which the assistant's tokens are scored, as in training.
            top: most probable tokens per position.
        """
        tokens = self._tokens(text)
        arrays = measure_scores(tokens, self._logits(tokens, self.vocab_size), top)
        return ScoreTable.of(tokens, arrays, self.tokenizer)

    def target(
        self,
        method: str | Method,
        text: Text,
        *,
        teacher: "Model | None" = None,
        reference: "Model | None" = None,
        top: int = 5,
        **inputs: Any,
    ) -> TargetTable:
        """The target of a method at each token of a text, this model as the student.

        Args:
            method: name of a method, or a `Method`.
            text: as in `logprobs`.
            teacher, reference: models with the same tokenizer, for methods that read
                them.
            top: largest entries of Q per position.
            **inputs: hyper-parameters, and per-token inputs such as `old_logprob`: an
                array with one entry per row of the result, or a number for all.

        Raises:
            ValueError: an unknown method or input, a missing one (names what to pass),
                or a model with another tokenizer.
        """
        models = {"teacher_logits": teacher, "reference_logits": reference}
        others = {key: model for key, model in models.items() if model is not None}
        plan = Plan.of(method, list(others), inputs)
        other = None if plan.second is None else others[plan.second]
        size = self.vocab_size
        if other is not None:
            assert plan.second is not None
            role = plan.second.removesuffix("_logits")
            shared_tokenizer({"student": self.stored, role: other.stored})
            size = min(size, other.vocab_size)
        tokens = self._tokens(text)
        plan = plan.checked(len(tokens.positions))
        arrays = measure_target(
            plan,
            tokens,
            self._logits(tokens, size),
            None if other is None else other._logits(tokens, size),
            top,
        )
        return TargetTable.of(tokens, arrays, self.tokenizer, plan)

    def _tokens(self, text: Text) -> Tokens:
        tokens = scored_tokens(text, self.tokenizer)
        most = self.stored.config.context_length
        if len(tokens.ids) > most:
            raise ValueError(
                f"the text has {len(tokens.ids):,} tokens; expected at most {most:,}, "
                "the model's positions"
            )
        return tokens

    @cached_property
    def _weights(self) -> Weights:
        return decoding_weights(self.params, self.dtype)

    def _logits(self, tokens: Tokens, size: int) -> Iterator[Any]:
        return logits_in_chunks(
            self.stored.config,
            self.params,
            tokens.ids,
            vocab_size=size,
            dtype=self.dtype,
            padded=True,
        )


class TextStream(Iterator[str]):
    """Text of one completion while it is sampled, without halves of characters.

    Attributes:
        limit: maximum number of tokens.
        finished: True if a stop token ended it, False if the limit did; None before
            its end.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", tokens: Iterator[int], limit: int
    ):
        self.limit = limit
        self.finished: bool | None = None
        self._pieces = text_pieces(tokenizer, self._counted(tokens))

    @property
    def limit_reached(self) -> str:
        """Message for a completion that the limit cut."""
        return f"the completion reached max_new_tokens, {self.limit:,}"

    def __next__(self) -> str:
        """Next piece of text."""
        return next(self._pieces)

    def _counted(self, tokens: Iterator[int]) -> Iterator[int]:
        count = 0
        for token in tokens:
            count += 1
            yield token
        self.finished = count < self.limit


def load(
    path: str | Path,
    *,
    dtype: str | None = None,
    chat_template: str | None = None,
    mesh: Mesh | None = None,
) -> Model:
    """Load a model by any path, with its tokenizer.

    Args:
        path: a hub id, a Hugging Face folder, a folder of adapters in PEFT's format, a
            run directory (its newest checkpoint) or RUN/checkpoints/STEP.
        dtype: dtype of parameters and forward passes; None: bfloat16 on accelerators,
            float32 on CPUs.
        chat_template: name or `.jinja` file, in place of the tokenizer's template.
        mesh: devices, as `parallel.mesh.make_mesh` returns them; None: the first.

    Raises:
        FileNotFoundError: no such model; lists what was looked for.
        ValueError: an unsupported model, or a tokenizer that does not fit it.
    """
    stored = open_model(path)
    tokenizer = with_template(
        shared_tokenizer({"student": stored}), chat_template, "chat_template"
    )
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    kind = compute_dtype(dtype)
    return Model(
        stored,
        stored.load(mesh, kind),
        tokenizer,
        kind,
        mesh,
        min(len(tokenizer), stored.config.vocab_size),
        tuple(stop_ids(tokenizer)),
    )
