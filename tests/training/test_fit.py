"""Training loop: interrupted and resumed runs equal an uninterrupted one."""

import itertools
import json
import math
import shutil
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rig
from support.fits import CONFIG, STEPS, fit_target_sft

from targetsft_jax.checkpoints import manager as checkpoint
from targetsft_jax.checkpoints.reader import StoredCheckpoint
from targetsft_jax.config.schema import ConfigError, TrainConfig
from targetsft_jax.data.config import DataConfig, SyntheticConfig
from targetsft_jax.data.pipeline import batch_at, prepare, rows_at
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.parallel.mesh import make_mesh, put_rows
from targetsft_jax.parallel.preemption import Preempted
from targetsft_jax.storage import jsonl
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.log import RunLog
from targetsft_jax.training import fit as fit_module
from targetsft_jax.training.fit import prefetch_to_mesh, total_steps
from targetsft_jax.training.saving import Saver

KEYS = {
    "step",
    "loss",
    "nll",
    "gamma",
    "strength",
    "negative_mass",
    "entropy",
    "label_prob",
    "accuracy",
    "kl_teacher",
    "grad_norm",
    "learning_rate",
    "epoch",
    "target_tokens",
    "tokens",
    "skipped",
    "spike",
    "seconds",
    "tokens_per_second",
    "data_wait",
    "goodput",
}


class _PowerCut(BaseException):
    pass


def _cut_at(step: int, monkeypatch, dataset, run_dir):
    """Interrupt a run just before step `step` is logged."""
    real = RunLog.write

    def write(self, number, metrics):
        if number == step:
            raise _PowerCut
        real(self, number, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "write", write)
        with pytest.raises(_PowerCut):
            fit_target_sft(dataset, run_dir)


def test_metrics_have_one_line_per_step_with_the_documented_keys(undisturbed):
    rows = rig.metrics_of(undisturbed[0])
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert set(row) == KEYS
        assert all(isinstance(v, int | float) for v in row.values())
        assert row["tokens_per_second"] == row["tokens"] / row["seconds"]


def test_token_counts_match_the_batches(undisturbed, dataset):
    """Step n trains on batch n − 1 of the documented order."""
    for row in rig.metrics_of(undisturbed[0]):
        rows = batch_at(dataset, row["step"] - 1, batch_size=8, seed=3)
        assert row["target_tokens"] == rows["loss_mask"].sum()
        assert row["tokens"] == (rows["segment_ids"] > 0).sum()


def test_training_reduces_the_kl_to_the_teacher(undisturbed):
    """The teacher is untrained too, so γ = p_y is near zero and T dominates."""
    rows = rig.metrics_of(undisturbed[0])
    assert rows[-1]["kl_teacher"] < 0.9 * rows[0]["kl_teacher"]
    assert undisturbed[1].resumed_from == 0
    assert int(undisturbed[1].state.step) == STEPS


@pytest.mark.sweep(1)
@pytest.mark.parametrize("step, resumed", [(2, 0), (5, 4), (6, 4)])
def test_a_cut_run_resumes_bit_for_bit(
    step, resumed, undisturbed, dataset, tmp_path, monkeypatch
):
    _cut_at(step, monkeypatch, dataset, tmp_path)
    assert len(rig.metrics_of(tmp_path)) < STEPS
    again = fit_target_sft(dataset, tmp_path)
    assert again.resumed_from == resumed
    rig.assert_equal_trees(rig.host(again.state), rig.host(undisturbed[1].state))
    assert rig.untimed(rig.metrics_of(tmp_path)) == rig.untimed(
        rig.metrics_of(undisturbed[0])
    )


def test_lines_after_the_checkpoint_and_a_truncated_line_are_rewritten(
    undisturbed, dataset, tmp_path
):
    """After a kill: a complete line past the checkpoint, then a truncated one."""
    shutil.copytree(undisturbed[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints" / str(STEPS))
    path = tmp_path / "run/metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    stale = json.dumps({"step": 5, "loss": 99.0}) + "\n"
    path.write_text("".join(lines[:4]) + stale + lines[5][:20])
    again = fit_target_sft(dataset, tmp_path / "run")
    assert again.resumed_from == 4
    assert rig.untimed(rig.metrics_of(tmp_path / "run")) == rig.untimed(
        rig.metrics_of(undisturbed[0])
    )


def test_a_half_written_checkpoint_is_passed_over(undisturbed, dataset, tmp_path):
    """Orbax writes under a temporary name, which remains after a kill."""
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed[0], run_dir)
    complete = run_dir / "checkpoints" / str(STEPS)
    temporary = complete.with_name(f"{STEPS}.orbax-checkpoint-tmp-7")
    complete.rename(temporary)
    (temporary / "params/manifest.ocdbt").unlink(missing_ok=True)
    again = fit_target_sft(dataset, run_dir)
    assert again.resumed_from == 4
    rig.assert_equal_trees(rig.host(again.state), rig.host(undisturbed[1].state))


def _read(folder):
    """Read the parameters of a checkpoint; None if they are unreadable."""
    stored = StoredCheckpoint(RunDir(folder.parents[1]), int(folder.name))
    try:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(stored.params())]
    except ValueError:
        return None


