"""The command, from arguments to the HTML file, and its refusals."""

import shutil

import jax
import numpy as np
import pytest
from support import rig
from support.inspected import keys_of
from support.page_target import entry_of
from support.pages_read import data_of

from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.inspect import main
from targetsft_jax.inspection import command, rows


def error_of(capsys) -> str:
    text = capsys.readouterr().err.strip()
    assert len(text.splitlines()) == 1, text
    return text


def test_a_page_with_a_teacher_and_an_earlier_model(
    models, rows_file, tmp_path, capsys
) -> None:
    out = tmp_path / "page.html"
    arguments = [*keys_of(models, rows_file, target__eta=0.3), "--rows", "3"]
    arguments += ["--before", str(models["before"]), "--out", str(out)]
    assert main(arguments) == 0
    page = data_of(out.read_text())
    header = page.header
    assert header["roles"] == ["student", "teacher", "reference", "before"]
    assert (header["default_method"], header["default_eta"]) == ("target_sft", 0.3)
    assert [row["source"] for row in header["rows"]] == [
        f"rows.jsonl:{number}" for number in (1, 2, 3)
    ]
    text = "".join(header["texts"][i] for i in page.arrays["token"])
    assert "<|assistant|>17 + 25 = 42<|end|>" in text
    assert "Yes: ⟨CF⟩⟨80⟩ ⟨E2⟩⟨89⟩⟨88⟩ 3.14<|end|>" in text
    special = {header["texts"][i] for i in header["special"]}
    assert {"<|user|>", "<|assistant|>", "<|end|>"} <= special
    provenance = header["provenance"]
    assert provenance["student"] == str(models["student"])
    assert provenance["before"] == str(models["before"])
    assert provenance["rows"] == "the first 3 examples of rows.jsonl"
    assert entry_of(page, "cft")["refusal"] is None
    assert entry_of(page, "kl")["alternative"]["other"] == "reference"
    printed = capsys.readouterr().out
    assert str(out) in printed.splitlines()[-1]
    assert "without custom: no γ and π̃" in printed


def test_a_page_without_a_teacher(models, rows_file, tmp_path, capsys) -> None:
    out = tmp_path / "page.html"
    arguments = ["--student.path", str(models["student"]), "--target.name", "dft"]
    arguments += ["--rows-from", str(rows_file), "--out", str(out)]
    assert main(arguments) == 0
    page = data_of(out.read_text())
    assert page.header["roles"] == ["student"] and page.header["eta_stops"] == []
    assert page.header["default_method"] == "dft"
    assert page.header["provenance"]["rows"] == "all 3 examples of rows.jsonl"
    for name in ("kd", "target_sft", "jsd"):
        assert "needs a teacher" in entry_of(page, name)["refusal"]
    for name in ("kl", "asft"):
        assert entry_of(page, name)["alternative"]["other"] == "student"
        assert "π_ref is the student itself" in entry_of(page, name)["note"]
    assert "ratio is 1" in entry_of(page, "psft")["note"]
    refused = [x for x in capsys.readouterr().out.splitlines() if "without kd" in x]
    assert len(refused) == 1 and "target_sft" in refused[0]


def test_refusals_come_before_any_model(
    models, rows_file, tmp_path, capsys, monkeypatch
) -> None:
    def load(*_):
        raise AssertionError("a model was opened")

    monkeypatch.setattr(command, "load_models", load)
    monkeypatch.setattr(rows, "LARGEST_TRAINED", 10)
    arguments = keys_of(models, rows_file)
    assert main(arguments) == 2
    message = error_of(capsys)
    assert "trained" in message and "a page holds at most" in message
    assert main([*arguments, "--data.path", str(tmp_path / "absent.jsonl")]) == 1
    assert "absent.jsonl" in error_of(capsys)
    assert main(["--run", str(tmp_path)]) == 2
    assert "has no config.yaml" in error_of(capsys)
    assert main([*arguments, "--target.nam", "sft"]) == 2
    assert "target.nam is not a key" in capsys.readouterr().err


def test_an_earlier_model_is_another_one(models, rows_file, capsys) -> None:
    arguments = keys_of(models, rows_file)
    assert main([*arguments, "--before", str(models["student"])]) == 2
    assert "is the student itself" in error_of(capsys)


def test_another_tokenizer_is_refused(models, rows_file, tmp_path, capsys) -> None:
    other = tmp_path / "other"
    shutil.copytree(models["before"], other)
    file = other / "tokenizer.json"
    text = file.read_text()
    assert "<|reserved_2|>" in text
    file.write_text(text.replace("<|reserved_2|>", "<|another|>"))
    assert main([*keys_of(models, rows_file), "--before", str(other)]) == 1
    assert "tokenizers of the student" in capsys.readouterr().err


def test_a_model_without_numbers_is_refused(
    models, rows_file, tmp_path, capsys
) -> None:
    params = jax.tree.map(np.copy, rig.params_of(rig.STUDENT))
    params["final_norm"][0] = np.nan
    save_pretrained(tmp_path / "nan", rig.STUDENT, params, tokenizer=byte_tokenizer())
    before = ["--before", str(tmp_path / "nan"), "--target.eta", "0.3"]
    with pytest.warns(UserWarning, match="NaN"):
        assert main([*keys_of(models, rows_file), *before]) == 1
    assert "the logits of the earlier model are not numbers" in error_of(capsys)
