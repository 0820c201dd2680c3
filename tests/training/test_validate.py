"""Held-out loss during training."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rig
from support.quick import quicker

from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.train import main
from targetsft_jax.training.state import init_state, state_shardings
from targetsft_jax.training.validate import make_measure, validate


@pytest.mark.slow
def test_means_equal_those_of_the_train_step_for_any_batch_size():
    """Eight rows in batches of 8 and 4; six rows with a padded last batch."""
    spec, no_update = rig.make_spec(), optax.sgd(0.0)
    mesh = make_mesh(2, 2, 2)
    params = jax.tree.map(jnp.array, rig.params_of(rig.STUDENT))
    shardings = state_shardings(rig.STUDENT, params, no_update, mesh)
    state = init_state(params, no_update, shardings)
    frozen = rig.frozen_of(spec, mesh)
    measure = make_measure(dataclasses.replace(spec, histograms=True), mesh)
    built = rig.build(spec, no_update, options=quicker())
    for rows in (8, 6):
        part = {name: x[:rows] for name, x in rig.batch().items()}
        empty = {name: np.zeros_like(x[rows:]) for name, x in rig.batch().items()}
        padded = {name: np.concatenate([part[name], empty[name]]) for name in part}
        expected = built.step(built.fresh(), built.frozen, rig.micro(1, padded))[1]

        def take(numbers, part=part):
            return {name: x[numbers] for name, x in part.items()}

        for size in (8, 4):
            dataset = SimpleNamespace(take=take, rows=rows)
            means = validate(measure, state, frozen, dataset, mesh, size)
            assert "validation_nll" in means and "validation_target_tokens" not in means
            for name, value in means.items():
                plain = expected[name.removeprefix("validation_")]
                np.testing.assert_allclose(value, plain, rtol=1e-5, atol=1e-7)


def test_validation_does_not_change_the_training(folders, tmp_path, capsys):
    held_out = {
        "validation__data__source": "synthetic",
        "validation__data__synthetic__split": "heldout",
        "validation__data__synthetic__examples": 20,
        "validation__data__max_length": 64,
        "validation__every": 3,
        "log__profile_from": 2,
        "log__profile_steps": 1,
        # Each measured step is saved; the best and the newest are retained.
        "train__keep_best": "validation_nll",
        "train__max_to_keep": 1,
    }
    assert main(rig.small_run(folders, tmp_path / "with", **held_out)) == 0
    printed = capsys.readouterr().out
    assert "val nll" in printed and "profile of 1 steps" in printed
    assert list((tmp_path / "with/profile").rglob("*.xplane.pb"))
    assert main(rig.small_run(folders, tmp_path / "without")) == 0
    rows = rig.metrics_of(tmp_path / "with")
    measured = [row["step"] for row in rows if "validation_loss" in row]
    assert measured == [3, 4]
    best = min(rows[2:], key=lambda row: row["validation_nll"])["step"]
    retained = {int(path.name) for path in (tmp_path / "with/checkpoints").iterdir()}
    assert retained == {best, 4}
    plain = [
        {k: v for k, v in row.items() if not k.startswith("validation_")}
        for row in rig.untimed(rows)
    ]
    assert plain == rig.untimed(rig.metrics_of(tmp_path / "without"))
