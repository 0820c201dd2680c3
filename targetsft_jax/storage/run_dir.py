"""Run directory: names of all files and folders that a run writes."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from targetsft_jax.storage.location import Location, location


@dataclass(frozen=True)
class RunDir:
    """Paths inside one run directory.

    Attributes:
        path: the directory, which is local.
        checkpoint_dir: folder of its checkpoints, local or of an object store; None:
            the folder that an earlier session of the run named, else RUN/checkpoints.
        url: the directory as the user named it, if it is of an object store.
    """

    path: Path
    checkpoint_dir: "Location | None" = None
    url: str | None = None

    def __str__(self) -> str:
        return self.url or str(self.path)

    @property
    def name(self) -> str:
        """Name of the run: the last part of the path."""
        return self.path.absolute().name

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per optimizer step."""
        return self.path / "metrics.jsonl"

    @property
    def histograms(self) -> Path:
        """Distributions of γ, p_y and entropy over tokens, every few steps."""
        return self.path / "histograms.jsonl"

    @property
    def anomalies(self) -> Path:
        """Skipped steps and loss spikes with the examples behind them."""
        return self.path / "anomalies.jsonl"

    @property
    def goodput(self) -> Path:
        """Wall time by cause."""
        return self.path / "goodput.json"

    @property
    def results(self) -> Path:
        """Scores of the evaluated models, and the step that was exported."""
        return self.path / "results.json"

    @property
    def label_probe(self) -> Path:
        """Label probabilities of the evaluated models on clean and corrupted labels."""
        return self.path / "label_probe.json"

    @property
    def drift(self) -> Path:
        """Drift of int8 models from their unquantised weights, on the first rows."""
        return self.path / "int8_drift.json"

    @property
    def tensorboard(self) -> Path:
        """Event files for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def wandb_id(self) -> Path:
        """Id of the run at Weights & Biases."""
        return self.path / "wandb_id"

    @property
    def profile(self) -> Path:
        """Traces for TensorBoard's profiler."""
        return self.path / "profile"

    @property
    def checkpoint_pointer(self) -> Path:
        """Path of the folder of checkpoints, if they are not in RUN/checkpoints."""
        return self.path / "checkpoint_dir"

    @property
    def checkpoints(self) -> Location:
        """Orbax checkpoints, one folder per step."""
        if self.checkpoint_dir is not None:
            return self.checkpoint_dir
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if text := self.checkpoint_pointer.read_text("utf-8").strip():
                return location(text)
        return self.path / "checkpoints"

    @property
    def damaged_checkpoints(self) -> Location:
        """Checkpoints that could not be restored, set aside."""
        folder = self.checkpoints
        return folder.with_name(f"{folder.name}_damaged")

    @property
    def model(self) -> Path:
        """Config, tokenizer and model card that complete a checkpoint."""
        return self.path / "model"

    @property
    def adapters(self) -> Path:
        """Rank, alpha, targets and base of the trained adapters."""
        return self.model / "adapters.json"

    @property
    def export(self) -> Path:
        """The trained model as a Hugging Face folder."""
        return self.path / "hf"

    @property
    def adapter_export(self) -> Path:
        """The trained adapters in PEFT's format."""
        return self.path / "adapter"

    @property
    def inspect(self) -> Path:
        """The inspection page: what each method teaches on the first rows."""
        return self.path / "inspect.html"

    @property
    def lock(self) -> Path:
        """Lock of the process that runs in the directory."""
        return self.path / "lock"

    def present(self) -> list[str]:
        """Names in the directory that a run writes, whoever wrote them."""
        names = {path.name for path in self.paths() if os.path.lexists(path)}
        if self.path.is_dir():
            pattern = self.completions("*").name
            names |= {path.name for path in self.path.glob(pattern)}
        return sorted(names)

    def paths(self) -> list[Path]:
        """All files and folders directly in the directory, but the lock."""
        properties = (
            getattr(self, name)
            for name, member in vars(RunDir).items()
            if isinstance(member, property) and name not in ("name", "lock")
        )
        return [path for path in properties if path.parent == self.path]

    def completions(self, model: str) -> Path:
        """Sampled completions of an evaluated model, with their grades."""
        return self.path / f"completions_{model}.jsonl"
