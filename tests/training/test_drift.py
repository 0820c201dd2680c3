"""Runs with int8 models: drift at the start, its limit, meshes, resumption."""

import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rig
from support.quick import quicker

import targetsft_jax as tsft
from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.config.load import load
from targetsft_jax.config.schema import ConfigError
from targetsft_jax.data.pipeline import batch_at
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf import importer
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.models import decoder
from targetsft_jax.models.int8 import int8_axes, int8_params, int8_shapes
from targetsft_jax.parallel import rules
from targetsft_jax.parallel.mesh import make_mesh, put_rows
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.train import main
from targetsft_jax.training import drift as drift_module
from targetsft_jax.training import run as run_module
from targetsft_jax.training.agreement import StepAgreement
from targetsft_jax.training.drift import measure_drift
from targetsft_jax.training.micro_batch import Placement, forward
from targetsft_jax.training.session import open_session


@pytest.fixture(scope="module")
def folders(folders, tmp_path_factory):
    """The untrained models, with a teacher whose predictions are not uniform."""
    teacher = tmp_path_factory.mktemp("teacher")
    params = rig.params_of(rig.STUDENT, 1)
    save_pretrained(teacher, rig.STUDENT, params, tokenizer=byte_tokenizer())
    return {**folders, "teacher": teacher}


def _logits(config, params, batch):
    options = {name: batch[name] for name in ("positions", "segment_ids")}
    hidden = decoder.apply(config, params, batch["tokens"], **options)
    chosen = hidden[batch["loss_mask"]]
    return jnp.asarray(chosen @ decoder.head(params).T)[:, : rig.VOCABULARY]


@pytest.mark.parametrize(
    "method", [pytest.param("target_sft", marks=pytest.mark.slow), "prift"]
)
def test_drift_is_that_of_the_logits(method, folders, tmp_path):
    """All tokens of the first batch at once, by the functional API."""
    role = "teacher" if method == "target_sft" else "reference"
    keys = {"target__name": method, f"{role}__dtype": "int8"}
    keys |= {"reference__path": folders["teacher"], "mesh__data": 1, "mesh__fsdp": 8}
    session = open_session(load(rig.small_run(folders, tmp_path, **keys)))
    drift = measure_drift(session, (role,))
    # As in the next run of a comparison, whose int8 model is loaded.
    assert measure_drift(session, (role,)) == drift

    batch = {k: x[0] for k, x in batch_at(session.dataset, 0, batch_size=8).items()}
    mesh, part = rig.one_device(), session.roles[role]
    config, model = part.model.config, part.model
    before = _logits(config, model.load(mesh, np.float32), batch)
    after = _logits(config, model.load(mesh, np.float32, int8=True), batch)
    start = session.roles["student"].model.load(mesh, np.float32)
    student = _logits(rig.STUDENT, start, batch)
    labels = jnp.asarray(batch["labels"][batch["loss_mask"]])
    log_p, log_q = (np.asarray(jax.nn.log_softmax(x), float) for x in (before, after))
    kl = np.sum(np.exp(log_p) * (log_p - log_q), -1).mean()
    of_label = [np.exp(x)[np.arange(len(labels)), labels] for x in (log_p, log_q)]
    targets = [
        tsft.target(method, student, labels, **inputs)
        for inputs in (
            {"teacher_logits": logits}
            if role == "teacher"
            else {"reference_prob": jnp.asarray(prob, "f4")}
            for logits, prob in zip((before, after), of_label)
        )
    ]
    old, new = (np.asarray(each.logit_gradient(), float) for each in targets)
    assert drift.tokens == len(labels) < drift_module.TOKENS
    # Sums in float32 on eight devices, and activations at a tie.
    assert drift.kl[role] == pytest.approx(kl, rel=0.02)
    moved = np.abs(of_label[1] - of_label[0]).mean()
    assert drift.label_prob[role] == pytest.approx(moved, rel=0.02)
    gradient = np.abs(new - old).sum() / np.abs(old).sum()
    assert drift.gradient == pytest.approx(gradient, rel=0.02)
    gamma = np.abs(np.asarray(targets[1].gamma - targets[0].gamma)).mean()
    assert drift.gamma == pytest.approx(gamma, rel=0.02, abs=1e-9)
    assert (gamma > 1e-6) == (method == "prift") and 1e-7 < kl < 1e-2