def _flip(folder):
    """Flip the first bit that changes parameters without an error.

    Other bytes of the files are either unused or checked by the reader.
    """
    before = _read(folder)
    files = sorted((folder / "params").rglob("d/*"), key=lambda p: -p.stat().st_size)
    for path in files:
        content = path.read_bytes()
        for part in range(1, 16):
            damaged = bytearray(content)
            damaged[len(damaged) * part // 16] ^= 1
            path.write_bytes(damaged)
            after = _read(folder)
            if after and any((one != two).any() for one, two in zip(before, after)):
                return
        path.write_bytes(content)
    raise AssertionError("no bit of these files changes a parameter")


def _truncate(folder):
    for path in (folder / "optimizer").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _delete_arrays(folder):
    shutil.rmtree(folder / "params")


def _corrupt_position(folder):
    for path in (folder / "position").iterdir():
        path.write_text("{")


DAMAGES = [_flip, _truncate, _delete_arrays, _corrupt_position]


@pytest.mark.sweep(2)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_passed_over(
    damage, undisturbed, dataset, tmp_path, capsys
):
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed[0], run_dir)
    damage(run_dir / "checkpoints" / str(STEPS))
    again = fit_target_sft(dataset, run_dir)
    assert again.resumed_from == 4
    rig.assert_equal_trees(rig.host(again.state), rig.host(undisturbed[1].state))
    assert f"checkpoint {STEPS} cannot be restored" in capsys.readouterr().out
    # Moved aside for inspection; a new checkpoint of the step is saved.
    assert (run_dir / "checkpoints_damaged" / str(STEPS)).is_dir()
    assert fit_target_sft(dataset, run_dir).resumed_from == STEPS


def test_without_checksums_a_flipped_bit_is_not_detected(
    undisturbed, dataset, tmp_path, monkeypatch
):
    """Control: the damaged parameter is restored without an error."""
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed[0], run_dir)
    _flip(run_dir / "checkpoints" / str(STEPS))
    monkeypatch.setattr(checkpoint, "verify", lambda arrays, saved: None)
    again = fit_target_sft(dataset, run_dir)
    assert again.resumed_from == STEPS
    pairs = zip(
        jax.tree.leaves(rig.host(again.state)),
        jax.tree.leaves(rig.host(undisturbed[1].state)),
    )
    assert sum(np.sum(one != other) for one, other in pairs) > 0


def test_with_all_checkpoints_damaged_nothing_is_moved(undisturbed, dataset, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed[0], run_dir)
    for step in (4, STEPS):
        _truncate(run_dir / "checkpoints" / str(step))
    with pytest.raises(ValueError, match="Nothing was deleted") as refusal:
        fit_target_sft(dataset, run_dir)
    assert "\n  6: " in str(refusal.value) and "\n  4: " in str(refusal.value)
    assert not (run_dir / "checkpoints_damaged").exists()


def test_sigterm_saves_and_stops(undisturbed, dataset, tmp_path, monkeypatch):
    """The current step is completed and saved."""
    real = RunLog.write

    def write(self, number, metrics):
        real(self, number, metrics)
        if number == 3:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "write", write)
        with pytest.raises(Preempted) as stopped:
            fit_target_sft(dataset, tmp_path, config=replace(CONFIG, save_every=100))
    assert signal.getsignal(signal.SIGTERM) == before
    # Line 3 is written after step 4 is dispatched.
    assert stopped.value.step == 4
    assert [row["step"] for row in rig.metrics_of(tmp_path)] == [1, 2, 3, 4]
    again = fit_target_sft(dataset, tmp_path)
    assert again.resumed_from == 4
    rig.assert_equal_trees(rig.host(again.state), rig.host(undisturbed[1].state))


