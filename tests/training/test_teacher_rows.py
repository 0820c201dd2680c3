"""A live teacher with rows of its own, against its forward passes one by one."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rig
from support.rig import QUICK

from targetsft_jax.checkpoints.stored_teacher import StoredTeacher
from targetsft_jax.command import UsageError
from targetsft_jax.config.load import load
from targetsft_jax.config.schema import ConfigError
from targetsft_jax.data.config import DataConfig, SyntheticConfig
from targetsft_jax.data.pipeline import batch_at, prepare
from targetsft_jax.data.prompted import prompted_examples
from targetsft_jax.data.teacher_cache import STATES
from targetsft_jax.data.teacher_rows import TeacherPrompt
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.models import decoder
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.training.micro_batch import loss_and_metrics
from targetsft_jax.training.run import run
from targetsft_jax.training.session import open_session
from targetsft_jax.training.step_spec import make_mesh as configured_mesh

PROMPT = "{prompt} The answer is {answer}."
DATA = DataConfig(
    synthetic=SyntheticConfig(examples=40, digits=1, label_noise=0.5), max_length=48
)
SPEC = rig.make_spec(teacher_rows=True)


@pytest.fixture(scope="module")
def batch():
    """[2, 4, L] rows with those of the teacher, and the data set."""
    prompt = TeacherPrompt(PROMPT, 112)
    dataset = prepare(DATA, byte_tokenizer(), teacher=prompt).train
    found = batch_at(dataset, 0, batch_size=8, accumulation_steps=2)
    assert found["segment_ids"].max() > 1
    return found, dataset


def _gradient(spec, frozen, arrays):
    """Loss and gradient of the first micro-batch."""
    arrays = {name: jnp.asarray(x[0]) for name, x in arrays.items()}

    def loss(params):
        mesh, scale = rig.one_device(), jnp.float32(0.1)
        return loss_and_metrics(spec, mesh, params, frozen, arrays, scale)

    params = rig.params_of(rig.STUDENT)
    lowered = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params)
    return lowered.compile(compiler_options=QUICK)(params)


@pytest.mark.slow
def test_loss_and_gradient_are_those_of_stored_states_of_single_examples(batch):
    """Every example alone in a row, without packing, and its states stored in f32."""
    arrays, dataset = batch
    frozen = rig.frozen_of(SPEC)
    own = prompted_examples(DATA, byte_tokenizer(), PROMPT)
    tokens = np.zeros((len(own), own.lengths.max()), np.int32)
    for number in range(len(own)):
        tokens[number, : own.lengths[number]] = own.take(number).tokens
    hidden = jax.jit(lambda x: decoder.apply(rig.OTHER, frozen["teacher"], x))(tokens)
    states = np.zeros((*arrays["labels"].shape, rig.OTHER.hidden_size), np.float32)
    rows = rig_rows(dataset, arrays)
    for row, where in rows:
        segments, mask = arrays["segment_ids"][where], arrays["loss_mask"][where]
        for segment, origin in enumerate(dataset.origins(row), 1):
            number = own.origins.index(origin)
            trained = np.flatnonzero(own.take(number).loss_mask)
            here = np.flatnonzero((segments == segment) & mask)
            assert len(here) == len(trained)
            states[where][here] = hidden[number, trained - 1]
    stored = dataclasses.replace(
        SPEC,
        frozen={},
        teacher_rows=False,
        stored=StoredTeacher(STATES, rig.OTHER.hidden_size, rig.OTHER),
    )
    live = _gradient(SPEC, frozen, arrays)
    other = _gradient(stored, frozen, arrays | {"teacher_states": states})
    # Packed rows attend in other blocks than single examples.
    rig.assert_close_trees(live, other, roundings=500)
    # The state after, which predicts the next but one, is another teacher.
    later = np.minimum(
        arrays["teacher_index"] + 1, arrays["teacher_tokens"].shape[-1] - 1
    )
    shifted = _gradient(SPEC, frozen, arrays | {"teacher_index": later})
    with pytest.raises(AssertionError):
        rig.assert_close_trees(live, shifted, roundings=50_000)


def rig_rows(dataset, arrays):
    """(row, its place [A, B]) of each row of the batch, found by its tokens."""
    every = dataset.take(np.arange(dataset.rows))["tokens"]
    for where in np.ndindex(arrays["tokens"].shape[:2]):
        (row,) = np.flatnonzero((every == arrays["tokens"][where]).all(axis=-1))
        yield int(row), where


@pytest.mark.slow
def test_the_students_prompt_is_the_plain_teacher():
    data = dataclasses.replace(DATA, synthetic=SyntheticConfig(examples=16, digits=1))
    prompt = TeacherPrompt("{prompt}", data.max_length)
    dataset = prepare(data, byte_tokenizer(), teacher=prompt).train
    plain = prepare(data, byte_tokenizer()).train
    arrays, rows = batch_at(dataset, 0, batch_size=4), batch_at(plain, 0, batch_size=4)
    for name, array in rows.items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)
    frozen = rig.frozen_of(SPEC)
    live = _gradient(SPEC, frozen, arrays)
    other = _gradient(dataclasses.replace(SPEC, teacher_rows=False), frozen, rows)
    rig.assert_close_trees(live, other, roundings=10)


def test_four_devices_equal_one(batch):
    arrays, _ = batch
    results = []
    for mesh in (rig.one_device(), make_mesh(2, 2, 1, jax.devices()[:4])):
        built = rig.build(SPEC, optax.sgd(1e-2), mesh, given=arrays)
        results.append(rig.host(built.step(built.fresh(), built.frozen, arrays)))
    (one, metrics), (four, others) = results
    rig.assert_close_trees(four.params, one.params, roundings=30)
    rig.assert_close_trees(others, metrics, roundings=100)


def _run(folders, run_dir, **more):
    """A run whose teacher is the base of the adapters, under a prompt."""
    keys = {
        "lora__rank": 2,
        "teacher__prompt": PROMPT,
        "teacher__max_length": 160,
        "validation__examples": 8,
        "validation__every": 2,
        "train__save_every": 2,
    }
    arguments = rig.small_run(folders, run_dir, **keys | more)
    index = arguments.index("--teacher.path")
    return load([*arguments[:index], *arguments[index + 2 :]])


def test_the_initial_student_teaches_and_a_resumed_run_equals_the_other(
    folders, tmp_path
):
    config = _run(folders, tmp_path / "run")
    session = open_session(config)
    assert session.spec.on_base == ("teacher",)
    assert session.spec.frozen_arguments == ("base",)
    assert session.dataset.columns[-1] == "teacher_index"
    run(config)
    first = RunDir(tmp_path / "run")
    metrics = rig.untimed(rig.metrics_of(first.path))
    # The initial student differs from itself by what it sees.
    assert metrics[0]["kl_teacher"] > 1e-6 and "validation_kl_teacher" in metrics[-1]
    again = tmp_path / "again"
    shutil.copytree(first.path, again)
    shutil.rmtree(again / "checkpoints" / "4")
    shutil.rmtree(again / "hf")
    (again / "results.json").unlink(missing_ok=True)
    run(dataclasses.replace(config, run_dir=str(again)))
    assert rig.untimed(rig.metrics_of(again)) == metrics


def test_every_method_has_the_same_rows_and_only_a_teacher_reads_its_own(
    folders, tmp_path
):
    config = _run(folders, tmp_path / "run")
    guided, sft = (
        open_session(
            dataclasses.replace(
                config, target=dataclasses.replace(config.target, name=name)
            )
        )
        for name in ("target_sft", "sft")
    )
    assert guided.dataset.fingerprint == sft.dataset.fingerprint
    assert sft.dataset.teacher_rows is None and not sft.spec.teacher_rows
    several = {"teacher__others": f"[{{path: {folders['teacher']}}}]"}
    mixed = open_session(_run(folders, tmp_path / "run", **several))
    assert list(mixed.spec.frozen) == ["teacher", "teacher_2"]
    assert mixed.spec.teacher_rows


def test_refusals_name_the_key(folders, tmp_path):
    for keys, message in (
        ({"teacher__max_length": 5000}, "teacher.max_length is 5,000 and the teacher"),
        ({"mesh__context": 2}, "teacher.prompt is set and mesh.context is 2"),
    ):
        config = _run(folders, tmp_path / "run", **keys)
        with pytest.raises(ConfigError, match=message):
            configured_mesh(config)
            open_session(config)
    for keys, message in (
        ({"teacher__prompt": "null"}, "teacher.max_length is 160; expected null"),
        ({"teacher__cache": "x"}, "since the rows of a stored teacher"),
        ({"teacher__prompt": r"{prompt}\nHint"}, "expected a line break in place of"),
    ):
        with pytest.raises(UsageError, match=message):
            _run(folders, tmp_path / "run", **keys)
