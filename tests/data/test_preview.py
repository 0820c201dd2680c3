"""The preview command: rows as the model sees them, and what repeats."""

import json

from support import rig

from targetsft_jax.datasets import main


def _preview(folders, path, capsys, *more, **options):
    arguments = {
        "rows": 1,
        "student.path": folders["student"],
        "target.name": "sft",
        "data.source": "jsonl",
        "data.path": path,
        "data.fields.prompt": "q",
        "data.fields.response": "a",
        "data.max_length": 32,
        "data.on_bad_row": "skip",
        "cache_dir": path.parent / "cache",
        **options,
    }
    status = main(["preview", *rig.command(arguments), *more])
    return status, capsys.readouterr()


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_are_shown_and_all_is_counted(folders, tmp_path, capsys):
    rows = [
        {"q": "1+1=?", "a": "2"},
        {"q": "2+2=?", "a": "4"},
        {"q": "1+1=?", "a": "two"},
        {"q": "1+1=?", "a": "2"},
        {"q": "no answer"},
        {"q": "long", "a": "x" * 50},
    ]
    path = _write(tmp_path / "rows.jsonl", rows)
    asked = _write(tmp_path / "test.jsonl", [{"q": "2+2=?", "a": "4"}])
    status, said = _preview(
        folders,
        path,
        capsys,
        **{
            "rows": 9,
            "evaluation.data.source": "jsonl",
            "evaluation.data.path": asked,
            "evaluation.data.fields.prompt": "q",
            "evaluation.data.fields.answer": "a",
        },
    )
    assert status == 0, said.err
    lines = said.out.splitlines()
    assert "<|user|>1+1=?<|assistant|>⟦2<|end|>⟧" in lines
    assert "<|user|>2+2=?<|assistant|>⟦4<|end|>⟧" in lines
    assert any(line.startswith("  segment 2: ") for line in lines)
    # Nine of the three rows that there are: each as often as the first batch has it.
    assert sum(line.startswith("row ") for line in lines) == 9
    assert "  segment 1: 32 tokens, 26 trained" in said.out
    expected = {
        "rows read": "6",
        "bad rows skipped": "1",
        "truncated": "1",
        "same conversation": "1",
        "same prompt, another response": "1",
        "same question": "1",
        "30 consecutive words": "0",
    }
    for name, count in expected.items():
        (line,) = (line for line in lines if line.strip().startswith(name))
        assert line.split()[-1] == count, line
    assert "rows.jsonl:4 and rows.jsonl:1" in said.out
    assert "rows.jsonl:2 and" in said.out
    # A second look reads what the first one kept.
    assert "tokens from the cache" in _preview(folders, path, capsys)[1].out


def test_what_cannot_be_shown_is_said(folders, tmp_path, capsys):
    status, said = _preview(folders, tmp_path / "none.jsonl", capsys)
    assert status == 1 and "none.jsonl: no such file" in said.err
    path = _write(tmp_path / "rows.jsonl", [{"q": "a", "a": "b"}])
    status, said = _preview(folders, path, capsys, **{"data.thinking": "loud"})
    assert status == 2 and "data.thinking is 'loud'; expected one of keep" in said.err
