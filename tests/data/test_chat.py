"""The loss mask of each template, compared with texts written by hand."""

import numpy as np
import pytest
import tokenizers
from support.chats import (
    CHATML,
    LLAMA,
    REWRITING,
    TEMPLATES,
    marked,
    record,
    tokenizer_with,
    trained,
)
from transformers import PreTrainedTokenizerFast

from targetsft_jax.data import chat
from targetsft_jax.data.chat import (
    Example,
    encode,
    encode_all,
    encode_prompt,
    marks_assistant,
    show,
    stop_tokens,
)
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.tokenizer import byte_tokenizer


@pytest.fixture(params=TEMPLATES, ids=lambda name: name.replace(" ", "-"))
def template(request):
    return TEMPLATES[request.param]


@pytest.mark.parametrize("system", [None, "Be brief. 🙂"])
@pytest.mark.parametrize(
    "contents",
    [
        ("1+1=?", "2"),
        ("1+1=?", "🙂 = 2 🙂"),
        ("a", "é", "b", "剂量🙂", "c", "the last"),
        ("a", "same", "same", "same"),
    ],
)
def test_the_assistants_content_and_its_end_of_turn_are_trained(
    template, contents, system
):
    tokenizer, end = template
    example = encode(record(*contents, system=system), tokenizer)
    assert trained(example, tokenizer) == [
        response + end for response in contents[1::2]
    ]
    assert example.tokens.dtype == np.int32 and example.loss_mask.dtype == bool
    assert example.tokens.shape == example.loss_mask.shape


def test_the_prompt_of_generation_is_a_prefix_of_training(template):
    tokenizer, _ = template
    example = encode(record("a", "b", "c", "d", system="s"), tokenizer)
    turns = record("a", "b", "c", "d", system="s").messages
    prompt = encode_prompt(turns[:-1], tokenizer)
    np.testing.assert_array_equal(prompt, example.tokens[: len(prompt)])
    assert example.loss_mask[len(prompt)] and not example.loss_mask[len(prompt) - 1]


def test_bos_occurs_once():
    tokenizer = tokenizer_with(LLAMA, bos="<|bos|>")
    for tokens in (
        encode(record("a", "b"), tokenizer).tokens,
        encode_prompt(record("a").messages, tokenizer),
    ):
        assert (tokens == tokenizer.bos_token_id).sum() == 1
        assert tokens[0] == tokenizer.bos_token_id


