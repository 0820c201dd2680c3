"""A checkpoint outside its run: found by path, described, read layer by layer."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from targetsft_jax.checkpoints.manager import FOLDER, by_layers
from targetsft_jax.hf.export_folder import CARD_FILE
from targetsft_jax.hf.importer import load_config, mapped_params, resolve
from targetsft_jax.hf.sidecar_files import copy_tokenizer, write_chat_template
from targetsft_jax.hf.tensor_files import read_json
from targetsft_jax.models import lora
from targetsft_jax.models.lora import Lora

MODEL_FOLDER = "model"
"""In a run directory: what its checkpoints lack of a model. The configs and the
tokenizer are copies of the student's files, the card says what is trained."""

ADAPTERS_FILE = "adapters.json"
"""In that folder, where adapters are trained: `Adapted` as JSON."""


@dataclass(frozen=True)
class Adapted:
    """What a checkpoint of adapters does not say of itself.

    Attributes:
        lora: rank, alpha and targets.
        base: folder, run or hub id of the model that they were trained over.
        dtype: name of the dtype that the run held it in.
    """

    lora: Lora
    base: str
    dtype: str

    def merged(self, adapters: dict[str, Any], base: str | None = None) -> Any:
        """The base with these adapters in it, a layer at a time.

        Args:
            adapters: the tree of `init_adapters`.
            base: where the base is now, if elsewhere.
        """
        path = base or self.base
        if is_run_path(Path(path).expanduser()):
            params = find_checkpoint(path).params()
        else:
            folder = resolve(path)
            params = mapped_params(folder, load_config(folder))
        return lora.merged(params, adapters, self.lora, self.dtype)


@dataclass(frozen=True)
class Stored:
    """A complete checkpoint.

    Attributes:
        run_dir: the run's.
        step: optimizer steps taken.
    """

    run_dir: Path
    step: int

    @property
    def folder(self) -> Path:
        """Of this step."""
        return self.run_dir / FOLDER / str(self.step)

    def params(self) -> dict[str, Any]:
        """The tree of `init_params` with a `StoredLeaf` for each parameter.

        Raises:
            ValueError: it holds no parameters that can be read.
        """
        import tensorstore

        folder = self.folder / "params"
        try:
            about = json.loads((folder / "_METADATA").read_text("utf-8"))
            driver = "zarr3" if about.get("use_zarr3") else "zarr"
            tree: dict[str, Any] = {}
            for entry in about["tree_metadata"].values():
                names = [part["key"] for part in entry["key_metadata"]]
                kept = {
                    "driver": "ocdbt",
                    "base": f"file://{folder.absolute()}/",
                    "path": ".".join(names) + "/",
                }
                spec = {"driver": driver, "kvstore": kept}
                store = tensorstore.open(spec, open=True, read=True).result()
                inner = tree
                for name in names[:-1]:
                    inner = inner.setdefault(name, {})
                inner[names[-1]] = StoredLeaf(store)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{folder} cannot be read ({type(error).__name__}: {error}); expected "
                "parameters that a run saved. Take another step of the run"
            ) from None
        return tree

    def load(self, abstract: Any) -> Any:
        """The parameters on devices, each process reading its part.

        Args:
            abstract: the tree of `init_params` as ShapeDtypeStructs with shardings.
        """
        with ocp.CheckpointManager((self.run_dir / FOLDER).absolute()) as manager:
            wanted = ocp.args.Composite(params=ocp.args.StandardRestore(abstract))
            return manager.restore(self.step, args=wanted).params


class StoredLeaf:
    """A parameter on disk; what is asked for is read, and not kept.

    Checkpoints hold a chunk for each layer. In one that holds several layers in a
    chunk, these are kept until the last of them is asked for.
    """

    def __init__(self, store: Any):
        self._store = store
        self.shape: tuple[int, ...] = tuple(store.shape)
        self.dtype: np.dtype = store.dtype.numpy_dtype
        self._start, self._layers = 0, np.empty((0,), self.dtype)

    def __getitem__(self, layer: int) -> np.ndarray:
        if not self._start <= layer < self._start + len(self._layers):
            step = self._store.chunk_layout.read_chunk.shape[0]
            self._start = layer - layer % step
            stop = min(self._start + step, self.shape[0])
            self._layers = self._store[self._start : stop].read().result()
        found = self._layers[layer - self._start]
        if layer == self._start + len(self._layers) - 1:
            self._layers = self._layers[:0].copy()
        return found

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self._store.read().result(), dtype)


