"""Errors for bad input: one sentence with key, value and remedy, before weights."""

import json
import shutil

import pytest
from support import rig

from targetsft_jax.checkpoints import open as roles
from targetsft_jax.config.load import load
from targetsft_jax.config.schema import ConfigError
from targetsft_jax.train import main
from targetsft_jax.training import run as run_module


@pytest.fixture
def refused(folders, tmp_path, capsys, monkeypatch):
    """Run the small run with changes; return its error, raised before loading."""

    def never(*_, **__):
        raise AssertionError("weights were loaded before the refusal")

    monkeypatch.setattr(roles, "load_params", never)
    monkeypatch.setattr(run_module, "fit", never)

    def refuse(*extra: str, status: int = 1, **changes) -> str:
        run_dir = tmp_path / "run"
        changes = {k: v for k, v in changes.items()}
        code = main([*rig.small_run(folders, run_dir, **changes), *extra])
        message = capsys.readouterr().err
        assert code == status, message
        assert "Traceback" not in message
        # Nothing is written that would block the corrected command.
        assert not (run_dir / "checkpoints").exists()
        return message

    return refuse


def _has(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message, message


def test_the_unchanged_small_run_loads_weights(folders, tmp_path, refused):
    """Control: without a fault there is no error."""
    with pytest.raises(AssertionError, match="weights were loaded"):
        main(rig.small_run(folders, tmp_path / "run"))


def test_unknown_keys(refused, tmp_path):
    message = refused("--train.stepz", "3", status=2)
    _has(message, "train.stepz", "train.steps")
    path = tmp_path / "c.yaml"
    path.write_text("data: {max_lenght: 3}\n")
    message = refused("--config", str(path), status=2)
    _has(message, "max_lenght", "max_length")


@pytest.mark.parametrize(
    "key, value, parts",
    [
        ("train.steps", "many", ("train.steps is 'many'", "a whole number")),
        ("train.learning_rate", "fast", ("is 'fast'", "expected a number")),
        ("train.batch_size", "0", ("train.batch_size is 0", "1 or more")),
        ("train.remat", "some", ("train.remat is 'some'", "none, full, attention")),
        ("train.dtype", "int8", ("train.dtype is 'int8'", "float32, bfloat16")),
        ("train.warmup_ratio", "1", ("train.warmup_ratio is 1", "[0, 1)")),
        ("student.dtype", "half", ("student.dtype is 'half'", "float32, bfloat16")),
        ("target.eta", "big", ("target.eta is 'big'", "expected a number")),
        ("target.name", "tsft", ("target.name is 'tsft'", "target_sft")),
        ("target.tau", "0.5", ("'target_sft' has no hyper-parameter tau", "eta")),
        ("compare", "[sft]", ("compare was removed", "targetsft_jax.compare")),
        ("data.source", "csv", ("data.source is 'csv'", "jsonl")),
        ("data.source", "files", ("data.path is None", "a file, folder or pattern")),
        ("mesh.cpu_devices", "0", ("mesh.cpu_devices is 0", "1 or more")),
        ("seed", "-1", ("seed is -1", "0 or more")),
        ("lora.rank", "0", ("lora.rank is 0", "1 or more")),
        ("lora.alpha", "-1", ("lora.alpha is -1", "more than 0")),
        ("lora.targets", "[q, qkv, w]", ("'qkv', 'w'", "q, k, v, o, gate, up, down")),
        ("lora.targets", "[q, q]", ("lora.targets is ['q', 'q']", "each of them once")),
        ("lora.targets", "[]", ("lora.targets is []", "one or more of q, k")),
        ("lora.dropout", "1", ("lora.dropout is 1", "expected")),
        ("lora.ranks", "4", ("lora.ranks is not a key", "Did you mean lora.rank?")),
        ("evaluation.samples", "0", ("evaluation.samples is 0", "1 or more")),
        ("evaluation.problems", "-1", ("evaluation.problems is -1", "0 or more")),
        ("evaluation.temperature", "-1", ("evaluation.temperature is -1", "0 or more")),
        ("evaluation.top_p", "0", ("evaluation.top_p is 0", "(0, 1]")),
        ("evaluation.top_k", "-1", ("evaluation.top_k is -1", "0 or more")),
        ("evaluation.max_new_tokens", "0", ("evaluation.max_new_tokens is 0",)),
    ],
)
def test_wrong_types_and_values(refused, key, value, parts):
    _has(refused(f"--{key}", value, status=2), *parts)


def test_invalid_chat_templates(refused):
    message = refused("--data.chat_template", "qwen_boxed")
    _has(message, "data.chat_template is 'qwen_boxed'", "<|im_start|>", "null")
    message = refused("--data.chat_template", "zephyr")
    _has(message, "data.chat_template is 'zephyr'", "qwen_boxed", ".jinja")
    message = refused("--evaluation.data.chat_template", "llama_boxed")
    _has(message, "evaluation.data.chat_template is 'llama_boxed'", "<|eot_id|>")
    message = refused("--data.thinking", "hide", status=2)
    _has(message, "data.thinking is 'hide'", "keep, drop")


def test_a_rank_above_the_size_of_a_kernel(refused):
    """Detected from config.json, before loading weights."""
    message = refused("--lora.rank", "17", status=2)
    _has(message, "lora.rank is 17", "layers.attention.k is 32 x 16", "at most 16")


@pytest.mark.parametrize("value", ["2.5", ".inf"])
def test_a_count_that_is_not_whole(refused, value):
    message = refused(target__name="eaft", target__top_k=value, status=2)
    _has(message, f"target.top_k is '{value}'")
    _has(message, "expected a whole number")


def test_a_number_in_place_of_a_section(refused, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train: 5\n")
    message = refused("--config", str(path), status=2)
    _has(message, "train is 5", "expected a section", "train.steps")


def test_a_file_that_is_not_a_configuration(refused, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: [1,\n")
    _has(refused("--config", str(path), status=2), f"{path}, line 2", "not YAML")
    _has(refused("--config", "/nowhere/c.yaml", status=2), "/nowhere/c.yaml")


def test_a_method_without_its_teacher(refused):
    message = refused("--teacher.path", "null", status=2)
    _has(message, "'target_sft' needs a teacher", "teacher.path is null", "expected")


def test_no_student_and_two_students(refused):
    message = refused("--student.path", "null", status=2)
    _has(message, "student.path is null", "expected")
    message = refused("--student.build.steps", "3", status=2)
    _has(message, "student.path", "student.build", "set only one")


def test_evaluation_on_the_training_file_is_refused(refused, tmp_path):
    """It would score training examples as held-out problems."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"q": "1", "a": "2"}) + "\n")
    message = refused(
        data__source="jsonl",
        data__path=path,
        data__fields__prompt="q",
        data__fields__response="a",
        evaluation__problems=1,
        status=2,
    )
    _has(message, "evaluation.data is null", "expected")


def test_errors_in_a_mixture_name_the_source(tmp_path):
    """Sources are read from YAML with their types; errors have their index."""
    path = tmp_path / "mixture.yaml"
    source = "{source: parquet, path: a.parquet, weight: 2, fields: {prompt: q}}"
    for second, problems, parts in (
        ("{weihgt: 1}", 0, ("weihgt",)),
        ("{name: made}", 0, ("data.mixture[1].weight is None",)),
        ("{weight: 1, where: {a: b}}", 0, ("data.mixture[1].where is",)),
        ("{weight: 1}", 1, ("evaluation.data is null", "a.parquet, synthetic")),
    ):
        text = f"data:\n  mixture:\n    - {source}\n    - {second}\n"
        path.write_text(text + f"evaluation: {{problems: {problems}}}\n")
        with pytest.raises(ConfigError) as error:
            load(["--config", str(path), "--student.path=s", "--target.name=sft"])
        _has(str(error.value), *parts)


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"mesh__data": 3}, ("'data': 3", "needs 3 devices; found 8")),
        ({"mesh__tensor": 3}, ("'tensor': 3", "multiple of 3 devices; found 8")),
        ({"mesh__tensor": 0}, ("mesh.tensor is 0", "-1, or 1 or more")),
        ({"train__batch_size": 12}, ("is 12", "a multiple of", "= 8")),
        (
            {"train__accumulation_steps": 2},
            ("is 4", "a multiple of", "= 8"),
        ),
        (
            {"mesh__data": 1, "mesh__fsdp": 8, "mesh__vocab_group": 3},
            ("mesh.vocab_group is 3", "mesh.fsdp = 8: 1, 2, 4, 8"),
        ),
        (
            {
                "mesh__data": 1,
                "mesh__fsdp": 2,
                "mesh__context": 4,
                "data__max_length": 60,
            },
            ("data.max_length is 60", "a multiple of 2 x mesh.context = 8"),
        ),
    ],
)
def test_a_mesh_that_does_not_divide(refused, changes, parts):
    _has(refused(**changes, status=2), *parts)


def test_micro_batches_that_do_not_divide(refused):
    message = refused(train__accumulation_steps=3, status=2)
    _has(message, "train.batch_size is 8", "train.accumulation_steps = 3")


def test_tokenizers_that_differ(refused, folders, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folders["teacher"], other)
    path = other / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    assert "<|reserved_0|>" in text
    path.write_text(text.replace("<|reserved_0|>", "<|thinking|>"), encoding="utf-8")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (other / name).exists():
            content = (other / name).read_text(encoding="utf-8")
            (other / name).write_text(content.replace("<|reserved_0|>", "<|thinking|>"))
    message = refused(teacher__path=other)
    _has(message, str(folders["student"]), str(other), "differ")
    _has(message, "'<|reserved_0|>': 261 and absent", "'<|thinking|>': absent and 261")


def test_a_model_with_fewer_rows_than_the_tokenizer_has_tokens(refused, folders):
    path = folders["teacher"] / "config.json"
    text = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(text) | {"vocab_size": 260}))
        message = refused()
    finally:
        path.write_text(text)
    _has(message, "264 tokens", "teacher", "only 260 rows")


def test_a_missing_column(refused):
    message = refused(target__name="iw_sft", policy__trajectory_weight="data", status=2)
    _has(
        message,
        "'iw_sft' needs trajectory_weight",
        "expected the field",
        "data has none",
    )
    message = refused(target__name="cft", status=2)
    _has(message, "'cft' needs critical_mask")


def test_a_column_that_the_step_also_computes(refused, tmp_path):
    """The source is ambiguous, and ignoring the column would go unnoticed."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"q": "1", "a": "2", "old_logprob": -0.5}) + "\n")
    changes = {
        "data__source": "jsonl",
        "data__path": path,
        "data__fields__prompt": "q",
        "data__fields__response": "a",
        "target__name": "psft",
    }
    message = refused(**changes, status=2)
    _has(
        message,
        "'psft' reads old_logprob, which the data has",
        "to data",
        "to snapshot",
    )
    with pytest.raises(AssertionError, match="weights were loaded"):
        refused(**changes, policy__old_logprob="snapshot")


@pytest.mark.parametrize(
    "method, key, value",
    [
        ("gem", "variant", "cubic"),
        ("gem", "beta", "0"),
        ("eaft", "top_k", "1"),
        ("eaft", "entropy_norm", "0"),
        ("eaft", "power", "-1"),
        ("profit", "tau", "1.5"),
        ("psft", "clip_epsilon", "-0.1"),
        ("asft", "kl_weight", "-1"),
        ("label_smoothing", "smoothing", ".nan"),
        ("target_sft", "eta", ".inf"),
    ],
)
def test_a_hyper_parameter_outside_its_domain(method, key, value):
    """Refused with the configuration, not at tracing after weights are loaded."""
    arguments = ["--student.path", "x", "--teacher.path", "y", "--target.name", method]
    with pytest.raises(ConfigError, match=f"target.{key} is .*; expected"):
        load([*arguments, f"--target.{key}", value])


@pytest.mark.parametrize(
    "setting, message",
    [
        (["old_logprob", "column"], "policy.old_logprob is 'column'; expected one of"),
        (
            ["trajectory_weight", "data"],
            "method 'psft' does not read trajectory_weight",
        ),
        (["refresh_every", "0"], "policy.refresh_every is 0; expected 1 or more"),
        (["ema_decay", "1"], "policy.ema_decay is 1.0; expected a number in [0, 1)"),
        (["mode", "median"], "policy.mode is 'median'; expected one of mean, sum"),
        (["temperature", "-1"], "policy.temperature is -1.0; expected"),
        (["clip", "[2, 1]"], "policy.clip is [2.0, 1.0]; expected two finite numbers"),
    ],
)
def test_invalid_policies(setting, message):
    key, value = setting
    arguments = ["--student.path", "x", "--target.name", "psft"]
    with pytest.raises(ConfigError) as error:
        load([*arguments, f"--policy.{key}", value])
    assert message in str(error.value)


def test_paths_that_do_not_exist(refused, tmp_path):
    _has(
        refused(student__path=tmp_path / "gone"), f"{tmp_path / 'gone'} does not exist"
    )
    _has(refused(teacher__path="./gone"), "./gone does not exist", "hub id")
    (tmp_path / "empty").mkdir()
    _has(refused(student__path=tmp_path / "empty"), "is not a model: no config.json")


def test_a_hub_id_without_network(refused):
    message = refused(student__path="nobody/no-such-model")
    _has(message, "nobody/no-such-model is neither a local folder nor a model", "local")
    assert message.count("\n") <= 3


def test_a_damaged_line_is_named_by_file_and_number(refused, tmp_path):
    path = tmp_path / "rows.jsonl"
    changes = {
        "data__source": "jsonl",
        "data__path": path,
        "data__fields__prompt": "q",
        "data__fields__response": "a",
    }
    good = json.dumps({"q": "1", "a": "2"})
    path.write_text(f"{good}\n{{broken\n")
    _has(refused(**changes), f"{path}:2", "not JSON")
    path.write_text(good + "\n" + json.dumps({"q": "1"}) + "\n")
    _has(refused(**changes), f"{path}:2", "'a' is missing")
    path.unlink()
    _has(refused(**changes), str(path), "no such file")


def test_a_corrected_command_runs_after_a_refusal(folders, tmp_path, capsys, refused):
    """A wrong path leaves no run directory that the corrected command cannot use."""
    refused(student__path=tmp_path / "gone")
    with pytest.raises(AssertionError, match="weights were loaded"):
        main(rig.small_run(folders, tmp_path / "run"))


def test_include_teacher_needs_a_teacher():
    arguments = ["--student.path", "x", "--target.name", "sft"]
    with pytest.raises(ConfigError, match="include_teacher is true and teacher.path"):
        load([*arguments, "--evaluation.include_teacher", "true"])


@pytest.mark.parametrize("tail", [["--resume"], ["--resume", "true"], []])
def test_resume_is_a_flag(tail):
    assert load(["--student.path", "x", "--target.name", "sft", *tail]).resume


def test_keep_best_by_a_held_out_metric_needs_held_out_data(refused):
    message = refused("--train.keep_best", "validation_nll", status=2)
    _has(message, "train.keep_best is 'validation_nll'", "validation.examples")


@pytest.mark.parametrize(
    "name", ["histogram_gamma", "kl_teacher", "epoch", "nope", "x\ud800"]
)
def test_keep_best_by_what_is_not_a_number_of_a_step(refused, name):
    """Before models are opened, with names that all work."""
    arguments = ["--target.name", "sft", "--target.eta", "null"]
    message = refused(*arguments, "--train.keep_best", name, status=2)
    _has(message, "train.keep_best is")
    if name.isascii():
        _has(message, f"{name!r}; expected one of loss, nll")
        recommended = message.partition("expected")[2]
        # Nothing is held out.
        assert "histogram" not in recommended and "validation" not in recommended
