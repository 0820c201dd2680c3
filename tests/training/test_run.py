"""Runs of the command end to end: files, output, resumption, exports."""

import contextlib
import io
import json
import shlex
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest
from support import rig

from targetsft_jax.checkpoints import open as roles
from targetsft_jax.checkpoints.open import StoredModel
from targetsft_jax.config.load import load
from targetsft_jax.data.tokenizer import byte_tokenizer, load_tokenizer, same_tokenizer
from targetsft_jax.hf.importer import load_config, load_params
from targetsft_jax.parallel.preemption import Preempted
from targetsft_jax.storage import manifest
from targetsft_jax.train import main
from targetsft_jax.training import measure as measure_module
from targetsft_jax.training import run as run_module
from targetsft_jax.training import tiny_models as start_models
from targetsft_jax.training.agreement import StepAgreement
from targetsft_jax.training.fit import Fitted
from targetsft_jax.training.session import Shared
from targetsft_jax.training.state import TrainState


def _small(folders, run_dir, **more) -> list[str]:
    """Arguments of the small run, always on three axes, so that programs are shared."""
    return rig.small_run(folders, run_dir, mesh__fsdp=2, mesh__tensor=2, **more)


@dataclass
class Done:
    """A finished command: files, output, results of `fit`, scores."""

    run_dir: Path
    arguments: list[str]
    output: str
    fitted: list
    scores: dict


def _run(run_dir: Path, arguments: list[str]) -> Done:
    fitted, scores = [], {}
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        real_fit, real_run = run_module.fit, run_module.run

        def fit(*a, **k):
            fitted.append(real_fit(*a, **k))
            return fitted[-1]

        def run(config):
            scores.update(real_run(config))
            return scores

        patch.setattr(run_module, "fit", fit)
        patch.setattr(run_module, "run", run)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = main(arguments)
    assert status == 0, out.getvalue()
    return Done(run_dir, arguments, out.getvalue(), fitted, scores)


@pytest.fixture(scope="module")
def done(folders, tmp_path_factory) -> Done:
    """Target-SFT with two problems and two samples, on 2x2x2."""
    run_dir = tmp_path_factory.mktemp("runs") / "first"
    arguments = _small(
        folders,
        run_dir,
        evaluation__problems=2,
        evaluation__include_teacher="true",
        evaluation__samples=2,
        evaluation__max_new_tokens=8,
    )
    return _run(run_dir, arguments)


def test_all_files_are_written(done):
    assert (done.run_dir / "checkpoints/4").is_dir()
    assert (done.run_dir / "hf/model.safetensors").is_file()
    assert list((done.run_dir / "tensorboard").iterdir())
    assert [row["step"] for row in rig.metrics_of(done.run_dir)] == [1, 2, 3, 4]
    assert list(done.scores) == ["teacher", "start", "target_sft"]
    stored = json.loads((done.run_dir / "results.json").read_text())["scores"]
    for name, score in done.scores.items():
        path = done.run_dir / f"completions_{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(rows) == 2
        verdicts = [row["correct"] for row in rows]
        assert all(len(row["completions"]) == 2 for row in rows)
        assert np.mean(verdicts) == score.average_at_k
        assert stored[name]["score"]["average_at_k"] == score.average_at_k


def test_the_scores_are_in_tensorboard(done):
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in (done.run_dir / "tensorboard").iterdir():
        data = path.read_bytes()
        while data:  # length [8], its checksum [4], an event, its checksum [4]
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            found |= {v.tag: (event.step, v.simple_value) for v in event.summary.value}
            data = data[16 + size :]
    for name, score in done.scores.items():
        step, value = found[f"eval/average_at_k/{name}"]
        assert (step, value) == (4, pytest.approx(100 * score.average_at_k))
    assert {"train/loss", "train/learning_rate", "train/epoch"} <= found.keys()


def test_target_sft_has_gamma_below_one_and_a_kl_to_the_teacher(done):
    rows = rig.metrics_of(done.run_dir)
    assert all(row["gamma"] < 1 and row["kl_teacher"] > 0 for row in rows)


