"""The teacher of a page under a prompt of its own, against its dense logits."""

import json

import jax
import numpy as np
from support import rig

from targetsft_jax.data.teacher_rows import TeacherPrompt
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.inspection.command import read_config
from targetsft_jax.inspection.models import Selection, load_models
from targetsft_jax.inspection.rows import read_rows
from targetsft_jax.models.decoder import apply, head


def test_the_initial_student_sees_its_own_prompt(folders, tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"q": f"{n}+1", "a": str(n + 1), "h": "x" * 20 * n} for n in (1, 12)]
    path.write_text("\n".join(map(json.dumps, lines)))
    keys = {
        "student.path": folders["student"],
        "teacher.prompt": "{q} Hint: {h}",
        "data.path": path,
        "data.fields.prompt": "q",
        "data.fields.response": "a",
    }
    config, tokenizer = read_config(rig.command(keys)), byte_tokenizer()
    rows = read_rows(config.data, tokenizer, 2, TeacherPrompt("{q} Hint: {h}", 512))
    models = load_models(config, Selection())
    # One model, which is loaded once.
    assert models.params["teacher"] is models.params["student"]
    for example, other, line in zip(rows.examples, rows.teacher, lines):
        assert f"Hint: {line['h']}" in tokenizer.decode(other.tokens)
        at = np.zeros(len(example.tokens), int)
        ours, theirs = (np.flatnonzero(x.loss_mask) for x in (example, other))
        at[ours - 1] = theirs - 1
        reads = other.tokens, at
        chunks = list(models.chunks(example.tokens, 260, reads))
        found = np.concatenate([chunk["teacher"] for chunk in chunks])
        params, tokens = models.params["teacher"], other.tokens[None]
        hidden = jax.jit(lambda x: apply(rig.STUDENT, params, x))(tokens)[0]  # noqa: B023
        dense = (hidden @ head(params).T)[:, :260]
        np.testing.assert_allclose(
            found[ours - 1], dense[theirs - 1], rtol=1e-4, atol=1e-4
        )
