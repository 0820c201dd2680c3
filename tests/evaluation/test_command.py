"""The command evaluate: keys of samples, interruption, growth, grading, refusals."""

import json
import re
import types
from pathlib import Path

import pytest
from support import rig

from targetsft_jax.command import Stopped
from targetsft_jax.convert import main as convert
from targetsft_jax.evaluate import main
from targetsft_jax.evaluation import benchmark_run
from targetsft_jax.evaluation.backends import vllm
from targetsft_jax.evaluation.backends.sampler import Sampler
from targetsft_jax.evaluation.model_identity import model_identity
from targetsft_jax.hf.peft import save_adapter
from targetsft_jax.models.lora import Lora
from targetsft_jax.storage import jsonl

TEXT = """
title: Sums
grader: exact
data: {source: jsonl, path: rows.jsonl}
prompt: "{question}"
"""


@pytest.fixture
def benchmark(tmp_path) -> Path:
    rows = [{"question": f"{n}+{n}=?", "answer": str(2 * n)} for n in range(5)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    (tmp_path / "sums.yaml").write_text(TEXT)
    return tmp_path / "sums.yaml"


@pytest.fixture
def evaluate(folders, benchmark, tmp_path):
    """Run the command on an untrained model, with two samples of four tokens."""

    def run(*arguments: str, out: str = "out") -> int:
        defaults = {
            "--model": str(folders["student"]),
            "--benchmarks": str(benchmark),
            "--samples": "2",
            "--max_new_tokens": "4",
            "--batch_size": "2",
            "--out": str(tmp_path / out),
        }
        defaults |= dict(zip(arguments[::2], arguments[1::2]))
        pairs = [part for pair in defaults.items() for part in pair if part != "-"]
        return main(pairs)

    return run


def _rows(tmp_path: Path, out: str = "out") -> dict[tuple[str, int], list[int]]:
    rows = jsonl.read(tmp_path / out / "sums" / "completions.jsonl")
    return {(row["problem"], row["sample"]): row["tokens"] for row in rows}


def test_rows_scores_and_settings_are_written(evaluate, tmp_path, capsys):
    assert evaluate() == 0
    printed = capsys.readouterr().out
    assert "Sums: 5 problems" in printed
    assert re.search(r"first prompt \(test/0|rows.jsonl:1, \d+ tokens\)", printed)
    assert "10 of 10 completions" in printed and "0:00 left" in printed
    assert re.search(r"\| Sums +\| +0.00 \|", printed)
    (row, *rest) = jsonl.read(tmp_path / "out/sums/completions.jsonl")
    assert len(rest) == 9
    assert row.keys() == {
        *("problem", "sample", "prompt", "tokens", "text", "finished", "seconds"),
        *("gold", "correct", "extracted", "how"),
    }
    settings = json.loads((tmp_path / "out/sums/settings.json").read_text())
    assert settings["temperature"] == 1.0 and settings["versions"]["jax"]
    assert settings["first_prompt"][0].startswith("first prompt")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["scores"]["sums"]["average"]["value"] == 0


def test_samples_of_a_problem_differ_and_do_not_depend_on_the_others(
    evaluate, tmp_path, benchmark
):
    assert evaluate() == 0
    rows = _rows(tmp_path)
    assert len({tuple(tokens) for tokens in rows.values()}) == 10
    lines = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(lines[:2]))
    assert evaluate("--batch_size", "1", out="fewer") == 0
    fewer = _rows(tmp_path, "fewer")
    assert len(fewer) == 4 and fewer == {key: rows[key] for key in fewer}


def test_an_interrupted_evaluation_continues(evaluate, tmp_path, monkeypatch, capsys):
    assert evaluate(out="whole") == 0
    real, calls = Sampler.complete, []

    def stopped(self, work, settings, seed):
        calls.append(work)
        if len(calls) == 2:
            raise Stopped("stopped by SIGTERM")
        return real(self, work, settings, seed)

    monkeypatch.setattr(Sampler, "complete", stopped)
    assert evaluate() == 143
    assert "4 completions are stored in" in capsys.readouterr().err
    stored = _rows(tmp_path)
    assert len(stored) == 4
    # A killed writer leaves a truncated line, which is sampled again.
    path = tmp_path / "out/sums/completions.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    monkeypatch.setattr(Sampler, "complete", real)
    assert evaluate() == 0
    assert "3 completions are stored, 7 are missing" in capsys.readouterr().out
    assert _rows(tmp_path) == _rows(tmp_path, "whole")


