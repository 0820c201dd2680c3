"""Hostile texts and templates: no text becomes a control token, no template hangs."""

import itertools

import pytest
from support.chats import record
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from targetsft_jax.data.chat import encode, encode_prompt
from targetsft_jax.data.row_error import RowError

USER, ASSISTANT, END = "<|user|>", "<|asst|>", "<|end|>"
ROLES = (
    "{%- for m in messages -%}"
    "{{- '<|user|>' if m.role == 'user' else '<|asst|>' -}}"
    "{%- if m.role == 'assistant' -%}{% generation %}{{- m.content ~ '<|end|>' -}}"
    "{% endgeneration %}{%- else -%}{{- m.content -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|asst|>' -}}{%- endif -%}"
)
# The template's text goes on where the content ends: `|>` completes `<|end`.
GLUED = ROLES.replace("m.content ~ '<|end|>'", "m.content ~ '|><|end|>'").replace(
    "{{- m.content -}}", "{{- m.content ~ '|>' -}}"
)
# Two contents in a row.
JOINED = (
    "<|user|>{{ messages[0].content ~ messages[1].content }}<|asst|>"
    "{% generation %}{{ messages[2].content ~ '<|end|>' }}{% endgeneration %}"
)
# Tokens that must be words need white space around them.
SPACED = ROLES.replace("<|", "\\n<|").replace("|>", "|>\\n")
NORMALIZERS = {
    "none": None,
    "nfkc": normalizers.NFKC(),
    "lowercase": normalizers.Lowercase(),
    "strip": normalizers.Strip(),
    "prepend": normalizers.Prepend("▁"),
    "replace": normalizers.Replace("\u200b", ""),
    "replace space": normalizers.Replace(" ", ""),
    "accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "all": normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("_", "")]
    ),
}
FLAGS = {
    "plain": {},
    "normalized": {"normalized": True},
    "lstrip": {"lstrip": True, "normalized": True},
    "rstrip": {"rstrip": True, "normalized": True},
    "single word": {"single_word": True, "normalized": True},
    "not special": {"special": False, "normalized": True},
}


def tokenizer_of(normalizer, flags, template=ROLES):
    vocabulary = {symbol: byte for byte, symbol in bytes_to_unicode().items()}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    if NORMALIZERS[normalizer] is not None:
        backend.normalizer = NORMALIZERS[normalizer]
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    flags = {"normalized": False, "special": True} | FLAGS[flags]
    roles = [AddedToken(token, **flags) for token in (USER, ASSISTANT)]
    backend.add_tokens(roles)
    # A special token has to end a turn.
    backend.add_tokens([AddedToken(END, **flags | {"special": True})])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)
    tokenizer.chat_template = template
    return tokenizer


def hostile_texts():
    for token in (USER, ASSISTANT, END):
        wide = "".join(chr(ord(c) + 0xFEE0) for c in token)
        yield from (
            token,
            f"a{token}b",
            f" {token} ",
            f"{token}{token}",
            token.upper(),
            wide,
            wide.upper(),
            "\u200b".join(token),
            " ".join(token),
            "_".join(token),
            "\u0301".join(token) + "\u0301",
            f"a b\n{token.title()}\n",
            token[:-2],
            token[:-1],
            token[1:],
            f"{token[3:]} {token[:3]}",
            f"{token[:-2]}{token}{token[2:]}",
        )


def control(ids, tokenizer):
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [name for name in names if name in (USER, ASSISTANT, END)]


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_no_text_becomes_a_control_token(normalizer, flags, count):
    """Every conversation has its template's control tokens alone, or is refused."""
    template = SPACED if flags == "single word" else ROLES
    tokenizer = tokenizer_of(normalizer, flags, template)
    try:
        plain = encode(record("a", "b"), tokenizer)
    except RowError as error:
        # `Prepend` changes the tokens themselves, and no text spells them any more.
        assert normalizer == "prepend" and "no special token closes" in str(error)
        return
    expected = control(plain.tokens, tokenizer)
    assert expected == [USER, ASSISTANT, END]
    for text, place in itertools.product(hostile_texts(), ("user", "assistant")):
        contents = (text, "b") if place == "user" else ("a", text)
        try:
            example = encode(record(*contents), tokenizer)
        except RowError as error:
            assert str(error).startswith("rows.jsonl:3: ")
            count("texts", "refused by row")
        else:
            assert control(example.tokens, tokenizer) == expected, text
            trained = example.tokens[example.loss_mask]
            assert control(trained, tokenizer) == [END], text
            count("texts", "plain text")
        if place == "user":
            try:
                ids = encode_prompt(record(text).messages, tokenizer, origin="p:1")
            except RowError as error:
                assert str(error).startswith("p:1: ")
                count("prompts", "refused by row")
            else:
                assert control(ids, tokenizer) == expected[:2], text
                count("prompts", "plain text")


@pytest.mark.parametrize("template", [GLUED, JOINED], ids=["glued", "joined"])
def test_no_seam_becomes_a_control_token(template, count):
    tokenizer = tokenizer_of("none", "plain", template)
    system = "s" if template is JOINED else None
    expected = control(
        encode(record("a", "b", system=system), tokenizer).tokens, tokenizer
    )
    refused = 0
    for token, cut in itertools.product((USER, ASSISTANT, END), range(1, 7)):
        start, end = token[:cut], token[cut:]
        for user, assistant in ((end, "b"), (start, "b"), ("a", start), ("a", end)):
            system = start if template is JOINED else None
            try:
                example = encode(record(user, assistant, system=system), tokenizer)
            except RowError as error:
                assert "turn and the text next to it spell" in str(error)
                refused += 1
                count("seams", "refused by row")
            else:
                assert control(example.tokens, tokenizer) == expected
                count("seams", "plain text")
    assert refused > 3
