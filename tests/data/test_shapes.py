"""Rows of every shape are the same tokens; ambiguous and unknown ones are refused."""

import dataclasses
import gzip
import json

import pytest
from support import tables
from support.tables import load_all

from targetsft_jax.data.chat import stop_tokens
from targetsft_jax.data.config import DataConfig, SourceConfig, validate
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.records import problems
from targetsft_jax.data.shapes import SHAPES
from targetsft_jax.data.tokenizer import byte_tokenizer

PAIRS = [("1+1=?", "2"), ("Add these.\n\n2+2", "4"), ("3+3=?", "6")]


def _turns(question, answer, names=("role", "content", "user", "assistant")):
    role, content, user, assistant = names
    return [{role: user, content: question}, {role: assistant, content: answer}]


def _alpaca(question, answer):
    instruction, _, text = question.partition("\n\n")
    return {"instruction": instruction, "input": text, "output": answer}


# The shape of `data.format` and its variants -> a row from a question and its answer.
ROWS = {
    "messages": lambda q, a: {"messages": _turns(q, a)},
    "messages, text parts": lambda q, a: {
        "messages": _turns(
            [{"type": "text", "text": q[:2]}, {"type": "text", "text": q[2:]}],
            [{"type": "text", "text": a}],
        )
    },
    "sharegpt": lambda q, a: {
        "conversations": _turns(q, a, ("from", "value", "human", "gpt"))
    },
    "sharegpt, role and content": lambda q, a: {"conversations": _turns(q, a)},
    "alpaca": _alpaca,
    "alpaca, null": lambda q, a: {"instruction": q, "input": None, "output": a},
    "alpaca, no input": lambda q, a: {"instruction": q, "output": a},
    "prompt_completion": lambda q, a: {"prompt": q, "completion": a},
    "prompt_completion, turns": lambda q, a: {
        "prompt": _turns(q, a)[:1],
        "completion": _turns(q, a)[1:],
    },
    "question_answer": lambda q, a: {"question": q, "answer": a},
}
# Rows without roles, which are other tokens.
TEXT = {"text": "1 + 1 = 2\n"}


def _write(folder, shape, pairs, kind="jsonl"):
    """Data section with the rows of a shape, which the columns alone identify."""
    rows = [{"id": i, **ROWS[shape](*pair)} for i, pair in enumerate(pairs)]
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        tables.write_parquet(path, rows)
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=2))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return DataConfig(path=str(path))


def test_every_shape_has_rows_above():
    assert {name.partition(",")[0] for name in ROWS} == {*SHAPES} - {"text"}


@pytest.fixture(scope="module")
def gsm8k(shared):
    """200 real problems; every second one has a paragraph break."""
    with gzip.open(shared / "data" / "gsm8k" / "train.jsonl.gz") as file:
        rows = [json.loads(line) for _, line in zip(range(200), file)]
    questions = [row["question"].strip() for row in rows]
    questions[::2] = [text.replace(". ", ".\n\n", 1) for text in questions[::2]]
    return list(zip(questions, (row["answer"] for row in rows), strict=True))


def _fingerprint(config):
    config = dataclasses.replace(config, max_length=4096)
    dataset = prepare(config, byte_tokenizer()).train
    assert dataset.report.examples == 200 and not dataset.report.bad
    return dataset.fingerprint


@pytest.fixture(scope="module")
def expected(gsm8k, tmp_path_factory):
    """Fingerprint of the tokens of `messages`."""
    return _fingerprint(_write(tmp_path_factory.mktemp("rows"), "messages", gsm8k))


