"""Convert between checkpoints of this package and Hugging Face folders."""

from pathlib import Path
from typing import Any

import jax

from targetsft_jax.checkpoints.layered_params import save_params
from targetsft_jax.checkpoints.model_folder import read_adapters, write_model_folder
from targetsft_jax.checkpoints.open import StoredModel, open_model
from targetsft_jax.checkpoints.reader import (
    StoredCheckpoint,
    check_path,
    find_checkpoint,
)
from targetsft_jax.checkpoints.remote import local_model
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.importer import load_config, load_params, resolve
from targetsft_jax.hf.model_card import adapter_card, converted_card, with_step
from targetsft_jax.hf.origin import origin
from targetsft_jax.hf.peft import save_adapter
from targetsft_jax.hf.peft_import import is_adapter
from targetsft_jax.hf.sidecar_files import CARD_FILE
from targetsft_jax.models import lora
from targetsft_jax.storage import atomic, manifest
from targetsft_jax.storage.location import Location, is_url
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path


def to_hf(
    source: str,
    out: Path,
    *,
    step: int | None = None,
    dtype: str | None = None,
    max_shard_size: int = 5_000_000_000,
    like: Path | None = None,
    base: str | None = None,
) -> str:
    """Export a checkpoint as a Hugging Face folder, one tensor in memory at a time.

    Args:
        source: a run directory (its newest checkpoint), RUN/checkpoints/STEP, or a
            folder of adapters in PEFT's format, which are merged into their base.
        out: the folder to write; only an earlier export is replaced.
        step: another checkpoint of the run directory.
        dtype: stored dtype; None: the checkpoint's, or for adapters the dtype of their
            base during training.
        max_shard_size: tensor bytes per safetensors file.
        like: folder with the model's config and tokenizer; None: RUN/model.
        base: path of the adapters' base; None: its path during training.

    Returns:
        A message with source and target.

    Raises:
        FileNotFoundError: no complete checkpoint, or no config for it.
        FileExistsError: `out` is not an unchanged export, or is a folder that is read.
        ValueError: parameters that are damaged, do not fit the config, or are
            neither a complete model nor adapters with a base.
    """
    if is_url(source):
        source = str(local_model(source))
    if is_adapter(user_path(source)):
        if step is not None or base is not None or like is not None:
            raise ValueError(
                f"{source} is a folder of adapters, which names its base; expected no "
                "--step, --base and --like"
            )
        return _merge(open_model(source), out, dtype, max_shard_size)
    stored = find_checkpoint(source, step)
    like = like or stored.run_dir.model
    sources: dict[str, Location] = {
        "checkpoint": stored.folder,
        "folder of its config": like,
    }
    if base is not None and Path(base).is_dir():
        sources["base of the adapters"] = Path(base)
    manifest.check_replaceable(out, sources)
    params, dtype = _complete(stored, dtype, base)
    if not (like / "config.json").is_file():
        raise FileNotFoundError(
            f"{like / 'config.json'} does not exist, so the model's architecture and "
            "tokenizer are unknown; pass --like FOLDER: the Hugging Face folder of "
            "the run's student, or the run's export in hf/"
        )
    save_pretrained(
        out,
        load_config(like),
        params,
        like=like,
        card=_card(stored),
        dtype=dtype,
        max_shard_bytes=max_shard_size,
    )
    return f"exported {stored.folder} to\n  {out}"