def test_an_example_is_printed_with_its_target_tokens_marked(done):
    assert "<|assistant|>⟦" in done.output and "#### " in done.output
    assert "target tokens marked" in done.output
    assert "target_sft (eta=0.5): 4 steps" in done.output
    for name in ("teacher", "start", "target_sft"):
        assert f"Average@2 of {name}:" in done.output


def test_the_cards_of_the_exports_have_the_scores(done):
    """Those of results.json, with their intervals; the folders remain intact."""
    for folder in ("hf", "model"):
        card = (done.run_dir / folder / "README.md").read_text()
        assert card.count("## Results") == 1 and "synthetic problems" in card
        for name, label in (("teacher", "teacher"), ("target_sft", "step 4")):
            percent = 100 * done.scores[name].average_at_k
            (row,) = [x for x in card.splitlines() if x.startswith(f"| {label} |")]
            assert row.startswith(f"| {label} | {percent:.2f} | ")
            assert row.endswith("| 2 | 2 |")
        assert manifest.differences(done.run_dir / folder) == []


def test_the_export_is_the_trained_model(done):
    (fitted,) = done.fitted
    folder = done.run_dir / "hf"
    config = load_config(folder)
    assert config == rig.STUDENT
    rig.assert_equal_trees(load_params(folder, config), fitted.state.params)
    assert same_tokenizer(load_tokenizer(folder), byte_tokenizer()) == []
    assert load_tokenizer(folder).chat_template == byte_tokenizer().chat_template
    # Training changed it.
    start = rig.decoder.init_params(rig.STUDENT, jax.random.key(1))
    end = np.asarray(fitted.state.params["embed"])
    assert np.abs(end - np.asarray(start["embed"])).max() > 1e-3


def test_the_export_answers_with_the_template_that_was_trained(folders, tmp_path):
    """With its token that ends a turn, which is not eos here."""
    from transformers import AutoTokenizer

    template = tmp_path / "mine.jinja"
    template.write_text(
        "{%- for m in messages -%}{{- 'Q' if m.role == 'user' else 'A' -}}"
        "{{- m.content + '<|reserved_0|>' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}A{%- endif -%}"
    )
    options = {"data.chat_template": template, "evaluation.problems": 0}
    output = _run(
        tmp_path / "run",
        [*_small(folders, tmp_path / "run"), *rig.command(options)],
    ).output
    assert "<|reserved_0|>⟧" in output and "<|user|>" not in output
    for folder in ("hf", "model"):
        back = AutoTokenizer.from_pretrained(tmp_path / "run" / folder)
        turns = [{"role": "user", "content": "1+1=?"}]
        assert (
            back.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            == "Q1+1=?<|reserved_0|>A"
        )
        generation = tmp_path / "run" / folder / "generation_config.json"
        stop = back.convert_tokens_to_ids("<|reserved_0|>")
        assert json.loads(generation.read_text())["eos_token_id"] == [257, stop]


def test_autotokenizer_reads_the_export(done):
    from transformers import AutoTokenizer

    ours, theirs = byte_tokenizer(), AutoTokenizer.from_pretrained(done.run_dir / "hf")
    assert theirs.get_vocab() == ours.get_vocab()
    turns = [
        {"role": "user", "content": "Dose?\n é🙂"},
        {"role": "assistant", "content": "  12 mg\n"},
    ]
    for tokenizer in (ours, theirs):
        tokenizer.text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert theirs.text == ours.text
    assert theirs(theirs.text)["input_ids"] == ours(ours.text)["input_ids"]
    assert theirs.eos_token_id == ours.eos_token_id


def test_the_stored_configuration_is_the_resolved_one(done):
    """It loads to the configuration of the run."""
    assert load(["--config", str(done.run_dir / "config.yaml")]) == load(done.arguments)


