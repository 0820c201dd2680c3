"""Mined masks of generated problems, against the characters known to be computed.

A generated solution has computed characters, the digits and option letters of its steps
(after `=`) and of its result (after `####`); copied digits, marks (`+`, `=`, line
feeds, …) and the stop token. The computed ones are the known carriers of the result,
but an answer can depend on others too (a replaced operand changes the sum as well), and
it need not depend on all of them (a model may compute the last line from the question).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from targetsft_jax.data.chat import encode
from targetsft_jax.data.record import Record
from targetsft_jax.data.synthetic import is_computed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPUTED = ("result", "step")
KINDS = (*COMPUTED, "copied", "mark", "stop")
"""Kinds of the tokens of a generated solution."""


@dataclass(frozen=True)
class Agreement:
    """Mined and computed tokens of some rows.

    Attributes:
        critical: kind -> number of critical tokens.
        tokens: kind -> number of tokens.
    """

    critical: Mapping[str, int]
    tokens: Mapping[str, int]

    @property
    def precision(self) -> float:
        """Share of the critical tokens that are computed; NaN if there are none."""
        return _share(_computed(self.critical), sum(self.critical.values()))

    @property
    def recall(self) -> float:
        """Share of the computed tokens that are critical; NaN if there are none."""
        return _share(_computed(self.critical), _computed(self.tokens))

    def lines(self) -> list[str]:
        """Render as lines of a report."""
        share = _share(_computed(self.tokens), sum(self.tokens.values()))
        lines = [
            f"  computed characters found  precision {self.precision:.3f}, recall"
            f" {self.recall:.3f}; they are {share:.3f} of all tokens"
        ]
        for kind in KINDS:
            critical, tokens = self.critical[kind], self.tokens[kind]
            percent = 100 * _share(critical, tokens)
            lines.append(
                f"    {kind:<6} {critical:>7,} of {tokens:>7,} tokens critical"
                f" ({percent:.1f} %)"
            )
        return lines


def agreement(
    rows: Sequence[Mapping[str, Any]], tokenizer: "PreTrainedTokenizerBase"
) -> Agreement:
    """Compare the masks of rows with the computed characters of their responses.

    Args:
        rows: rows of a mined file, from generated problems.
        tokenizer: the model's tokenizer, with the chat template.
    """
    critical, tokens = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for row in rows:
        kinds = token_kinds(row["messages"], tokenizer)
        for kind, is_critical in zip(kinds, row["critical_mask"]):
            tokens[kind] += 1
            critical[kind] += is_critical
    return Agreement(critical, tokens)


def token_kinds(
    messages: list[dict[str, str]], tokenizer: "PreTrainedTokenizerBase"
) -> list[str]:
    """Kind of each trained token of a conversation; one computed character suffices."""
    response = messages[-1]["content"]
    computed = is_computed(response)
    result = response.rfind("####")
    kinds = []
    for start, end in _spans(messages, tokenizer):
        if start >= len(response):
            kinds.append("stop")
        elif any(computed[start:end]):
            kinds.append("result" if 0 <= result < start else "step")
        elif any(character.isdigit() for character in response[start:end]):
            kinds.append("copied")
        else:
            kinds.append("mark")
    return kinds


def marked(row: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase") -> str:
    """Response of a row with its critical tokens between ⟦ and ⟧; ⏹ is the stop."""
    response = row["messages"][-1]["content"]
    text = ""
    for (start, end), critical in zip(
        _spans(row["messages"], tokenizer), row["critical_mask"]
    ):
        piece = response[start:end] if start < len(response) else "⏹"
        text += f"⟦{piece}⟧" if critical else piece
    return text.replace("⟧⟦", "")


def _spans(
    messages: list[dict[str, str]], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[int, int]]:
    """Characters of the response that each trained token stands for."""
    example = encode(Record(messages, origin="a mined row"), tokenizer)
    trained = example.tokens[example.loss_mask].tolist()
    start = 0
    for count in range(1, len(trained) + 1):
        text = tokenizer.decode(trained[:count], skip_special_tokens=True)
        yield start, len(str(text))
        start = len(str(text))


def _computed(counts: Mapping[str, int]) -> int:
    return sum(counts[kind] for kind in COMPUTED)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
