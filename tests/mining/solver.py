"""A scripted model of the generated additions, with known critical tokens.

It goes on from what is written, copies operands from the question, carries what it
wrote, and reads the answer from its lines. Characters other than digits do not mislead
it.
"""

from collections.abc import Sequence

import numpy as np

from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.generation.rows import Completion
from targetsft_jax.mining.sampler import Alternatives

TOKENIZER = byte_tokenizer()
STOP = TOKENIZER.eos_token_id


class Solver:
    """A `Sampler` that adds; `calls` counts its completions.

    Args:
        wrong: questions that it answers wrongly.
        endless: questions whose answers it never ends.
    """

    stop_ids = (STOP,)

    def __init__(self, wrong: Sequence[str] = (), endless: Sequence[str] = ()):
        self._wrong, self._endless = wrong, endless
        self.calls = 0

    def text(self, tokens: Sequence[int]) -> str:
        return str(TOKENIZER.decode(list(tokens), skip_special_tokens=True))

    def complete(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> list[Completion]:
        self.calls += len(prompts)
        results = []
        for prompt in prompts:
            question, _, written = TOKENIZER.decode(list(prompt)).partition(
                "<|assistant|>"
            )
            text = self._continue(question.removeprefix("<|user|>"), written)
            tokens = TOKENIZER(text)["input_ids"]
            finished = len(tokens) < max_new_tokens and not text.endswith("…")
            results.append(Completion(tokens[:max_new_tokens], finished))
        return results

    def alternatives(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        ranks: Sequence[int],
    ) -> list[Alternatives]:
        """Other digits for a digit; for the rest a space, and for rank 3 a stop."""

        def others(token: int) -> list[int]:
            text = TOKENIZER.decode([token])
            if text in "0123456789" and token != STOP:
                start = TOKENIZER("0")["input_ids"][0]
                return [start + (int(text) + rank) % 10 for rank in ranks]
            space = TOKENIZER(" " if text != " " else "_")["input_ids"][0]
            return [space if rank == 2 else STOP for rank in ranks]

        # A digit is in doubt, and more so its rank 2; a mark is not.
        def doubts(token: int) -> list[float]:
            sure = not TOKENIZER.decode([token]).isdigit()
            return [1e-6 if sure else 0.4 / rank for rank in ranks]

        return [
            Alternatives(
                np.array([others(token) for token in answer], np.int32),
                np.array([doubts(token) for token in answer], np.float32),
            )
            for answer in answers
        ]

    def _continue(self, question: str, written: str) -> str:
        """Rest of the solution behind the characters that are written."""
        solution = ""
        a, b = question.removesuffix("=?").split("+")
        carry, digits = "0", []
        for x, y in zip(reversed(a), reversed(b)):
            line = ""
            for position, character in enumerate(f"{x}+{y}+{carry}=??\n"):
                at = len(solution) + len(line)
                operands = [c for c in line if c.isdigit()]
                if position in (6, 7):
                    total = sum(map(int, operands[:3]))
                    character = f"{total:02d}"[position - 6]
                    if question in self._wrong and position == 7:
                        character = str((int(character) + 1) % 10)
                line += self._digit(written, at, character)
            carry = line[6]
            digits.append(line[7])
            solution += line
        answer = "".join(reversed(digits))
        answer = (carry + answer) if carry != "0" else answer
        for character in f"#### {answer}":
            solution += self._digit(written, len(solution), character)
        return solution[len(written) :] + ("…" if question in self._endless else "")

    @staticmethod
    def _digit(written: str, at: int, character: str) -> str:
        """Digit at a position if one is written there, else the character."""
        replaced = written[at : at + 1]
        return replaced if replaced.isdigit() and character.isdigit() else character
