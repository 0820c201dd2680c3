"""Made-up results of a comparison."""

import numpy as np
import pytest

from targetsft_jax.experiments.comparison.results import CellResult

PROBLEMS, SAMPLES = 12, 4
METHODS = [
    ("start", "start", {}),
    ("teacher", "teacher", {}),
    ("target_sft", "target_sft eta=0.25", {"eta": 0.25}),
    ("target_sft", "target_sft", {}),
    ("kd", "kd", {}),
    ("sft", "sft", {}),
    ("custom", "custom gamma=0.5 residual=teacher",
     {"gamma": 0.5, "residual": "teacher"}),
    ("dft", "dft", {}),
]  # fmt: skip


def _probe(generator, wrong):
    def shares():
        return (np.ones(20) / 20).tolist()

    clean = {"label_prob": shares(), "mean_label_prob": 0.5}
    clean["accuracy"] = float(generator.uniform())
    if not wrong:
        return {"clean": clean}
    corrupted = clean | {"accuracy": float(generator.uniform()), "memorised": 0.25}
    return {"clean": clean, "corrupted": corrupted}


@pytest.fixture
def make_rows():
    def make(settings=("one", "two"), seeds=3, methods=METHODS, same=False):
        """Results with seeded verdicts; wrong labels in the first setting only."""
        generator, rows = np.random.default_rng(0), []
        for setting in settings:
            for method, label, hyper in methods:
                for seed in range(seeds):
                    counts = generator.binomial(SAMPLES, 0.5, PROBLEMS)
                    is_shared = method in ("start", "teacher")
                    values = generator.uniform(size=3).tolist()
                    names = ("gamma", "strength", "negative_mass")
                    wrong = setting == settings[0]
                    rows.append(
                        CellResult(
                            setting,
                            method,
                            label,
                            hyper,
                            seed,
                            None if is_shared else 1e-3,
                            [f"{'' if same else setting}{n}" for n in range(PROBLEMS)],
                            counts.tolist(),
                            SAMPLES,
                            {}
                            if is_shared
                            else {"step": [1.0, 2.0, 3.0]}
                            | dict.fromkeys(names, values),
                            {}
                            if is_shared
                            else {
                                "before": _probe(generator, wrong),
                                "after": _probe(generator, wrong),
                            },
                            "",
                        )
                    )
        return rows

    return make
