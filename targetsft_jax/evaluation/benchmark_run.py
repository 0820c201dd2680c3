"""Evaluate one benchmark: sample what is missing, grade it, store it."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from targetsft_jax.command import Stopped
from targetsft_jax.data.chat import encode_prompt
from targetsft_jax.data.records import Problem
from targetsft_jax.evaluation.backends import Backend, Sample, Work
from targetsft_jax.evaluation.benchmarks import LoadedBenchmark
from targetsft_jax.evaluation.graders.grade import Grade
from targetsft_jax.evaluation.grading import GradingPool, GradingRequest
from targetsft_jax.evaluation.store import Row, Store
from targetsft_jax.generation.sampling import SamplingSettings
from targetsft_jax.parallel import preemption
from targetsft_jax.storage.digest import text_digest
from targetsft_jax.telemetry.progress import clock_time

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN_TOKENS = 64


@dataclass(frozen=True)
class Prompts:
    """Prompts of a benchmark as token ids.

    Attributes:
        tokens: problem id -> token ids.
        digests: problem id -> digest of these.
        options: problem id -> token ids of each option, where options are scored.
    """

    tokens: dict[str, list[int]]
    digests: dict[str, str]
    options: dict[str, list[list[int]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        problems: Sequence[Problem],
        tokenizer: "PreTrainedTokenizerBase",
        limit: int | None,
        *,
        plain: bool = False,
    ) -> "Prompts":
        """Render and tokenize the prompts.

        Args:
            problems: the problems.
            tokenizer: with the chat template, unless prompts are plain.
            limit: most tokens of a prompt.
            plain: tokenize the last message without the template.

        Raises:
            ValueError: the tokenizer has no chat template; a prompt of more than
                `limit` tokens, or one that the template refuses.
        """

        def encode(problem: Problem) -> list[int]:
            if plain:
                return _plain_tokens(problem, tokenizer, limit)
            return encode_prompt(
                problem.messages, tokenizer, origin=problem.id, limit=limit
            ).tolist()

        tokens = {problem.id: encode(problem) for problem in problems}
        return cls(tokens, {id: digest(ids) for id, ids in tokens.items()})

    def first(self, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
        """Lines that show the first prompt, as text and as token ids."""
        id, ids = next(iter(self.tokens.items()))
        shown = ids[:_SHOWN_TOKENS]
        rest = f" … and {len(ids) - len(shown):,} more" if len(ids) > len(shown) else ""
        return [
            f"first prompt ({id}, {len(ids):,} tokens)",
            str(tokenizer.decode(ids)),
            f"token ids {' '.join(map(str, shown))}{rest}",
        ]


@dataclass(frozen=True)
class BenchmarkRun:
    """Evaluation of one model on one benchmark.

    Attributes:
        loaded: the benchmark with its problems.
        prompts: its prompts.
        store: its results folder.
        settings: sampling settings; `samples` is k.
        seed: seed of the completions.
        mode: grading mode.
        batch_size: problems per batch.
        time_limit: seconds for grading one completion.
    """

    loaded: LoadedBenchmark
    prompts: Prompts
    store: Store
    settings: SamplingSettings
    seed: int
    mode: str
    batch_size: int
    time_limit: float

    def sample(
        self, backend: Callable[[], Backend], tokenizer: "PreTrainedTokenizerBase"
    ) -> None:
        """Draw, grade and store the missing completions, batch by batch.

        Args:
            backend: opens the backend; called only if a completion is missing.
            tokenizer: decodes completions.

        Raises:
            Stopped: SIGTERM or Ctrl-C; finished batches are stored.
        """
        self._check_prompts()
        problems = {problem.id: problem for problem in self.loaded.problems}
        batches = list(self._batches())
        total = sum(len(work.samples) for batch in batches for work in batch)
        complete = len(problems) * self.settings.samples - total
        if complete and total:
            print(f"  {complete:,} completions are stored, {total:,} are missing")
        done, began = 0, time.perf_counter()
        with self._pool() as pool:
            for batch in batches:
                with self._finished_batches_are_kept():
                    preemption.check()
                    start = time.perf_counter()
                    samples = backend().complete(batch, self.settings, self.seed)
                    seconds = time.perf_counter() - start
                    drawn = self._drawn(batch, samples, problems, tokenizer)
                    rows = self._graded(drawn, pool, seconds)
                self.store.append(rows)
                done += len(rows)
                left = (time.perf_counter() - began) / done * (total - done)
                correct = sum(row.grade.correct and row.finished for row in rows)
                print(
                    f"  {done:,} of {total:,} completions, {correct} of the last "
                    f"{len(rows)} correct, {clock_time(round(left))} left",
                    flush=True,
                )

    def regrade(self) -> int:
        """Grade the stored completions again; returns the number of changed verdicts.

        Raises:
            ValueError: a stored problem is not in the benchmark any more.
        """
        problems = {problem.id: problem for problem in self.loaded.problems}
        rows = list(self.store.rows.values())
        missing = [row.problem for row in rows if row.problem not in problems]
        if missing and not self.loaded.limited:
            raise ValueError(
                f"{self.store.completions} has the problem {missing[0]!r}, which "
                f"{self.loaded.benchmark.name} has not; expected the same data"
            )
        rows = [row for row in rows if row.problem in problems]
        grades = self._grades(rows, problems)
        changed = sum(row.grade.correct != g.correct for row, g in zip(rows, grades))
        others = [r for r in self.store.rows.values() if r.problem not in problems]
        new = [
            dataclasses.replace(row, grade=g, gold=problems[row.problem].answer)
            for row, g in zip(rows, grades)
        ]
        self.store.replace([*new, *others])
        return changed

    def has_other_golds(self) -> bool:
        """True if a stored verdict is on another gold answer than the problem's."""
        golds = {problem.id: problem.answer for problem in self.loaded.problems}
        rows = self.store.rows.values()
        return any(golds.get(row.problem, row.gold) != row.gold for row in rows)

    def rows(self) -> list[Row]:
        """Rows of the requested problems and samples, in their order.

        Raises:
            ValueError: a completion is missing.
        """
        keys = [
            (problem.id, sample)
            for problem in self.loaded.problems
            for sample in range(self.settings.samples)
        ]
        missing = [key for key in keys if key not in self.store.rows]
        if missing:
            problem, sample = missing[0]
            raise ValueError(
                f"{self.store.completions} has {len(keys) - len(missing):,} of "
                f"{len(keys):,} completions; the first missing one is sample {sample} "
                f"of {problem}: sample them with --model, or lower --samples or --limit"
            )
        return [self.store.rows[key] for key in keys]

    def _grades(self, rows: Sequence[Row], problems: dict[str, Problem]) -> list[Grade]:
        """Verdicts of stored rows, in their order."""
        with self._pool() as pool:
            return pool.grade(
                [self._request(problems[row.problem], row.text) for row in rows]
            )

    def _check_prompts(self) -> None:
        for row in self.store.rows.values():
            current = self.prompts.digests.get(row.problem)
            if current is not None and current != row.prompt:
                raise ValueError(
                    f"{self.store.completions} has completions of another prompt of "
                    f"{row.problem}: the chat template, the benchmark's prompt or its "
                    "data changed; set --out to another folder, or remove this one"
                )

    def _batches(self) -> Iterator[list[Work]]:
        """Batches of missing samples.

        Composed from all problems, finished or not, so that an interrupted evaluation
        continues with the same batches; those of equal length are together.
        """
        problems = sorted(
            self.loaded.problems, key=lambda p: len(self.prompts.tokens[p.id])
        )
        for first in range(0, len(problems), self.batch_size):
            batch = problems[first : first + self.batch_size]
            runs: dict[range, list[Work]] = {}
            for problem in batch:
                for samples in self._missing(problem.id):
                    work = Work(problem.id, self.prompts.tokens[problem.id], samples)
                    runs.setdefault(samples, []).append(work)
            yield from runs.values()

    def _missing(self, problem: str) -> Iterator[range]:
        """Runs of consecutive missing samples of a problem."""
        start = None
        for sample in range(self.settings.samples + 1):
            is_missing = (
                sample < self.settings.samples
                and (problem, sample) not in self.store.rows
            )
            if is_missing and start is None:
                start = sample
            if not is_missing and start is not None:
                yield range(start, sample)
                start = None

    def _drawn(
        self,
        batch: Sequence[Work],
        samples: Sequence[Sequence[Sample]],
        problems: dict[str, Problem],
        tokenizer: "PreTrainedTokenizerBase",
    ) -> list[tuple[Problem, int, Sample, str]]:
        """Completions of a batch with their problems, sample numbers and texts."""
        stops = self.loaded.benchmark.stops
        return [
            (problems[work.problem], number, *_ended(sample, tokenizer, stops))
            for work, row in zip(batch, samples)
            for number, sample in zip(work.samples, row)
        ]

    def _graded(
        self,
        drawn: Sequence[tuple[Problem, int, Sample, str]],
        pool: GradingPool,
        seconds: float,
    ) -> list[Row]:
        """Rows of the completions of a batch, which took `seconds`."""
        requests = [self._request(problem, text) for problem, _, _, text in drawn]
        return [
            Row(
                problem=problem.id,
                sample=number,
                prompt=self.prompts.digests[problem.id],
                tokens=sample.tokens,
                text=text,
                finished=sample.finished,
                seconds=round(seconds / len(drawn), 4),
                gold=problem.answer,
                grade=grade,
            )
            for (problem, number, sample, text), grade in zip(
                drawn, pool.grade(requests)
            )
        ]

    def _pool(self) -> GradingPool:
        graders = [(self.loaded.benchmark.grader, self.mode)]
        return GradingPool(graders, time_limit=self.time_limit)

    def _request(self, problem: Problem, text: str) -> GradingRequest:
        return GradingRequest(
            self.loaded.benchmark.grader,
            text,
            problem.answer,
            problem.options or None,
            self.mode,
        )

    def _finished_batches_are_kept(self) -> Any:
        return _Kept(self.store)