@pytest.mark.parametrize(
    "shape, kind",
    [(shape, "jsonl") for shape in ROWS]
    + [
        (shape, kind)
        for shape in sorted({*SHAPES} & {*ROWS})
        for kind in ("json", "parquet")
    ],
)
def test_real_rows_of_every_shape_are_the_same_tokens(
    shape, kind, gsm8k, expected, tmp_path
):
    config = _write(tmp_path, shape, gsm8k, kind)
    assert _fingerprint(config) == expected
    if kind == "jsonl" and shape in SHAPES:
        explicit = dataclasses.replace(config, format=shape.partition(",")[0])
        assert _fingerprint(explicit) == expected


@pytest.mark.parametrize("shape", ROWS)
def test_the_shape_is_reported_with_the_columns_that_are_not_read(shape, tmp_path):
    for kind in ("jsonl", "parquet"):
        _, report = load_all(_write(tmp_path, shape, PAIRS, kind))
        title = SHAPES[shape.partition(",")[0]].title
        assert report.read_as == {f"rows.{kind}": f"{title} (columns not read: id)"}
        line = f"read as              {title} (columns not read: id)"
        assert line in report.lines()


def test_an_empty_input_leaves_no_blank_line(tmp_path):
    rows = [
        {"instruction": "Sing.", "input": text, "output": "La."}
        for text in ("", " \n", None, "A song.")
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    records, _ = load_all(DataConfig(source="jsonl", path=str(path)))
    prompts = [record.messages[0]["content"] for record in records]
    assert prompts == ["Sing.", "Sing.", "Sing.", "Sing.\n\nA song."]


def test_a_system_column_and_the_keys_of_a_user_are_added(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = ROWS["sharegpt"]("1+1=?", "2")
    rows = [row | {"system": "Be brief.", "gold": "2"}, row | {"gold": 2}]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = DataConfig(
        source="jsonl",
        path=str(path),
        fields=FieldMap(answer="gold"),
        where={"gold": 2},
    )
    records, report = load_all(config)
    roles = [[turn["role"] for turn in record.messages] for record in records]
    assert roles == [["system", "user", "assistant"], ["user", "assistant"]]
    assert [record.answer for record in records] == ["2", "2"]
    assert report.read_as == {"rows.jsonl": "ShareGPT"}
    assert [p.answer for p in problems(config)] == ["2", "2"]


def test_the_answer_of_a_question_is_its_gold_answer(tmp_path):
    (problem,) = problems(_write(tmp_path, "question_answer", PAIRS[:1]))
    assert (problem.messages[-1]["content"], problem.answer) == ("1+1=?", "2")
    with pytest.raises(ValueError, match="no gold answer: set fields.answer"):
        problems(_write(tmp_path, "alpaca", PAIRS))


def test_each_source_of_a_mixture_has_its_own_shape(tmp_path):
    sources = []
    for name, shape in (("a", "sharegpt"), ("b", "alpaca")):
        (tmp_path / name).mkdir()
        config = _write(tmp_path / name, shape, PAIRS)
        sources.append(SourceConfig(source="jsonl", path=config.path, name=name))
    records, report = load_all(DataConfig(mixture=sources))
    assert [r.messages for r in records] == [_turns(*pair) for pair in PAIRS] * 2
    lines = [line for line in report.lines() if line.startswith("read as")]
    assert [line[21:29] for line in lines] == ["a: Share", "b: Alpac"]


def _config(folder, *rows, **keys):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return DataConfig(source="jsonl", path=str(path), **keys)


def test_rows_that_fit_two_shapes_are_refused_with_both(tmp_path):
    both = ROWS["messages"]("1+1=?", "2") | ROWS["alpaca"]("1+1=?", "2")
    with pytest.raises(
        ValueError, match="several shapes of rows, messages, alpaca; se"
    ):
        load_all(_config(tmp_path, both))
    records, _ = load_all(_config(tmp_path, both, format="alpaca"))
    assert len(records) == 1
    # As two kinds of rows in one file, too.
    one, other = ROWS["messages"]("?", "2"), ROWS["alpaca"]("1+1=?", "2")
    with pytest.raises(
        ValueError, match=r"rows.jsonl:1: .* messages, alpaca; set data"
    ):
        load_all(_config(tmp_path, one, other))
    # A table has every column in every row.
    null = dict.fromkeys(ROWS["alpaca"]("", ""))
    records, _ = load_all(_config(tmp_path, one | null))
    assert records[0].messages == _turns("?", "2")


def test_an_unknown_shape_names_the_columns_and_what_to_type(tmp_path):
    config = _config(tmp_path, {"problem": "1+1", "Solution": "2", "n": 1})
    with pytest.raises(ValueError) as error:
        load_all(config)
    message = str(error.value)
    assert message.startswith(f"{config.path}:1: the columns problem, Solution, n fit")
    assert "--data.fields.prompt problem --data.fields.response Solution" in message
    for name, shape in SHAPES.items():
        assert f"{name} ({', '.join(shape.columns)})" in message
    named = FieldMap(prompt="problem", response="Solution")
    records, report = load_all(dataclasses.replace(config, fields=named))
    assert records[0].messages == _turns("1+1", "2")
    title = "prompt 'problem', response 'Solution' (columns not read: n)"
    assert report.read_as == {"rows.jsonl": title}
    with pytest.raises(
        ValueError, match="fields.prompt PROMPT --data.fields.response R"
    ):
        load_all(_config(tmp_path, {"x": "1+1", "y": "2"}))


def test_unusable_rows_do_not_decide_the_shape(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps(ROWS["alpaca"]("1+1=?", "2"))
    path.write_text("\n".join(["{", "[]", *["{}"] * 3, good]))
    config = DataConfig(source="jsonl", path=str(path), on_bad_row="skip")
    records, report = load_all(config)
    assert len(records) == 1 and report.bad == 5
    path.write_text("\n".join(["{"] * 3))
    assert load_all(config)[1].bad == 3
    with pytest.raises(ValueError, match="rows.jsonl:1: not JSON"):
        load_all(dataclasses.replace(config, on_bad_row="error"))


def test_a_row_of_another_shape_is_refused_by_its_row(tmp_path):
    rows = [ROWS["sharegpt"]("1+1=?", "2")] * 20 + [ROWS["alpaca"]("1+1=?", "2")]
    with pytest.raises(
        ValueError, match=":21: field 'conversations' is missing; the ro"
    ):
        load_all(_config(tmp_path, *rows))


@pytest.mark.parametrize(
    "keys, message",
    [
        (
            {"source": "synthetic"},
            "data.format is 'alpaca'; expected auto, since source",
        ),
        (
            {"source": "jsonl", "path": "a", "fields": FieldMap(prompt="q")},
            "expected auto, since data.fields.prompt is set",
        ),
        (
            {"source": "jsonl", "path": "a", "fields": FieldMap(messages="turns")},
            "expected auto, since data.fields.messages is set",
        ),
    ],
)
def test_a_format_beside_a_key_that_replaces_it_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        validate(DataConfig(format="alpaca", **keys))
    validate(DataConfig(**keys))


def test_the_cache_depends_on_the_format(tmp_path):
    config = _write(tmp_path, "question_answer", PAIRS)
    both = ROWS["alpaca"]("3+3=?", "6") | ROWS["question_answer"]("1+1=?", "2")
    config = _config(tmp_path, both, max_length=64)
    prints = set()
    for format in ("alpaca", "question_answer", "alpaca"):
        chosen = dataclasses.replace(config, format=format)
        dataset = prepare(chosen, byte_tokenizer(), tmp_path / "cache").train
        prints.add(dataset.fingerprint)
        (answer,) = (b"6" if format == "alpaca" else b"2",)
        assert answer in bytes(
            dataset.example.tokens[dataset.example.loss_mask][:-1].tolist()
        )
    assert len(prints) == 2 and "from the cache" in dataset.cache_log[0]
    assert "read as              Alpaca" in "\n".join(dataset.report.lines())


def _text_example(tokenizer, folder, **keys):
    return prepare(_config(folder, TEXT, **keys), tokenizer).train.example


@pytest.mark.parametrize("template", [True, False])
def test_every_token_of_a_text_and_its_end_are_trained(template, tmp_path):
    """The tokens are those of the tokenizer; a base model needs no chat template."""
    tokenizer = byte_tokenizer()
    if not template:
        tokenizer.chat_template = None
    expected = [*tokenizer(TEXT["text"])["input_ids"], tokenizer.eos_token_id]
    cache = tmp_path / "cache"
    config = _config(tmp_path, TEXT)
    dataset = prepare(config, tokenizer, cache).train
    assert dataset.example.tokens.tolist() == expected
    assert dataset.example.loss_mask.all()
    # Nothing precedes the first token, so it is not predicted.
    assert dataset.report.trained_tokens == len(expected) - 1
    assert dataset.report.read_as == {"rows.jsonl": "text"}
    assert dataset.report.mask_from == "the end of each text"
    for keys in ({"format": "text"}, {"fields": FieldMap(text="{text}")}):
        example = _text_example(tokenizer, tmp_path, **keys)
        assert example.tokens.tolist() == expected
    assert stop_tokens(tokenizer) == [tokenizer.eos_token_id]


def test_a_text_begins_as_the_tokenizer_does(tmp_path):
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    expected = [*tokenizer(TEXT["text"])["input_ids"], tokenizer.eos_token_id]
    example = _text_example(tokenizer, tmp_path)
    assert example.tokens.tolist() == expected
    assert example.tokens[0] == tokenizer.bos_token_id
    assert example.loss_mask.tolist() == [False] + [True] * (len(expected) - 1)


def test_texts_beside_conversations_and_other_columns(tmp_path):
    """As in the published Alpaca rows, whose column `text` repeats the others."""
    row = ROWS["alpaca"]("1+1=?", "2")
    records, report = load_all(_config(tmp_path, row | TEXT))
    assert records[0].messages == _turns("1+1=?", "2")
    assert report.read_as == {"rows.jsonl": "Alpaca (columns not read: text)"}
    names = []
    for name, content in (("a", row), ("b", TEXT)):
        (tmp_path / name).mkdir()
        path = _config(tmp_path / name, content).path
        names.append(SourceConfig(path=path, name=name))
    tokenizer = byte_tokenizer()
    mixture = DataConfig(mixture=names, max_length=64)
    dataset = prepare(mixture, tokenizer).train
    assert dataset.report.examples == 2
    assert dataset.report.read_as == {"a": "Alpaca", "b": "text"}
    assert dataset.report.mask_from.startswith("the end of each text; the chat templ")
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template, as that of a base"):
        prepare(mixture, tokenizer)


def test_a_text_that_cannot_be_used_is_refused(tmp_path):
    tokenizer = byte_tokenizer()
    for text, problem in (
        ("", "field 'text' is empty"),
        ("a <|end|> b", "contains '<.end.>'"),
        ("<think> open", None),
    ):
        config = _config(tmp_path, {"text": text}, max_length=32)
        if problem is None:
            assert prepare(config, tokenizer).train.report.examples == 1
            continue
        with pytest.raises(ValueError, match=f"rows.jsonl:1: .*{problem}"):
            prepare(config, tokenizer)
    config = _config(tmp_path, TEXT | {"gold": 1}, fields=FieldMap(answer="gold"))
    with pytest.raises(ValueError, match="a text has no question; expected another"):
        problems(config)
    for fields in (FieldMap(text="text", prompt="q"), FieldMap(text="text", tools="t")):
        with pytest.raises(ValueError, match="expected null, since data.fields.text"):
            validate(DataConfig(path="a", fields=fields))
    with pytest.raises(ValueError, match="expected auto, since data.fields.text"):
        validate(DataConfig(path="a", format="text", fields=FieldMap(text="body")))