@pytest.fixture
def work(monkeypatch) -> Counter:
    """Counter of loaded models, trainings, exports and evaluations."""
    counts: Counter = Counter()

    def count(module, name: str, key) -> None:
        real = getattr(module, name)

        def counted(*arguments, **options):
            counts[key(*arguments, **options)] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    count(StoredModel, "load", lambda model, *_, **__: f"read {Path(model.path).name}")
    count(run_module, "fit", lambda *_, **__: "training")
    count(run_module, "export", lambda *_: "export")
    count(measure_module, "evaluate_model", lambda *_, **__: "evaluation")
    return counts


def test_a_finished_run_repeats_nothing(done, work):
    """The same command loads, trains, exports and evaluates nothing."""
    before = (done.run_dir / "metrics.jsonl").read_bytes()
    export = (done.run_dir / "hf/model.safetensors").read_bytes()
    again = _run(done.run_dir, done.arguments)
    assert not work
    assert again.scores == done.scores
    assert "already trained and exported" in again.output
    assert (done.run_dir / "metrics.jsonl").read_bytes() == before
    assert (done.run_dir / "hf/model.safetensors").read_bytes() == export


def test_a_resumable_key_may_change(done, work):
    more = ["--train.save_every", "1", "--evaluation.problems", "0"]
    assert _run(done.run_dir, [*done.arguments, *more]).scores == {}
    assert not work


def test_another_evaluation_of_a_finished_run_only_measures(done, work):
    """One sample instead of two: all models are measured again, without training."""
    metrics = (done.run_dir / "metrics.jsonl").read_bytes()
    again = _run(done.run_dir, [*done.arguments, "--evaluation.samples", "1"])
    assert [score.k for score in again.scores.values()] == [1, 1, 1]
    assert work["evaluation"] == 3 and work["export"] == 0
    assert [fitted.resumed_from for fitted in again.fitted] == [4]
    assert (done.run_dir / "metrics.jsonl").read_bytes() == metrics


def test_a_resumed_run_repeats_no_evaluation_and_reads_no_start(
    folders, tmp_path, work, monkeypatch, capsys
):
    """Stopped after step 2 of 4: only the remaining work is done."""
    arguments = _small(
        folders,
        tmp_path / "run",
        evaluation__problems=2,
        evaluation__samples=1,
        evaluation__max_new_tokens=4,
        evaluation__include_teacher="true",
    )
    with monkeypatch.context() as patch:
        requests = iter([(False, False), (True, False)])
        patch.setattr(StepAgreement, "any_host", lambda *_: next(requests))
        assert main(arguments) == 143
    printed = capsys.readouterr().err
    assert "SIGTERM after step 2; the newest checkpoint is that of step 2" in printed
    first = Counter(work)
    assert first["read student"] == first["read teacher"] == 1
    assert first["evaluation"] == 2 and first["export"] == 0
    work.clear()
    done = _run(tmp_path / "run", arguments)
    assert [fitted.resumed_from for fitted in done.fitted] == [2]
    assert work["read student"] == 0 and work["read teacher"] == 1
    assert work["evaluation"] == 1 and work["export"] == 1
    assert list(done.scores) == ["teacher", "start", "target_sft"]


def test_a_changed_configuration_is_refused_with_keys_and_values(done, capsys):
    status = main([*done.arguments, "--target.eta", "0.25", "--seed", "9"])
    message = capsys.readouterr().err
    assert status == 2
    assert "target.eta: was None, is 0.25" in message
    assert "seed: was 0, is 9" in message
    assert "choose another run_dir" in message
    assert "mesh." not in message and "resume:" not in message


def test_the_printed_command_trains_on_at_another_rate(folders, tmp_path, capsys):
    arguments = _small(folders, tmp_path / "run", target__name="sft")
    _run(tmp_path / "run", arguments)
    capsys.readouterr()
    assert main([*arguments, "--train.learning_rate", "0.005"]) == 2
    message = capsys.readouterr().err
    assert "train.learning_rate: was 0.01, is 0.005" in message
    command = shlex.split(message.splitlines()[-1])
    assert command[:2] == ["targetsft", "train"]
    again = _run(tmp_path / "run-2", command[2:])
    assert [fitted.resumed_from for fitted in again.fitted] == [0]
    assert f"{tmp_path / 'run'}" in again.output
    rows = rig.metrics_of(tmp_path / "run-2")
    # It continues where the first run ended, at half its rate.
    assert rows[0]["learning_rate"] == pytest.approx(0.005)
    assert rows[0]["loss"] < rig.metrics_of(tmp_path / "run")[0]["loss"]


