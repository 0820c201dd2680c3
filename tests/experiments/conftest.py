"""Run directories with made-up metrics."""

import json

import pytest

from targetsft_jax.loss.histogram import BINS


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

    return write
