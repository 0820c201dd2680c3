"""Commands `list`, `build` and `preview`, end to end."""

import json

import pytest
from support import rig
from support.published import gsm8k_source

from targetsft_jax.data.catalogue import CATALOGUE
from targetsft_jax.datasets import main


@pytest.fixture
def gsm8k(tmp_path):
    return gsm8k_source(tmp_path)


def test_offline_one_line_names_the_remedy(tmp_path, capsys):
    code = main(["build", "gsm8k", "--data-dir", str(tmp_path)])
    output = capsys.readouterr().err
    assert code == 1
    assert (
        "gsm8k cannot be downloaded from openai/gsm8k on the hub (OfflineMode" in output
    )
    assert "--manual-dir" in output and len(output.splitlines()) == 1


def test_the_command_builds_and_lists(gsm8k, capsys):
    where = ["--data-dir", gsm8k.data_dir]
    assert main(["build", "gsm8k", "--manual-dir", gsm8k.path, *where]) == 0
    output = capsys.readouterr().out
    assert "gsm8k/train: 3 examples\n" in output and f"from {gsm8k.path}" in output
    assert main(["list", *where]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in CATALOGUE)
    assert (
        "built: train 3; in" in output
        and output.count("not built") == len(CATALOGUE) - 1
    )


def _preview(student, path, **options):
    return main(
        [
            "preview",
            *rig.command(
                {
                    "rows": 2,
                    "student.path": student,
                    "target.name": "sft",
                    "data.source": "jsonl",
                    "data.path": path,
                    "data.fields.prompt": "q",
                    "data.fields.response": "a",
                    "data.max_length": 32,
                    "cache_dir": path.parent / "cache",
                    **options,
                }
            ),
        ]
    )


def test_preview_uses_the_students_tokenizer_and_the_evaluation(
    folders, tmp_path, capsys
):
    path, test = tmp_path / "rows.jsonl", tmp_path / "test.jsonl"
    rows = [{"q": "1+1=?", "a": "2"}, {"q": "2+2=?", "a": "4"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    test.write_text(json.dumps(rows[1]))
    evaluation = {
        "evaluation.data.source": "jsonl",
        "evaluation.data.path": test,
        "evaluation.data.fields.prompt": "q",
        "evaluation.data.fields.answer": "a",
    }
    assert _preview(folders["student"], path, **evaluation) == 0
    output = capsys.readouterr().out
    assert "<|user|>1+1=?<|assistant|>⟦2<|end|>⟧" in output.splitlines()
    assert "overlap with the 1 problems of the evaluation" in output
    assert "same question                  1" in output
    assert _preview(folders["student"], path) == 0
    output = capsys.readouterr().out
    # The second preview reads the cache of the first.
    assert "tokens from the cache" in output and "there is no evaluation" in output


def test_preview_needs_no_teacher(folders, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "1+1", "a": "2"}\n' * 3)
    assert _preview(folders["student"], path, **{"target.name": "target_sft"}) == 0
    assert "rows read            3" in capsys.readouterr().out


def test_preview_shows_the_rows_of_a_teacher_with_a_prompt(folders, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "1+1", "a": "2", "hint": "two"}\n' * 3)
    keys = {"target.name": "kd", "teacher.prompt": "{q} Hint: {hint}", "rows": 1}
    assert _preview(folders["student"], path, **keys) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = "<|user|>1+1 Hint: two<|assistant|>⟦2<|end|>⟧"
    assert lines.count(shown) == lines.count("<|user|>1+1<|assistant|>⟦2<|end|>⟧") > 0
    assert any(line.startswith("row 0 of the teacher: ") for line in lines)
    assert any("teacher's rows       64 tokens" in line for line in lines)


def test_preview_of_unusable_data_or_keys_fails_with_its_exit_code(
    folders, tmp_path, capsys
):
    student, path = folders["student"], tmp_path / "none.jsonl"
    assert _preview(student, path) == 1
    assert "none.jsonl: no such file" in capsys.readouterr().err
    assert _preview(student, path, **{"data.thinking": "loud"}) == 2
    assert "data.thinking is 'loud'; expected one of keep" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["make"], ["list", "--no-such", "x"]])
def test_unknown_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage:" in capsys.readouterr().err
