"""The loop: killed and resumed runs against one that nobody disturbed."""

import itertools
import json
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
from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.data.config import DataConfig, SyntheticConfig
from targetsft_jax.data.pipeline import batch_at, prepare, rows_at
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.parallel.mesh import make_mesh, put_rows
from targetsft_jax.parallel.preemption import Preempted
from targetsft_jax.storage import jsonl
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.log import RunLog
from targetsft_jax.train import main
from targetsft_jax.training import fit as fit_module
from targetsft_jax.training import run
from targetsft_jax.training.fit import prefetch_to_mesh, total_steps

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
    """A run that ends when step `step` is about to be logged."""
    real = RunLog.write

    def write(self, number, metrics):
        if number == step:
            raise _PowerCut
        real(self, number, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "write", write)
        with pytest.raises(_PowerCut):
            fit_target_sft(dataset, run_dir)


def test_every_step_is_one_line_with_the_documented_keys(undisturbed):
    rows = rig.metrics_of(undisturbed[0])
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert set(row) == KEYS
        assert all(isinstance(v, int | float) for v in row.values())
        assert row["tokens_per_second"] == row["tokens"] / row["seconds"]


def test_the_numbers_are_those_of_the_batches(undisturbed, dataset):
    """Step n trains on batch n − 1 of the documented order."""
    for row in rig.metrics_of(undisturbed[0]):
        rows = batch_at(dataset, row["step"] - 1, batch_size=8, seed=3)
        assert row["target_tokens"] == rows["loss_mask"].sum()
        assert row["tokens"] == (rows["segment_ids"] > 0).sum()


def test_training_learns(undisturbed):
    """From the teacher, which knows nothing either: γ = p_y is next to nothing."""
    rows = rig.metrics_of(undisturbed[0])
    assert rows[-1]["kl_teacher"] < 0.9 * rows[0]["kl_teacher"]
    assert undisturbed[1].resumed_from == 0
    assert int(undisturbed[1].state.step) == STEPS


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


def test_lines_after_the_checkpoint_and_a_torn_one_are_taken_again(
    undisturbed, dataset, tmp_path
):
    """As a kill leaves them: a whole line past the checkpoint, then half a line."""
    shutil.copytree(undisturbed[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints" / str(STEPS))
    path = tmp_path / "run/metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    spoilt = json.dumps({"step": 5, "loss": 99.0}) + "\n"
    path.write_text("".join(lines[:4]) + spoilt + lines[5][:20])
    again = fit_target_sft(dataset, tmp_path / "run")
    assert again.resumed_from == 4
    assert rig.untimed(rig.metrics_of(tmp_path / "run")) == rig.untimed(
        rig.metrics_of(undisturbed[0])
    )


def test_a_half_written_checkpoint_is_passed_over(undisturbed, dataset, tmp_path):
    """Orbax writes under a temporary name, which a kill leaves behind."""
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed[0], run_dir)
    whole = run_dir / "checkpoints" / str(STEPS)
    left = whole.with_name(f"{STEPS}.orbax-checkpoint-tmp-7")
    whole.rename(left)
    (left / "params/manifest.ocdbt").unlink(missing_ok=True)
    again = fit_target_sft(dataset, run_dir)
    assert again.resumed_from == 4
    rig.assert_equal_trees(rig.host(again.state), rig.host(undisturbed[1].state))


def _read(folder):
    """The parameters of a checkpoint; None where they cannot be read."""
    stored = StoredCheckpoint(RunDir(folder.parents[1]), int(folder.name))
    try:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(stored.params())]
    except ValueError:
        return None


