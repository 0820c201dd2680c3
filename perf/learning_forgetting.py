"""Learning against forgetting: methods on a pretrained model, as frontiers over steps.

    python perf/real_model.py folder ~/smollm2
    python perf/learning_forgetting.py --model ~/smollm2 --train train.jsonl.gz \\
        --test test.jsonl --unrelated dev.jsonl.gz --work ~/frontier

Trains a teacher by SFT, then every method with every learning rate, all from the same
start on the same batches of GSM8K. Along the way it measures, per target token,

    learning     NLL and accuracy of held-out worked solutions of GSM8K
    forgetting   KL(base ‖ student) on the text of MedMCQA questions

Every cell is a run of the package (`training.run`), measured at its checkpoints, which
are then removed. Finished cells are in WORK/rows.jsonl and are not repeated; an
interrupted cell resumes from its newest checkpoint. The end writes a CSV, a Markdown
table and a figure (PNG and SVG). Intervals are 95 % bootstraps over texts.
"""

import argparse
import csv
import gzip
import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.config.load import load
from targetsft_jax.config.schema import Config
from targetsft_jax.data.chat import encode_all
from targetsft_jax.data.record import RowError
from targetsft_jax.data.records import load_records
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import apply, head
from targetsft_jax.training.run import run
from targetsft_jax.training.session import Shared
from targetsft_jax.training.step_spec import make_mesh

METHODS = ("sft", "dft", "kl", "asft", "gem", "target_sft", "kd")
TITLES = {
    "sft": "SFT",
    "dft": "DFT",
    "kl": "KL",
    "asft": "ASFT",
    "gem": "GEM",
    "target_sft": "Target-SFT",
    "kd": "KD",
    "base": "base",
    "teacher": "teacher",
}
# Colour, marker: readable in grey by the marker.
MARKS = {
    "sft": ("#222222", "o"),
    "dft": ("#0072b2", "s"),
    "kl": ("#56b4e9", "^"),
    "asft": ("#009e73", "v"),
    "gem": ("#e69f00", "D"),
    "target_sft": ("#d55e00", "P"),
    "kd": ("#cc79a7", "X"),
}
BATCH = 8
"""Texts per forward pass."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Texts:
    """Tokenized texts of one length, padded with 0.

    Attributes:
        tokens: [N, L] int32.
        is_real: [N, L] int32, 0 in padding.
        is_target: [N, L − 1] bool: the next token is measured.
    """

    tokens: np.ndarray
    is_real: np.ndarray
    is_target: np.ndarray

    def batches(self) -> Iterator[slice]:
        """Slices of BATCH texts; N is a multiple of BATCH."""
        for first in range(0, len(self.tokens), BATCH):
            yield slice(first, first + BATCH)


def main() -> None:
    """Train and measure what is missing, then write table and figure."""
    options = _options()
    rows = _finished(options.work / "rows.jsonl")
    teacher = ("teacher", options.teacher_rate)
    cells = [(m, rate) for rate in options.rates for m in options.methods]
    missing = [c for c in [("base", 0.0), teacher, *cells] if c not in rows]
    if missing:
        meter, shared = Meter(options, _config(options, *teacher)), Shared()
    for method, rate in missing:
        if method == "base":
            cell = [meter.measure(options.model, method, rate, 0)]
        elif method == "teacher":
            cell = [_teacher(options, meter)]
        else:
            cell = _cell(options, method, rate, meter, shared)
        _append(options, rows, cell)
    write_report(options.work, list(itertools.chain(*rows.values())))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model", required=True, help="folder that `real_model.py folder` wrote")
    add("--train", required=True, help="train.jsonl of GSM8K")
    add("--test", required=True, help="test.jsonl of GSM8K")
    add("--unrelated", required=True, type=Path, help="dev.jsonl of MedMCQA")
    add("--work", required=True, type=Path, help="folder of runs and results")
    add("--methods", nargs="+", default=METHODS, choices=METHODS)
    add("--rates", nargs="+", type=float, default=[2e-4, 5e-5])
    add("--steps", type=int, default=8)
    add("--every", type=int, default=4, help="steps between measurements")
    add("--teacher-steps", type=int, default=40)
    add("--teacher-rate", type=float, default=1e-4)
    add("--batch-size", type=int, default=3)
    add("--length", type=int, default=128, help="tokens per row of GSM8K")
    add("--texts", type=int, default=24, help="held-out solutions")
    add("--unrelated-texts", type=int, default=40)
    add("--unrelated-length", type=int, default=32)
    options = parser.parse_args()
    options.work = options.work.expanduser()
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def _config(options: argparse.Namespace, method: str, rate: float) -> Config:
    """Configuration of a cell, or of the teacher's training."""
    is_teacher = method == "teacher"
    steps = options.teacher_steps if is_teacher else options.steps
    keys = {
        "config": "gsm8k_smollm2",
        "student.path": options.model,
        "data.path": options.train,
        "data.max_length": options.length,
        "train.batch_size": 4 if is_teacher else options.batch_size,
        "train.steps": steps,
        "train.learning_rate": rate,
        "train.save_every": steps if is_teacher else options.every,
        "train.max_to_keep": 1,
        "target.name": "sft" if is_teacher else method,
        "run_dir": options.work / f"{method}-{rate:g}",
        "cache_dir": options.work / "cache",
        # The teacher reads the rows in another order than the students.
        "seed": 1 if is_teacher else 0,
    }
    if not is_teacher:
        keys["train.keep_every"] = options.every
    if method in ("target_sft", "kd"):
        keys["teacher.path"] = _teacher_dir(options) / "hf"
    arguments = [f"--{name}={value}" for name, value in keys.items()]
    return load(arguments)


