"""Config, tokenizer, generation config and model card of an export."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targetsft_jax.hf.config_domains import check_token_ids
from targetsft_jax.hf.config_json import config_to_json
from targetsft_jax.hf.family_lookup import family
from targetsft_jax.hf.tensor_files import read_json
from targetsft_jax.hf.text_part import text_config
from targetsft_jax.models.config import DecoderConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
TOKENIZER_FOLDER = "additional_chat_templates"
"""Folder of a tokenizer's additional chat templates."""

CARD_FILE = "README.md"

_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

# Encoded by a tokenizer and by its copy from AutoTokenizer, to detect differences in
# splitting digits, spaces and letters, and in normalization (the combining accent).
_PROBE = "  It costs 12.5 mg/kg;\n\n\tx² = 1 → \\boxed{42} — e\u0301té, 剂量, 🙂🏽"


def write_sidecar_files(
    folder: Path,
    config: DecoderConfig,
    dtype: str,
    *,
    like: Path | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    card: str | None = None,
    extra_config: Mapping[str, Any] | None = None,
) -> None:
    """Write all files of an export except its weights and their index.

    Args:
        folder: an empty folder.
        config: the decoder.
        dtype: name of the stored dtype of the weights.
        like: a model folder. Keys of its config.json beyond the decoder's config are
            preserved; its generation_config.json and tokenizer files are copied.
        tokenizer: saved in place of the files of `like`, and read back as a check.
        card: text of README.md; None for no file.
        extra_config: more keys for config.json.

    Raises:
        ValueError: a tokenizer larger than the vocabulary or one that AutoTokenizer
            changes, or an extra key that contradicts the config.
    """
    document = config_to_json(config, dtype)
    extra_config = extra_config or {}
    conflicts = sorted(key for key in extra_config if key in document)
    if conflicts:
        raise ValueError(
            f"extra_config may not set {', '.join(conflicts)}; the decoder's config "
            "determines these keys."
        )
    # Readers replace an absent id by a default. Therefore ids that the source lacks
    # remain absent, and ids that a tokenizer lacks are written as null.
    source = {} if like is None else text_config(read_json(like / "config.json"))
    ids = {} if like is not None else _special_ids(config, tokenizer)
    document = {**source, **document, **ids, **extra_config}
    _write_json(folder / "config.json", document)
    generation = like and like / "generation_config.json"
    if generation and generation.is_file():
        shutil.copyfile(generation, folder / generation.name)
    else:
        present = {key: document[key] for key in _IDS if document.get(key) is not None}
        _write_json(folder / "generation_config.json", present)
    if tokenizer is not None:
        _check_size(config, tokenizer)
        tokenizer.save_pretrained(folder)
        _check_tokenizer(folder, tokenizer, config.model_type)
    elif like is not None:
        copy_tokenizer(like, folder)
    if card is not None:
        (folder / CARD_FILE).write_text(card, encoding="utf-8")


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy a tokenizer's files, including its chat templates."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if (source / TOKENIZER_FOLDER).is_dir():
        copied = folder / TOKENIZER_FOLDER
        shutil.copytree(source / TOKENIZER_FOLDER, copied, dirs_exist_ok=True)


def write_chat_template(folder: Path, template: str | None, stops: list[int]) -> None:
    """Write the chat template and the stop tokens of a trained model into its folder.

    Args:
        folder: folder with config.json and the tokenizer's files.
        template: content of `chat_template.jinja`; None: the tokenizer's, unchanged.
        stops: ids that end a completion. Those missing in generation_config.json are
            added: the eos of a base model may differ from its end-of-turn token.
    """
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        path = folder / "tokenizer_config.json"
        document = read_json(path) if path.is_file() else {}
        if document.pop("chat_template", None) is not None:
            _write_json(path, document)
    path = folder / "generation_config.json"
    config = read_json(folder / "config.json")
    present = {key: config[key] for key in _IDS if config.get(key) is not None}
    generation = read_json(path) if path.is_file() else present
    check_token_ids(generation, str(path))
    eos = generation.get("eos_token_id", present.get("eos_token_id"))
    eos = [eos] if isinstance(eos, int) else list(eos or [])
    missing = [stop for stop in stops if stop not in eos]
    if missing:
        _write_json(path, generation | {"eos_token_id": eos + missing})