def find_checkpoint(path: str | Path, step: int | None = None) -> Stored:
    """The checkpoint that a path means.

    Args:
        path: a run directory, for its newest checkpoint or the one of `step`; or one
            of its checkpoints, `RUN/checkpoints/STEP`.
        step: of a run directory.

    Raises:
        FileNotFoundError: neither, or no such complete checkpoint.
        ValueError: both a checkpoint and a step.
    """
    folder = Path(path).expanduser().absolute()
    if folder.name.isdecimal() and folder.parent.name == FOLDER:
        if step is not None:
            raise ValueError(
                f"{path} is one checkpoint and --step {step} asks for another; give "
                "the run directory, or no --step"
            )
        folder, step = folder.parent.parent, int(folder.name)
    found = checkpoint_steps(folder)
    if not found:
        raise FileNotFoundError(
            f"{path} holds no complete checkpoint (expected {FOLDER}/STEP/params in "
            f"it; found: {_inside(folder)}); pass a run directory or RUN/{FOLDER}/STEP"
        )
    if step is not None and step not in found:
        raise FileNotFoundError(
            f"{folder} has no complete checkpoint {step}; it has "
            f"{', '.join(map(str, found))}"
        )
    return Stored(folder, found[-1] if step is None else step)


def is_run_path(path: Path) -> bool:
    """Whether a path means a checkpoint of this package, not a Hugging Face folder."""
    one = path.name.isdecimal() and path.absolute().parent.name == FOLDER
    return one or (not (path / "config.json").exists() and bool(checkpoint_steps(path)))


def checkpoint_steps(run_dir: Path) -> list[int]:
    """Steps of a run's complete checkpoints, in order; empty for any other folder."""
    # One under way has another name until it is complete.
    paths = (run_dir / FOLDER).glob("*/params/_METADATA")
    names = (path.parents[1].name for path in paths)
    return sorted(int(name) for name in names if name.isdecimal())


def adapted(run_dir: Path) -> Adapted | None:
    """What a run's checkpoints are adapters of; None where they are whole models."""
    path = run_dir / MODEL_FOLDER / ADAPTERS_FILE
    if not path.is_file():
        return None
    kept = read_json(path)
    try:
        rank, alpha, targets = kept["rank"], kept["alpha"], tuple(kept["targets"])
        return Adapted(Lora(rank, alpha, targets), kept["base"], kept["dtype"])
    except KeyError as error:
        raise ValueError(
            f"{path} has no {error}; expected what the run wrote. Take the file of "
            "another run with the same settings, or export RUN/hf"
        ) from None


def keep_model(
    run_dir: Path,
    source: Path,
    card: str,
    adapters: Adapted | None = None,
    *,
    template: str | None = None,
    stops: Sequence[int] = (),
) -> None:
    """Write what an export of the run's checkpoints needs beside them.

    In a multi-process job the first process writes.

    Args:
        run_dir: gets a folder `MODEL_FOLDER`.
        source: the student's folder.
        card: the model card's text.
        adapters: what is trained, where it is not the whole model.
        template: the chat template that is trained, where it is not the student's own.
        stops: ids that end an answer.
    """
    if jax.process_index():
        return
    folder = run_dir / MODEL_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    copy_tokenizer(source, folder)
    write_chat_template(folder, template, list(stops))
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    if adapters is not None:
        kept = asdict(adapters.lora) | {"base": adapters.base, "dtype": adapters.dtype}
        text = json.dumps(kept, indent=2) + "\n"
        (folder / ADAPTERS_FILE).write_text(text, encoding="utf-8")


def save_params(run_dir: Path, params: dict[str, Any]) -> None:
    """Write parameters as the checkpoint 0 of a run directory, with no optimizer."""
    with ocp.CheckpointManager((run_dir / FOLDER).absolute()) as manager:
        kept = ocp.args.StandardSave(params, save_args=by_layers(params))
        manager.save(0, args=ocp.args.Composite(params=kept))


def _inside(folder):
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + ("…" if len(names) > 6 else "") or "nothing"
