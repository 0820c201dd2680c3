"""A teacher with a prompt of its own: aligned by trained token, refused otherwise."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rig

from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.config.load import load
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.prompted import aligned, prompted_examples
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.teacher_cache import TOP_K, open_cache
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.models import decoder
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.teachers.make import make_cache
from targetsft_jax.training.session import open_session

TOKENIZER = byte_tokenizer()
PROMPT = "{question} The solution is {solution}, so answer:"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """File of rows of different lengths."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [
        {"question": f"{n} + 1?", "solution": "x" * (n % 7 + 1), "answer": str(n + 1)}
        for n in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def _config(folders, rows, tmp_path, prompt=PROMPT, **more):
    keys = {
        "teacher__cache": tmp_path / "cache",
        "data__source": "jsonl",
        "data__path": rows,
        "data__fields__prompt": "question",
        "data__fields__response": "answer",
        "data__synthetic__examples": None,
        "teacher__prompt": prompt,
        **more,
    }
    keys = {name: value for name, value in keys.items() if value is not None}
    arguments = rig.small_run(folders, tmp_path / "run", **keys)
    index = arguments.index("--data.synthetic.examples")
    del arguments[index : index + 2]
    return load(arguments)


def test_entries_are_those_of_the_teachers_own_rows(folders, rows, tmp_path):
    config = _config(folders, rows, tmp_path)
    make_cache(config, TOP_K, 5)
    session = open_session(config)
    cache, examples = session.dataset.teacher, session.dataset.examples
    own = prompted_examples(config.data, TOKENIZER, PROMPT)
    teacher = open_model(folders["teacher"])
    params = teacher.load(make_mesh(devices=jax.devices()[:1]), jnp.float32)
    for number in (0, 13, 39):
        example = own.take(number)
        text = TOKENIZER.decode(example.tokens)
        assert f"{number} + 1? The solution is x" in text
        hidden = decoder.apply(teacher.config, params, example.tokens[None])
        logits = np.asarray(hidden[0] @ decoder.head(params).T, np.float64)
        logits = logits[:-1][example.loss_mask[1:], : len(TOKENIZER)]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        ours = examples.origins.index(example.origin)
        entries = cache.shards[cache.shard_of[ours]]
        part = slice(cache.starts[ours], cache.starts[ours] + cache.counts[ours])
        expected = -np.sort(-log_p, -1)[:, :5]
        np.testing.assert_allclose(entries["log_probs"][part], expected, rtol=2e-3)
    with pytest.raises(ValueError, match="teacher.prompt was .* and is 'Another"):
        other = dataclasses.replace(config.teacher, prompt="Another {question}")
        open_session(dataclasses.replace(config, teacher=other))


def test_examples_that_do_not_align_are_refused_by_row(rows):
    data = DataConfig(
        source="jsonl",
        path=str(rows),
        fields=dataclasses.replace(
            DataConfig().fields, prompt="question", response="answer"
        ),
    )
    student = prepare(data, TOKENIZER).train.examples
    own = prompted_examples(data, TOKENIZER, PROMPT)
    np.testing.assert_array_equal(aligned(own, student), np.arange(40))
    shuffled = np.random.default_rng(0).permutation(40)
    reordered = dataclasses.replace(
        own,
        starts=own.starts[shuffled],
        lengths=own.lengths[shuffled],
        origins=[own.origins[i] for i in shuffled],
    )
    np.testing.assert_array_equal(aligned(reordered, student), np.argsort(shuffled))
    tokens = own.columns["tokens"].copy()
    trained = own.starts[7] + np.flatnonzero(own.take(7).loss_mask)[0]
    tokens[trained] += 1
    changed = dataclasses.replace(own, columns={**own.columns, "tokens": tokens})
    with pytest.raises(RowError, match="rows.jsonl:8: under .* differ .* number 0 of"):
        aligned(changed, student)


def test_a_generated_problem_may_show_its_correct_answer():
    data = DataConfig(
        synthetic=dataclasses.replace(
            DataConfig().synthetic, examples=5, label_noise=1.0
        )
    )
    own = prompted_examples(data, TOKENIZER, "{prompt} ({answer})")
    student = prepare(data, TOKENIZER).train.examples
    np.testing.assert_array_equal(aligned(own, student), np.arange(5))
    assert "(" in TOKENIZER.decode(own.take(0).tokens)


def test_refuses_rows_without_a_prompt(tmp_path):
    path = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path.write_text(json.dumps({"messages": turns}))
    data = DataConfig(source="jsonl", path=str(path))
    with pytest.raises(ValueError, match="has no prompt to replace"):
        prompted_examples(data, TOKENIZER, "{question}")


def test_a_prompt_beyond_the_positions_is_refused(folders, rows, tmp_path):
    config = _config(folders, rows, tmp_path, prompt="{question}" + "z" * 3000)
    with pytest.raises(ValueError, match="tokens under teacher.prompt"):
        make_cache(config, TOP_K, 5)


def test_covers_the_examples(folders, rows, tmp_path):
    config = _config(folders, rows, tmp_path, validation__examples=5)
    make_cache(config, TOP_K, 3)
    session = open_session(config)
    assert session.validation.dataset.teacher.counts.min() > 0
    examples = session.dataset.examples
    folder = tmp_path / "cache" / "data"
    assert len(open_cache(folder, examples, {}, "").shards) == 1
