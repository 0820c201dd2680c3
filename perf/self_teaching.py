"""Self-teaching on noisy labels: the start model under a prompt with the answer.

    python perf/self_teaching.py --work ~/self_teaching

Every seed draws a start model, training rows and their wrong digits. The start model
is built on correct two-digit additions, nine in ten of which have the sum in the
prompt: it can use an answer that it sees, and is weak without one. The cells train it
further, on prompts without the sum and responses with wrong digits:

    sft, dft           no teacher
    filtered           SFT on the rows whose last line has the correct answer
    METHOD, answer     teacher: the start model, which sees the correct answer
    METHOD, stated     the same with the answer that the noisy response states
    METHOD, none       the same without an answer: the control

with METHOD Target-SFT or KD. Teachers are stored by `make_cache` with a
`teacher.prompt`. The learning rate of every arm at every noise is the best of a list by
Average@k on other seeds and problems. Finished cells are in WORK/rows.jsonl and are not
repeated. The end writes Markdown tables and a figure (PNG and SVG).
"""

import argparse
import contextlib
import dataclasses
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from self_teaching_report import (
    ARMS,
    TRIAL_SEED,
    Row,
    best_rate,
    summary,
    write_report,
)

from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.config.build import BuildConfig
from targetsft_jax.config.load import load
from targetsft_jax.data.config import DataConfig, SyntheticConfig
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.records import Problem, problems
from targetsft_jax.data.synthetic import make_record
from targetsft_jax.evaluation.evaluate import evaluate_model
from targetsft_jax.generation.sampling import SamplingSettings
from targetsft_jax.loss import label_logprob
from targetsft_jax.models import decoder
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.storage import jsonl
from targetsft_jax.teachers.make import make_cache
from targetsft_jax.training.run import run
from targetsft_jax.training.tiny_models import start_model

PROMPTS = {
    "answer": "{prompt} Answer: {answer}",
    "stated": "{prompt} Answer: {stated}",
    "none": "{prompt}",
}
"""Hint -> the teacher's prompt, a template over the fields of a row."""
PROBLEMS = 64
"""Problems of a measurement; those of trials are behind those of the result."""


@dataclass(frozen=True)
class Cell:
    """One training: an arm at a noise, a seed and a learning rate."""

    arm: str
    noise: float
    seed: int
    rate: float

    @property
    def name(self) -> str:
        """Key in rows.jsonl, and name of the run directory."""
        return f"{self.arm}-{self.noise:g}-{self.seed}-{self.rate:g}"


def main() -> None:
    """Train and measure what is missing, then write table and figure."""
    options = _options()
    study = Study(options)
    trials = range(TRIAL_SEED, TRIAL_SEED + options.trials)
    planned: list[str] = []
    for seed in (*trials, *options.seeds):
        planned += study.references(seed)
        for noise in options.noise:
            for arm in ARMS:
                if noise == 0 and (arm == "filtered" or "stated" in arm):
                    continue  # The stated answers are the correct ones.
                rates = options.rates
                if seed < TRIAL_SEED:
                    rates = [best_rate(study.rows, arm, noise, rates)]
                for rate in rates:
                    cell = Cell(arm, noise, seed, rate)
                    study.cell(cell)
                    planned.append(cell.name)
    # Cells of earlier calls with another list of rates stay out.
    write_report(options, [study.rows[name] for name in planned])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--work", required=True, type=Path, help="folder of runs and results")
    add("--noise", nargs="+", type=float, default=[0.0, 0.3, 0.6])
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    add("--trials", type=int, default=1, help="seeds of the trials of learning rates")
    add("--rates", nargs="+", type=float, default=[3e-4, 1e-3, 4e-3])
    add("--start-steps", type=int, default=600)
    add("--steps", type=int, default=200)
    add("--examples", type=int, default=2000)
    add("--samples", type=int, default=8, help="completions per problem")
    options = parser.parse_args()
    options.work = options.work.expanduser()
    options.work.mkdir(parents=True, exist_ok=True)
    return options


