"""Open a mining: model, tokenizer, problems and identity, checked before generation."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from targetsft_jax.checkpoints.checksums import array_checksums
from targetsft_jax.checkpoints.open import open_model, shared_tokenizer
from targetsft_jax.command import UsageError
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.data.chat import encode_prompt
from targetsft_jax.data.chat_templates import with_template
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.records import Problem, problems
from targetsft_jax.evaluation.grading import check_answers
from targetsft_jax.mining.sampler import ModelSampler
from targetsft_jax.mining.settings import MiningSettings
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import processes
from targetsft_jax.storage.digest import json_digest
from targetsft_jax.training.step_spec import compute_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DATA_KEYS = ("source", "path", "dataset", "split", "fields", "where", "mixture")
"""Keys of `data` that determine the problems of a source."""

_SYNTHETIC_KEYS = ("kinds", "digits", "seed", "split")
"""Keys of `data.synthetic` that determine the generated problems."""


@dataclass(frozen=True)
class Session:
    """An opened mining.

    Attributes:
        sampler: the model.
        tokenizer: its tokenizer, with the chat template.
        problems: problems with gold answers.
        prompts: tokens of their prompts.
        positions: positions of the model.
        identity: key -> value; equal in all sessions of one mining.
        source: folder of the model's weights.
        generated: True if the problems are generated.
    """

    sampler: ModelSampler
    tokenizer: "PreTrainedTokenizerBase"
    problems: Sequence[Problem]
    prompts: Sequence[list[int]]
    positions: int
    identity: dict[str, Any]
    source: Path
    generated: bool


def open_session(config: Config, model: str, settings: MiningSettings) -> Session:
    """Open the model and the problems, and check them.

    Args:
        config: `data`, `mesh`, `student.dtype` and `train.dtype` are read.
        model: path or hub id.
        settings: settings of the mining.

    Raises:
        UsageError, ValueError, OSError: a key, model, file or problem cannot be used.
    """
    if processes.is_multiprocess():
        raise UsageError("mesh.processes is more than 1; mining runs in one process")
    axes = config.mesh
    try:
        mesh = meshes.make_mesh(axes.data, axes.fsdp, axes.tensor, context=axes.context)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    stored = open_model(model)
    tokenizer = shared_tokenizer({"student": stored})
    tokenizer = with_template(tokenizer, config.data.chat_template)
    data = config.data
    selection = problems(data, data.synthetic.split, settings.limit)
    check_answers(settings.grader, selection)
    positions = stored.config.context_length
    prompts = [
        encode_prompt(
            problem.messages, tokenizer, origin=problem.id, limit=positions - 1
        ).tolist()
        for problem in selection
    ]
    dtype = compute_dtype(config, mesh)
    param_dtype = jnp.dtype(config.student.dtype or dtype)
    params = stored.load(mesh, param_dtype)
    sampler = ModelSampler(
        stored.config,
        params,
        tokenizer,
        settings.batch_size,
        dtype,
        meshes.rows_over(mesh),
    )
    identity = {
        # Before the model: its checksums depend on the dtype of the parameters.
        "train.dtype": dtype.name,
        "student.dtype": param_dtype.name,
        "model": json_digest(array_checksums(params)),
        "data.chat_template": json_digest(tokenizer.get_chat_template()),
        "alternatives": settings.ranks(),
        "rule": settings.rule,
        "min_probability": settings.min_probability,
        "max_new_tokens": settings.max_new_tokens,
        "grader": settings.grader,
        **_data_keys(data),
    }
    return Session(
        sampler,
        tokenizer,
        selection,
        prompts,
        positions,
        identity,
        stored.source,
        generated=data.kind == "synthetic" and not data.mixture,
    )


def problem_digest(problem: Problem) -> str:
    """Digest of a problem's prompt and gold answer."""
    return json_digest([problem.messages, problem.answer])


def _data_keys(data: DataConfig) -> dict[str, Any]:
    values = dataclasses.asdict(data)
    keys = {f"data.{name}": values[name] for name in _DATA_KEYS}
    if data.kind == "synthetic" and not data.mixture:
        synthetic = values["synthetic"]
        keys |= {f"data.synthetic.{name}": synthetic[name] for name in _SYNTHETIC_KEYS}
    return keys
