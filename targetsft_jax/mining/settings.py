"""Settings of critical-token mining, each with its domain."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from targetsft_jax.command import UsageError
from targetsft_jax.config.load import parse
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.data.config import contradictions, missing_files
from targetsft_jax.keys import refusals, shown
from targetsft_jax.mining.graders import GRADERS

RULES = ("all", "any")
"""A token is critical if all of its alternatives make the answer wrong, or any one."""

_RANK = re.compile(r"[0-9]{1,3}")
_LARGEST_RANK = 64
_LARGEST = {"max_new_tokens": 2**20, "batch_size": 2**16, "limit": 10**7}


@dataclass(frozen=True)
class MiningSettings:
    """Settings of critical-token mining.

    Attributes:
        alternatives: ranks of the replacements, separated by commas; 1 is the most
            probable token, the answer's own.
        rule: one of `RULES`.
        min_probability: least probability of an alternative; 0 for any, as published.
        max_new_tokens: maximum tokens of an answer, stop token included; the same for
            the model's own answer and for one with a replaced token.
        grader: a name in `GRADERS`.
        batch_size: sequences decoded at a time.
        limit: number of problems, from the beginning; None: all.
    """

    alternatives: str = "2,3"
    rule: str = "all"
    min_probability: float = 0.0
    max_new_tokens: int = 512
    grader: str = "exact"
    batch_size: int = 128
    limit: int | None = None

    def check(self) -> None:
        """Check every setting against its domain.

        Raises:
            UsageError: a setting is out of its domain.
        """
        self.ranks()
        names = {"rule": RULES, "grader": GRADERS}
        for key, known in names.items():
            value = getattr(self, key)
            if value not in known:
                raise UsageError(
                    f"--{key} is {shown(value)}; expected one of {', '.join(known)}"
                )
        least = self.min_probability
        if not 0 <= least < 1:
            raise UsageError(f"--min_probability is {least}; expected 0 to less than 1")
        for key, most in _LARGEST.items():
            size = getattr(self, key)
            if size is not None and not 1 <= size <= most:
                raise UsageError(f"--{key} is {size:,}; expected 1 to {most:,}")

    def ranks(self) -> list[int]:
        """Ranks of the alternatives.

        Raises:
            UsageError: not different ranks of alternatives.
        """
        texts = self.alternatives.split(",")
        ranks = [int(text) for text in texts if _RANK.fullmatch(text)]
        is_rank = all(1 < rank <= _LARGEST_RANK for rank in ranks)
        if len(set(ranks)) < len(texts) or not is_rank:
            raise UsageError(
                f"--alternatives is {shown(self.alternatives)}; expected different"
                f" ranks from 2 to {_LARGEST_RANK}, such as 2,3 (rank 1 is the answer's"
                " own token)"
            )
        return ranks


def read_config(arguments: Sequence[str]) -> Config:
    """Parse the configuration of a command line, and check the keys that mining reads.

    Raises:
        ConfigError: a key is unknown, has the wrong type, or cannot be used.
        SystemExit: after `--help`.
    """
    config = parse(arguments)
    for message in (
        *refusals(config),
        *contradictions(config.data),
        *missing_files(config.data),
    ):
        raise ConfigError(message)
    return config
