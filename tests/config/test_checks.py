"""Order of the errors of a configuration."""

import pytest

from targetsft_jax.config.load import load
from targetsft_jax.config.schema import ConfigError

WRONG = [
    (["--target.name", "dtf"], "target.name is 'dtf'"),
    (["--data.shuffle_seed", "-1"], "data.shuffle_seed is -1"),
    (["--train.steps", "-1"], "train.steps is -1"),
    (["--target.eta", "2"], "target.eta is 2"),
    (["--teacher.path", "t", "--teacher.build", "{}"], "teacher.path is 't'"),
    (["--train.accumulation_steps", "5"], "train.batch_size is 32"),
    (["--data.split", "train"], "data.split is 'train'"),
    ([], "student.path is null"),
    (["--student.path", "s"], "method 'target_sft' needs a teacher"),
    (["--teacher.path", "t", "--data.source", "jsonl"], "data.path is None"),
]
"""Arguments -> start of their error, in the order in which the errors appear.

The first seven are wrong under any other configuration, the rest is missing.
"""


@pytest.mark.parametrize("first", range(7))
def test_wrong_values_are_reported_before_missing_paths(first):
    arguments, message = WRONG[first]
    with pytest.raises(ConfigError) as error:
        load([*arguments, "--data.source", "jsonl", "--run_dir", "/"])
    assert str(error.value).startswith(message)


def test_errors_appear_in_their_order():
    for first in range(7):
        # All later mistakes at once; the first one is reported.
        arguments = [part for each, _ in WRONG[first:7] for part in each]
        with pytest.raises(ConfigError) as error:
            load(arguments)
        assert str(error.value).startswith(WRONG[first][1])


def test_missing_models_and_files_are_reported_one_by_one():
    arguments: list[str] = []
    for more, message in WRONG[7:]:
        arguments += more
        with pytest.raises(ConfigError) as error:
            load(arguments)
        assert str(error.value).startswith(message)
    load([*arguments, "--data.path", "x.jsonl"])


def test_no_steps_name_the_command_that_measures():
    with pytest.raises(ConfigError) as error:
        load(["--student.path", "my/model", "--train.steps", "0"])
    assert "targetsft evaluate --model my/model --benchmarks" in str(error.value)


def test_the_nearest_method_is_named():
    with pytest.raises(ConfigError, match=r"Did you mean target_sft\?"):
        load(["--target.name", "targetsft"])