def _flip(folder):
    """One bit, at the first place tried where it gives other parameters in silence.

    There are others: files have bytes that nobody reads, and some that are checked.
    """
    before = _read(folder)
    files = sorted((folder / "params").rglob("d/*"), key=lambda p: -p.stat().st_size)
    for path in files:
        whole = path.read_bytes()
        for part in range(1, 16):
            spoilt = bytearray(whole)
            spoilt[len(spoilt) * part // 16] ^= 1
            path.write_bytes(spoilt)
            after = _read(folder)
            if after and any((one != two).any() for one, two in zip(before, after)):
                return
        path.write_bytes(whole)
    raise AssertionError("no bit of these files is a parameter's")


def _truncate(folder):
    for path in (folder / "optimizer").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _lose_the_arrays(folder):
    shutil.rmtree(folder / "params")


def _garble_the_position(folder):
    for path in (folder / "position").iterdir():
        path.write_text("{")


DAMAGES = [_flip, _truncate, _lose_the_arrays, _garble_the_position]


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
    # Kept for whoever wants to look, and saved anew in its place.
    assert (run_dir / "checkpoints_damaged" / str(STEPS)).is_dir()
    assert fit_target_sft(dataset, run_dir).resumed_from == STEPS


def test_a_flipped_bit_would_pass_for_a_parameter(
    undisturbed, dataset, tmp_path, monkeypatch
):
    """The control: without the checksums the wrong number comes back in silence."""
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
    """As a scheduler sends it: the step under way is finished, and saved."""
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
    # Line 3 is written when step 4 is under way.
    assert stopped.value.step == 4
    assert [row["step"] for row in rig.metrics_of(tmp_path)] == [1, 2, 3, 4]
    again = fit_target_sft(dataset, tmp_path)
    assert again.resumed_from == 4
    rig.assert_equal_trees(rig.host(again.state), rig.host(undisturbed[1].state))


def test_the_command_takes_being_stopped_for_success(monkeypatch, capsys, tmp_path):
    def stopped(config):
        raise Preempted(7)

    monkeypatch.setattr(run, "run", stopped)
    assert main(["--student.path", "x", "--teacher.path", "y"]) == 0
    assert "stopped after step 7 (checkpoint saved); rerun" in capsys.readouterr().out


def test_too_many_steps_that_are_not_finite_end_the_run(
    dataset, tmp_path, monkeypatch, capsys
):
    real = rig.params_of

    def broken(config, seed=0):
        made = real(config, seed)
        return made if seed else made | {"embed": np.full_like(made["embed"], np.nan)}

    monkeypatch.setattr(rig, "params_of", broken)
    config = replace(CONFIG, max_skipped_steps=3)
    with pytest.raises(ValueError, match="3 consecutive steps, 1 to 3") as refusal:
        fit_target_sft(dataset, tmp_path, config=config)
    assert "train.learning_rate" in str(refusal.value)
    assert [row["skipped"] for row in rig.metrics_of(tmp_path)] == [1, 1, 1]
    found = jsonl.read(tmp_path / "anomalies.jsonl")
    assert [(row["step"], row["kind"]) for row in found] == [
        (1, "skipped"),
        (2, "skipped"),
        (3, "skipped"),
    ]
    for row in found:
        rows = rows_at(dataset, row["step"] - 1, batch_size=8, seed=3).ravel()
        assert row["examples"] == [x for r in rows.tolist() for x in dataset.origins(r)]
    said = capsys.readouterr().out
    examples = found[0]["examples"]
    listed = f"{len(examples)} examples: {', '.join(examples[:20])}"
    assert f"step 1: loss or gradient not finite, step skipped; {listed}" in said
    assert "skipped steps: 3, loss spikes: 0" in said


def test_a_finished_run_is_left_as_it_is(undisturbed, dataset, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed[0], run_dir)
    before = (run_dir / "metrics.jsonl").read_bytes()
    again = fit_target_sft(dataset, run_dir)
    assert again.resumed_from == STEPS
    rig.assert_equal_trees(rig.host(again.state), rig.host(undisturbed[1].state))
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_checkpoints_kept_are_the_newest(undisturbed):
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
        # Two AdamW steps apart, rounding differs; a lost moment would be percents.
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
    # A refusal leaves the run as it was.
    assert fit_target_sft(dataset, run_dir).resumed_from == STEPS


def test_another_teacher_is_refused(undisturbed, dataset, tmp_path, monkeypatch):
    """One element of its weights differs, by one rounding."""
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed[0], run_dir)
    real = rig.frozen_of

    def swapped(*arguments):
        found = real(*arguments)
        norm = found["teacher"]["final_norm"]
        next_up = jnp.nextafter(norm[3], jnp.inf)
        found["teacher"]["final_norm"] = norm.at[3].set(next_up)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(rig, "frozen_of", swapped)
        with pytest.raises(ValueError, match="the frozen teacher has other weights"):
            fit_target_sft(dataset, run_dir)
    assert fit_target_sft(dataset, run_dir).resumed_from == STEPS


