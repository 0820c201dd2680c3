"""Abstract steps against the arrays of a run; nothing is compiled."""

import jax
import numpy as np
import pytest
from support import rig

from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.config.load import load
from targetsft_jax.config.roles import teacher_prompt
from targetsft_jax.config.schema import ConfigError
from targetsft_jax.data.pipeline import batch_at, prepare
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.parallel.mesh import make_mesh, put_rows
from targetsft_jax.planning.abstract_step import (
    abstract_step,
    bytes_per_device,
    untraced_step,
)
from targetsft_jax.planning.flops import layer_flops
from targetsft_jax.planning.plan import flops_of
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.state import init_state, state_shardings
from targetsft_jax.training.step_spec import make_mesh as config_mesh

SIZES = [
    *("--train.batch_size", "8", "--data.max_length", "32"),
    *("--data.max_dropped", "1"),  # All of its examples are longer.
]


def _config(*arguments):
    return load([*SIZES, *arguments])


@pytest.fixture(scope="module")
def sharded():
    """Configuration, mesh and step of ASFT over four fsdp devices."""
    arguments = ["--target.name", "asft", "--mesh.fsdp", "4", "--mesh.data", "2"]
    config = _config(
        *arguments,
        *("--student.build.hidden_size", "32", "--student.build.num_layers", "2"),
        *("--data.synthetic.examples", "64"),
    )
    mesh = config_mesh(config)
    return config, mesh, abstract_step(config, mesh)


def _described(tree):
    """Path -> shape, dtype and sharding of a leaf."""
    return {
        jax.tree_util.keystr(path): (leaf.shape, leaf.dtype, leaf.sharding)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_the_state_equals_that_of_a_run(sharded):
    config, mesh, step = sharded
    student = step.roles["student"].config
    optimizer = make_optimizer(config.train, 100)
    params = rig.params_of(student)
    shardings = state_shardings(student, params, optimizer, mesh)
    state = init_state(params, optimizer, shardings)
    assert _described(step.state) == _described(state)


def test_an_int8_reference_is_that_of_a_run(folders, tmp_path):
    path = folders["teacher"]
    keys = ("--target.name", "asft", "--reference.dtype", "int8", "--mesh.fsdp", "4")
    config = load(rig.small_run(folders, tmp_path, reference__path=path) + [*keys])
    step = abstract_step(config, config_mesh(config))
    loaded = open_model(path).load(step.mesh, np.float32, int8=True)
    assert _described(step.frozen["reference"]) == _described(loaded)
    assert step.roles["reference"].int8


def test_bytes_per_device_equal_those_of_its_shards(sharded):
    config, mesh, step = sharded
    arrays = {
        "rows": np.zeros((1, 8, 32), np.int32),
        "mask": np.zeros((1, 8, 32), bool),
    }
    placed = put_rows(arrays, mesh, lead=1)
    first = mesh.devices.flat[0]
    expected = sum(
        shard.data.nbytes
        for array in placed.values()
        for shard in array.addressable_shards
        if shard.device == first
    )
    assert bytes_per_device(placed) == expected == 32 * 5


def test_the_batch_equals_that_of_the_pipeline(sharded):
    config, mesh, step = sharded
    dataset = prepare(config.data, byte_tokenizer()).train
    batch = batch_at(dataset, 0, batch_size=config.train.batch_size)
    assert _described(step.batch) == _described(put_rows(batch, mesh, lead=1))


def test_a_teacher_with_a_prompt_has_rows_of_its_own_in_the_plan():
    """Batch of the pipeline, shared base, and FLOPs of the longer rows."""
    keys = {
        "student.build.hidden_size": 32,
        "lora.rank": 2,
        "data.synthetic.examples": 64,
        "teacher.prompt": "{prompt} ({answer})",
        "mesh.fsdp": 8,
    }
    config = _config(*rig.command(keys))
    mesh = config_mesh(config)
    step = untraced_step(config, mesh)
    prompt = teacher_prompt(config, config.data)
    dataset = prepare(config.data, byte_tokenizer(), teacher=prompt).train
    batch = batch_at(dataset, 0, batch_size=config.train.batch_size)
    assert _described(step.batch) == _described(put_rows(batch, mesh, lead=1))
    assert list(step.frozen) == ["base"]
    assert step.roles["teacher"].origin == "the initial student"
    teacher = step.spec.frozen["teacher"]
    assert flops_of(step).frozen == 2 * layer_flops(teacher, 64)
    with pytest.raises(ConfigError, match="teacher.prompt is set and mesh.context is"):
        config_mesh(_config(*rig.command(keys | {"mesh.context": 2, "mesh.fsdp": 4})))


def test_a_reference_without_a_path_is_the_initial_student(sharded):
    _, _, step = sharded
    assert list(step.roles) == ["student", "reference"]
    assert step.roles["reference"].config == step.roles["student"].config
    assert step.roles["reference"].origin == "the initial student"
    assert list(step.frozen) == ["reference"]


def test_the_step_is_lowered_for_its_shapes(sharded):
    _, _, step = sharded
    (state, frozen, batch), _ = step.lowered.in_avals
    arguments = (step.state, step.frozen, step.batch)
    assert [x.shape for x in jax.tree.leaves((state, frozen, batch))] == [
        x.shape for x in jax.tree.leaves(arguments)
    ]


def test_the_vocabulary_size_is_that_of_the_tokenizer_if_there_is_one(
    folders, tmp_path, write_architecture
):
    student = write_architecture(tmp_path / "student", hidden_size=64)
    mesh = make_mesh(devices=jax.devices()[:1])
    sft = ["--target.name", "sft"]
    bare = abstract_step(_config("--student.path", student, *sft), mesh)
    assert bare.spec.vocab_size == 512
    assert bare.vocabulary_origin.startswith("the smallest vocab_size")
    stored = abstract_step(
        _config("--student.path", str(folders["student"]), *sft), mesh
    )
    assert stored.spec.vocab_size == rig.VOCABULARY
    assert stored.roles["student"].config.vocab_size > rig.VOCABULARY
    assert stored.vocabulary_origin == "the student's tokenizer"
