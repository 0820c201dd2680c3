"""Several live teachers in a run, mixed into one."""

import jax
import numpy as np
import pytest
from support import rig

from targetsft_jax.config.load import load
from targetsft_jax.data.pipeline import batch_at
from targetsft_jax.models import decoder
from targetsft_jax.training.session import open_session


def _config(folders, tmp_path, **more):
    student = str(folders["student"])
    keys = {
        "teacher__others": f"[{{path: {student}, weight: 3}}]",
        "target__name": "kd",
        "train__steps": 1,
        **more,
    }
    return rig.small_run(folders, tmp_path / "run", **keys)


def _log_softmax(config, params, batch):
    hidden = decoder.apply(
        config,
        params,
        batch["tokens"],
        positions=batch["positions"],
        segment_ids=batch["segment_ids"],
    )
    logits = hidden @ decoder.head(params).T
    return jax.nn.log_softmax(logits[..., :264].astype(np.float64))


@pytest.mark.parametrize("mix", ["logits", "probabilities"])
def test_a_run_distils_the_mixture_of_its_teachers(mix, folders, tmp_path):
    """KD from a mixture with the student: the loss of the first step in closed form."""
    arguments = _config(folders, tmp_path, teacher__mix=mix)
    session = open_session(load(arguments))
    assert list(session.spec.frozen) == ["teacher", "teacher_2"]
    first = rig.run_metrics(arguments)[0]

    batch = {k: x[0] for k, x in batch_at(session.dataset, 0, batch_size=8).items()}
    models = [session.roles[name] for name in ("student", "teacher")]
    with jax.enable_x64(True):
        log_s, log_t = (
            np.asarray(
                _log_softmax(
                    role.model.config, role.model.load(session.mesh, np.float32), batch
                )
            )
            for role in models
        )
        if mix == "logits":
            scores = 0.25 * log_t + 0.75 * log_s
            log_m = np.asarray(jax.nn.log_softmax(scores))
        else:
            log_m = np.log(0.25 * np.exp(log_t) + 0.75 * np.exp(log_s))
        divergence = np.sum(np.exp(log_m) * (log_m - log_s), -1)
    expected = divergence[batch["loss_mask"]].mean()
    assert first["kl_teacher"] == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"teacher__others": "[{weight: 2}]"}, "neither a path nor a build"),
        ({"teacher__cache": "x"}, "teacher.others is set and teacher.cache is too"),
        ({"teacher__others": "[{path: x, weight: 0}]"}, "weight"),
        ({"teacher__mix": "odds"}, "probabilities"),
    ],
)
def test_refused(more, message, folders, tmp_path):
    with pytest.raises(Exception, match=message):
        load(_config(folders, tmp_path, **more))