def test_the_host_waits_for_nothing_but_an_earlier_step(dataset, tmp_path, monkeypatch):
    """A step's numbers are fetched when the next is under way; nothing else is."""
    happened = []
    make, write, fetch = fit_module.make_train_step, RunLog.write, jax.device_get

    def make_step(*arguments):
        step = make(*arguments)

        def run(*given):
            happened.append("step")
            return step(*given)

        return run

    def noted(self, number, metrics):
        happened.append(f"line {number}")
        write(self, number, metrics)

    def fetched(tree):
        happened.append("fetch")
        return fetch(tree)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "make_train_step", make_step)
        patch.setattr(RunLog, "write", noted)
        patch.setattr(jax, "device_get", fetched)
        fit_target_sft(
            dataset, tmp_path, config=replace(CONFIG, steps=4, save_every=100)
        )
    said = [x for x in happened if x != "fetch"]
    assert said == [
        "step",
        *("step", "line 1"),
        *("step", "line 2"),
        *("step", "line 3"),
        "line 4",
    ]
    # One fetch a line; before the first step and for the last checkpoint there may be
    # others.
    steps = happened[happened.index("step") : happened.index("line 4")]
    assert steps.count("fetch") == 4


def test_epochs_become_steps(dataset):
    rows = dataset.rows
    assert total_steps(TrainConfig(steps=9), dataset) == 9
    config = TrainConfig(epochs=3, batch_size=4)
    assert total_steps(config, dataset) == round(3 * rows / 4)
    assert total_steps(TrainConfig(epochs=1e-6), dataset) == 1


def test_a_batch_is_laid_out_as_it_is():
    mesh = make_mesh(2, 2, 2)
    rows = rig.micro(2)
    placed = put_rows(rows, mesh, lead=1)
    rig.assert_equal_trees(rig.host(placed), rows)
    assert placed["tokens"].addressable_shards[0].data.shape == (2, 1, rig.LENGTH)


def test_the_next_batch_is_on_its_way_before_it_is_asked_for(dataset):
    mesh, asked = make_mesh(4, 2, 1), []

    def batches():
        for step in itertools.count():
            asked.append(step)
            yield batch_at(dataset, step, batch_size=8)

    ahead = prefetch_to_mesh(batches(), mesh)
    for step in range(5):
        placed = next(ahead)
        assert asked[-1] == step + 1
        rig.assert_equal_trees(rig.host(placed), batch_at(dataset, step, batch_size=8))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_devices_get_the_same_rows_however_many_processes_there_are(processes):
    """Each process packs for itself and reads what its own devices are to hold."""
    synthetic = SyntheticConfig(examples=64)
    mesh, config = make_mesh(4, 2, 1), DataConfig(synthetic=synthetic, max_length=128)
    options = dict(batch_size=16, accumulation_steps=2, seed=3)
    dataset = prepare(config, byte_tokenizer()).train
    placed = put_rows(batch_at(dataset, 5, **options), mesh, lead=1)
    devices = mesh.devices.flatten().tolist()
    own = len(devices) // processes
    for process in range(processes):
        dataset = prepare(config, byte_tokenizer()).train
        batch = batch_at(dataset, 5, **options)
        mine = devices[process * own : (process + 1) * own]
        for name, whole in placed.items():
            shards = [x for x in whole.addressable_shards if x.device in mine]
            assert len(shards) == own
            for shard in shards:
                assert shard.data.shape == (2, 1, 128)
                np.testing.assert_array_equal(shard.data, batch[name][shard.index])