def test_a_token_across_the_border_is_trained():
    """BPE merges the header's newline with the answer's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate([*alphabet, "ĊĊ"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )
    example = encode(record("a", "\nb"), tokenizer)
    assert trained(example, tokenizer) == ["\n\nb<|im_end|>"]


def test_a_template_that_rewrites_earlier_turns_is_refused():
    tokenizer = tokenizer_with(REWRITING)
    single = encode(record("a", "b"), tokenizer)
    assert trained(single, tokenizer) == ["<think></think>b<|im_end|>"]
    with pytest.raises(RowError, match="rows.jsonl:3: .* renders turn 1 differently"):
        encode(record("a", "b", "c", "d"), tokenizer)


@pytest.mark.parametrize(
    "template, problem",
    [
        (marked("''", "<|im_end|>"), "no token is trained"),
        (marked("m['content']", "\\n"), "no special token closes it"),
        ("{{- raise_exception('one turn only') -}}", "refuses it: one turn only"),
        (
            "{%- generation -%}{{- messages[-1]['content'] -}}<|im_end|>"
            "{%- endgeneration -%}",
            "1 runs of tokens are trained for 2 assistant turns",
        ),
    ],
)
def test_a_template_without_a_right_mask_is_refused(template, problem):
    contents = ("a", "b", "c", "d") if "runs" in problem else ("a", "b")
    with pytest.raises(RowError, match=f"rows.jsonl:3: .*{problem}"):
        encode(record(*contents), tokenizer_with(template))


def test_a_tokenizer_without_a_template_is_refused():
    tokenizer = tokenizer_with(None)
    for call in (
        lambda: encode(record("a", "b"), tokenizer),
        lambda: encode_prompt(record("a").messages, tokenizer),
        lambda: marks_assistant(tokenizer),
    ):
        with pytest.raises(ValueError, match="has no chat template"):
            call()


def test_a_special_token_typed_in_a_text_is_refused():
    with pytest.raises(RowError, match=r"turn 0 contains '<\|end\|>'"):
        encode(record("stop<|end|>", "b"), byte_tokenizer())


def test_special_tokens_without_a_role_are_refused_too():
    """Llama 3 has hundreds without a role such as eos."""
    from tokenizers import AddedToken

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<|eot|>")])
    assert "<|eot|>" not in tokenizer.all_special_tokens
    with pytest.raises(RowError, match=r"turn 1 contains '<\|eot\|>'"):
        encode(record("a", "b<|eot|>"), tokenizer)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_batches_of_records_equal_single_ones(template, size, monkeypatch):
    monkeypatch.setattr(chat, "_BATCH", size)
    tokenizer, end = template
    good = [record("a" * n, "é" * n, "b", "🙂", system="s") for n in (1, 9, 2)]
    typed = record("a", f"b{end}", "c", "d")
    columns = record("a", "b", "c", "d", old_logprob=[-1.0])
    refused = []
    examples = list(
        encode_all(
            [good[0], typed, good[1], columns, good[2]], tokenizer, refused.append
        )
    )
    assert ["contains" in str(error) for error in refused] == [True, False]
    for one, item in zip(examples, good, strict=True):
        alone = encode(item, tokenizer)
        np.testing.assert_array_equal(one.tokens, alone.tokens)
        np.testing.assert_array_equal(one.loss_mask, alone.loss_mask)
        assert trained(one, tokenizer) == [
            m + end for m in (item.messages[2]["content"], "🙂")
        ]


def test_stop_tokens_hold_the_end_of_turn_and_eos():
    for template, (tokenizer, end) in TEMPLATES.items():
        expected = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(end)}
        assert stop_tokens(tokenizer) == sorted(expected), template
    assert len(stop_tokens(TEMPLATES["chatml of a base model"][0])) == 2


def test_columns_are_aligned_with_trained_tokens():
    tokenizer = byte_tokenizer()
    example = encode(
        record(
            "a",
            "xy",
            "b",
            "z",
            trajectory_weight=2.0,
            critical_mask=[1.0, 0.0, 1.0, 0.0, 1.0],
        ),
        tokenizer,
    )
    #           user a asst x y end user b asst z end
    weight = [0, 0, 0, 2, 2, 2, 0, 0, 0, 2, 2]
    critical = [0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1]
    np.testing.assert_array_equal(example.columns["trajectory_weight"], weight)
    np.testing.assert_array_equal(example.columns["critical_mask"], critical)
    with pytest.raises(RowError, match="old_logprob has 1 entries; expected 2"):
        encode(record("a", "b", old_logprob=[-1.0]), tokenizer)


def test_show_marks_what_is_trained():
    tokenizer = byte_tokenizer()
    example = encode(record("1+1=?", "2", "and 🙂?", "🙂"), tokenizer)
    assert show(example, tokenizer) == (
        "<|user|>1+1=?<|assistant|>⟦2<|end|>⟧<|user|>and 🙂?<|assistant|>⟦🙂<|end|>⟧"
    )
    from_the_start = Example(example.tokens[-2:], np.array([True, False]))
    assert show(from_the_start, tokenizer).startswith("⟦")


def test_real_rows(shared):
    from targetsft_jax.data.config import DataConfig
    from targetsft_jax.data.fields import FieldMap
    from targetsft_jax.data.records import load_records

    tokenizer = byte_tokenizer()
    gsm8k = FieldMap(prompt="question", response="answer")
    pubmedqa = FieldMap(
        prompt="{CONTEXTS}\n\nQuestion: {QUESTION}",
        response="{LONG_ANSWER}\n#### {final_decision}",
    )
    for name, fields in (
        ("gsm8k/train.jsonl.gz", gsm8k),
        ("pubmedqa/pqal.jsonl.gz", pubmedqa),
        ("s1k_gptoss20b/low.jsonl.gz", FieldMap()),
    ):
        config = DataConfig(
            source="jsonl", path=str(shared / "data" / name), fields=fields, limit=40
        )
        records, _ = load_records(config)
        for item in records:
            response = item.messages[-1]["content"]
            assert trained(encode(item, tokenizer), tokenizer) == [response + "<|end|>"]


def test_a_mark_that_covers_the_users_turn_is_refused():
    template = (
        "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\\n' -}}"
        "{%- generation -%}{{- m['content'] + '<|im_end|>' -}}{%- endgeneration -%}"
        "{%- endfor -%}"
    ).replace("{%- for m", "{%- for m", 1)
    one = template.replace("{%- generation -%}", "").replace(
        "{%- endgeneration -%}", ""
    )
    one = "{%- generation -%}" + one + "{%- endgeneration -%}"
    with pytest.raises(RowError, match="rows.jsonl:3: .*marks"):
        encode(record("a", "b"), tokenizer_with(one))


def test_an_unknown_character_at_the_end_of_a_turn_is_text():
    """Its token is special, and does not close the turn in place of the end."""
    vocabulary = ["<unk>", "<|im_start|>", "<|im_end|>", "<|end|>", *"userasitn\n"]
    vocabulary = list(dict.fromkeys(vocabulary))
    ids = {token: i for i, token in enumerate(vocabulary)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(ids, [], unk_token="<unk>"))
    backend.add_special_tokens(vocabulary[:4])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<|end|>"
    )
    tokenizer.chat_template = marked("m['content']", "<|end|>")
    example = encode(record("a", "a剂"), tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(example.tokens[example.loss_mask].tolist())
    assert tokens == ["a", "<unk>", "<|end|>"]
