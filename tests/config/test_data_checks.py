"""Data that the models or the method of a run cannot use are refused before weights."""

import dataclasses
import json

import pytest
from support import rig

from targetsft_jax.config.build import BuildConfig
from targetsft_jax.config.data_checks import check_positions, check_weights
from targetsft_jax.config.load import load
from targetsft_jax.config.schema import ConfigError
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.models.rope import LinearScaling, YarnScaling
from targetsft_jax.training.tiny_models import architecture

LIMIT = rig.STUDENT.max_position_embeddings
METHOD = ["--student.path", "x", "--target.name", "cft", "--target.eta", "null"]


def test_rows_longer_than_the_positions_are_refused():
    models = {"student": rig.STUDENT, "teacher": rig.STUDENT}
    config = load([*METHOD, "--data.max_length", str(LIMIT)])
    check_positions(config, models)
    config = load([*METHOD, "--data.max_length", str(LIMIT + 1)])
    text = f"data.max_length is {LIMIT + 1} and the student has {LIMIT} positions"
    with pytest.raises(ConfigError, match=f"^{text}.*lower data.max_length"):
        check_positions(config, models)
    longer = dataclasses.replace(rig.STUDENT, max_position_embeddings=LIMIT + 1)
    with pytest.raises(ConfigError, match="and the teacher has"):
        check_positions(config, models | {"student": longer})
    check_positions(config, {"student": longer})
    validation = ["--validation.data.max_length", "999", "--data.max_length", "64"]
    config = load([*METHOD, *validation])
    with pytest.raises(ConfigError, match=r"^validation.data.max_length is 999 and"):
        check_positions(config, models)


@pytest.mark.parametrize(
    "scaling, length",
    [
        (YarnScaling(4.0, LIMIT), 4 * LIMIT),  # The original length, as Qwen2.5.
        (YarnScaling(4.0, LIMIT // 8), LIMIT),
        (LinearScaling(8.0), LIMIT),  # The extended length, as Gemma 3.
    ],
)
def test_scaling_extends_the_positions(scaling, length):
    model = dataclasses.replace(rig.STUDENT, rope_scaling=scaling)
    assert model.context_length == length


@pytest.fixture
def weighed(tmp_path):
    """Prepare rows of the answer "y" with critical masks."""

    def make(*masks):
        path = tmp_path / "rows.jsonl"
        rows = [{"q": "x", "a": "y", "critical_mask": mask} for mask in masks]
        path.write_text("\n".join(map(json.dumps, rows)))
        fields = FieldMap(prompt="q", response="a")
        config = DataConfig(
            source="jsonl", path=str(path), fields=fields, max_length=16
        )
        return prepare(config, byte_tokenizer()).train

    return make


def test_weights_of_zero_everywhere_are_refused(weighed):
    config = load(METHOD)
    some = weighed([0, 0], [0, 1], [0, 0])
    check_weights(config, [some])
    assert "weighted with 0      2 (by critical_mask)" in some.report.lines()
    with pytest.raises(
        ConfigError,
        match="critical_mask is 0 for all 4 trained tokens of the 2 examples.*'cft'",
    ):
        check_weights(config, [some, weighed([0, 0], [0, 0])])


def test_a_column_that_the_method_does_not_read_may_be_zero(weighed):
    config = load(["--student.path", "x", "--target.name", "sft"])
    check_weights(config, [weighed([0, 0])])


def test_a_start_model_has_the_positions_of_its_rows():
    build = BuildConfig(max_length=8192)
    assert architecture(build).context_length == 8192
    assert architecture(BuildConfig()).context_length == 4096
