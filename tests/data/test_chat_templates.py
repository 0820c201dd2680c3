"""Named templates: the published prompts letter by letter, and their tokenizers."""

import pytest
from support.chats import record, trained

from targetsft_jax.data.bundled_templates import names, usable
from targetsft_jax.data.chat import (
    encode,
    encode_prompt,
    marks_assistant,
    stop_tokens,
)
from targetsft_jax.data.chat_templates import with_template
from targetsft_jax.data.config import DataConfig, SyntheticConfig
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.tokenizer import byte_tokenizer

BOXED = r"Please reason step by step, and put your final answer within \boxed{}."
QWEN = ("<|im_start|>", "<|im_end|>")
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
R1 = ("<｜User｜>", "<｜Assistant｜>")
GEMMA = ("<bos>", "<start_of_turn>", "<end_of_turn>")
MISTRAL = ("<bos>", "[INST]", "[/INST]")
# Expected prompt of a bare question, and expected end of a response; a third text
# precedes the response and is trained, since tokens begin with a space.
PROMPTS = {
    "qwen_boxed": (
        QWEN,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\nWhat is 1+1?\n{BOXED}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "qwen_plain": (
        QWEN,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "llama_boxed": (
        LLAMA,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "You are a helpful assistant.<|eot_id|>\n"
        "<|start_header_id|>user<|end_header_id|>\n\n"
        f"What is 1+1?\n{BOXED}<|eot_id|>\n"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "llama_medical": (
        LLAMA,
        "<|begin_of_text|><|begin_of_text|>"
        "<|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n"
        f"What is 1+1?\n{BOXED}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "deepseek_math": (
        DEEPSEEK,
        f"<｜begin▁of▁sentence｜>User: What is 1+1?\n{BOXED}\n\nAssistant:",
        "<｜end▁of▁sentence｜>",
    ),
    "deepseek_r1": (
        (*DEEPSEEK, *R1),
        "<｜begin▁of▁sentence｜><｜User｜>What is 1+1?<｜Assistant｜>",
        "<｜end▁of▁sentence｜>",
    ),
    "chatml": (
        QWEN,
        "<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "gemma": (
        GEMMA,
        "<bos><start_of_turn>user\nWhat is 1+1?<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
    ),
    "mistral": (MISTRAL, "<bos>[INST] What is 1+1?[/INST]", "<|end|>", " "),
    "plain": ((), "User: What is 1+1?\n\nAssistant:", "<|end|>", " "),
}


def tokenizer_of(tokens, template=None):
    """The built-in tokenizer with the special tokens of a family."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": list(tokens)})
    if "<bos>" in tokens:
        tokenizer.bos_token = "<bos>"
    return with_template(tokenizer, template)


@pytest.fixture(params=PROMPTS)
def case(request):
    tokens, prompt, end, *space = PROMPTS[request.param]
    tokenizer = tokenizer_of(tokens, request.param)
    return request.param, tokenizer, prompt, (*space, "")[0], end


def test_every_template_has_a_case_above():
    assert names() == sorted(PROMPTS)


def test_the_prompt_equals_the_published_one(case):
    _, tokenizer, prompt, _, end = case
    tokens = encode_prompt(record("What is 1+1?").messages, tokenizer)
    assert tokenizer.decode(tokens) == prompt
    ends = {tokenizer.convert_tokens_to_ids(end), tokenizer.eos_token_id}
    assert stop_tokens(tokenizer) == sorted(ends)


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_responses_and_their_ends_are_trained(case, system):
    name, tokenizer, prompt, space, end = case
    assert marks_assistant(tokenizer)
    conversation = record("What is 1+1?", "2 🙂", "And 1+2?", "3", system=system)
    example = encode(conversation, tokenizer)
    assert trained(example, tokenizer) == [f"{space}2 🙂{end}", f"{space}3{end}"]
    text = tokenizer.decode(example.tokens)
    if system is None:
        assert text.startswith(prompt + space + "2 🙂" + end)
    else:
        assert system in text and "helpful" not in text and "Cutting" not in text
    # Later answers follow the prompt that generation would use.
    later = encode_prompt(conversation.messages[:-1], tokenizer)
    assert text.startswith(tokenizer.decode(later) + space + "3" + end)


def test_a_template_is_applied_once(case):
    """A tokenizer that already has it is returned unchanged; others are copied."""
    name, tokenizer, *_ = case
    assert with_template(tokenizer, name) is tokenizer
    assert with_template(tokenizer, None) is tokenizer
    plain = tokenizer_of(PROMPTS[name][0])
    assert with_template(plain, name).chat_template == tokenizer.chat_template
    assert plain.chat_template == byte_tokenizer().chat_template


def test_a_template_of_another_family_is_refused():
    with pytest.raises(
        ValueError, match=r"chat_template is 'qwen_boxed', which writes <\|im_end\|>"
    ):
        tokenizer_of(LLAMA, "qwen_boxed")
    # The text alone is not enough: it must be the special token.
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(list(QWEN))
    with pytest.raises(ValueError, match="no such special tokens"):
        with_template(tokenizer, "qwen_boxed")


# The behaviour of the published template of the models distilled from DeepSeek-R1: it
# removes the thinking block of an answer, and begins one in the prompt.
R1_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '<｜User｜>' + m.content }}{% else %}"
    "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)


def test_thinking_of_a_model_distilled_from_deepseek_r1():
    """Its marks of turns are tokens, and not special ones."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": DEEPSEEK[0], "eos_token": DEEPSEEK[1]})
    tokenizer.add_tokens([*R1, "<think>", "</think>"])
    tokenizer.chat_template = R1_TEMPLATE
    answer = "<think>\n1 and 1.\n</think>\n\n2"
    conversation = record("What is 1+1?", answer)
    with pytest.raises(ValueError, match="turn 1 differently in training and as the"):
        encode(conversation, tokenizer)
    replaced = with_template(tokenizer, "deepseek_r1")
    example = encode(conversation, replaced)
    assert trained(example, replaced) == [answer + DEEPSEEK[1]]
    # The published prompt continues to the text that was trained.
    published = tokenizer.apply_chat_template(
        conversation.messages[:1], add_generation_prompt=True, tokenize=False
    )
    assert replaced.decode(example.tokens).startswith(published)
    assert replaced.convert_tokens_to_ids(R1[1]) in example.tokens


@pytest.mark.parametrize(
    "name, text, problem",
    [
        ("no_such", None, "expected one of chatml, deepseek_math"),
        ("missing.jinja", None, "a file that ends in .jinja"),
        ("open.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}", "closes"),
        ("broken.jinja", "{% for m in %}", "the chat template refuses it"),
        ("unsafe.jinja", "{{ messages.__class__.__mro__[1]() }}", "refuses it"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(name, text, problem, tmp_path):
    path = tmp_path / name
    if text:
        path.write_text(text)
    template = name if problem.startswith("expected") else str(path)
    with pytest.raises(ValueError, match=f"data.chat_template is .*{problem}"):
        with_template(byte_tokenizer(), template)


def test_a_template_in_another_encoding_names_its_file(tmp_path):
    path = tmp_path / "latin.jinja"
    path.write_bytes("{{ 'é' }}".encode("latin-1"))
    with pytest.raises(ValueError, match=r"chat_template is .*latin.jinja.* not UTF-8"):
        with_template(byte_tokenizer(), str(path))


def test_a_template_from_a_file_is_trained(tmp_path):
    path = tmp_path / "shouted.jinja"
    path.write_text(
        "{%- for m in messages -%}{{- m.content | upper + '<|end|>' -}}{%- endfor -%}"
    )
    tokenizer = byte_tokenizer()
    config = DataConfig(
        synthetic=SyntheticConfig(examples=2), chat_template=str(path), max_length=128
    )
    dataset = prepare(config, tokenizer).train
    assert tokenizer.decode(dataset.example.tokens).count("<|end|>") == 2
    assert (
        dataset.fingerprint
        != prepare(
            DataConfig(synthetic=SyntheticConfig(examples=2), max_length=128), tokenizer
        ).train.fingerprint
    )


def test_a_base_model_is_shown_the_templates_whose_tokens_it_has():
    tokenizer = tokenizer_of(GEMMA)
    tokenizer.chat_template = None
    assert usable(tokenizer) == ["gemma", "plain"]
    config = DataConfig(synthetic=SyntheticConfig(examples=2))
    with pytest.raises(ValueError, match="chat_template to one of gemma, plain [(]"):
        prepare(config, tokenizer)
    with pytest.raises(ValueError, match="by name: gemma, plain[)]"):
        with_template(tokenizer, "mistral")
    tokenizer.eos_token = None
    assert usable(tokenizer) == ["gemma"]
    with pytest.raises(ValueError, match="'plain', which writes eos_token, but"):
        with_template(tokenizer, "plain")


def test_a_multi_turn_conversation_of_gemma_is_as_published():
    """The example of ai.google.dev/gemma/docs/core/prompt-structure."""
    tokenizer = tokenizer_of(GEMMA, "gemma")
    turns = record("knock knock", "who is there", "Gemma", "Gemma who?")
    assert tokenizer.decode(encode(turns, tokenizer).tokens) == (
        "<bos><start_of_turn>user\nknock knock<end_of_turn>\n"
        "<start_of_turn>model\nwho is there<end_of_turn>\n"
        "<start_of_turn>user\nGemma<end_of_turn>\n"
        "<start_of_turn>model\nGemma who?<end_of_turn>\n"
    )


def test_a_template_of_any_family_begins_as_the_tokenizer_does():
    """That of Llama and Gemma adds a BOS to a text, that of SmolLM2 does not."""
    from tokenizers.processors import TemplateProcessing

    for template in ("chatml", "plain"):
        tokenizer = tokenizer_of((*QWEN, "<bos>"))
        turns = record("What is 1+1?").messages
        prompt = PROMPTS[template][1]
        chosen = with_template(tokenizer, template)
        assert tokenizer.decode(encode_prompt(turns, chosen)) == prompt
        ids = [("<bos>", tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=ids
        )
        chosen = with_template(tokenizer, template)
        assert tokenizer.decode(encode_prompt(turns, chosen)) == "<bos>" + prompt