def _teacher_dir(options: argparse.Namespace) -> Path:
    return options.work / f"teacher-{options.teacher_rate:g}"


def _teacher(options: argparse.Namespace, meter: "Meter") -> Row:
    """Train the teacher and measure its export; its checkpoint is removed."""
    rate, folder = options.teacher_rate, _teacher_dir(options)
    run(_config(options, "teacher", rate))
    shutil.rmtree(folder / "checkpoints")
    return meter.measure(folder / "hf", "teacher", rate, options.teacher_steps)


def _cell(
    options: argparse.Namespace,
    method: str,
    rate: float,
    meter: "Meter",
    shared: Shared,
) -> list[Row]:
    """Train one cell and measure it at its checkpoints, which are then removed."""
    config, began = _config(options, method, rate), time.perf_counter()
    run(config, shared)
    seconds = time.perf_counter() - began
    folder = Path(config.run_dir)
    rows = []
    for step in range(options.every, options.steps + 1, options.every):
        row = meter.measure(folder / "checkpoints" / str(step), method, rate, step)
        rows.append(row | {"train_seconds": seconds})
    for part in ("checkpoints", "hf"):
        shutil.rmtree(folder / part, ignore_errors=True)
    return rows


class Meter:
    """Measure models on held-out solutions and on unrelated text.

    Args:
        options: command line.
        config: configuration with the start model and the data section.
    """

    def __init__(self, options: argparse.Namespace, config: Config):
        self._mesh = make_mesh(config)
        model = open_model(options.model)
        self._decoder, tokenizer = model.config, model.tokenizer()
        self._vocab = len(tokenizer)
        self._solutions = _solutions(options, tokenizer)
        self._unrelated = _unrelated(options, tokenizer)
        params = model.load(self._mesh, jnp.float32)
        self._base = [
            np.asarray(self._logprobs(params, self._unrelated, part))
            for part in self._unrelated.batches()
        ]

    def measure(self, path: str | Path, method: str, rate: float, step: int) -> Row:
        """Measure a model by its path; sums per text."""
        params = open_model(path).load(self._mesh, jnp.float32)
        texts, other = self._solutions, self._unrelated
        nll, correct = self._sums(params, texts, _label_sums)
        kl, other_nll = self._sums(params, other, _kl_sums, self._base)
        row = {
            "method": method,
            "learning_rate": rate,
            "step": step,
            "tokens": texts.is_target.sum(-1).tolist(),
            "nll": nll,
            "correct": correct,
            "unrelated_tokens": other.is_target.sum(-1).tolist(),
            "kl": kl,
            "unrelated_nll": other_nll,
        }
        print(f"{method} {rate:g} step {step}: {summary(row)}", flush=True)
        return row

    def _logprobs(self, params: dict, texts: Texts, part: slice) -> Array:
        return _logprobs(
            self._decoder, self._vocab, params, texts.tokens[part], texts.is_real[part]
        )

    def _sums(
        self, params: dict, texts: Texts, reduce: Any, base: Sequence[Any] = ()
    ) -> tuple[list[float], list[float]]:
        parts = []
        for index, part in enumerate(texts.batches()):
            second = base[index : index + 1]
            logprobs = self._logprobs(params, texts, part)
            sums = reduce(logprobs, texts.tokens[part], texts.is_target[part], *second)
            parts.append(jax.device_get(sums))
        first, second = (np.concatenate(x).astype(float).tolist() for x in zip(*parts))
        return first, second


