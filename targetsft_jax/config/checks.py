"""Configuration checks across keys; the domain of one key is in its declaration."""

import difflib
import math
import re
from collections.abc import Iterator

from targetsft_jax.config.build import BuildConfig
from targetsft_jax.config.paths import ROLES, path_refusals
from targetsft_jax.config.roles import (
    INT8,
    TeacherConfig,
    teacher_is_student,
    teacher_prompt,
)
from targetsft_jax.config.schema import (
    VALIDATION_PREFIX,
    Config,
    ConfigError,
    EvaluationConfig,
    LoraConfig,
    MeshConfig,
    PolicyConfig,
    ValidationConfig,
    role_config,
)
from targetsft_jax.data.config import (
    DataConfig,
    contradictions,
    missing_files,
    source_name,
    sources,
)
from targetsft_jax.data.fields import literal_escape
from targetsft_jax.keys import refusals, shown
from targetsft_jax.models.lora import PROJECTIONS
from targetsft_jax.targets.api import get_method
from targetsft_jax.targets.methods import METHODS

_BUILT_PARAMETERS = 10**9
"""Parameters of a start model, an upper bound of its layers."""

_TOKENS_PER_STEP = 2**31 - 1


def validate(config: Config, *, complete: bool = True) -> None:
    """Check a configuration.

    The first error raises. Their order is that in which a person meets them: the
    method, single keys, keys that contradict each other, then what is missing or
    cannot be written.

    Args:
        config: the configuration.
        complete: require models and data; False to check the present keys only.

    Raises:
        ConfigError: a key is outside its domain or contradicts another one.
    """
    for message in _refusals(config):
        raise ConfigError(message)
    if complete:
        for message in (*_missing(config), *path_refusals(config)):
            raise ConfigError(message)


def _refusals(config: Config) -> Iterator[str]:
    yield from _method_name(config.target.name)
    if config.train.steps == 0:
        yield _no_steps(config)
    yield from _int8_student(config)
    yield from refusals(config)
    yield from _policy(config.policy)
    yield from _method(config)
    yield from _roles(config)
    if config.lora is not None:
        yield from _lora(config.lora)
    yield from _train(config)
    yield from _processes(config.mesh)
    for path, data in _data_sections(config):
        yield from contradictions(data, path)
    yield from _evaluation(config.evaluation, config)
    yield from _validation(config.validation, config.train.keep_best)


def _missing(config: Config) -> Iterator[str]:
    """Errors about models and files that the run needs and no key specifies."""
    if not (config.student.path or config.student.build):
        yield (
            "student.path is null; expected a Hugging Face folder or hub id; "
            "`--config quickstart` needs none"
        )
    method = config.method
    has_teacher = config.teacher.path or config.teacher.build
    teaches = has_teacher or config.teacher.cache or teacher_is_student(config)
    if "teacher" in method.roles and not teaches:
        yield (
            f"method {method.name!r} needs a teacher and teacher.path is null; "
            "expected a Hugging Face folder or hub id with the student's tokenizer, "
            "teacher.cache, or teacher.prompt, under which the initial student teaches"
        )
    if config.evaluation.include_teacher and not has_teacher:
        yield (
            "evaluation.include_teacher is true and teacher.path is null; expected a "
            "teacher, or false"
        )
    for path, data in _data_sections(config):
        yield from missing_files(data, path)


def _data_sections(config: Config) -> Iterator[tuple[str, DataConfig]]:
    """Data sections of a configuration by their paths."""
    yield "data", config.data
    if config.evaluation.data is not None:
        yield "evaluation.data", config.evaluation.data
    if config.validation.data is not None:
        yield "validation.data", config.validation.data


def _method(config: Config) -> Iterator[str]:
    """Error about a key of `target` or `policy` that the method cannot use."""
    try:
        _ = config.method
    except ConfigError as error:
        yield str(error)


def _method_name(name: object) -> Iterator[str]:
    """Error about an unknown method, with the nearest name."""
    try:
        get_method(name if isinstance(name, str) else "")
    except ValueError:
        similar = difflib.get_close_matches(str(name), METHODS, 1)
        hint = f". Did you mean {similar[0]}?" if similar else ""
        yield (
            f"target.name is {shown(name)}; expected one of {', '.join(METHODS)}{hint}"
        )


def _no_steps(config: Config) -> str:
    model = config.student.path or "PATH"
    return (
        "train.steps is 0; expected 1 or more. To measure a model without training: "
        f"targetsft evaluate --model {model} --benchmarks gsm8k"
    )


def _int8_student(config: Config) -> Iterator[str]:
    """Error about a trained int8 model; the domain of the key gives no reason."""
    if config.student.dtype == INT8:
        yield (
            "student.dtype is 'int8'; expected float32 or bfloat16: int8 is for frozen "
            "roles (teacher.dtype, reference.dtype), since its products have no "
            "gradient, which the student and the base of adapters need"
        )


def _roles(config: Config) -> Iterator[str]:
    for number, other in enumerate(config.teacher.others):
        if bool(other.path) == bool(other.build):
            yield (
                f"teacher.others[{number}] has {'a' if other.path else 'neither a'} "
                f"path {'and' if other.path else 'nor'} a build; expected one of them"
            )
    if config.teacher.others and config.teacher.cache is not None:
        yield (
            "teacher.others is set and teacher.cache is too; expected one of them, "
            "since a teacher cache has one teacher"
        )
    yield from _teacher_rows(config.teacher)
    for name in ROLES:
        role = role_config(config, name)
        if role.build is not None:
            yield from _build(role.build, f"{name}.build")
        if role.path and role.build:
            yield (
                f"{name}.path is {role.path!r} and {name}.build is set too; set only "
                "one"
            )


