"""Config, tokenizer and model card of a run: the folder RUN/model."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from targetsft_jax.config.roles import DTYPES
from targetsft_jax.config.schema import ConfigError, LoraConfig
from targetsft_jax.config.tree import build, merge
from targetsft_jax.hf.sidecar_files import (
    CARD_FILE,
    copy_tokenizer,
    write_chat_template,
)
from targetsft_jax.hf.tensor_files import read_json
from targetsft_jax.keys import refusals, shown
from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel import processes
from targetsft_jax.storage import atomic, manifest
from targetsft_jax.storage.run_dir import RunDir


@dataclass(frozen=True)
class AdapterInfo:
    """LoRA hyper-parameters and base model of a checkpoint of adapters.

    Attributes:
        lora: rank, alpha and targets.
        base: folder, run or hub id of the base model.
        dtype: name of the base's dtype during training.
    """

    lora: Lora
    base: str
    dtype: str


def write_model_folder(
    run_dir: RunDir,
    source: Path,
    card: str,
    adapters: AdapterInfo | None = None,
    *,
    tokenizer: Path | None = None,
    template: str | None = None,
    stops: Sequence[int] = (),
) -> None:
    """Write RUN/model atomically, in the primary process alone.

    Args:
        run_dir: the run's directory.
        source: the student's folder; its config and tokenizer are copied.
        card: text of the model card.
        adapters: set for a run that trains adapters.
        tokenizer: folder of the tokenizer; None: `source`.
        template: chat template of the training, if it is not the student's.
        stops: token ids that end a response.

    Raises:
        FileExistsError: RUN/model exists and no run wrote it, or it was changed.
    """
    if not processes.is_primary():
        return
    with atomic.folder(run_dir.model, manifest.check_replaceable) as folder:
        for name in ("config.json", "generation_config.json"):
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        copy_tokenizer(tokenizer or source, folder)
        write_chat_template(folder, template, list(stops))
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        if adapters is not None:
            info = asdict(adapters.lora) | {
                "base": adapters.base,
                "dtype": adapters.dtype,
            }
            text = json.dumps(info, indent=2) + "\n"
            (folder / run_dir.adapters.name).write_text(text, encoding="utf-8")
        manifest.write(folder)


def read_adapters(run_dir: RunDir) -> AdapterInfo | None:
    """Read the LoRA settings of a run; None if it trains all parameters.

    Raises:
        ValueError: a field of RUN/model/adapters.json is missing or invalid.
    """
    path = run_dir.adapters
    if not path.is_file():
        return None
    info = read_json(path)
    try:
        fields = {name: info[name] for name in ("rank", "alpha", "targets")}
        # Absent in the files of versions without dropout.
        fields["dropout"] = info.get("dropout", 0.0)
        section = build(LoraConfig, merge(LoraConfig, {}, fields))
        base, dtype = info["base"], info["dtype"]
    except KeyError as error:
        raise ValueError(
            f"{path} has no {error}; expected the file that the run wrote. Copy the "
            f"file of a run with the same settings, or use {run_dir.export}"
        ) from None
    except ConfigError as error:
        raise ValueError(f"{path}: {error}") from None
    faults = [*refusals(section), DTYPES.refusal("dtype", dtype)]
    if not isinstance(base, str):
        faults.append(f"base is {shown(base)}; expected a path")
    for fault in filter(None, faults):
        raise ValueError(f"{path}: {fault}")
    targets = tuple(section.targets)
    adapters = Lora(section.rank, section.alpha, targets, section.dropout)
    return AdapterInfo(adapters, base, dtype)