def check_exportable(
    config: DecoderConfig, tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Check before a training that the final export will preserve the tokenizer.

    Raises:
        ValueError: as `write_sidecar_files`.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_sidecar_files(Path(folder), config, "float32", tokenizer=tokenizer)


def _special_ids(
    config: DecoderConfig, tokenizer: "PreTrainedTokenizerBase | None"
) -> dict[str, int | None]:
    """Special ids for config.json; null where a tokenizer has none.

    Readers would replace an absent id by their default (token 2 ends a text in Llama).
    """
    if tokenizer is not None:
        _check_size(config, tokenizer)
    ids = {name: getattr(tokenizer, name, None) for name in _IDS}
    not_null = family(config.model_type, "DecoderConfig").not_null
    return {k: v for k, v in ids.items() if v is not None or k not in not_null}


def _check_size(config: DecoderConfig, tokenizer: "PreTrainedTokenizerBase") -> None:
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model's vocab_size is "
            f"{config.vocab_size}; expected at most as many tokens. Is it another "
            "model's tokenizer?"
        )


def _check_tokenizer(
    folder: Path, tokenizer: "PreTrainedTokenizerBase", model_type: str
) -> None:
    """Check that AutoTokenizer loads an equal tokenizer from the folder.

    transformers selects the class by model_type, and for some (such as qwen2) it builds
    that family's tokenizer with the file's vocabulary, regardless of the class that
    wrote it; it may split and normalize differently and have more tokens.

    Raises:
        ValueError: the tokenizers differ, or none can be loaded.
    """
    from transformers import AutoTokenizer

    try:
        back = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # Any error here would affect readers too.
        loaded, differences = "nothing", [f"{type(error).__name__}: {error}"]
    else:
        loaded, differences = f"a {type(back).__name__}", _differences(tokenizer, back)
    if differences:
        raise ValueError(
            f"the tokenizer ({type(tokenizer).__name__}) would not survive the export: "
            f"from its files and model_type {model_type!r}, AutoTokenizer loads "
            f"{loaded} that differs from it:\n  " + "\n  ".join(differences) + "\n"
            "Nothing was exported. Use a tokenizer for this model_type, or a model of "
            "model_type 'llama' (with qkv_bias False), which accepts any "
            "tokenizer.json; or export with tokenizer=None and save the tokenizer in "
            "another folder."
        )


def _differences(
    ours: "PreTrainedTokenizerBase", back: "PreTrainedTokenizerBase", show: int = 3
) -> list[str]:
    """Differences of two tokenizers, as lines to print."""
    lines: list[str] = []
    a, b = ours.get_vocab(), back.get_vocab()
    tokens = [token for token in {**a, **b} if a.get(token) != b.get(token)]
    lines += [
        f"token {token!r}: {a.get(token, 'absent')} before, "
        f"{b.get(token, 'absent')} after"
        for token in sorted(tokens)[:show]
    ]
    if len(tokens) > show:
        lines.append(f"and {len(tokens) - show} more tokens")
    for name in (*_IDS, "chat_template"):
        before, after = getattr(ours, name, None), getattr(back, name, None)
        if before != after:
            lines.append(f"{name}: {before!r} before, {after!r} after")
    before, after = (_encoded(tokenizer) for tokenizer in (ours, back))
    if before != after:
        shorter = min(len(before), len(after))
        pairs = enumerate(zip(before, after))
        at = next((number for number, (x, y) in pairs if x != y), shorter)
        lines.append(
            f"ids of a sample text: {before[at : at + 6]} before, "
            f"{after[at : at + 6]} after, from id {at} on"
        )
    return lines


def _encoded(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    return list(tokenizer(_PROBE + (tokenizer.eos_token or "") + "a")["input_ids"])


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