@pytest.mark.parametrize("experts", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_mesh_moves_int8_and_equals_one_device(experts):
    config = rig.OTHER
    if experts:
        config = replace(config, num_experts=4, experts_per_token=2, expert_size=24)
    axes = decoder.logical_axes(config)
    spec = rig.make_spec(frozen={"teacher": config})
    results = []
    for sizes in ((1, 1, 1), (1, 2, 2)):
        mesh = make_mesh(*sizes, jax.devices()[: int(np.prod(sizes))])
        params = jax.tree.map(jnp.array, rig.params_of(config))
        params = jax.device_put(params, rules.shardings(axes, params, mesh))
        params = int8_params(params, axes, mesh)
        shapes = int8_shapes(decoder.abstract_params(config))
        shardings = rules.shardings(int8_axes(axes), shapes, mesh)
        same = jax.tree.map(
            lambda x, sharding: x.sharding.is_equivalent_to(sharding, x.ndim),
            params,
            shardings,
        )
        assert all(jax.tree.leaves(same))
        batch = put_rows(rig.batch(), mesh)
        placement = Placement.of(spec, mesh, batch["tokens"].size)

        def run(params, batch, mesh=mesh, placement=placement):
            return forward(spec, placement, config, params, batch, remat="none")[0]

        lowered = jax.jit(run).lower(params, batch)
        program = lowered.compile(compiler_options=quicker())
        results.append(np.asarray(program(params, batch)))
    gathers = re.findall(r"(\w+)\[([\d,]+)\]\S* all-gather", program.as_text())
    width = str(config.hidden_size)
    matrices = [kind for kind, shape in gathers if width in shape.split(",")]
    # Beside the experts' router and the embeddings of the tokens.
    assert matrices.count("s8") == 7
    assert len(matrices) - matrices.count("s8") <= 2
    assert np.abs(results[1] - results[0]).mean() < 1e-4


@pytest.mark.slow
def test_a_stopped_run_resumes_bit_for_bit(folders, tmp_path, monkeypatch, capsys):
    """The drift is measured once, and the step gets the int8 teacher."""
    whole, parts = (
        rig.small_run(folders, tmp_path / name, teacher__dtype="int8")
        for name in ("whole", "parts")
    )
    real, kernels = run_module.fit, []

    def fit(spec, start, frozen, *arguments, **options):
        kernels.append(frozen["teacher"]["layers"]["mlp"]["down"]["kernel"].dtype)
        return real(spec, start, frozen, *arguments, **options)

    monkeypatch.setattr(run_module, "fit", fit)
    rows = rig.run_metrics(whole)
    assert kernels == [np.int8]
    printed = capsys.readouterr().out
    stored = json.loads(RunDir(tmp_path / "whole").drift.read_text())
    assert "int8 with float32 embeddings" in printed
    assert f"unquantised weights {stored['kl']['teacher']:.3g} nats" in printed
    with monkeypatch.context() as patch:
        requests = iter([(False, False), (True, False)])
        patch.setattr(StepAgreement, "any_host", lambda *_: next(requests))
        assert main(parts) == 143
    monkeypatch.setattr(drift_module, "measure_drift", None)
    assert rig.untimed(rig.run_metrics(parts)) == rig.untimed(rows)
    weights = [
        (tmp_path / name / "hf/model.safetensors").read_bytes()
        for name in ("whole", "parts")
    ]
    assert weights[0] == weights[1]


def test_a_drift_above_the_limit_is_refused(folders, tmp_path, monkeypatch, capsys):
    """Before the step is compiled; null measures nothing."""
    monkeypatch.setattr(run_module, "fit", None)
    limit = {"teacher__dtype": "int8", "teacher__max_drift": 1e-7}
    with pytest.raises(ConfigError) as error:
        run_module.run(load(rig.small_run(folders, tmp_path / "run", **limit)))
    stored = json.loads(RunDir(tmp_path / "run").drift.read_text())
    for text in (
        f"teacher.dtype is 'int8', and its KL from the unquantised weights is "
        f"{stored['kl']['teacher']:.3g} nats on {stored['tokens']} trained tokens",
        "expected at most teacher.max_drift = 1e-07",
        "Use teacher.dtype bfloat16, or a larger max_drift",
    ):
        assert text in str(error.value)
    unlimited = {**limit, "teacher__max_drift": "null"}
    config = load(rig.small_run(folders, tmp_path / "other", **unlimited))
    session = open_session(config)
    drift_module.check_drift(session, RunDir(tmp_path / "other"))
    assert not session.shared.parameters  # nothing is loaded


def test_a_folder_is_quantised_as_it_is_read(folders, monkeypatch):
    """No two unquantised matrices are in memory; the result is that of all at once."""
    stored, mesh = open_model(folders["teacher"]), make_mesh(1, 4, 2)
    expected = int8_params(
        stored.load(mesh, np.float32), decoder.logical_axes(stored.config), mesh
    )
    real, matrices = importer.read_parameter, []

    def read(sources, shape, *arguments):
        assert all(x.is_deleted() for x in matrices)
        array = real(sources, shape, *arguments)
        if len(shape) == 3:
            matrices.append(array)
        return array

    monkeypatch.setattr(importer, "read_parameter", read)
    rig.assert_equal_trees(stored.load(mesh, np.float32, int8=True), expected)
    assert len(matrices) == 7


@pytest.mark.parametrize("lora", [(), ("--lora.rank", "4")])
def test_a_trained_model_is_not_int8(lora, folders, tmp_path):
    arguments = rig.small_run(folders, tmp_path, student__dtype="int8")
    with pytest.raises(ConfigError, match="student.dtype is 'int8'; .* frozen roles"):
        load([*arguments, *lora])
