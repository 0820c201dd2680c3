"""Continuous batching: rows whose completion has ended take the next one that waits.

Completions of few tokens do not wait for the longest of their batch. What a completion
consists of depends on its own key and prompt alone, not on the rows beside it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from targetsft_jax.generation.loop import (
    LoopPlan,
    Prompts,
    Rows,
    advance,
    no_rows,
    prefill,
    start,
    with_slots,
)
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.padding import padded_length
from targetsft_jax.models.unstacked import Weights
from targetsft_jax.parallel.processes import to_host

PREFILL_TOKENS = 1024
"""Tokens of prompts in one prefill: enough for the full speed of its products."""

FIRST_SLOTS = 128
"""Sampled tokens that rows have room for at first; doubled when one needs more."""


@dataclass(frozen=True)
class Completion:
    """One sampled answer to a prompt.

    Attributes:
        tokens: the sampled ids, without the stop token.
        finished: True if a stop token ended it, False if `max_new_tokens` did.
    """

    tokens: list[int]
    finished: bool


class Item(NamedTuple):
    """A completion to sample: number of its prompt, and among those of the prompt."""

    prompt: int
    sample: int


@dataclass(frozen=True)
class Group:
    """Completions whose prompts have one prefill.

    Attributes:
        prompts: positions of the prompts, all of one padded length.
        size: prompts of the prefill, at least as many.
        items: the completions.
    """

    prompts: Sequence[int]
    size: int
    items: Sequence[Item]


@dataclass(frozen=True)
class Work:
    """Completions to sample with one model.

    Attributes:
        config: the decoder.
        plan: static settings.
        prompts: token ids.
        numbers: identity of each prompt, from which its keys are derived.
        samples: completions per prompt.
        first_sample: number of the first of them.
        max_new_tokens: most tokens per completion.
        settings: as in `loop.advance`.
    """

    config: DecoderConfig
    plan: LoopPlan
    prompts: Sequence[Sequence[int]]
    numbers: Sequence[int]
    samples: int
    first_sample: int
    max_new_tokens: int
    settings: Mapping[str, Any]

    @property
    def most_slots(self) -> int:
        """Slots that no completion exceeds; its last token is never in the cache."""
        longest = max(len(prompt) for prompt in self.prompts)
        return padded_length(longest) + self.max_new_tokens - 1

    def groups(self, replicas: int, shards: int) -> list[Group]:
        """Groups of all completions, those of short prompts first.

        Args:
            replicas: number of batches that will share the groups.
            shards: shards of the rows; the size of a group is a multiple.
        """
        lengths: dict[int, list[int]] = {}
        for number, prompt in enumerate(self.prompts):
            lengths.setdefault(padded_length(len(prompt)), []).append(number)
        most_items = -(-len(self.prompts) * self.samples // replicas)
        groups = []
        for length, members in sorted(lengths.items()):
            size = min(max(1, PREFILL_TOKENS // length), -(-len(members) // replicas))
            for first in range(0, len(members), size):
                prompts = members[first : first + size]
                items = [Item(n, k) for n in prompts for k in range(self.samples)]
                groups += [
                    Group(
                        prompts,
                        -(-size // shards) * shards,
                        items[at : at + most_items],
                    )
                    for at in range(0, len(items), most_items)
                ]
        return groups


class Batch:
    """Rows of one replica of the model, and the completions in them.

    Args:
        work: what to sample.
        weights: the replica's parameters.
        rows: number of rows.
    """

    def __init__(self, work: Work, weights: Weights, rows: int) -> None:
        self._work, self._weights = work, weights
        self._items: list[Item | None] = [None] * rows
        self._positions = np.zeros(rows, np.int32)
        # Steps so far, and the step in which the first token of each row is fed.
        self._step = 0
        self._first = np.zeros(rows, np.int64)
        self._rows: Rows | None = None
        self._waiting: deque[Item] = deque()
        self._prompts: Prompts | None = None
        # Number of each prompt of the group within its prefill.
        self._places: dict[int, int] = {}

    def complete(
        self, groups: "deque[Group]", check: Callable[[], None]
    ) -> Iterator[tuple[Item, Completion]]:
        """Sample completions, and yield each when it has ended.

        Args:
            groups: removed from the left when there are rows for them; several batches
                may share it.
            check: called between programs; may raise.
        """
        while True:
            check()
            self._fill(groups)
            if self._rows is None:
                return
            yield from self._ended()
            if any(item is not None for item in self._items):
                self._advance(is_last=not (self._waiting or groups))
                yield from self._ended()
            elif not (self._waiting or groups):
                return

    def _fill(self, groups: "deque[Group]") -> None:
        """Start completions in all free rows."""
        while True:
            free = [row for row, item in enumerate(self._items) if item is None]
            if not free or not (self._waiting or self._prefilled(groups)):
                return
            places = np.full((3, len(self._items)), -1, np.int32)
            rows = self._rows
            assert rows is not None and self._prompts is not None
            for row in free[: len(self._waiting)]:
                item = self._items[row] = self._waiting.popleft()
                self._positions[row] = len(self._work.prompts[item.prompt])
                self._first[row] = self._step
                places[:, row] = (
                    self._places[item.prompt],
                    self._work.numbers[item.prompt],
                    self._work.first_sample + item.sample,
                )
            self._rows = start(
                self._work.config,
                self._work.plan,
                self._weights,
                rows,
                self._prompts,
                dict(zip(("prompt", "number", "sample"), places)),
                self._work.settings,
            )

    def _prefilled(self, groups: "deque[Group]") -> bool:
        """Take the next group and prefill its prompts; False if there is none."""
        try:
            group = groups.popleft()
        except IndexError:
            return False
        work = self._work
        self._waiting.extend(group.items)
        self._places = {prompt: place for place, prompt in enumerate(group.prompts)}
        length = padded_length(len(work.prompts[group.prompts[0]]))
        chosen = [work.prompts[prompt] for prompt in group.prompts]
        # Filled up with copies, so that one program serves all groups.
        chosen += chosen[:1] * (group.size - len(chosen))
        arrays = left_padded(chosen, length)
        self._prompts = prefill(work.config, work.plan, self._weights, *arrays)
        self._reserve(length + FIRST_SLOTS)
        return True

    def _reserve(self, slots: int) -> None:
        """Have at least so many slots, unless no completion needs them."""
        work = self._work
        slots = min(slots, work.most_slots)
        if self._rows is None:
            rows = len(self._items)
            self._rows = no_rows(work.config, work.plan, rows, slots)
        elif slots > self._rows.slots:
            self._rows = with_slots(work.config, work.plan, slots, self._rows)

    def _advance(self, is_last: bool) -> None:
        """Run steps until rows are free for other completions, or need more slots."""
        work, rows = self._work, self._rows
        assert rows is not None
        used = [row for row, item in enumerate(self._items) if item is not None]
        longest = int(self._positions[used].max())
        if longest >= rows.slots:
            self._reserve(2 * rows.slots)
            assert self._rows is not None
            rows = self._rows
        # An eighth of the rows at a time: a start takes about as long as a step.
        freed = len(used) if is_last else max(1, len(self._items) // 8)
        self._rows = advance(
            work.config,
            work.plan,
            self._weights,
            rows,
            np.int32(max(0, len(used) - freed)),
            np.int32(rows.slots - longest),
            work.settings,
        )

    def _ended(self) -> Iterator[tuple[Item, Completion]]:
        """Free the rows whose completion has ended."""
        rows = self._rows
        assert rows is not None
        live, stopped, sampled, position, output, step = to_host(
            (
                rows.live,
                rows.stopped,
                rows.sampled,
                rows.position,
                rows.output,
                rows.step,
            )
        )
        self._positions = position.copy()
        self._step = int(step)
        for row, item in enumerate(self._items):
            if item is None or live[row]:
                continue
            count = int(sampled[row]) - int(stopped[row])
            slots = (self._first[row] + np.arange(count)) % rows.slots
            self._items[row] = None
            yield item, Completion(output[row, slots].tolist(), bool(stopped[row]))


def left_padded(
    prompts: Sequence[Sequence[int]], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens padded on the left, and 1 for each real token: [P, length] int32 both."""
    tokens, is_real = np.zeros((2, len(prompts), length), np.int32)
    for row, prompt in enumerate(prompts):
        start = length - len(prompt)
        tokens[row, start:] = prompt
        is_real[row, start:] = 1
    return tokens, is_real
