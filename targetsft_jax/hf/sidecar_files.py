"""What a model folder says beside its weights: configs, tokenizer, model card."""

import json
import shutil
import tempfile
from pathlib import Path

from targetsft_jax.hf.config_json import config_to_json
from targetsft_jax.hf.export_folder import (
    CARD_FILE,
    TOKENIZER_FILES,
    TOKENIZER_FOLDER,
    signed,
)
from targetsft_jax.hf.tensor_files import read_json
from targetsft_jax.models.config import DecoderConfig

_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

# Encoded by the tokenizer and by what AutoTokenizer makes of it. Splitting of digits,
# spaces and letters, and normalisation (the accent is a character of its own) show.
_PROBE = "  It costs 12.5 mg/kg;\n\n\tx² = 1 → \\boxed{42} — e\u0301té, 剂量, 🙂🏽"


def write_description(
    folder: Path,
    config: DecoderConfig,
    dtype: str,
    *,
    like: Path | None = None,
    tokenizer=None,
    card: str | None = None,
    extra_config: dict | None = None,
) -> None:
    """All files of an export but its weights and index.

    Args:
        folder: an empty one.
        config: the decoder.
        dtype: the weights' stored dtype, by name.
        like: a model folder. Fields of its config.json that no decoder's config has
            are kept, its generation_config.json and its tokenizer's files copied.
        tokenizer: in place of the files of `like`; proved to come back as it is.
        card: the text of README.md; none is written without.
        extra_config: more keys for config.json.

    Raises:
        ValueError: a tokenizer larger than the vocabulary or one that AutoTokenizer
            does not give back, or an extra key that would contradict the config.
    """
    document = config_to_json(config, dtype)
    extra_config = extra_config or {}
    clash = sorted(key for key in extra_config if key in document)
    if clash:
        raise ValueError(
            f"extra_config may not set {', '.join(clash)}: the decoder's config does."
        )
    # An absent id is what the reader's own default makes of it. So one that a source
    # leaves out stays out, and one that a tokenizer lacks is written as null.
    before = {} if like is None else read_json(like / "config.json")
    ids = {} if like is not None else _special_ids(config, tokenizer)
    document = {**before, **document, **ids, **extra_config}
    _write_json(folder / "config.json", document)
    generation = like and like / "generation_config.json"
    if generation and generation.is_file():
        shutil.copyfile(generation, folder / generation.name)
    else:
        known = {key: document[key] for key in _IDS if document.get(key) is not None}
        _write_json(folder / "generation_config.json", known)
    if tokenizer is not None:
        _special_ids(config, tokenizer)  # refused where it is too large
        tokenizer.save_pretrained(folder)
        _prove_tokenizer(folder, tokenizer, config.model_type)
    elif like is not None:
        copy_tokenizer(like, folder)
    if card is not None:
        (folder / CARD_FILE).write_text(signed(card), encoding="utf-8")


def copy_tokenizer(source: Path, folder: Path) -> None:
    """A tokenizer's files as they are, chat templates included."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if (source / TOKENIZER_FOLDER).is_dir():
        copied = folder / TOKENIZER_FOLDER
        shutil.copytree(source / TOKENIZER_FOLDER, copied, dirs_exist_ok=True)


def speak_as_trained(folder: Path, template: str | None, stops: list[int]) -> None:
    """Makes a model folder answer with the chat template that was trained.

    Args:
        folder: with config.json and the tokenizer's files.
        template: what `chat_template.jinja` becomes; None leaves the tokenizer's own.
        stops: ids that end an answer. Those that generation_config.json lacks are
            added: a base model's eos need not be what a turn was trained to end with.
    """
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        path = folder / "tokenizer_config.json"
        said = read_json(path) if path.is_file() else {}
        if said.pop("chat_template", None) is not None:
            _write_json(path, said)
    path = folder / "generation_config.json"
    config = read_json(folder / "config.json")
    known = {key: config[key] for key in _IDS if config.get(key) is not None}
    generation = read_json(path) if path.is_file() else known
    ends = generation.get("eos_token_id", known.get("eos_token_id"))
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    lacking = [stop for stop in stops if stop not in ends]
    if lacking:
        _write_json(path, generation | {"eos_token_id": ends + lacking})


def prove_exportable(config: DecoderConfig, tokenizer) -> None:
    """ValueError unless an export's tokenizer would come back as it is.

    `save_pretrained` proves the same; asking first spares a training whose end it
    would spoil.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_description(Path(folder), config, "float32", tokenizer=tokenizer)


def _special_ids(config, tokenizer):
    """Ids for config.json; null, not absent, where there is none: an absent one would
    take the reader's default (Llama's end of text is then token 2)."""
    if tokenizer is not None and len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} entries and the model's vocab_size "
            f"is {config.vocab_size}; they do not belong together."
        )
    return {name: getattr(tokenizer, name, None) for name in _IDS}


def _prove_tokenizer(folder, tokenizer, model_type):
    """ValueError unless AutoTokenizer makes the same tokenizer of the folder.

    transformers chooses the class by model_type, and for some of them (qwen2 is one)
    it builds that family's tokenizer around the file's vocabulary, whatever class
    wrote it: another splitting, another normalisation, more tokens.
    """
    from transformers import AutoTokenizer

    try:
        back = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # whatever it trips over, a reader would as well
        made, different = "nothing", [f"{type(error).__name__}: {error}"]
    else:
        made, different = f"a {type(back).__name__}", _different(tokenizer, back)
    if different:
        raise ValueError(
            f"the tokenizer ({type(tokenizer).__name__}) would not survive the export: "
            f"of its files and model_type {model_type!r}, AutoTokenizer makes {made} "
            f"that differs from it:\n  " + "\n  ".join(different) + "\n"
            "Nothing was exported. Use a tokenizer made for this model_type, or a "
            "model of model_type 'llama' (with qkv_bias False), which keeps any "
            "tokenizer.json; or export with tokenizer=None and save the tokenizer in "
            "a folder of its own."
        )


def _different(ours, back, show=3):
    """What `back` has otherwise than `ours`, as lines to print."""
    lines = []
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
    at = next((n for n, (x, y) in enumerate(zip(before, after)) if x != y), None)
    if before != after:
        at = min(len(before), len(after)) if at is None else at
        lines.append(
            f"ids of a sample text: {before[at : at + 6]} before, "
            f"{after[at : at + 6]} after, from id {at} on"
        )
    return lines


def _encoded(tokenizer):
    return list(tokenizer(_PROBE + (tokenizer.eos_token or "") + "a")["input_ids"])


def _write_json(path, document):
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