def test_more_samples_keep_the_earlier_ones(evaluate, tmp_path, capsys):
    assert evaluate() == 0
    first = _rows(tmp_path)
    assert evaluate("--samples", "4") == 0
    assert "10 completions are stored, 10 are missing" in capsys.readouterr().out
    rows = _rows(tmp_path)
    assert len(rows) == 20 and first.items() <= rows.items()
    assert evaluate("--samples", "4", out="whole") == 0
    assert _rows(tmp_path, "whole") == rows


def test_fewer_samples_and_problems_are_a_part_of_the_stored_ones(evaluate, tmp_path):
    assert evaluate() == 0
    before = (tmp_path / "out/sums/completions.jsonl").read_bytes()
    assert evaluate("--samples", "1", "--limit", "3") == 0
    assert (tmp_path / "out/sums/completions.jsonl").read_bytes() == before
    average = json.loads((tmp_path / "out/summary.json").read_text())
    assert average["scores"]["sums"]["average"]["problems"] == 3


def test_grading_is_repeated_without_the_model(evaluate, tmp_path, monkeypatch, capsys):
    assert evaluate() == 0
    path = tmp_path / "out/sums/completions.jsonl"
    rows = jsonl.read(path)
    for row in rows:
        row |= {"text": f"#### {row['gold']}", "finished": True}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(Sampler, "complete", None)
    sums = str(tmp_path / "sums.yaml")
    arguments = ["--benchmarks", sums, "--samples", "2", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--regrade"]) == 0
    printed = capsys.readouterr().out
    assert "10 verdicts changed in 10 rows" in printed
    assert "| 47.82 to 100.00 |" in printed
    assert main([*arguments, "--regrade", "--samples", "3"]) == 1
    assert "sample 2 of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("--temperature", "0.5", "another temperature: 1.0, not 0.5"),
        ("--max_new_tokens", "5", "another max_new_tokens: 4, not 5"),
        ("--seed", "1", "another seed: 0, not 1"),
        ("--model", "teacher", "another model"),
        ("--chat_template", "other.jinja", "another chat_template"),
    ],
)
def test_a_folder_of_another_evaluation_is_refused(
    evaluate, folders, tmp_path, capsys, key, value, message
):
    assert evaluate() == 0
    if key == "--model":
        value = str(folders[value])
    if key == "--chat_template":
        from targetsft_jax.data.tokenizer import byte_tokenizer

        path = tmp_path / value
        path.write_text("{# another #}" + byte_tokenizer().chat_template)
        value = str(path)
    before = (tmp_path / "out/sums/completions.jsonl").read_bytes()
    assert evaluate(key, value) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "out/sums/completions.jsonl").read_bytes() == before


def test_a_changed_prompt_is_refused(evaluate, benchmark, capsys):
    assert evaluate() == 0
    benchmark.write_text(TEXT.replace('"{question}"', '"{question} "'))
    assert evaluate() == 2
    assert "another prompt" in capsys.readouterr().err


def test_a_changed_question_is_refused(evaluate, tmp_path, capsys):
    assert evaluate() == 0
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace("1+1", "1+2"))
    assert evaluate() == 1
    assert "completions of another prompt of" in capsys.readouterr().err


def test_corrected_gold_answers_are_graded_again(evaluate, tmp_path, capsys):
    assert evaluate() == 0
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace('"answer": "2"', '"answer": "3"'))
    assert evaluate() == 0
    assert "verdicts changed in 10 rows" in capsys.readouterr().out
    golds = {row["gold"] for row in jsonl.read(tmp_path / "out/sums/completions.jsonl")}
    assert golds == {"0", "3", "4", "6", "8"}


def test_a_baseline_is_compared_on_the_same_problems(evaluate, tmp_path, capsys):
    assert evaluate() == 0
    assert evaluate("--baseline", str(tmp_path / "out"), out="again") == 0
    assert "sums: +0.00 points to the baseline" in capsys.readouterr().out
    assert evaluate("--baseline", str(tmp_path / "absent"), out="again") == 2
    assert "has no completion of the problems" in capsys.readouterr().err


