"""Train on the published GSM8K and PubMedQA files; skipped if they are absent."""

from pathlib import Path

import pytest
from support import rig

from targetsft_jax.train import main

CONFIGS = Path(__file__).parents[2] / "configs"
# Most PubMedQA examples are too long to train on in seconds: only short ones.
SETTINGS = {
    "gsm8k_tiny": (
        "gsm8k/train.jsonl.gz",
        {"data.limit": 64, "data.max_length": 256, "data.max_dropped": 1},
    ),
    "pubmedqa_tiny": (
        "pubmedqa/pqal.jsonl.gz",
        {
            "data.limit": 250,
            "data.max_length": 832,
            "data.overlong": "drop",
            "data.max_dropped": 1,
            "train.batch_size": 4,
            "mesh.tensor": 2,
        },
    ),
}


def _train(name: str, shared, run_dir, student, teacher, **more) -> list[dict]:
    """Train twelve steps of a configuration and return their metrics."""
    file, settings = SETTINGS[name]
    path = shared / "data" / file
    if not path.is_file():
        pytest.skip(f"{file} does not exist")
    arguments = {
        "config": CONFIGS / f"{name}.yaml",
        "run_dir": run_dir,
        "cache_dir": run_dir / "cache",
        "data.path": path,
        "student.path": student,
        "teacher.path": teacher,
        "train.steps": 12,
        "train.batch_size": 8,
        "train.learning_rate": 1e-2,
        **settings,
        **more,
    }
    assert main(rig.command(arguments)) == 0
    rows = rig.metrics_of(run_dir)
    assert len(rows) == 12 and not any(row["skipped"] for row in rows)
    return rows


@pytest.fixture(scope="module")
def taught(shared, folders, tmp_path_factory):
    """Export of a teacher trained on GSM8K by plain SFT.

    With an untrained teacher Target-SFT learns nothing: the γ = p_y of an untrained
    student is about 1/264.
    """
    run_dir = tmp_path_factory.mktemp("taught")
    plain = {"target.name": "sft", "target.eta": "null"}
    start = folders["teacher"]
    rows = _train("gsm8k_tiny", shared, run_dir, start, "null", **plain)
    # The start is uniform over 264 tokens: log 264 = 5.58 nats.
    assert rows[0]["nll"] == rows[0]["loss"] == pytest.approx(5.58, abs=0.1)
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    return run_dir / "hf"


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_the_loss_decreases(name: str, shared, folders, taught, tmp_path, capsys):
    rows = _train(name, shared, tmp_path, folders["student"], taught)
    # The loss is the cross-entropy to the target, NLL that to the labels.
    for key in ("loss", "nll", "kl_teacher"):
        assert rows[-1][key] < rows[0][key] - 0.3, key
    assert "<|assistant|>⟦" in capsys.readouterr().out
    assert (tmp_path / "hf/model.safetensors").is_file()