def to_peft(
    source: str, out: Path, *, step: int | None = None, base: str | None = None
) -> str:
    """Export the adapters of a checkpoint in PEFT's format, with their tokenizer.

    Args:
        source: a run directory that trained adapters (its newest checkpoint), or
            RUN/checkpoints/STEP.
        out: the folder to write; only an earlier export is replaced.
        step: another checkpoint of the run directory.
        base: hub id or path of the base that the adapters name; None: that of the run.

    Returns:
        A message with source and target.

    Raises:
        FileNotFoundError: no complete checkpoint.
        FileExistsError: `out` is not an unchanged export, or is a folder that is read.
        ValueError: a run that trained no adapters, or damaged parameters.
    """
    stored = find_checkpoint(source, step)
    model = stored.run_dir.model
    manifest.check_replaceable(out, {"checkpoint": stored.folder, "config": model})
    adapters = read_adapters(stored.run_dir)
    if adapters is None:
        raise ValueError(
            f"{stored.run_dir.path} trained all parameters, so it has no adapters; "
            "expected a run with a section lora. Use `convert to-hf`"
        )
    params = stored.params()
    stored.verify(params)
    card = _card(stored)
    save_adapter(
        out,
        load_config(model),
        params,
        adapters.lora,
        base=base or adapters.base,
        like=model,
        card=card and adapter_card(card),
    )
    return f"exported the adapters of {stored.folder} to\n  {out}"


def from_hf(source: str, out: Path, *, dtype: str | None = None) -> str:
    """Import a Hugging Face model as checkpoint 0 of a new run directory.

    Peak memory is one copy of the model.

    Args:
        source: a Hugging Face folder or hub id.
        out: the run directory; it must not exist, or be empty.
        dtype: stored dtype; None: the model's.

    Returns:
        A message with source and target.

    Raises:
        FileExistsError: `out` is a file, or not empty.
        FileNotFoundError: no such model.
        ValueError: an unsupported model, or a path whose checkpoints would be
            unreadable.
    """
    _check_new(out)
    check_path(out)
    folder = local_model(source) if is_url(source) else resolve(source)
    if is_adapter(folder):
        raise ValueError(
            f"{source} is a folder of adapters; expected a complete model. Merge them "
            f"with `convert to-hf {source} FOLDER`"
        )
    params = load_params(folder, load_config(folder), dtype=dtype)
    with atomic.folder(out, _check_new) as partial:
        run_dir = RunDir(partial)
        write_model_folder(run_dir, folder, converted_card(origin(source, folder)))
        save_params(run_dir, jax.block_until_ready(params))
    return f"imported {folder} to\n  {out}"


def _merge(
    model: StoredModel, out: Path, dtype: str | None, max_shard_size: int
) -> str:
    """Export adapters in PEFT's format, merged into their base."""
    sources: dict[str, Location] = {
        "adapter": model.source,
        "folder of its config": model.folder,
    }
    for base in model.bases:
        sources["base of the adapters"] = base.source
    manifest.check_replaceable(out, sources)
    save_pretrained(
        out,
        model.config,
        model.params(dtype),
        like=model.folder,
        tokenizer=None if model.tokenizer_folder == model.folder else model.tokenizer(),
        dtype=dtype,
        max_shard_bytes=max_shard_size,
    )
    return f"exported {model.source}, merged into {model.folder}, to\n  {out}"


def _check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already; specify a new folder")


def _complete(
    stored: StoredCheckpoint, dtype: str | None, base: str | None
) -> tuple[dict[str, Any], str | None]:
    """Parameters of the complete model, with adapters merged, and the stored dtype."""
    params = stored.params()
    stored.verify(params)
    adapters = read_adapters(stored.run_dir)
    if adapters is not None:
        dtype = dtype or adapters.dtype
        kernels = open_model(base or adapters.base).params()
        return lora.merged(kernels, params, adapters.lora, dtype), dtype
    if base is not None or "embed" not in params:
        raise ValueError(
            f"{stored.folder} holds {', '.join(params)}, and "
            f"{stored.run_dir.adapters}, which has the path of a base, does not exist; "
            "expected a complete model without --base, or a run that trained "
            "adapters"
        )
    return params, dtype


def _card(stored: StoredCheckpoint) -> str | None:
    """The run's model card, with the step of the exported weights."""
    path = stored.run_dir.model / CARD_FILE
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    return with_step(text, stored.step) if stored.step else text
