"""Held-out rows measured during a training."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from support import rig
from support.quick import quicker

from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.train import main
from targetsft_jax.training.state import init_state, state_shardings
from targetsft_jax.training.validate import make_measure, validate


def test_means_are_those_of_the_training_step_whatever_the_batch():
    """Eight rows in batches of 8 and of 4; of six, the last batch is filled up."""
    spec, still = rig.make_spec(), optax.sgd(0.0)
    mesh = make_mesh(2, 2, 2)
    params = jax.tree.map(jnp.array, rig.params_of(rig.STUDENT))
    places = state_shardings(rig.STUDENT, params, still, mesh)
    state = init_state(params, still, places)
    frozen = rig.frozen_of(spec, mesh)
    measure = make_measure(dataclasses.replace(spec, histograms=True), mesh)
    built = rig.build(spec, still, options=quicker())
    for rows in (8, 6):
        part = {name: x[:rows] for name, x in rig.batch().items()}
        empty = {name: np.zeros_like(x[rows:]) for name, x in rig.batch().items()}
        whole = {name: np.concatenate([part[name], empty[name]]) for name in part}
        wanted = built.step(built.fresh(), built.frozen, rig.micro(1, whole))[1]

        def taken(numbers, part=part):
            return {name: x[numbers] for name, x in part.items()}

        for size in (8, 4):
            dataset = SimpleNamespace(take=taken, rows=rows)
            found = validate(measure, state, frozen, dataset, mesh, size)
            assert "validation_nll" in found and "validation_target_tokens" not in found
            for name, value in found.items():
                plain = wanted[name.removeprefix("validation_")]
                np.testing.assert_allclose(value, plain, rtol=1e-5, atol=1e-7)


def test_a_run_measures_on_the_way_and_is_not_changed_by_it(folders, tmp_path, capsys):
    held_out = {
        "validation__data__source": "synthetic",
        "validation__data__synthetic__split": "heldout",
        "validation__data__synthetic__examples": 20,
        "validation__data__max_length": 64,
        "validation__every": 3,
        "log__profile_from": 2,
        "log__profile_steps": 1,
        # Each measured step is saved; the best and the newest stay.
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
    kept = {int(path.name) for path in (tmp_path / "with/checkpoints").iterdir()}
    assert kept == {best, 4}
    plain = [
        {k: v for k, v in row.items() if not k.startswith("validation_")}
        for row in rig.untimed(rows)
    ]
    assert plain == rig.untimed(rig.metrics_of(tmp_path / "without"))
