"""The banner counts every row that a run reads, and how the training uses them."""

import json

from support import rig

from targetsft_jax.config.load import load
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.training.banner import print_session
from targetsft_jax.training.session import open_session


def test_rows_of_training_validation_and_evaluation_are_counted(
    folders, tmp_path, capsys
):
    """Also a column that the method does not read."""
    row = {"q": "1+1?", "a": "2", "critical_mask": 1}
    good, bad = json.dumps(row), json.dumps(row | {"a": float("nan")})
    arguments = {
        "target.name": "sft",
        "data.packing": "false",
        "train.steps": "null",
        "evaluation.problems": 5,
        "evaluation.include_teacher": "false",
    }
    for section, lines in (
        ("data", [good] * 9 + [bad]),
        ("validation.data", [good, bad, bad]),
        ("evaluation.data", [good, good, bad]),
    ):
        path = tmp_path / f"{section}.jsonl"
        path.write_text("\n".join(lines))
        arguments |= {
            f"{section}.source": "jsonl",
            f"{section}.path": path,
            f"{section}.fields.prompt": "q",
            f"{section}.fields.response": "a",
            f"{section}.on_bad_row": "skip",
            f"{section}.max_dropped": 1,
            f"{section}.max_length": 64,
        }
    arguments["evaluation.data.fields.answer"] = "a"
    run_dir = RunDir(tmp_path / "run")
    small = rig.small_run(folders, run_dir.path)
    cut = small.index("--data.synthetic.examples")
    del small[cut : cut + 2]
    print_session(open_session(load([*small, *rig.command(arguments)])), run_dir)
    text = capsys.readouterr().out
    assert (
        "rows used            9 rows, batch size 8: 1 step uses 8 rows; 1 of 9" in text
    )
    assert "columns not read     critical_mask (by this method)" in text
    for title, rows, skipped in (
        ("data", 10, 1),
        ("validation data", 3, 2),
        ("problems", 3, 1),
    ):
        section = text.split(f"\n{title}\n")[1]
        read, bad_rows = section.index("rows read"), section.index("bad rows skipped")
        assert section[read:].split()[2] == str(rows)
        assert section[bad_rows:].split()[3] == str(skipped)