def _teacher_rows(teacher: TeacherConfig) -> Iterator[str]:
    """Errors about the prompt and the rows of a teacher with its own."""
    if teacher.prompt is not None and (escape := literal_escape(teacher.prompt)):
        yield (
            f"teacher.prompt is {teacher.prompt!r}; expected a line break in place of "
            f"{escape}, two characters: --teacher.prompt $'{teacher.prompt}' in the "
            "shell, and double quotes in YAML"
        )
    if teacher.max_length is None:
        return
    if teacher.prompt is None:
        reason = "without teacher.prompt the teacher reads the rows of the student"
    elif teacher.cache is not None:
        reason = "the rows of a stored teacher are as long as its longest example"
    else:
        return
    yield (f"teacher.max_length is {teacher.max_length}; expected null, since {reason}")


def _build(build: BuildConfig, path: str) -> Iterator[str]:
    """Errors about sizes that no decoder has, or none that is small."""
    if build.hidden_size % (2 * build.num_heads):
        yield (
            f"{path}.hidden_size is {build.hidden_size}; expected a multiple of "
            f"2 · {path}.num_heads = {2 * build.num_heads}"
        )
    if build.num_heads % build.num_kv_heads:
        yield (
            f"{path}.num_heads is {build.num_heads}; expected a multiple of "
            f"{path}.num_kv_heads = {build.num_kv_heads}"
        )
    per_layer = build.hidden_size * (
        4 * build.hidden_size + 3 * build.intermediate_size
    )
    if build.num_layers * per_layer > _BUILT_PARAMETERS:
        yield (
            f"{path} describes {build.num_layers * per_layer:,} parameters; expected "
            f"at most {_BUILT_PARAMETERS:,}: a smaller hidden_size, intermediate_size "
            "or num_layers"
        )


def _lora(lora: LoraConfig) -> Iterator[str]:
    known = ", ".join(PROJECTIONS)
    unknown = [name for name in lora.targets if name not in PROJECTIONS]
    if unknown:
        names = shown(unknown)[1:-1]
        yield f"lora.targets has {names}; expected some of {known}"
    if not lora.targets or len(set(lora.targets)) < len(lora.targets):
        yield (
            f"lora.targets is {shown(lora.targets)}; expected one or more of {known}, "
            "each of them once"
        )


def _policy(policy: PolicyConfig) -> Iterator[str]:
    clip = policy.clip
    if not (len(clip) == 2 and 0 <= clip[0] <= clip[1] < math.inf):
        yield (
            f"policy.clip is {clip!r}; expected two finite numbers, 0 <= smallest <= "
            "largest"
        )


def _train(config: Config) -> Iterator[str]:
    train, prompt = config.train, teacher_prompt(config, config.data)
    lengths = {"data.max_length": config.data.max_length}
    if prompt is not None:
        lengths["teacher.max_length"] = prompt.max_length
    for key, length in lengths.items():
        if train.batch_size * length > _TOKENS_PER_STEP:
            yield (
                f"train.batch_size is {train.batch_size} and {key} is {length}; "
                f"expected at most {_TOKENS_PER_STEP} tokens per step"
            )
    if train.batch_size % train.accumulation_steps:
        yield (
            f"train.batch_size is {train.batch_size}; expected a multiple of "
            f"train.accumulation_steps = {train.accumulation_steps}"
        )


def _processes(mesh: MeshConfig) -> Iterator[str]:
    address = mesh.coordinator
    if address not in (None, "auto"):
        match = re.fullmatch(r"\S+:(\d{1,5})", address)
        if match is None or not 0 < int(match[1]) < 2**16:
            yield (
                f"mesh.coordinator is {shown(address)}; expected HOST:PORT, auto or "
                "null"
            )
    if address == "auto" and (mesh.processes, mesh.process) != (None, None):
        yield (
            "mesh.coordinator is auto and mesh.processes or mesh.process is set; "
            "expected null for both, since the job scheduler provides them"
        )


def _evaluation(evaluation: EvaluationConfig, config: Config) -> Iterator[str]:
    synthetic = config.data.kind == "synthetic" and not config.data.mixture
    if evaluation.label_probe and not (synthetic and evaluation.problems):
        yield (
            f"evaluation.label_probe is {evaluation.label_probe}; expected 0, or "
            "generated problems (data.source synthetic) and evaluation.problems: only "
            "their correct labels are known"
        )
    if evaluation.problems and evaluation.data is None and not synthetic:
        # The default would evaluate on training examples.
        names = ", ".join(map(source_name, sources(config.data)))
        yield (
            f"evaluation.problems is {evaluation.problems} and evaluation.data is "
            f"null; expected a source of held-out problems, since data is {names}"
        )


def _validation(validation: ValidationConfig, keep_best: str | None) -> Iterator[str]:
    measured = validation.examples or validation.data is not None
    if (keep_best or "").startswith(VALIDATION_PREFIX) and not measured:
        yield (
            f"train.keep_best is {keep_best!r} and nothing is held out; expected "
            "validation.examples or validation.data, or another metric"
        )
    if validation.examples and validation.data is not None:
        yield (
            f"validation.examples is {validation.examples} and validation.data is set "
            "too; set only one (validation.data.limit takes the first examples)"
        )