@partial(jax.jit, static_argnums=(0, 1))
def _logprobs(
    config: DecoderConfig, vocab: int, params: dict, tokens: Array, is_real: Array
) -> Array:
    """Log-probabilities [N, L − 1, V] f32 of the next tokens."""
    hidden = apply(config, params, tokens, segment_ids=is_real)
    logits = jnp.einsum("nld,vd->nlv", hidden[:, :-1], head(params)[:vocab])
    return jax.nn.log_softmax(logits)


@jax.jit
def _label_sums(
    logprobs: Array, tokens: Array, is_target: Array
) -> tuple[Array, Array]:
    """NLL and number of labels that are the argmax, summed per text, [N] each."""
    labels = tokens[:, 1:]
    nll = -jnp.take_along_axis(logprobs, labels[..., None], -1)[..., 0]
    correct = jnp.argmax(logprobs, -1) == labels
    return jnp.sum(nll * is_target, -1), jnp.sum(correct & is_target, -1)


@jax.jit
def _kl_sums(
    logprobs: Array, tokens: Array, is_target: Array, base: Array
) -> tuple[Array, Array]:
    """KL(base ‖ model) and NLL, summed per text, [N] each."""
    kl = jnp.sum(jnp.exp(base) * (base - logprobs), -1)
    nll, _ = _label_sums(logprobs, tokens, is_target)
    return jnp.sum(kl * is_target, -1), nll


def _solutions(options: argparse.Namespace, tokenizer: Any) -> Texts:
    """Return the first held-out problems that fit; the response is measured."""
    config = _config(options, "teacher", options.teacher_rate)
    records, _ = load_records(replace(config.data, path=options.test))

    def refuse(error: RowError) -> None:
        raise error

    examples = (
        (example.tokens, example.loss_mask[1:])
        for example in encode_all(records, tokenizer, refuse)
        if len(example.tokens) <= options.length
    )
    return _texts(examples, options.texts, options.length)


def _unrelated(options: argparse.Namespace, tokenizer: Any) -> Texts:
    """Return the first questions as bare text, cut to the length."""

    def examples() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for line in _lines(options.unrelated):
            ids = tokenizer(json.loads(line)["question"])["input_ids"]
            ids = np.asarray(ids[: options.unrelated_length], np.int32)
            if len(ids) >= 12:
                yield ids, np.ones(len(ids) - 1, bool)

    return _texts(examples(), options.unrelated_texts, options.unrelated_length)


def _texts(
    examples: Iterator[tuple[np.ndarray, np.ndarray]], n: int, length: int
) -> Texts:
    n -= n % BATCH
    tokens, is_real = np.zeros((n, length), np.int32), np.zeros((n, length), np.int32)
    is_target = np.zeros((n, length - 1), bool)
    for row, (ids, mask) in enumerate(itertools.islice(examples, n)):
        tokens[row, : len(ids)], is_real[row, : len(ids)] = ids, 1
        is_target[row, : len(mask)] = mask
    return Texts(tokens, is_real, is_target)


