"""Conversations and chat templates for tests of tokenizing."""

from targetsft_jax.data.record import Record
from targetsft_jax.data.tokenizer import byte_tokenizer

# As Qwen2.5 writes it: a default system prompt, and white space behind each turn.
CHATML = """\
{%- if messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' -}}
{%- endif -%}
{%- for m in messages -%}
{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
# As Llama 3: a BOS in the text, trimmed contents.
LLAMA = """\
{{- bos_token -}}
{%- for m in messages -%}
{{- '<|im_start|>' + m['role'] + '\\n\\n' + m['content'] | trim + '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n\\n' -}}{%- endif -%}
"""
# As Gemma 3: another name for the assistant, trimmed contents, and a system turn that
# goes into the user's first one.
GEMMA = """\
{{- bos_token -}}
{%- set first = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' -%}
{%- set turns = messages[1:] if messages[0]['role'] == 'system' else messages -%}
{%- for m in turns -%}
{{- '<|im_start|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' -}}
{%- if loop.first -%}{{- first -}}{%- endif -%}
{{- m['content'] | trim + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>model\n' -}}{%- endif -%}
"""
# As Qwen3: the last turn alone gets an (empty) thought.
REWRITING = """\
{%- for m in messages -%}
{{- '<|im_start|>' + m['role'] + '\\n' -}}
{%- if m['role'] == 'assistant' and loop.last -%}{{- '<think></think>' -}}{%- endif -%}
{{- m['content'] + '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

# As Qwen2.5: definitions in the system turn, calls as JSON, results as a user's turn.
TOOLS = """\
{%- if tools -%}
{{- '<|im_start|>system\\n' -}}
{%- for tool in tools -%}{{- tool | tojson + '\\n' -}}{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{%- if not loop.previtem or loop.previtem.role != 'tool' -%}
{{- '<|im_start|>user' -}}
{%- endif -%}
{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' -}}
{%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- else -%}
{{- '<|im_start|>' + m.role + '\\n' -}}
{%- if m.content -%}{{- m.content -}}{%- endif -%}
{%- for call in m.tool_calls or [] -%}
{%- set call = call.function or call -%}
{{- '\\n' if m.content or not loop.first -}}
{{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' -}}
{{- call.arguments | tojson + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def marked(inside, outside=""):
    """A template whose generation marks enclose `inside`, followed by `outside`."""
    return (
        "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\\n' -}}"
        "{%- if m['role'] == 'assistant' -%}"
        "{%- generation -%}{{- " + inside + " -}}{%- endgeneration -%}"
        "{{- '" + outside + "' -}}"
        "{%- else -%}{{- m['content'] + '<|im_end|>' -}}{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}"
        "{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
    )


def tokenizer_with(template, *, bos=None, eos="<|im_end|>", pad="<|im_end|>"):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(
        {"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    )
    tokenizer.eos_token, tokenizer.pad_token = eos, pad
    if bos:
        tokenizer.add_special_tokens({"bos_token": bos})
    tokenizer.chat_template = template
    return tokenizer


def record(*contents, system=None, **columns):
    turns = [{"role": "system", "content": system}] if system else []
    for i, content in enumerate(contents):
        turns.append({"role": ("user", "assistant")[i % 2], "content": content})
    return Record(turns, columns=columns, origin="rows.jsonl:3")


def trained(example, tokenizer):
    """Decoded runs of trained tokens."""
    pieces, inside = [], False
    for token, on in zip(example.tokens, example.loss_mask):
        if on and not inside:
            pieces.append([])
        if on:
            pieces[-1].append(token)
        inside = on
    return [tokenizer.decode(piece) for piece in pieces]


TEMPLATES = {
    "built-in": (byte_tokenizer(), "<|end|>"),
    "chatml, pad is eos": (tokenizer_with(CHATML), "<|im_end|>"),
    "chatml of a base model": (
        tokenizer_with(CHATML, eos="<|end|>", pad="<|pad|>"),
        "<|im_end|>",
    ),
    "llama": (tokenizer_with(LLAMA, bos="<|bos|>"), "<|im_end|>"),
    "gemma": (tokenizer_with(GEMMA, bos="<|bos|>"), "<|im_end|>"),
    "marks with the end": (
        tokenizer_with(marked("m['content'] + '<|im_end|>'", "\\n")),
        "<|im_end|>",
    ),
    "marks with white space behind the end": (
        tokenizer_with(marked("m['content'] + '<|im_end|>\\n'")),
        "<|im_end|>",
    ),
    "marks without the end": (
        tokenizer_with(marked("m['content']", "<|im_end|>\\n")),
        "<|im_end|>",
    ),
}
