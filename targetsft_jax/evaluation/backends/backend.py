"""Interface of backends: prompts as token ids in, samples out; never text."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from targetsft_jax.generation.sampling import SamplingSettings


@dataclass(frozen=True)
class Work:
    """Samples of one prompt to draw.

    Attributes:
        problem: id of the problem.
        prompt: token ids.
        samples: consecutive numbers of the samples.
    """

    problem: str
    prompt: list[int]
    samples: range

    def seed(self, sample: int, seed: int) -> int:
        """Seed of a sample, from the problem and the sample number alone."""
        return _digest(f"{seed} {self.problem} {sample}")

    @property
    def number(self) -> int:
        """Identity of the problem as an int32 of 0 or more."""
        return _digest(self.problem)


@dataclass(frozen=True)
class Sample:
    """One completion.

    Attributes:
        tokens: ids without the stop token; empty if the backend returns text alone.
        text: text without special tokens; None: to be decoded from the tokens.
        finished: a stop token ended it, not the limit.
    """

    tokens: list[int]
    text: str | None
    finished: bool


class Backend(Protocol):
    """Completes prompts."""

    @property
    def name(self) -> str:
        """Name, version and other settings that change completions."""
        ...

    def complete(
        self, work: Sequence[Work], settings: SamplingSettings, seed: int
    ) -> list[list[Sample]]:
        """Draw the samples of every prompt, all with the same sample numbers."""
        ...


def _digest(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
