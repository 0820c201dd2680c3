"""Sections `evaluation` and `validation`: held-out problems and held-out loss."""

from targetsft_jax.data.config import DataConfig
from targetsft_jax.generation.sampling import SamplingSettings
from targetsft_jax.keys import at_least, key, one_of, section


@section
class EvaluationConfig(SamplingSettings):
    """Average@k on held-out problems, before and after training."""

    problems: int = key(
        0, "Held-out problems; 0 skips the evaluation.", at_least(0, 10**7)
    )
    skip: int = key(
        0,
        "Held-out problems to leave out before those that are evaluated, such as those "
        "of a final evaluation while hyper-parameters are selected.",
        at_least(0, 10**7),
    )
    include_teacher: bool = key(
        False, "Evaluate the teacher too, as an upper reference."
    )
    label_probe: int = key(
        0,
        "Generated training examples on whose computed labels p_y and the accuracy are "
        "measured before and after training; 0: none.",
        at_least(0, 10**6),
    )
    grader: str = key(
        "exact",
        "Grader of completions: `exact` (numbers, letters and words) or `math` "
        "(expressions by value; see docs/grading.md).",
        one_of(("exact", "math")),
    )
    data: DataConfig | None = key(
        None,
        "Source of problems with gold answers; null: the held-out split of the "
        "synthetic problems.",
    )


@section
class ValidationConfig:
    """Held-out loss during training."""

    examples: int = key(0, "Examples of `data` to hold out from training.", at_least(0))
    data: DataConfig | None = key(
        None,
        "Separate source of held-out examples; excludes `examples`.",
        resumable=True,
    )
    every: int = key(
        100,
        "Optimizer steps between measurements; the last step is always measured.",
        at_least(1),
        resumable=True,
    )
