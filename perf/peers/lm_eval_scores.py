"""One model on the same rows: our evaluate, lm-eval and inspect-ai side by side.

    python perf/peers/lm_eval_scores.py --model SmolLM2 --rows test.jsonl
        [--limit 24] [--samples 2] [--max-new-tokens 200] [--out FOLDER]
        [--write docs/agreement.md]

The rows are GSM8K's as published (question, answer with "#### 18"). All three sample
with this package, lm-eval through a subclass of its `LM` and inspect-ai through the
provider `targetsft`, from the prompts of our benchmark `gsm8k`; each grades by its own
rules. lm-eval gets the same keys per problem and sample as evaluate, so that these two
differ in grading alone; inspect-ai has other keys. Both run in one environment, made on
the first use.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agreement import replace_block
from environments import FOLDER, interpreter

from targetsft_jax.evaluation import benchmarks
from targetsft_jax.evaluation.scores import is_correct
from targetsft_jax.evaluation.store import Row, Store

ROOT = Path(__file__).resolve().parents[2]
WORKERS = Path(__file__).parent
PACKAGES = ["lm_eval==0.4.13", "inspect-ai==0.3.285"]
BENCHMARK = "gsm8k"


def main() -> None:
    """Print the table, or write it into a page of the documentation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="any path of a model")
    parser.add_argument("--rows", required=True, help="GSM8K's test.jsonl")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--environments", type=Path, default=FOLDER)
    parser.add_argument("--out", help="results of evaluate; default: a new folder")
    parser.add_argument("--write", type=Path, help="page with the block `scores`")
    options = parser.parse_args()
    python = interpreter(options.environments, PACKAGES, editable=ROOT)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "model": str(Path(options.model).resolve()),
            "rows": str(Path(folder) / "rows.jsonl"),
            "samples": options.samples,
            "max_new_tokens": options.max_new_tokens,
            "temperature": options.temperature,
            "seed": options.seed,
        }
        count = write_rows(Path(settings["rows"]), options.rows, options.limit)
        out = Path(options.out or Path(folder) / "out")
        rows = evaluate(settings, options.rows, options.limit, out)
        theirs = {
            name: _work(python, name, settings) for name in ("lm_eval", "inspect")
        }
    text = table(settings, count, rows, theirs)
    if options.write is None:
        print(text)
    else:
        replace_block(options.write, "scores", text)


def write_rows(target: Path, source: str, limit: int) -> int:
    """Write id, prompt and gold answer of our benchmark; the number of problems."""
    loaded = benchmarks.load(benchmarks.find(BENCHMARK), path=source, limit=limit)
    with target.open("w", encoding="utf-8") as file:
        for problem in loaded.problems:
            # A prompt of one turn: the question and the instruction.
            (turn,) = problem.messages
            row = {
                "id": problem.id,
                "prompt": turn["content"],
                "answer": problem.answer,
            }
            file.write(json.dumps(row) + "\n")
    return len(loaded.problems)


def evaluate(settings: dict[str, Any], source: str, limit: int, out: Path) -> list[Row]:
    """Run the command `evaluate`; its rows."""
    keys = {
        "model": settings["model"],
        "benchmarks": BENCHMARK,
        f"data.{BENCHMARK}": source,
        "limit": limit,
        "out": out,
        **{
            name: settings[name]
            for name in ("samples", "max_new_tokens", "temperature", "seed")
        },
    }
    arguments = [part for k, v in keys.items() for part in (f"--{k}", str(v))]
    _run([sys.executable, "-m", "targetsft_jax.evaluate", *arguments])
    return list(Store(out / BENCHMARK).rows.values())


def table(
    settings: dict[str, Any], count: int, rows: list[Row], theirs: dict[str, Any]
) -> str:
    """Markdown: three scores, and where the verdicts on equal completions differ."""
    ours = 100 * sum(is_correct(row) for row in rows) / len(rows)
    harness = theirs["lm_eval"]
    same = sum(row.text == harness["texts"][row.problem][row.sample] for row in rows)
    truncated = sum(not row.finished for row in rows)
    lines = [
        f"{datetime.date.today().isoformat()}: {count} problems × "
        f"{settings['samples']} samples, at most {settings['max_new_tokens']} tokens, "
        f"temperature {settings['temperature']:g}; math-verify "
        f"{version('math-verify')}.",
        "",
        "| program | completions | grader | Average@k | truncated |",
        "|---|---|---|---:|---:|",
        f"| ours | `evaluate` | `strict` | {ours:.1f} | {truncated} of {len(rows)} |",
        f"| lm-eval 0.4.13 | {same} of {len(rows)} the same | `exact_match` on the "
        f"last number | {harness['score']:.1f} | not known to it |",
        "| inspect-ai 0.3.285 | other keys | `math()` "
        f"| {theirs['inspect']['score']:.1f} "
        f"| {theirs['inspect']['truncated']} of {theirs['inspect']['count']} |",
        "",
        "Verdicts of ours and lm-eval on the same completions:",
        "",
        "| ours | lm-eval | our `how` | truncated | completions |",
        "|---|---|---|---|---:|",
    ]
    groups: dict[tuple[str, ...], int] = {}
    for row in rows:
        right = harness["verdicts"][row.problem][row.sample] > 0
        if row.text != harness["texts"][row.problem][row.sample]:
            continue
        group = (
            "right" if is_correct(row) else "wrong",
            "right" if right else "wrong",
            row.grade.how,
            "no" if row.finished else "yes",
        )
        groups[group] = groups.get(group, 0) + 1
    lines += [f"| {' | '.join(g)} | {n} |" for g, n in sorted(groups.items())]
    return "\n".join(lines)


def _work(python: Path, name: str, settings: dict[str, Any]) -> Any:
    """Run a worker in its environment; the JSON object in its last line."""
    script = WORKERS / f"{name}_worker.py"
    output = _run([str(python), str(script), json.dumps(settings)])
    return json.loads(output.strip().splitlines()[-1])


def _run(command: list[str]) -> str:
    process = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )
    if process.returncode:
        output = f"{process.stdout[-2000:]}{process.stderr[-4000:]}"
        sys.exit(f"{' '.join(command[:3])} failed:\n{output}")
    return process.stdout


if __name__ == "__main__":
    main()
