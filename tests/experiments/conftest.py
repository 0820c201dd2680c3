"""Run directories with made-up metrics."""

import json

import pytest

from targetsft_jax.loss.histogram import BINS


def _results(scores):
    score = {"standard_error": 0.05, "pass_at_k": 1.0, "no_answer": 0.0}
    score |= {"truncated": 0.0, "problems": 64, "k": 16}
    entries = {
        name: {"key": "x", "score": {"average_at_k": mean, **score}}
        for name, mean in scores.items()
    }
    return {"finished": True, "export": None, "scores": entries}


@pytest.fixture
def write_run():
    def write(folder, method="sft", steps=30, start=2.0, **more):
        """Write a run with loss start / step, a skipped step and a truncated line."""
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"target: {{name: {method}}}\n")
        rows = [
            {"step": n, "loss": start / n, "nll": start / n, "tokens_per_second": 5e3}
            for n in range(1, steps + 1)
        ]
        rows[9] |= {"loss": None, "skipped": 1.0}
        for number in (10, 20, 30):
            rows[number - 1] |= {"validation_loss": start / number + 0.1}
        lines = [json.dumps(row | more) for row in rows]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 31, "lo')
        histograms = [{"step": n, "gamma": [1 / BINS] * BINS} for n in (1, 10, 20)]
        text = "\n".join(json.dumps(row) for row in histograms)
        (folder / "histograms.jsonl").write_text(text + "\n")
        seconds = {"steps": 60.0, "compile": 20.0, "save": 20.0}
        goodput = json.dumps({"sessions": 1, "seconds": seconds})
        (folder / "goodput.json").write_text(goodput)
        scores = {"start": 0.1, "teacher": 0.8, method: 1 / start}
        (folder / "results.json").write_text(json.dumps(_results(scores)))

    return write
