"""Names in a run directory, as they are on disk for earlier runs."""

from pathlib import Path

from targetsft_jax.storage.run_dir import RunDir


def test_names_stay_as_earlier_runs_have_them():
    run_dir = RunDir(Path("runs/mine"))
    names = {
        "config": "config.yaml",
        "metrics": "metrics.jsonl",
        "histograms": "histograms.jsonl",
        "goodput": "goodput.json",
        "tensorboard": "tensorboard",
        "wandb_id": "wandb_id",
        "checkpoints": "checkpoints",
        "damaged_checkpoints": "checkpoints_damaged",
        "model": "model",
        "adapters": "model/adapters.json",
        "export": "hf",
        "adapter_export": "adapter",
    }
    for attribute, name in names.items():
        assert getattr(run_dir, attribute) == Path("runs/mine") / name
    assert run_dir.name == "mine"
    assert run_dir.completions("teacher") == Path("runs/mine/completions_teacher.jsonl")


def test_no_two_names_are_the_same():
    run_dir = RunDir(Path("run"))
    paths = [
        getattr(run_dir, name)
        for name, member in vars(RunDir).items()
        if isinstance(member, property) and name != "name"
    ]
    assert len(paths) == len(set(paths)) >= 15


def test_the_name_of_a_relative_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunDir(Path()).name == tmp_path.name
