"""`python -m targetsft_jax.convert to-hf RUN OUT`: checkpoints to folders and back."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

DTYPES = ("float32", "float16", "bfloat16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 where it is done, 1 where it cannot be, 2 for bad usage."""
    # Transformers serves configs and tokenizers here: that torch is absent is no news.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    own = _parser().parse_args(arguments)
    import jax

    # No accelerator is looked for: one may be busy with the very run.
    jax.config.update("jax_platforms", "cpu")
    try:
        own.run(own)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was written\n")
        return 130
    return 0


def _to_hf(own):
    from targetsft_jax.checkpoints.model_folder import read_adapters
    from targetsft_jax.checkpoints.reader import find_checkpoint
    from targetsft_jax.hf.export_folder import CARD_FILE
    from targetsft_jax.hf.exporter import save_pretrained
    from targetsft_jax.hf.importer import load_config

    stored = find_checkpoint(own.source, own.step)
    params, dtype = stored.params(), own.dtype
    run_dir = stored.run_dir
    over = read_adapters(run_dir)
    if over is not None:
        dtype = dtype or over.dtype
        params = replace(over, dtype=dtype).merged(params, own.base)
    elif own.base is not None or "embed" not in params:
        raise ValueError(
            f"{stored.folder} holds {', '.join(params)}, and there is no "
            f"{run_dir.adapters}, which names the base of adapters; expected a whole "
            "model without --base, or a run that trained adapters"
        )
    like = own.like or run_dir.model
    if not (like / "config.json").is_file():
        raise FileNotFoundError(
            f"{like / 'config.json'} does not exist, so the model's architecture and "
            "tokenizer are unknown; give --like FOLDER, the Hugging Face folder that "
            "the run's student came from (or its export in hf/)"
        )
    card = run_dir.model / CARD_FILE
    text = card.read_text(encoding="utf-8") if card.is_file() else None
    if text is not None and stored.step:
        text += f"\nThese weights: optimizer step {stored.step:,}.\n"
    save_pretrained(
        own.out,
        load_config(like),
        params,
        like=like,
        card=text,
        dtype=dtype,
        max_shard_bytes=own.max_shard_size,
    )
    print(f"{stored.folder} (step {stored.step}) is now\n  {own.out}")


def _from_hf(own):
    import jax

    from targetsft_jax.checkpoints.layered_params import save_params
    from targetsft_jax.checkpoints.model_folder import write_model_folder
    from targetsft_jax.hf.export_folder import whole
    from targetsft_jax.hf.importer import load_config, load_params, resolve
    from targetsft_jax.hf.model_card import converted_card
    from targetsft_jax.storage.run_dir import RunDir

    if own.out.exists() and (not own.out.is_dir() or any(own.out.iterdir())):
        raise FileExistsError(f"{own.out} exists already; name a new folder")
    folder = resolve(own.source)
    config = load_config(folder)
    params = load_params(folder, config, dtype=own.dtype)
    with whole(own.out) as partial:
        run_dir = RunDir(partial)
        write_model_folder(run_dir, folder, converted_card(own.source))
        save_params(run_dir, jax.block_until_ready(params))
    print(f"{folder} is now\n  {own.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.convert",
        description="Checkpoints of this package and Hugging Face folders, one into "
        "the other. Runs on the CPU.",
    )
    commands = parser.add_subparsers(required=True, metavar="to-hf | from-hf")
    export = commands.add_parser(
        "to-hf",
        help="a run's checkpoint as a Hugging Face folder",
        description="Write a checkpoint's parameters as a Hugging Face folder with "
        "config, tokenizer and model card. One tensor is in memory at a time.",
    )
    export.add_argument(
        "source",
        help="a run directory (its newest checkpoint), or RUN/checkpoints/STEP",
    )
    export.add_argument("out", type=Path, help="the folder to write")
    export.add_argument("--step", type=int, help="another checkpoint of the run")
    export.add_argument("--dtype", choices=DTYPES, help="stored dtype (as it is)")
    export.add_argument(
        "--max-shard-size",
        type=_bytes,
        default="5GB",
        metavar="SIZE",
        help="of a safetensors file, such as 5GB or 500MB (5GB)",
    )
    export.add_argument(
        "--like",
        type=Path,
        metavar="FOLDER",
        help="the Hugging Face folder whose config and tokenizer to take, where the "
        "run directory has no model/",
    )
    export.add_argument(
        "--base",
        metavar="FOLDER",
        help="where the model is now that a run's adapters were trained over",
    )
    export.set_defaults(run=_to_hf)
    back = commands.add_parser(
        "from-hf",
        help="a Hugging Face model as a checkpoint of this package",
        description="Write a Hugging Face model as a run directory with one "
        "checkpoint, number 0. The model is in memory once.",
    )
    back.add_argument("source", help="a Hugging Face folder or hub id")
    back.add_argument("out", type=Path, help="the folder to write, a new one")
    back.add_argument("--dtype", choices=DTYPES, help="stored dtype (as it is)")
    back.set_defaults(run=_from_hf)
    return parser


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", text.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; expected one such as 5GB or 500MB"
        )
    unit = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[found[2].upper()]
    return int(float(found[1]) * unit)


if __name__ == "__main__":
    sys.exit(main())
