"""The command evaluate on benchmarks whose options are scored, and on plain prompts."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from targetsft_jax.command import Stopped
from targetsft_jax.evaluate import main
from targetsft_jax.evaluation.backends.sampler import Sampler, open_sampler
from targetsft_jax.storage import jsonl

TEXT = """
title: Colours
grader: choice
scoring: log_likelihood
rendering: plain
data: {source: jsonl, path: rows.jsonl}
options: options
prompt: "Question: {question}\\nAnswer:"
"""
OPTIONS = ["red", "dark blue", "grün"]


@pytest.fixture
def benchmark(tmp_path) -> Path:
    rows = [
        {"question": f"Colour {n}?", "options": OPTIONS, "answer": "ABC"[n % 3]}
        for n in range(6)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    (tmp_path / "colours.yaml").write_text(TEXT)
    return tmp_path / "colours.yaml"


@pytest.fixture
def evaluate(folders, benchmark, tmp_path):
    def run(*arguments: str, out: str = "out") -> int:
        defaults = {
            "--model": str(folders["student"]),
            "--benchmarks": str(benchmark),
            "--batch_size": "2",
            "--out": str(tmp_path / out),
        }
        defaults |= dict(zip(arguments[::2], arguments[1::2]))
        return main([part for pair in defaults.items() for part in pair])

    return run


def _rows(tmp_path: Path, out: str = "out") -> list[dict]:
    rows = jsonl.read(tmp_path / out / "colours" / "completions.jsonl")
    return sorted(rows, key=lambda row: row["problem"])


def test_rows_have_the_log_probabilities_of_the_options(
    evaluate, folders, tmp_path, capsys
):
    """Those of the text behind the prompt, scored separately."""
    assert evaluate() == 0
    printed = capsys.readouterr().out
    rows = _rows(tmp_path)
    assert len(rows) == 6
    sampler, tokenizer = open_sampler(str(folders["student"]))
    for row in rows:
        scored = row["likelihood"]
        assert scored["characters"] == [3, 9, 4] and scored["bytes"] == [3, 9, 5]
    prompt = list(b"Question: Colour 0?\nAnswer:")
    pairs = [(prompt, list(f" {option}".encode())) for option in OPTIONS]
    expected = sampler.log_likelihoods(pairs)
    np.testing.assert_allclose(
        rows[0]["likelihood"]["log_likelihoods"], expected, rtol=1e-4
    )
    assert rows[0]["extracted"] == "ABC"[np.argmax(expected)]
    assert rows[0]["text"] == OPTIONS[np.argmax(expected)]
    scores = json.loads((tmp_path / "out/summary.json").read_text())["scores"]
    scored = scores["colours"]["scored"]
    assert set(scored) == {"acc", "acc_norm", "acc_bytes"}
    lengths = {"acc": [1, 1, 1], "acc_norm": [3, 9, 4], "acc_bytes": [3, 9, 5]}
    for name, length in lengths.items():
        best = [
            np.argmax(np.divide(row["likelihood"]["log_likelihoods"], length))
            for row in rows
        ]
        share = np.mean([n == "ABC".index(r["gold"]) for n, r in zip(best, rows)])
        assert scored[name]["value"] == pytest.approx(share)
        assert re.search(rf"\| Colours +\| +{name} \|", printed)
    assert scored["acc"]["value"] == scores["colours"]["average"]["value"]
    assert scored["acc"]["low"] < scored["acc"]["value"] < scored["acc"]["high"]


def test_a_stopped_evaluation_continues_and_verdicts_follow_the_gold(
    evaluate, tmp_path, monkeypatch, capsys
):
    assert evaluate(out="whole") == 0
    real, calls = Sampler.log_likelihoods, []

    def stopped(self, pairs):
        calls.append(len(pairs))
        if len(calls) == 2:
            raise Stopped("stopped by SIGTERM")
        return real(self, pairs)

    monkeypatch.setattr(Sampler, "log_likelihoods", stopped)
    assert evaluate() == 143
    assert calls == [6, 6] and len(_rows(tmp_path)) == 2
    assert evaluate("--limit", "6") == 0
    assert "2 problems are stored, 4 are missing" in capsys.readouterr().out
    whole = _rows(tmp_path, "whole")
    for row, other in zip(_rows(tmp_path), whole, strict=True):
        assert row["likelihood"] == other["likelihood"]
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace('"answer": "A"', '"answer": "B"'))
    monkeypatch.setattr(Sampler, "log_likelihoods", None)
    assert evaluate() == 0
    assert "verdicts changed in 6 rows" in capsys.readouterr().out
    for row in _rows(tmp_path):
        assert row["correct"] == (row["extracted"] == row["gold"])
        assert row["gold"] != "A"


def test_examples_and_scoring_may_be_requested(evaluate, tmp_path, capsys):
    """Examples change the prompts, and another number needs another folder."""
    assert evaluate("--few_shot", "2") == 0
    printed = capsys.readouterr().out
    first = printed.split("tokens)\n")[1].split("  token ids")[0]
    assert first.count("Question:") == 3 and first.count("Answer: ") == 2
    assert evaluate("--few_shot", "3") == 2
    assert "another prompt" in capsys.readouterr().err
    assert evaluate("--backend", "http://127.0.0.1:9", out="server") == 2
    assert "scores log-probabilities; expected sampler" in capsys.readouterr().err
    assert evaluate("--few_shot_data.other", "x", out="none") == 2
    assert "few_shot_data.other is set" in capsys.readouterr().err


def test_letters_are_scored_behind_the_chat_template(
    evaluate, benchmark, folders, tmp_path, capsys
):
    text = TEXT.replace("rendering: plain\n", "").replace(
        '"Question: {question}', '"{question}\\n{options}'
    )
    benchmark.write_text(text)
    assert evaluate("--limit", "1") == 0
    (row,) = _rows(tmp_path)
    assert row["likelihood"]["characters"] == [1, 1, 1]
    assert row["text"] == row["extracted"]
    sampler, tokenizer = open_sampler(str(folders["student"]))
    turn = "Colour 0?\nA. red\nB. dark blue\nC. grün\nAnswer:"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": turn}],
        add_generation_prompt=True,
        return_dict=True,
    )["input_ids"]
    pairs = [(prompt, list(letter.encode())) for letter in "ABC"]
    np.testing.assert_allclose(
        row["likelihood"]["log_likelihoods"],
        sampler.log_likelihoods(pairs),
        rtol=1e-4,
    )


def test_a_base_model_needs_no_template_for_plain_prompts(
    evaluate, benchmark, folders, tmp_path, capsys
):
    """Sampled completions end at a blank line."""
    folder = shutil.copytree(folders["student"], tmp_path / "base")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = folder / "tokenizer_config.json"
    tree = json.loads(config.read_text())
    tree.pop("chat_template", None)
    config.write_text(json.dumps(tree))
    assert evaluate("--model", str(folder), "--limit", "2") == 0
    benchmark.write_text(TEXT.replace("scoring: log_likelihood\n", ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "targetsft_jax.evaluation.benchmark_run._text",
            lambda *_: "The answer is A.\n\nQuestion: no\nThe answer is B.",
        )
        arguments = ("--limit", "2", "--samples", "1", "--max_new_tokens", "4")
        assert evaluate("--model", str(folder), *arguments, out="sampled") == 0
    rows = _rows(tmp_path, "sampled")
    assert [row["text"] for row in rows] == ["The answer is A."] * 2
    assert all(row["finished"] for row in rows)
    assert [row["correct"] for row in rows] == [True, False]
    assert evaluate("--model", str(folder), "--rendering", "chat", out="chat") == 2
    assert "or --rendering plain for a base model" in capsys.readouterr().err
