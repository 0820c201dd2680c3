"""Models of a page: opened as a run opens them, loaded once, read in turns of rows."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from targetsft_jax.checkpoints.open import StoredModel, open_model, shared_tokenizer
from targetsft_jax.command import UsageError
from targetsft_jax.config.roles import teacher_is_student
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.inspection.method_inputs import BEFORE, REFERENCE, STUDENT, TEACHER
from targetsft_jax.models.chunked_logits import logits_in_chunks
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.training.session import role_model
from targetsft_jax.training.step_spec import compute_dtype, is_int8, param_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Models:
    """Models of a page on their mesh.

    Attributes:
        stored: role -> model, "student" first. A reference that is another role's
            model is not among them.
        reference: role that serves as π_ref.
        params: role -> parameters on the devices.
        dtype: compute dtype of the forward passes.
    """

    stored: Mapping[str, StoredModel]
    reference: str
    params: Mapping[str, Any]
    dtype: Any

    @property
    def roles(self) -> list[str]:
        """Roles with a model, in the order of the page."""
        return list(self.stored)

    def chunks(
        self,
        tokens: np.ndarray,
        vocab_size: int,
        teacher: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Iterator[dict[str, jax.Array | np.ndarray]]:
        """Logits of a row, a chunk of positions of all models at a time.

        Args:
            tokens: [L] int32.
            vocab_size: V, tokens of the tokenizer.
            teacher: tokens [L_T] int32 that a teacher with a prompt of its own reads,
                and the positions [L] in them that predict the same tokens.

        Yields:
            Role -> [n, V] f32, padded behind the row.
        """
        own = (tokens, None)
        reads = {TEACHER: teacher or own}
        parts = {
            role: logits_in_chunks(
                model.config,
                self.params[role],
                reads.get(role, own)[0],
                vocab_size=vocab_size,
                dtype=self.dtype,
                padded=True,
                at=reads.get(role, own)[1],
            )
            for role, model in self.stored.items()
        }
        for chunk in zip(*parts.values(), strict=True):
            yield dict(zip(parts, chunk))


@dataclass(frozen=True)
class Selection:
    """Models that a command line selects in place of the configuration's.

    Attributes:
        student: path of the model in place of the configuration's student.
        before: path of an earlier model to compare with; None: the configuration's
            student if `student` is specified, else nothing.
    """

    student: str | None = None
    before: str | None = None


def load_models(config: Config, selection: Selection) -> Models:
    """Open and load the student, and the teacher, reference and earlier model.

    A reference without a path is the model that training starts from: the earlier
    one if there is one, else the student.

    Raises:
        ConfigError, ValueError, OSError: a model cannot be used, or has another
            tokenizer than the student.
    """
    mesh = _mesh(config)
    stored = _open(config, selection, mesh)
    shared_tokenizer(stored)
    # A teacher with a prompt of its own does not predict what a reference does.
    is_alone = config.teacher.prompt is not None
    candidates = {k: v for k, v in stored.items() if k != TEACHER or not is_alone}
    reference = _same_model(candidates, REFERENCE)
    if reference is not None:
        stored.pop(REFERENCE)
    elif REFERENCE in stored:
        reference = REFERENCE
    else:
        reference = BEFORE if BEFORE in stored else STUDENT
    loaded: dict[tuple[Path, str, bool], Any] = {}
    params = {}
    for role, model in stored.items():
        kind = STUDENT if role == BEFORE else role
        dtype, int8 = param_dtype(kind, config, mesh), is_int8(kind, config)
        key = model.source, dtype.name, int8
        if key not in loaded:
            loaded[key] = model.load(mesh, dtype, int8=int8)
        params[role] = loaded[key]
    return Models(stored, reference, params, compute_dtype(config, mesh))


def _mesh(config: Config) -> Mesh:
    """Mesh of the configuration without its data axis: a row is measured at a time."""
    axes, devices = config.mesh, jax.devices()
    sizes = (axes.fsdp, axes.tensor, axes.context)
    count = len(devices) if -1 in sizes else math.prod(sizes)
    try:
        return meshes.make_mesh(
            1, axes.fsdp, axes.tensor, devices[:count], context=axes.context
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _open(config: Config, selection: Selection, mesh: Mesh) -> dict[str, StoredModel]:
    """Open the models of all roles that have one; none is loaded."""
    if selection.student is None:
        student = role_model(config, STUDENT, mesh)
        assert student is not None  # `validate` refuses a configuration without one.
    else:
        student = open_model(selection.student)
    before = None
    if selection.before is not None:
        before = open_model(selection.before)
    elif selection.student is not None:
        before = _start(config, mesh)
    if before is not None and before.source == student.source:
        raise UsageError(
            f"--before {before.path} is the student itself; expected an earlier "
            "checkpoint or another model"
        )
    roles = {
        STUDENT: student,
        TEACHER: role_model(config, TEACHER, mesh),
        REFERENCE: role_model(config, REFERENCE, mesh),
        BEFORE: before,
    }
    if teacher_is_student(config):
        roles[TEACHER] = student if selection.student is None else _start(config, mesh)
    return {role: model for role, model in roles.items() if model is not None}


def _start(config: Config, mesh: Mesh) -> StoredModel | None:
    """The model that a run started from; None, with a line, if it is gone."""
    try:
        return role_model(config, STUDENT, mesh)
    except (ValueError, OSError) as error:
        print(f"  without the start of the run: {str(error).splitlines()[0]}")
        return None


def _same_model(stored: Mapping[str, StoredModel], role: str) -> str | None:
    """Another role with the same model as `role`; None if there is none."""
    if role not in stored:
        return None
    source: Path = stored[role].source
    others = (name for name in stored if name != role)
    return next((name for name in others if stored[name].source == source), None)


def page_tokenizer(config: Config, selection: Selection) -> "PreTrainedTokenizerBase":
    """Load the student's tokenizer, without any weights."""
    from targetsft_jax.checkpoints.open import open_tokenizer
    from targetsft_jax.data.chat_templates import with_template

    tokenizer = open_tokenizer(selection.student or config.student.path)
    return with_template(tokenizer, config.data.chat_template)