def test_an_adapter_is_evaluated_merged(evaluate, folders, tmp_path, capsys):
    """Its completions are those of the merged model, not of the base."""
    adapted = Lora(4, 256.0, ("v", "o", "up", "down"))
    adapters = rig.adapters_of(rig.STUDENT, adapted)
    base = str(folders["student"])
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    save_adapter(adapter, rig.STUDENT, adapters, adapted, base=base)
    assert convert(["to-hf", str(adapter), str(merged)]) == 0
    rows = {}
    for name, path in (("adapter", adapter), ("merged", merged), ("base", base)):
        assert evaluate("--model", str(path), out=f"out_{name}") == 0
        rows[name] = _rows(tmp_path, f"out_{name}")
    assert rows["adapter"] == rows["merged"] != rows["base"]
    capsys.readouterr()
    engine = types.SimpleNamespace(__version__="0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm, "_import", lambda: engine)
        code = evaluate("--model", str(adapter), "--backend", "vllm", out="other")
    assert code == 2 and "adapter is adapters, which vllm" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--benchmarks", "math5000"), "Did you mean math500?"),
        (("--benchmarks", ","), "benchmarks is empty"),
        (("--benchmarks", "gsm8k,gsm8k"), "expected each name once"),
        (("--mode", "lenient"), "mode is 'lenient'; expected one of strict, reference"),
        (("--backend", "vlm"), "backend is 'vlm'; expected sampler, vllm"),
        (("--backend", "vllm"), "vllm, which is not installed"),
        (("--data.other", "x"), "data.other is set"),
        (("--samples", "0"), "samples is 0"),
        (("--sample", "1"), "sample is not a key"),
        (("--chat_template", "none"), "chat_template is 'none'"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(evaluate, capsys, arguments, message):
    assert evaluate(*arguments) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_model_without_a_chat_template_is_refused(
    evaluate, folders, tmp_path, capsys
):
    import shutil

    folder = tmp_path / "plain"
    shutil.copytree(folders["student"], folder)
    for name in ("chat_template.jinja",):
        (folder / name).unlink(missing_ok=True)
    config = folder / "tokenizer_config.json"
    tree = json.loads(config.read_text())
    tree.pop("chat_template", None)
    config.write_text(json.dumps(tree))
    assert evaluate("--model", str(folder)) == 2
    assert "has no chat template; set --chat_template" in capsys.readouterr().err


def test_a_truncated_completion_is_wrong(evaluate, tmp_path, monkeypatch):
    """Even if it states the answer."""
    monkeypatch.setattr(benchmark_run, "_text", lambda sample, _: "#### 0")
    assert evaluate("--limit", "1") == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())["scores"]["sums"]
    rows = jsonl.read(tmp_path / "out/sums/completions.jsonl")
    finished = sum(row["finished"] for row in rows) / 2
    assert all(row["correct"] for row in rows)
    assert summary["average"]["value"] == finished
    assert summary["truncated"] == 1 - finished


def test_verdicts_of_two_modes_are_graded_again(evaluate, tmp_path, monkeypatch):
    assert evaluate("--samples", "1") == 0
    settings = tmp_path / "out/sums/settings.json"

    def stopped(self, *_):
        raise Stopped("stopped by SIGTERM")

    monkeypatch.setattr(Sampler, "complete", stopped)
    assert evaluate("--mode", "reference") == 143
    assert json.loads(settings.read_text())["mode"] == "mixed"
    monkeypatch.undo()
    assert evaluate("--mode", "strict") == 0
    assert json.loads(settings.read_text())["mode"] == "strict"


def test_a_baseline_of_another_mode_is_refused(evaluate, tmp_path, capsys):
    assert evaluate(out="other") == 0
    baseline = ("--baseline", str(tmp_path / "other"))
    assert evaluate(*baseline) == 0
    assert "to the baseline" in capsys.readouterr().out
    assert evaluate(*baseline, "--mode", "reference") == 2
    assert "has strict verdicts, not reference ones" in capsys.readouterr().err


def test_identity_depends_on_weights_behind_the_first_bytes(tmp_path):
    weights = bytearray(10**6)
    model = types.SimpleNamespace(source=tmp_path, bases=())
    identities = set()
    for start in (None, 0, 500_000, 900_000):
        if start is not None:
            # Merged adapters change a whole projection.
            weights[start : start + 20_000] = b"\1" * 20_000
        (tmp_path / "model.safetensors").write_bytes(weights)
        identities.add(model_identity(model))
    assert len(identities) == 4