class Study:
    """Trainings and measurements; finished ones are read from rows.jsonl.

    Attributes:
        rows: name -> row of a finished cell or of a start model.
    """

    def __init__(self, options: argparse.Namespace):
        self._options, self._log = options, options.work / "rows.jsonl"
        self.rows = {row["name"]: row for row in jsonl.read(self._log)}
        self._meter = Meter(options.samples)

    def references(self, seed: int) -> list[str]:
        """Build the start model of a seed; measure it without and with the answer.

        Returns:
            The names of the two rows.
        """
        names = [f"start-{seed}", f"teacher-{seed}"]
        for name, hint in (("start", "none"), ("teacher", "answer")):
            key = f"{name}-{seed}"
            if key not in self.rows:
                row = self._meter.measure(self._start(seed), seed, PROMPTS[hint])
                self._append({"name": key, "arm": name, "seed": seed, **row})
        return names

    def cell(self, cell: Cell) -> None:
        """Train one cell and measure it; its run directory is removed."""
        if cell.name in self.rows:
            return
        with contextlib.redirect_stdout(io.StringIO()):
            config = self._config(cell)
            run(config)
        folder = Path(config.run_dir)
        row = self._meter.measure(folder / "hf", cell.seed)
        self._append({"name": cell.name, **dataclasses.asdict(cell), **row})
        shutil.rmtree(folder)

    def _append(self, row: Row) -> None:
        self.rows[row["name"]] = row
        with open(self._log, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{row['name']}: {summary(row)}", flush=True)

    def _start(self, seed: int) -> Path:
        """Folder of the start model of a seed, built once."""
        data = SyntheticConfig(
            digits=2, examples=8000, shown_answers=0.9, seed=10_000 + seed
        )
        build = BuildConfig(
            hidden_size=64,
            intermediate_size=128,
            num_heads=4,
            num_kv_heads=2,
            data=data,
            max_length=48,
            steps=self._options.start_steps,
            learning_rate=6e-3,
            seed=seed,
        )
        cache = str(self._options.work / "cache")
        with contextlib.redirect_stdout(io.StringIO()):
            return start_model("student", build, cache, self._meter.mesh)

    def _config(self, cell: Cell) -> Any:
        """Configuration of a cell; its rows and its teacher cache are written."""
        arm, work = ARMS[cell.arm], self._options.work
        part = "filtered" if arm.filtered else "rows"
        rows = work / f"{part}-{cell.noise:g}-{cell.seed}.jsonl"
        if not rows.exists():
            examples = self._options.examples
            write_rows(rows, examples, cell.seed, cell.noise, arm.filtered)
        keys = {
            "student.build": "null",
            "student.path": self._start(cell.seed),
            "data.path": rows,
            "train.steps": self._options.steps,
            "train.learning_rate": cell.rate,
            "target.name": arm.method,
            "run_dir": work / cell.name,
        }
        if arm.hint:
            cache = work / f"cache-{arm.hint}-{cell.noise:g}-{cell.seed}"
            keys["teacher.path"] = keys["student.path"]
            keys["teacher.prompt"] = PROMPTS[arm.hint]
            keys["teacher.cache"] = cache
            make_cache(self._load(keys, cell.seed))  # Complete shards stay.
        return self._load(keys, cell.seed)

    def _load(self, keys: Mapping[str, Any], seed: int) -> Any:
        keys = {
            "config": "miniature",
            "data.fields.prompt": "prompt",
            "data.fields.response": "response",
            "data.max_length": 48,
            "teacher.build": "null",
            "evaluation.problems": 0,
            "evaluation.include_teacher": False,
            "evaluation.label_probe": 0,
            "cache_dir": self._options.work / "cache",
            "seed": seed,
            **keys,
        }
        return load([f"--{name}={value}" for name, value in keys.items()])


def write_rows(
    path: Path, examples: int, seed: int, noise: float, filtered: bool
) -> None:
    """Write rows with the fields prompt, response, answer and stated.

    Args:
        path: JSON lines to write.
        examples: number of generated problems.
        seed: seed of problems and noise.
        noise: probability that a computed digit is wrong.
        filtered: leave out the rows whose last line is wrong.
    """
    config = SyntheticConfig(digits=2, label_noise=noise, seed=seed)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(examples):
            record = make_record(config, number)
            prompt, response = (turn["content"] for turn in record.messages)
            stated = response.rpartition("#### ")[2]
            row = {
                "prompt": prompt,
                "response": response,
                "answer": record.answer,
                "stated": stated,
            }
            if not (filtered and stated != record.answer):
                file.write(json.dumps(row) + "\n")


class Meter:
    """Measure models on held-out problems and on their correct solutions.

    Attributes:
        mesh: one device.
    """

    def __init__(self, samples: int):
        self._sampling = {
            "sampled": SamplingSettings(samples=samples, max_new_tokens=30),
            "greedy": SamplingSettings(samples=1, max_new_tokens=30, temperature=0.0),
        }
        self.mesh = make_mesh(devices=jax.devices()[:1])
        self._problems = problems(SyntheticConfig(digits=2), "heldout", 2 * PROBLEMS)

    def measure(self, folder: Path, seed: int, prompt: str = "{prompt}") -> Row:
        """Shares of correct completions, sampled and greedy, and the NLL.

        Args:
            folder: model to measure.
            seed: of the samples; that of a trial selects other problems.
            prompt: template of the prompts, with {prompt} and {answer}.
        """
        model = open_model(folder)
        params, tokenizer = model.load(self.mesh, jnp.float32), model.tokenizer()
        first = PROBLEMS * (seed >= TRIAL_SEED)
        chosen = [
            with_prompt(problem, prompt)
            for problem in self._problems[first : first + PROBLEMS]
        ]
        row: Row = {"nll": self._nll(model.config, params, tokenizer)}
        for name, settings in self._sampling.items():
            _, graded = evaluate_model(
                model.config, params, chosen, tokenizer, settings, seed=seed
            )
            row[name] = float(np.mean([problem.correct for problem in graded]))
        return row

    def _nll(self, config: Any, params: Any, tokenizer: Any) -> float:
        """Mean NLL of the tokens of correct held-out solutions, in nats."""
        data = DataConfig(
            synthetic=SyntheticConfig(digits=2, examples=256, split="heldout"),
            max_length=48,
        )
        dataset = prepare(data, tokenizer).train
        batch = dataset.take(np.arange(dataset.rows))
        hidden = decoder.apply(
            config,
            params,
            jnp.asarray(batch["tokens"]),
            positions=jnp.asarray(batch["positions"]),
            segment_ids=jnp.asarray(batch["segment_ids"]),
        )
        logprob = label_logprob(
            hidden,
            decoder.head(params),
            batch["labels"],
            mask=batch["loss_mask"],
            vocab_size=len(tokenizer),
        )
        return -float(logprob.sum() / batch["loss_mask"].sum())


def with_prompt(problem: Problem, template: str) -> Problem:
    """A problem whose prompt is a template of {prompt} and {answer}."""
    *before, question = problem.messages
    text = template.format(prompt=question["content"], answer=problem.answer)
    messages = [*before, {**question, "content": text}]
    return dataclasses.replace(problem, messages=messages)


if __name__ == "__main__":
    main()