CONSTANT = {
    "target__name": "sft",
    "train__warmup_ratio": 0,
    "train__final_learning_rate_ratio": 1,
}
"""A constant learning rate."""


def test_an_extended_run_equals_an_uninterrupted_one(folders, tmp_path, capsys):
    """4 steps, then 8: bit for bit the 8 steps of one run, exports included."""
    whole = _small(folders, tmp_path / "whole", **CONSTANT, train__steps=8)
    _run(tmp_path / "whole", whole)
    first = _small(folders, tmp_path / "parts", **CONSTANT)
    _run(tmp_path / "parts", first)
    second = _run(tmp_path / "parts", [*first, "--train.steps", "8"])
    assert [fitted.resumed_from for fitted in second.fitted] == [4]
    assert "8 steps in place of 4" in second.output
    assert "learning rate 0.01 at step 4, 0.01 at step 5" in second.output
    rows = [rig.metrics_of(tmp_path / name) for name in ("whole", "parts")]
    assert rig.untimed(rows[0]) == rig.untimed(rows[1])
    weights = [
        (tmp_path / name / "hf/model.safetensors").read_bytes()
        for name in ("whole", "parts")
    ]
    assert weights[0] == weights[1]
    capsys.readouterr()
    assert main([*first, "--train.steps", "6"]) == 2
    message = capsys.readouterr().err
    assert "train.steps is 6 and" in message
    assert "has checkpoint 8; expected at least 8 steps" in message


@pytest.mark.slow
def test_extending_by_epochs_reports_the_new_schedule(folders, tmp_path, capsys):
    arguments = _small(
        folders, tmp_path / "run", target__name="sft", train__steps="null"
    )
    short = [*arguments, "--train.epochs", "1"]
    assert _run(tmp_path / "run", short).output
    steps = rig.metrics_of(tmp_path / "run")[-1]["step"]
    longer = _run(tmp_path / "run", [*arguments, "--train.epochs", "2"])
    assert f"{2 * steps} steps in place of {steps}" in longer.output
    rows = rig.metrics_of(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 2 * steps + 1))
    # The cosine of 2 epochs is far from its end after the first one.
    assert rows[steps]["learning_rate"] > 3 * rows[steps - 1]["learning_rate"]
    capsys.readouterr()
    assert main(short) == 2
    message = capsys.readouterr().err
    assert f"train.epochs is 1, which is {steps} steps, and" in message
    assert f"has checkpoint {2 * steps}; expected at least {2 * steps} steps" in message
    assert rig.metrics_of(tmp_path / "run") == rows


def test_resume_false_does_not_touch_a_run(done, capsys):
    before = (done.run_dir / "metrics.jsonl").read_bytes()
    assert main([*done.arguments, "--resume", "false"]) == 2
    message = capsys.readouterr().err
    assert "already has" in message and "resume is false" in message
    assert str(done.run_dir) in message
    assert (done.run_dir / "metrics.jsonl").read_bytes() == before


def _jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _rows(n: int = 24) -> list[dict]:
    return [
        {
            "q": f"{i}+1=?",
            "a": f"#### {i + 1}",
            "trajectory_weight": 0.5 + (i % 3),
        }
        for i in range(n)
    ]


def _from_file(folders, tmp_path, rows, **more) -> list[str]:
    return _small(
        folders,
        tmp_path / "run",
        data__source="jsonl",
        data__path=_jsonl(tmp_path / "rows.jsonl", rows),
        data__fields__prompt="q",
        data__fields__response="a",
        **more,
    )


