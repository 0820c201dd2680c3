"""Sections of the models of a run: `student`, `teacher` and `reference`."""

from typing import TYPE_CHECKING

from targetsft_jax.config.build import BuildConfig
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.fields import TEMPLATE
from targetsft_jax.data.teacher_rows import TeacherPrompt
from targetsft_jax.keys import Domain, at_least, key, more_than, one_of, section

if TYPE_CHECKING:
    from targetsft_jax.config.schema import Config

DTYPES = one_of(("float32", "bfloat16"))

INT8 = "int8"
"""Dtype of a frozen role whose projections are int8 (see `models.int8`)."""


@section
class RoleConfig:
    """A model: a Hugging Face folder or hub id, or a small model built on demand."""

    path: str | None = key(
        None,
        "Local folder, gs://BUCKET/PATH or hub id (safetensors only), or a run "
        "directory or checkpoint of this package.",
    )
    build: BuildConfig | None = key(
        None, "Small model, built on first use and cached; excludes `path`."
    )
    dtype: str | None = key(
        None,
        "Parameter dtype. Default: float32 for the student; bfloat16 for frozen roles "
        "and for the base of adapters on accelerators, float32 on the CPU.",
        DTYPES,
    )


@section
class FrozenConfig(RoleConfig):
    """A frozen model."""

    dtype: str | None = key(
        None,
        "Parameter dtype. Default: bfloat16 on accelerators, float32 on the CPU. int8: "
        "the matrices of the layers in int8, the rest in the default.",
        one_of(("float32", "bfloat16", INT8)),
    )
    max_drift: float | None = key(
        0.1,
        "With dtype int8, the largest KL in nats from the unquantised model, measured "
        "on the first rows at the start; a larger one is refused. null: not measured, "
        "so that the unquantised model needs no memory.",
        at_least(0),
        resumable=True,
    )


WEIGHT = more_than(0, 10**6)


@section
class OtherTeacher(FrozenConfig):
    """One more live teacher."""

    weight: float = key(1.0, "Weight in the mixture of the teachers.", WEIGHT)


@section
class TeacherConfig(FrozenConfig):
    """The teacher: a live model, several, or the stored distributions of one."""

    others: list[OtherTeacher] = key(
        list, "More teachers of the same tokenizer, all run beside the student."
    )
    weight: float = key(
        1.0, "Weight of this teacher, relative to those of `others`.", WEIGHT
    )
    mix: str = key(
        "logits",
        "Mixture of several teachers: `logits`, their normalised weighted product; or "
        "`probabilities`, their weighted mean.",
        one_of(("logits", "probabilities")),
    )

    cache: str | None = key(
        None,
        "Folder of a teacher cache, which `targetsft teacher_cache` writes: the run "
        "reads the teacher's distributions from it, and needs no live teacher.",
        resumable=True,
    )
    prompt: str | None = key(
        None,
        "The teacher's own prompt, a template over the fields of the row, such as "
        "'{question} The reference solution: {solution}'. With it and without `path`, "
        "the teacher is the initial student.",
        TEMPLATE,
    )
    max_length: int | None = key(
        None,
        "Tokens per row of a live teacher with a `prompt`; null: twice those of the "
        "student's rows.",
        Domain("2 to 2^24: a token and its label", lambda n: 2 <= n <= 2**24),
    )


def live_roles(config: "Config") -> tuple[str, ...]:
    """Return the frozen models that the step runs, without a teacher from a cache.

    Several teachers are "teacher", "teacher_2", "teacher_3", ….
    """
    roles: list[str] = []
    for role in config.method.roles:
        if role != "teacher":
            roles.append(role)
        elif not config.teacher.cache:
            roles += ["teacher", *other_teachers(config)]
    return tuple(roles)


def role_key(role: str) -> str:
    """Return the key of a role's section, such as teacher.others[0] for teacher_2."""
    number = role.removeprefix("teacher_")
    return f"teacher.others[{int(number) - 2}]" if number != role else role


def other_teachers(config: "Config") -> dict[str, OtherTeacher]:
    """Return the sections of `teacher.others` by their roles."""
    return {f"teacher_{n}": part for n, part in enumerate(config.teacher.others, 2)}


def teacher_prompt(config: "Config", data: DataConfig) -> TeacherPrompt | None:
    """Return the prompt of a live teacher and the length of its rows.

    A run packs for it whatever its method, so that all methods have the same rows.

    Args:
        config: configuration of the run.
        data: a data section of it.

    Returns:
        None if the teacher reads the student's rows, or is stored.
    """
    teacher = config.teacher
    if teacher.prompt is None or teacher.cache is not None:
        return None
    return TeacherPrompt(teacher.prompt, teacher.max_length or 2 * data.max_length)


def reads_teacher_rows(config: "Config") -> bool:
    """Return whether the step runs a teacher on rows of its own."""
    prompt = teacher_prompt(config, config.data)
    return prompt is not None and "teacher" in live_roles(config)


def teacher_is_student(config: "Config") -> bool:
    """Return whether the teacher is the initial student, which sees more."""
    teacher = config.teacher
    return teacher.prompt is not None and not (teacher.path or teacher.build)
