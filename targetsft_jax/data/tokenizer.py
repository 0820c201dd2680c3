"""Tokenizers: the built-in byte tokenizer, loading, comparison."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# One special token per turn, two per assistant turn: only assistant turns, which are
# trained, need an end token. Reserved tokens bring the count to eight.
_SPECIALS = (
    "<|pad|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|reserved_0|>",
    "<|reserved_1|>",
    "<|reserved_2|>",
)

_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

# Encoded by both tokenizers of a comparison: equal vocabularies may still split text
# differently.
_PROBE = "  The dose is 12.5 mg/kg;\n\n\tx² + 1 = 0 → \\boxed{42} — été, 剂量, 🙂🏽"


def byte_tokenizer() -> "PreTrainedTokenizerBase":
    """The built-in byte-level tokenizer: 256 bytes, 8 special tokens, no merges.

    Token b < 256 is the byte b, so decoding returns every text exactly. The
    end-of-turn token is the eos token, and is trained. The chat template marks
    assistant turns with `{% generation %}`. Works with `save_pretrained` and
    `AutoTokenizer.from_pretrained`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = {symbol: byte for byte, symbol in bytes_to_unicode().items()}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(token, normalized=False) for token in _SPECIALS]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        extra_special_tokens=list(_SPECIALS[2:]),
        clean_up_tokenization_spaces=False,
        chat_template=_CHAT_TEMPLATE,
    )


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a folder, without downloads or code from the folder.

    Raises:
        ValueError: no such folder, or its tokenizer is missing, needs custom code or
            has no character offsets (a "slow" tokenizer).
    """
    from transformers import AutoTokenizer

    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder; expected one with tokenizer.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    # Transformers and tokenizers raise errors of any kind on damaged files.
    except Exception as error:  # noqa: BLE001
        raise ValueError(f"{folder}: no usable tokenizer: {error}") from error
    if not tokenizer.is_fast:
        raise ValueError(
            f"{folder}: {type(tokenizer).__name__} has no character offsets;"
            " add a tokenizer.json"
        )
    return tokenizer


def same_tokenizer(
    a: "PreTrainedTokenizerBase", b: "PreTrainedTokenizerBase", *, show: int = 5
) -> list[str]:
    """List the differences of two tokenizers; empty if every id has the same meaning.

    The comparison covers the vocabulary with all added tokens, the set of special
    tokens, the order of merges, and the ids of a sample text. It ignores folder names,
    the size of an embedding, and the roles eos and pad, in which a base model and its
    instruct version differ while they share every id.

    Args:
        a, b: the tokenizers.
        show: number of differing entries to list.

    Returns:
        Lines to print.
    """
    ours, theirs = a.get_vocab(), b.get_vocab()
    lines = _differences("token", ours, theirs, show)
    lines += _differences("special token", _special(a), _special(b), show)
    if not lines:
        lines = _differences("rank of merge", _merges(a), _merges(b), show)
    if not lines:
        ids_a, ids_b = (
            t(_PROBE, add_special_tokens=False)["input_ids"] for t in (a, b)
        )
        if ids_a != ids_b:
            lines.append(f"a sample text becomes {ids_a[:12]}… and {ids_b[:12]}…")
    return lines


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Ids of all special tokens, including those without a role such as eos or pad."""
    added = tokenizer.added_tokens_decoder
    with_role = set(tokenizer.all_special_ids)
    return frozenset(with_role | {i for i, token in added.items() if token.special})


def _special(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    ids = special_ids(tokenizer)
    return {str(tokenizer.convert_ids_to_tokens(i)): i for i in ids}


def _merges(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """Merges of a BPE with their ranks; empty for other models."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    pairs = model.get("merges") or []
    return {" ".join(pair): rank for rank, pair in enumerate(pairs)}


def _differences(
    kind: str, a: dict[str, int], b: dict[str, int], show: int
) -> list[str]:
    keys = sorted(
        (key for key in a.keys() | b.keys() if a.get(key) != b.get(key)),
        key=lambda key: (min(d[key] for d in (a, b) if key in d), key),
    )
    lines = [
        f"{kind} {key!r}: {a.get(key, 'absent')} and {b.get(key, 'absent')}"
        for key in keys[:show]
    ]
    if len(keys) > show:
        lines.append(f"… and {len(keys) - show} more {kind}s that differ")
    return lines