def test_a_file_with_trajectory_weights_trains_iw_sft(folders, tmp_path):
    """The teacher is not read and need not exist."""
    more = {
        "target__name": "iw_sft",
        "policy__trajectory_weight": "data",
        "teacher__path": "/nowhere/at/all",
    }
    done = _run(tmp_path / "run", _from_file(folders, tmp_path, _rows(), **more))
    first = rig.metrics_of(done.run_dir)[0]
    assert "kl_teacher" not in first
    # γ is the column: between the smallest and the largest weight.
    assert 0.5 < first["gamma"] < 2.5
    # The batch holds every row (some repeat), each over its response and end token.
    assert first["target_tokens"] >= sum(len(r["a"]) + 1 for r in _rows())


def test_changed_data_is_refused_on_resumption(folders, tmp_path, capsys):
    arguments = _from_file(folders, tmp_path, _rows(), target__name="sft")
    outputs = [_run(tmp_path / "run", arguments).output for _ in range(2)]
    # The second command finds the run finished and reads the data from the cache.
    assert (
        "tokens written to the cache" in outputs[0] and "cache/data/rows-" in outputs[0]
    )
    assert (
        "tokens from the cache: " in outputs[1]
        and "rows from the cache: " in outputs[1]
    )
    before = (tmp_path / "run/hf/model.safetensors").read_bytes()
    _jsonl(tmp_path / "rows.jsonl", _rows()[:-1])
    capsys.readouterr()
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "was taken on other data: fingerprint was" in message
    assert (tmp_path / "run/hf/model.safetensors").read_bytes() == before


def test_the_reference_is_the_initial_student(folders, tmp_path, monkeypatch):
    """The KL to the reference is 0 at the first step only."""
    loaded = []
    real = roles.load_params
    monkeypatch.setattr(
        roles,
        "load_params",
        lambda folder, *a, **k: loaded.append(folder) or real(folder, *a, **k),
    )
    done = _run(tmp_path, _small(folders, tmp_path, target__name="asft"))
    kl = [row["kl_reference"] for row in rig.metrics_of(tmp_path)]
    assert abs(kl[0]) < 1e-6 < kl[1]
    assert set(loaded) == {folders["student"]}
    assert done.fitted[0].state.step == 4


@pytest.fixture
def frozen(monkeypatch):
    """Frozen arguments of each training; nothing is trained."""
    recorded = []

    def fit(spec, start, frozen, *_, **__):
        recorded.append(dict(frozen))
        return Fitted(TrainState(0, start.load(), None), 0)

    monkeypatch.setattr(run_module, "fit", fit)
    return recorded


def test_a_separate_reference_is_read(folders, tmp_path, frozen):
    more = {"target__name": "kl", "reference__path": folders["teacher"]}
    assert main(_small(folders, tmp_path, **more)) == 0
    (arguments,) = frozen
    assert set(arguments) == {"reference"}
    expected = load_params(folders["teacher"], rig.STUDENT)
    rig.assert_equal_trees(arguments["reference"], expected)


def test_models_of_one_folder_share_their_arrays(folders, tmp_path, frozen):
    """Teacher of one run and reference of another in one process: read once."""
    path, shared = folders["teacher"], Shared()
    for name in ("kd", "kl"):
        arguments = _small(
            folders, tmp_path / name, target__name=name, reference__path=path
        )
        run_module.run(load(arguments), shared)
    assert [set(arguments) for arguments in frozen] == [{"teacher"}, {"reference"}]
    one, other = frozen[0]["teacher"], frozen[1]["reference"]
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    assert all(a is b for a, b in pairs)


