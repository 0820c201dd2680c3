"""Results for each token of a text: numbers, largest entries, and their displays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from targetsft_jax.data.token_text import token_texts
from targetsft_jax.interactive import display
from targetsft_jax.interactive.display import Column
from targetsft_jax.interactive.measure import Arrays, Plan
from targetsft_jax.interactive.text_input import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Entry:
    """One token of a distribution over the vocabulary.

    Attributes:
        token: its text.
        id: its id.
        mass: its mass; of a signed target possibly more than 1.
        prob: its probability p under the model.
    """

    token: str
    id: int
    mass: float
    prob: float


@dataclass(frozen=True, repr=False)
class TokenTable:
    """Numbers of the N scored tokens of a text, in order.

    Attributes:
        tokens: [N] texts.
        ids: [N] int32.
        top: largest entries of the distribution at each token.
        context: [N + 1] texts that are not scored: before each token, and at the end.
    """

    tokens: list[str]
    ids: np.ndarray
    top: list[list[Entry]]
    context: list[str]

    columns: ClassVar[Sequence[Column]] = ()
    """Columns of the display; the first colours the text and orders the doubts."""

    top_label: ClassVar[str] = "largest"
    """Heading of the largest entries."""

    @property
    def title(self) -> str:
        """One line with means."""
        return f"{len(self)} tokens"

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one dictionary per token, for `pandas.DataFrame` or JSON."""
        for number, token in enumerate(self.tokens):
            row = {"token": token, "id": int(self.ids[number])}
            for column in self.columns:
                row[column.name] = float(getattr(self, column.name)[number])
            top = [(x.token, x.mass, x.prob) for x in self.top[number]]
            yield row | {"top": top}

    def __repr__(self) -> str:
        """Plain table of the first tokens."""
        return display.plain(self)

    def _repr_html_(self) -> str:
        """The coloured text, and a table of the tokens with the smallest values."""
        return display.html(self)


@dataclass(frozen=True, repr=False)
class ScoreTable(TokenTable):
    """Log-probabilities of the tokens of a text under a model.

    Attributes:
        logprob: [N] log p_y.
        entropy: [N], of the distribution, in nats.
        top: most probable tokens; `mass` equals `prob`.
    """

    logprob: np.ndarray
    entropy: np.ndarray

    columns: ClassVar[Sequence[Column]] = (
        Column("prob", "p_y", "probability of the token"),
        Column("logprob", "log p_y", "its logarithm"),
        Column("entropy", "H", "entropy of the distribution, in nats"),
    )
    top_label: ClassVar[str] = "most probable"

    @classmethod
    def of(
        cls, tokens: Tokens, arrays: Arrays, tokenizer: "PreTrainedTokenizerBase"
    ) -> Self:
        """Table of the result of `measure_scores`."""
        prob = np.exp(arrays["top_logprob"])
        parts = _parts(tokens, arrays["top_ids"], prob, prob, tokenizer)
        return cls(*parts, arrays["logprob"], arrays["entropy"])

    @property
    def prob(self) -> np.ndarray:
        """[N] p_y."""
        return np.exp(self.logprob)

    @property
    def total(self) -> float:
        """Sum of the log-probabilities, in float64."""
        return float(np.sum(self.logprob, dtype=np.float64))

    @property
    def title(self) -> str:
        """Number of tokens, total, mean and perplexity."""
        mean = self.total / len(self)
        return (
            f"{len(self)} tokens, log-probability {self.total:.2f}, mean {mean:.3f}, "
            f"perplexity {np.exp(-mean):.4g}"
        )


@dataclass(frozen=True, repr=False)
class TargetTable(TokenTable):
    """The target of a method at the tokens of a text.

    Attributes:
        method: name of the method, with its hyper-parameters.
        gamma: [N] γ, the weight of the label in the target.
        label_prob: [N] p_y.
        label_target: [N] Q_y.
        strength: [N] A = a + b.
        negative_mass: [N], mass of Q below 0.
        top: largest entries of Q.
    """

    method: str
    gamma: np.ndarray
    label_prob: np.ndarray
    label_target: np.ndarray
    strength: np.ndarray
    negative_mass: np.ndarray

    columns: ClassVar[Sequence[Column]] = (
        Column("gamma", "γ", "weight of the label in the target"),
        Column("label_prob", "p_y", "probability of the label under the model"),
        Column("label_target", "Q_y", "mass of the label in the target"),
        Column("strength", "A", "strength, a + b"),
        Column("negative_mass", "Q<0", "mass of the target below 0"),
    )
    top_label: ClassVar[str] = "largest of Q"

    @classmethod
    def of(
        cls,
        tokens: Tokens,
        arrays: Arrays,
        tokenizer: "PreTrainedTokenizerBase",
        plan: Plan,
    ) -> Self:
        """Table of the result of `measure_target`."""
        parts = _parts(
            tokens,
            arrays["top_ids"],
            arrays["top_target"],
            arrays["top_prob"],
            tokenizer,
        )
        return cls(
            *parts,
            method=_named(plan),
            gamma=arrays["gamma"],
            label_prob=arrays["label_prob"],
            label_target=arrays["label_target"],
            strength=arrays["strength"],
            negative_mass=arrays["negative_mass"],
        )

    @property
    def title(self) -> str:
        """Method, number of tokens, and means."""
        means = ", ".join(
            f"{column.label} {float(np.mean(getattr(self, column.name))):.3g}"
            for column in self.columns
        )
        return f"{self.method}: {len(self)} tokens, means {means}"


def _named(plan: Plan) -> str:
    parts = [f"{k}={_short(x)}" for k, x in plan.hyper.items() if x is not None]
    parts += [f"{key} per token" for key in plan.columns]
    return plan.method.name + (f" ({', '.join(parts)})" if parts else "")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _parts(
    tokens: Tokens,
    top_ids: np.ndarray,
    mass: np.ndarray,
    prob: np.ndarray,
    tokenizer: "PreTrainedTokenizerBase",
) -> tuple[list[str], np.ndarray, list[list[Entry]], list[str]]:
    """Texts, ids, largest entries, and context of the scored tokens."""
    every = {int(id) for id in np.unique(np.concatenate([tokens.ids, top_ids.ravel()]))}
    texts: Mapping[int, str] = token_texts(tokenizer, every)
    top = [
        [Entry(texts[int(i)], int(i), float(m), float(p)) for i, m, p in zip(*row)]
        for row in zip(top_ids, mass, prob)
    ]
    ends = [*tokens.positions, len(tokens.ids)]
    starts = [0, *(position + 1 for position in tokens.positions)]
    context = [
        str(tokenizer.decode(tokens.ids[start:end], clean_up_tokenization_spaces=False))
        for start, end in zip(starts, ends)
    ]
    labels = tokens.labels
    return [texts[int(id)] for id in labels], labels, top, context
