"""A short Target-SFT training of the tiny models, on a mesh of eight devices."""

import jax
import numpy as np

from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.training.fit import Fitted
from targetsft_jax.training.state import state_shardings

from . import rig

STEPS = 6
CONFIG = TrainConfig(
    steps=STEPS, batch_size=8, learning_rate=1e-2, save_every=2, log_every=3
)


def fit_target_sft(dataset, run_dir, mesh=None, seed=3, **options) -> Fitted:
    """Train on a data set; options are those of `fit`, `config` and `spec`."""
    mesh = mesh or make_mesh(2, 2, 2)
    spec = options.pop("spec", None) or rig.make_spec("target_sft")
    run_dir.mkdir(parents=True, exist_ok=True)
    params = jax.tree.map(np.copy, rig.params_of(rig.STUDENT))
    shardings = state_shardings(rig.STUDENT, params, rig.optax.sgd(1), mesh).params
    return rig.run_fit(
        spec,
        jax.device_put(params, shardings),
        rig.frozen_of(spec, mesh),
        dataset,
        mesh,
        options.pop("config", CONFIG),
        run_dir=run_dir,
        seed=seed,
        **options,
    )