def test_a_start_model_is_built_once(tmp_path, monkeypatch):
    """Two runs with one cache: the second reads the model of the first."""
    build = {
        "student.build.hidden_size": 32,
        "student.build.intermediate_size": 48,
        "student.build.num_heads": 4,
        "student.build.num_kv_heads": 2,
        "student.build.max_length": 64,
        "student.build.steps": 4,
        "student.build.batch_size": 8,
        "student.build.learning_rate": 1e-2,
        "student.build.data.examples": 64,
        "cache_dir": tmp_path / "cache",
        "target.name": "sft",
        "data.synthetic.examples": 64,
        "data.max_length": 64,
        "train.steps": 4,
        "train.batch_size": 8,
        "train.learning_rate": 1e-2,
        "mesh.fsdp": 2,
        "mesh.tensor": 2,
    }
    outputs = []
    for name in ("one", "two"):
        arguments = rig.command({"run_dir": tmp_path / name, **build})
        outputs.append(_run(tmp_path / name, arguments).output)
    (cached,) = (tmp_path / "cache").iterdir()
    assert "building the start model" in outputs[0] and str(cached) in outputs[0]
    assert "start model from the cache" in outputs[1] and "building" not in outputs[1]
    assert rig.untimed(rig.metrics_of(tmp_path / "one")) == rig.untimed(
        rig.metrics_of(tmp_path / "two")
    )

    # Another recipe is another model.
    def build_again(*_, **__):
        raise ValueError("a model is built")

    monkeypatch.setattr(start_models, "fit", build_again)
    other = {"run_dir": tmp_path / "x", **build, "student.build.seed": 5}
    assert main(rig.command(other)) == 1


@pytest.mark.parametrize("name", ["quickstart", "gsm8k_tiny", "pubmedqa_tiny"])
def test_print_config_round_trips(name: str, tmp_path, capsys):
    """The printed YAML loads to the same configuration; nothing is run."""
    path = Path(__file__).parents[2] / "configs" / f"{name}.yaml"
    arguments = [
        "--config",
        str(path),
        "--target.eta",
        "0.7",
        "--train.learning_rate",
        "1e-7",
    ]
    if name != "quickstart":
        arguments += [
            "--data.path",
            "x.jsonl",
            "--student.path",
            "s",
            "--teacher.path",
            "t",
        ]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--print-config"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    again = tmp_path / "again.yaml"
    again.write_text(printed)
    config = load(["--config", str(again)])
    assert config == load(arguments)
    assert (config.target.eta, config.train.learning_rate) == (0.7, 1e-7)


def _refused_before_training(arguments, capsys, *texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "fit", lambda *_, **__: 1 / 0)
        assert main(arguments) == 1
    error = capsys.readouterr().err
    for text in texts:
        assert text in error


def test_a_foreign_folder_is_refused_before_the_training(folders, tmp_path, capsys):
    """Also one that appears in a run that was stopped."""
    run_dir = tmp_path / "run"
    arguments = _small(folders, run_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "fit", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(arguments)
    for name in ("hf", "adapter", "model"):
        folder = run_dir / name
        mine = folder / "mine.txt"
        folder.mkdir(exist_ok=True)
        mine.write_text("mine")
        texts = (f"{folder} exists and would be replaced", "Move it")
        _refused_before_training(arguments, capsys, *texts)
        assert mine.read_text() == "mine"
        mine.unlink()


@pytest.mark.parametrize("name", ["hf", "hf/inner", "model", "checkpoints"])
def test_an_export_never_replaces_a_model_of_the_run(folders, tmp_path, capsys, name):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    source = tmp_path / "models" / "student"
    shutil.copytree(folders["student"], source)
    arguments = _small(folders, run_dir, student__path=source)
    with pytest.MonkeyPatch.context() as patch:
        # The claim has accepted the directory, as after a stop.
        patch.setattr(run_module, "claim", lambda *_, **__: contextlib.nullcontext())
        target = source if "/" not in name else source.parent
        (run_dir / name.partition("/")[0]).symlink_to(target)
        _refused_before_training(arguments, capsys, "would replace the student")
    assert load_config(source) == rig.STUDENT


def test_a_second_ctrl_c_has_last_words_too(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "_run", interrupted)
    config = load(["--student.path=a", "--teacher.path=b", f"--run_dir={tmp_path}"])
    with pytest.raises(Preempted, match="by Ctrl-C; there is no checkpoint in") as stop:
        run_module.run(config)
    assert stop.value.code == 130