def test_sigterm_after_the_last_step_is_not_lost(
    undisturbed, dataset, tmp_path, monkeypatch
):
    """The export, which follows, may take longer than a scheduler waits."""
    real = Saver.__exit__

    def leave(*arguments):
        real(*arguments)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Saver, "__exit__", leave)
    with pytest.raises(Preempted) as stopped:
        fit_target_sft(dataset, tmp_path)
    assert stopped.value.step == STEPS
    assert (tmp_path / "checkpoints" / str(STEPS)).is_dir()


def test_too_many_steps_that_are_not_finite_end_the_run(
    dataset, tmp_path, monkeypatch, capsys
):
    real = rig.params_of

    def broken(config, seed=0):
        params = real(config, seed)
        if seed:
            return params
        return params | {"embed": np.full_like(params["embed"], np.nan)}

    monkeypatch.setattr(rig, "params_of", broken)
    config = replace(CONFIG, max_skipped_steps=3)
    with pytest.raises(ValueError, match="3 consecutive steps, 1 to 3") as refusal:
        fit_target_sft(dataset, tmp_path, config=config)
    assert "train.learning_rate" in str(refusal.value)
    rows = rig.metrics_of(tmp_path)
    assert [row["skipped"] for row in rows] == [1, 1, 1]
    # The rate of the optimizer, which counts updates: it does not advance.
    assert len({row["learning_rate"] for row in rows}) == 1
    anomalies = jsonl.read(tmp_path / "anomalies.jsonl")
    assert [(row["step"], row["kind"]) for row in anomalies] == [
        (1, "skipped"),
        (2, "skipped"),
        (3, "skipped"),
    ]
    for row in anomalies:
        rows = rows_at(dataset, row["step"] - 1, batch_size=8, seed=3).ravel()
        assert row["examples"] == [x for r in rows.tolist() for x in dataset.origins(r)]
    printed = capsys.readouterr().out
    examples = anomalies[0]["examples"]
    listed = f"{len(examples)} examples: {', '.join(examples[:20])}"
    assert f"step 1: loss or gradient not finite, step skipped; {listed}" in printed
    assert "skipped steps: 3, loss spikes: 0" in printed


def test_a_finished_run_is_not_changed(undisturbed, dataset, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed[0], run_dir)
    before = (run_dir / "metrics.jsonl").read_bytes()
    again = fit_target_sft(dataset, run_dir)
    assert again.resumed_from == STEPS
    rig.assert_equal_trees(rig.host(again.state), rig.host(undisturbed[1].state))
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_the_newest_checkpoints_are_retained(undisturbed):
    names = {path.name for path in (undisturbed[0] / "checkpoints").iterdir()}
    assert {name for name in names if name.isdigit()} == {"4", "6"}


def test_another_mesh_goes_on_to_rounding(undisturbed, dataset, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed[0], run_dir)
    shutil.rmtree(run_dir / "checkpoints" / str(STEPS))
    mesh = make_mesh(devices=jax.devices()[:1])
    again = fit_target_sft(dataset, run_dir, mesh)
    assert again.resumed_from == 4
    embed = again.state.params["embed"]
    assert embed.sharding.device_set == {jax.devices()[0]}
    for one, other in zip(rig.metrics_of(run_dir), rig.metrics_of(undisturbed[0])):
        # After two AdamW steps only rounding differs; a lost moment would be percents.
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)


def test_other_data_is_refused(undisturbed, dataset, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed[0], run_dir)
    with pytest.raises(ValueError, match="seed was 3 and is 4") as refusal:
        fit_target_sft(dataset, run_dir, seed=4)
    assert "choose another run_dir" in str(refusal.value)
    config = DataConfig(synthetic=SyntheticConfig(examples=65), max_length=64)
    other = prepare(config, byte_tokenizer()).train
    with pytest.raises(ValueError, match=f"is {other.fingerprint!r}"):
        fit_target_sft(other, run_dir)
    # The refusals did not change the run.
    assert fit_target_sft(dataset, run_dir).resumed_from == STEPS


def test_another_teacher_is_refused(undisturbed, dataset, tmp_path, monkeypatch):
    """One weight differs by one unit in the last place."""
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed[0], run_dir)
    real = rig.frozen_of

    def swapped(*arguments):
        frozen = real(*arguments)
        norm = frozen["teacher"]["final_norm"]
        next_up = jnp.nextafter(norm[3], jnp.inf)
        frozen["teacher"]["final_norm"] = norm.at[3].set(next_up)
        return frozen

    with monkeypatch.context() as patch:
        patch.setattr(rig, "frozen_of", swapped)
        with pytest.raises(ValueError, match="the frozen teacher has other weights"):
            fit_target_sft(dataset, run_dir)
    assert fit_target_sft(dataset, run_dir).resumed_from == STEPS