def _lines(path: Path) -> Iterator[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        yield from file


def _finished(path: Path) -> dict[tuple[str, float], list[Row]]:
    """Rows of finished cells by (method, learning rate)."""
    rows: dict[tuple[str, float], list[Row]] = {}
    for line in _lines(path) if path.exists() else ():
        row = json.loads(line)
        rows.setdefault((row["method"], row["learning_rate"]), []).append(row)
    return rows


def _append(options: argparse.Namespace, rows: dict, cell: list[Row]) -> None:
    """Store the rows of a cell in one write."""
    rows[cell[0]["method"], cell[0]["learning_rate"]] = cell
    with open(options.work / "rows.jsonl", "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in cell))


# Quantity -> its sums per text, the tokens per text.
QUANTITIES = {
    "nll": ("nll", "tokens"),
    "accuracy": ("correct", "tokens"),
    "kl": ("kl", "unrelated_tokens"),
    "unrelated_nll": ("unrelated_nll", "unrelated_tokens"),
}


def summary(row: Row) -> str:
    """Means per token, in one line."""
    return ", ".join(f"{name} {mean(row, name):.4f}" for name in QUANTITIES)


def mean(row: Row, name: str) -> float:
    """Mean of a quantity over all measured tokens."""
    sums, tokens = (np.asarray(row[key]) for key in QUANTITIES[name])
    return float(sums.sum() / tokens.sum())


def interval(
    row: Row, name: str, other: Row | None = None, draws: int = 4000
) -> tuple[float, float]:
    """Bootstrap interval over texts, of a mean or of its difference to another row."""
    sums, tokens = (np.asarray(row[key], float) for key in QUANTITIES[name])
    if other is not None:
        sums = sums - np.asarray(other[QUANTITIES[name][0]], float)
    chosen = np.random.default_rng(0).integers(0, len(sums), (draws, len(sums)))
    means = sums[chosen].sum(-1) / tokens[chosen].sum(-1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def write_report(folder: Path, rows: Sequence[Row]) -> None:
    """Write frontier.csv, frontier.md, and frontier.png and .svg."""
    with open(folder / "frontier.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [n + end for n in QUANTITIES for end in ("", "_low", "_high")]
        writer.writerow(["method", "learning_rate", "step", *names])
        for row in rows:
            values = [x for n in QUANTITIES for x in (mean(row, n), *interval(row, n))]
            head_ = [row["method"], f"{row['learning_rate']:g}", row["step"]]
            writer.writerow([*head_, *(f"{x:.5f}" for x in values)])
    text = "\n".join(table(rows))
    (folder / "frontier.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    draw(folder, rows)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a Markdown table: the last step of every cell."""
    last: dict[tuple[str, float], Row] = {}
    for row in rows:
        last[row["method"], row["learning_rate"]] = row
    yield "| method | learning rate | step | held-out NLL | NLL − SFT's |" + (
        " accuracy, % | KL to base |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for (method, rate), row in last.items():
        sft = last.get(("sft", rate))
        against = "–"
        if method in MARKS and method != "sft" and sft is not None:
            low, high = interval(row, "nll", sft)
            gap = mean(row, "nll") - mean(sft, "nll")
            against = f"{gap:+.3f} [{low:+.3f}, {high:+.3f}]"
        low, high = interval(row, "kl")
        yield (
            f"| {TITLES[method]} | {rate:g} | {row['step']} | {mean(row, 'nll'):.3f} |"
            f" {against} | {100 * mean(row, 'accuracy'):.1f} |"
            f" {mean(row, 'kl'):.4f} [{low:.4f}, {high:.4f}] |"
        )


def draw(folder: Path, rows: Sequence[Row]) -> None:
    """Draw KL to the base against NLL and accuracy, one row per learning rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = _by_cell(rows)
    rates = sorted({rate for method, rate in cells if method in MARKS})
    size = (9.0, 3.7 * len(rates))
    figure, axes = pyplot.subplots(len(rates), 2, figsize=size, squeeze=False)
    for (left, right), rate in zip(axes, rates):
        _panel(left, cells, rate, "nll")
        _panel(right, cells, rate, "accuracy")
        left.set_yscale("log")
        left.set_yticks([0.5, 0.7, 1, 1.5, 2, 3], ["0.5", "0.7", "1", "1.5", "2", "3"])
        left.minorticks_off()
        left.set_ylabel("NLL of held-out solutions, nats per token")
        right.set_ylabel("accuracy on their tokens")
        left.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"frontier.{suffix}", dpi=110)


def _panel(axis: Any, cells: Mapping, rate: float, quantity: str) -> None:
    base = cells["base", 0.0][0]
    for method, (colour, marker) in MARKS.items():
        path = [base, *cells.get((method, rate), [])]
        if len(path) > 1:
            axis.plot(
                [mean(row, "kl") for row in path],
                [mean(row, quantity) for row in path],
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=1.2,
                label=TITLES[method],
            )
    for (method, _), (teacher, *_) in cells.items():
        if method == "teacher":
            axis.plot(
                mean(teacher, "kl"),
                mean(teacher, quantity),
                color="0.5",
                marker="*",
                markersize=9,
                linestyle="none",
                label="teacher",
            )
    axis.set_title(f"learning rate {rate:g}", fontsize=10)
    axis.set_xlabel("KL(base ‖ student) on unrelated text, nats per token")


def _by_cell(rows: Sequence[Row]) -> Mapping[tuple[str, float], list[Row]]:
    cells: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["learning_rate"]), []).append(row)
    return cells


if __name__ == "__main__":
    main()
