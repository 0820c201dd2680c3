"""Evaluate one benchmark by the log-probabilities of its options, without sampling."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from targetsft_jax.command import UsageError
from targetsft_jax.data.records import Problem
from targetsft_jax.evaluation.backends import Backend
from targetsft_jax.evaluation.backends.sampler import Sampler
from targetsft_jax.evaluation.benchmark_run import BenchmarkRun, Prompts, digest
from targetsft_jax.evaluation.graders.grade import Grade
from targetsft_jax.evaluation.likelihood import likelihood, plain_pair
from targetsft_jax.evaluation.store import Row
from targetsft_jax.parallel import preemption

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ChoiceRun(BenchmarkRun):
    """Evaluation of one model on one benchmark; one row per problem."""

    def sample(
        self, backend: Callable[[], Backend], tokenizer: "PreTrainedTokenizerBase"
    ) -> None:
        """Score the options of the missing problems, and store the verdicts.

        Args:
            backend: opens the backend; called only if a problem is missing.
            tokenizer: its tokenizer.

        Raises:
            UsageError: a backend that does not return log-probabilities.
            Stopped: SIGTERM or Ctrl-C; finished batches are stored.
        """
        self._check_prompts()
        missing = [p for p in self._sorted() if (p.id, 0) not in self.store.rows]
        complete = len(self.loaded.problems) - len(missing)
        if complete and missing:
            print(f"  {complete:,} problems are stored, {len(missing):,} are missing")
        done = 0
        for batch in self._of_batches(missing):
            with self._finished_batches_are_kept():
                preemption.check()
                sampler = backend()
                if not isinstance(sampler, Sampler):
                    raise UsageError(
                        f"backend is {sampler.name}, and {self.loaded.benchmark.name} "
                        "scores log-probabilities; expected sampler"
                    )
                rows = self._scored(batch, sampler)
            self.store.append(rows)
            done += len(rows)
            correct = sum(row.grade.correct for row in rows)
            print(
                f"  {done:,} of {len(missing):,} problems, {correct} of the last "
                f"{len(rows)} correct",
                flush=True,
            )

    def _scored(self, batch: Sequence[Problem], sampler: Sampler) -> list[Row]:
        began = time.perf_counter()
        pairs = [
            (self.prompts.tokens[problem.id], option)
            for problem in batch
            for option in self.prompts.options[problem.id]
        ]
        values = iter(sampler.log_likelihoods(pairs).tolist())
        seconds = (time.perf_counter() - began) / len(batch)
        rows = []
        for problem in batch:
            texts = self._texts(problem)
            scored = likelihood([next(values) for _ in texts], texts)
            grade = scored.grade(problem.answer, list(problem.options))
            rows.append(
                Row(
                    problem=problem.id,
                    sample=0,
                    prompt=self.prompts.digests[problem.id],
                    tokens=[],
                    text=texts[list(problem.options).index(str(grade.extracted))],
                    finished=True,
                    seconds=round(seconds, 4),
                    gold=problem.answer,
                    grade=grade,
                    likelihood=scored,
                )
            )
        return rows

    def _grades(self, rows: Sequence[Row], problems: dict[str, Problem]) -> list[Grade]:
        """Verdicts of stored rows, from their log-probabilities.

        Raises:
            ValueError: a row without log-probabilities.
        """
        grades = []
        for row in rows:
            if row.likelihood is None:
                raise ValueError(
                    f"{self.store.completions} has sampled completions; expected "
                    "log-probabilities. Set --out to another folder"
                )
            problem = problems[row.problem]
            grades.append(row.likelihood.grade(problem.answer, list(problem.options)))
        return grades

    def _sorted(self) -> list[Problem]:
        """Problems in the order of their prompts' lengths."""
        return sorted(
            self.loaded.problems, key=lambda p: len(self.prompts.tokens[p.id])
        )

    def _of_batches(self, problems: Sequence[Problem]) -> Iterator[Sequence[Problem]]:
        for first in range(0, len(problems), self.batch_size):
            yield problems[first : first + self.batch_size]

    def _texts(self, problem: Problem) -> list[str]:
        benchmark = self.loaded.benchmark
        return [benchmark.option_text(x, problem.options) for x in problem.options]


def choice_prompts(
    run: BenchmarkRun, tokenizer: "PreTrainedTokenizerBase", limit: int | None
) -> Prompts:
    """Prompts of a benchmark and the tokens of their options.

    Args:
        run: the benchmark with its problems.
        tokenizer: with the chat template, unless prompts are plain.
        limit: most tokens of a prompt.

    Raises:
        ValueError: as `Prompts.of`; an option without tokens.
    """
    benchmark, problems = run.loaded.benchmark, run.loaded.problems
    prompts = Prompts.of(problems, tokenizer, limit, plain=benchmark.is_plain)
    tokens: dict[str, list[int]] = {}
    options: dict[str, list[list[int]]] = {}
    for problem in problems:
        texts = [benchmark.option_text(x, problem.options) for x in problem.options]
        if benchmark.is_plain:
            context = problem.messages[-1]["content"]
            pairs = [plain_pair(context, x, tokenizer, problem.id) for x in texts]
            tokens[problem.id] = pairs[0][0]
            options[problem.id] = [after for _, after in pairs]
        else:
            tokens[problem.id] = prompts.tokens[problem.id]
            options[problem.id] = [
                list(tokenizer(x, add_special_tokens=False)["input_ids"]) for x in texts
            ]
    digests = {
        id: digest([*tokens[id], *(t for option in options[id] for t in [-1, *option])])
        for id in tokens
    }
    return Prompts(tokens, digests, options)