def test_the_host_only_fetches_metrics_of_an_earlier_step(
    dataset, tmp_path, monkeypatch
):
    """Metrics are fetched after the next step is dispatched; nothing else is."""
    events = []
    make, write, fetch = fit_module.make_train_step, RunLog.write, jax.device_get

    def make_step(*arguments):
        step = make(*arguments)

        def run(*arguments):
            events.append("step")
            return step(*arguments)

        return run

    def logged(self, number, metrics):
        events.append(f"line {number}")
        write(self, number, metrics)

    def fetched(tree):
        events.append("fetch")
        return fetch(tree)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "make_train_step", make_step)
        patch.setattr(RunLog, "write", logged)
        patch.setattr(jax, "device_get", fetched)
        fit_target_sft(
            dataset, tmp_path, config=replace(CONFIG, steps=4, save_every=100)
        )
    assert [event for event in events if event != "fetch"] == [
        "step",
        *("step", "line 1"),
        *("step", "line 2"),
        *("step", "line 3"),
        "line 4",
    ]
    # One fetch per line; there may be others before the first step and for the last
    # checkpoint.
    steps = events[events.index("step") : events.index("line 4")]
    assert steps.count("fetch") == 4


def test_epochs_are_converted_to_steps(dataset):
    rows = dataset.rows
    assert total_steps(TrainConfig(steps=9), dataset) == 9
    config = TrainConfig(epochs=3, batch_size=4)
    assert total_steps(config, dataset) == round(3 * rows / 4)
    assert total_steps(TrainConfig(epochs=1e-6), dataset) == 1
    for epochs in (1e20, 1.7e308):
        with pytest.raises(ConfigError, match="train.epochs is .*; expected fewer"):
            total_steps(TrainConfig(epochs=epochs), dataset)


def test_put_rows_shards_the_batch_and_keeps_its_values():
    mesh = make_mesh(2, 2, 2)
    rows = rig.micro(2)
    placed = put_rows(rows, mesh, lead=1)
    rig.assert_equal_trees(rig.host(placed), rows)
    assert placed["tokens"].addressable_shards[0].data.shape == (2, 1, rig.LENGTH)


def test_the_next_batch_is_transferred_one_step_ahead(dataset):
    mesh, requests = make_mesh(4, 2, 1), []

    def batches():
        for step in itertools.count():
            requests.append(step)
            yield batch_at(dataset, step, batch_size=8)

    ahead = prefetch_to_mesh(batches(), mesh)
    for step in range(5):
        placed = next(ahead)
        assert requests[-1] == step + 1
        rig.assert_equal_trees(rig.host(placed), batch_at(dataset, step, batch_size=8))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_devices_have_the_same_rows_for_any_number_of_processes(processes):
    """Each process packs all rows and takes those of its devices."""
    synthetic = SyntheticConfig(examples=64)
    mesh, config = make_mesh(4, 2, 1), DataConfig(synthetic=synthetic, max_length=128)
    options = dict(batch_size=16, accumulation_steps=2, seed=3)
    dataset = prepare(config, byte_tokenizer()).train
    placed = put_rows(batch_at(dataset, 5, **options), mesh, lead=1)
    devices = mesh.devices.flatten().tolist()
    per_process = len(devices) // processes
    for process in range(processes):
        dataset = prepare(config, byte_tokenizer()).train
        batch = batch_at(dataset, 5, **options)
        local = devices[process * per_process : (process + 1) * per_process]
        for name, array in placed.items():
            shards = [x for x in array.addressable_shards if x.device in local]
            assert len(shards) == per_process
            for shard in shards:
                assert shard.data.shape == (2, 1, 128)
                np.testing.assert_array_equal(shard.data, batch[name][shard.index])


def test_learning_rate_and_epoch_of_each_step(undisturbed, dataset):
    """The formula of the schedule, and rows that have been read."""
    rows = rig.metrics_of(undisturbed[0])
    warmup = math.ceil(CONFIG.warmup_ratio * STEPS)
    assert warmup == 1
    for row in rows:
        after_warmup = (row["step"] - warmup) / (STEPS + 1 - warmup)
        rate = CONFIG.learning_rate * (1 + math.cos(math.pi * after_warmup)) / 2
        assert row["learning_rate"] == pytest.approx(rate, rel=1e-5)
        assert row["epoch"] == row["step"] * CONFIG.batch_size / dataset.rows
