"""Sections of the models of a run: `student`, `teacher` and `reference`."""

from targetsft_jax.config.build import BuildConfig
from targetsft_jax.data.fields import TEMPLATE
from targetsft_jax.keys import key, one_of, section

DTYPES = one_of(("float32", "bfloat16"))


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
class TeacherConfig(RoleConfig):
    """The teacher: a live model, or the stored distributions of one."""

    cache: str | None = key(
        None,
        "Folder of a teacher cache, which `targetsft teacher_cache` writes: the run "
        "reads the teacher's distributions from it, and needs no live teacher.",
        resumable=True,
    )
    prompt: str | None = key(
        None,
        "The teacher's own prompt, a template over the fields of the row, such as "
        "'{question} The reference solution: {solution}'. Needs `cache`.",
        TEMPLATE,
    )