class _Kept:
    """Context that adds the number of stored completions to a stop's message."""

    def __init__(self, store: Store):
        self._store = store

    def __enter__(self) -> None:
        """Enter the batch."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Name what is stored if the batch was stopped."""
        if isinstance(error, Stopped):
            error.with_details(
                f"{len(self._store.rows):,} completions are stored in "
                f"{self._store.completions}: the same command continues"
            )


def digest(tokens: Sequence[int]) -> str:
    """Digest of token ids."""
    return text_digest(" ".join(map(str, tokens)))


def _ended(
    sample: Sample, tokenizer: "PreTrainedTokenizerBase", stops: Sequence[str]
) -> tuple[Sample, str]:
    """Sample and its text up to the first of the texts that end a completion."""
    text = _text(sample, tokenizer)
    ends = [at for at in map(text.find, stops) if at >= 0]
    if not ends:
        return sample, text
    return dataclasses.replace(sample, finished=True), text[: min(ends)]


def _text(sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
    if sample.text is not None:
        return sample.text
    return str(tokenizer.decode(sample.tokens, skip_special_tokens=True))


def _plain_tokens(
    problem: Problem, tokenizer: "PreTrainedTokenizerBase", limit: int | None
) -> list[int]:
    """Tokens of a prompt without template, with the BOS that the tokenizer adds.

    Raises:
        ValueError: more than `limit` tokens.
    """
    text = problem.messages[-1]["content"]
    tokens = list(tokenizer(text, verbose=False)["input_ids"])
    if limit is not None and len(tokens) > limit:
        raise ValueError(
            f"{problem.id}: the prompt has {len(tokens):,} tokens; expected at most "
            f"{limit:,}, which the model's positions leave room for"
        )
    return tokens
