"""Open a run: models, tokenizer, data and problems, checked before loading weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from targetsft_jax.checkpoints.open import StoredModel, open_model, shared_tokenizer
from targetsft_jax.checkpoints.stored_teacher import load_head, with_teacher
from targetsft_jax.config.data_checks import check_positions, check_weights
from targetsft_jax.config.roles import live_roles, reads_teacher_rows, teacher_prompt
from targetsft_jax.config.schema import Config, ConfigError, role_config
from targetsft_jax.data.chat_templates import with_template
from targetsft_jax.data.pipeline import Dataset, Prepared, prepare
from targetsft_jax.data.records import Problem, problems
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.teacher_cache import TRAIN, VALIDATION
from targetsft_jax.evaluation.label_probe import ProbeExamples, probe_examples
from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.hf.sidecar_files import check_exportable
from targetsft_jax.models import decoder, lora
from targetsft_jax.parallel import rules
from targetsft_jax.storage.location import is_url
from targetsft_jax.storage.shared_folder import folder_to_read
from targetsft_jax.storage.user_path import user_path
from targetsft_jax.targets.inputs import INPUTS
from targetsft_jax.training.fit import Start
from targetsft_jax.training.micro_batch import (
    BASE,
    TEACHER,
    StepSpec,
)
from targetsft_jax.training.saving import check_keep_best
from targetsft_jax.training.state import Params
from targetsft_jax.training.step_spec import (
    is_int8,
    make_mesh,
    param_dtype,
    step_spec,
    stored_teacher,
)
from targetsft_jax.training.tiny_models import start_model
from targetsft_jax.training.validate import Validation


@dataclass(frozen=True)
class Role:
    """A model of a run.

    Attributes:
        name: "student", "teacher" or "reference".
        model: stored model, with its architecture.
        dtype: dtype of the parameters on the devices.
        int8: True if the matrices of its layers are int8, and the rest in `dtype`.
    """

    name: str
    model: StoredModel
    dtype: Any
    int8: bool = False

    @property
    def precision(self) -> str:
        """Dtypes of the parameters, for reports and as a part of their identity."""
        return f"int8 with {self.dtype} embeddings" if self.int8 else str(self.dtype)


@dataclass
class Shared:
    """Frozen parameters and scores shared by the runs of one process.

    Attributes:
        parameters: (source, precision) -> frozen parameters.
        scores: key of the measurement -> score of an untrained model.
        label_probes: this key and the training data -> label probe of such a model.
        prepared: data section, student, number of held-out examples and prompt of the
            teacher -> packed rows of generated problems.
    """

    parameters: dict[tuple[str, str], Params] = field(default_factory=dict)
    scores: dict[str, AverageAtK] = field(default_factory=dict)
    label_probes: dict[str, Any] = field(default_factory=dict)
    prepared: dict[str, Prepared] = field(default_factory=dict)


@dataclass
class Session:
    """An opened run.

    Attributes:
        config: validated configuration.
        mesh: device mesh.
        spec: static configuration of the step.
        roles: name -> student or frozen model.
        tokenizer: tokenizer of the student, with the chat template of the training.
        evaluation_tokenizer: the same with the chat template of the evaluation.
        dataset: packed training rows.
        problems: held-out problems; empty without evaluation.
        problem_report: counts of the rows of their source, if they are not generated.
        validation: held-out rows; None without validation.
        probe: training examples of the label probe; None without one.
        shared: frozen parameters and scores shared with other runs of the process.
        start_parameters: the initial student; None while not on the devices.
    """

    config: Config
    mesh: Mesh
    spec: StepSpec
    roles: dict[str, Role]
    tokenizer: Any
    evaluation_tokenizer: Any
    dataset: Dataset
    problems: Sequence[Problem]
    problem_report: DataReport
    validation: Validation | None
    probe: ProbeExamples | None
    shared: Shared
    start_parameters: Params | None = None

    def student_at_start(self) -> Params:
        """Return the initial student; loaded once."""
        if self.spec.lora is not None:
            return self.frozen_parameters("student")
        if self.start_parameters is None:
            student = self.roles["student"]
            self.start_parameters = student.model.load(self.mesh, student.dtype)
        return self.start_parameters

    def frozen_parameters(self, role: str) -> Params:
        """Return the parameters of a frozen role; equal models share arrays."""
        part = self.roles[role]
        key = str(part.model.source), part.precision
        if key not in self.shared.parameters:
            params = part.model.load(self.mesh, part.dtype, int8=part.int8)
            self.shared.parameters[key] = params
        return self.shared.parameters[key]

    def frozen_arguments(self) -> dict[str, Params]:
        """Return the frozen arguments of the train step by name."""
        arguments: dict[str, Params] = {}
        for name in self.spec.frozen_arguments:
            if name == TEACHER and self.spec.stored is not None:
                assert self.dataset.teacher is not None
                dtype = param_dtype(TEACHER, self.config, self.mesh)
                folder = self.dataset.teacher.folder
                arguments[name] = load_head(folder, self.mesh, dtype)
            else:
                role = "student" if name == BASE else name
                arguments[name] = self.frozen_parameters(role)
        return arguments

    def start(self) -> Start:
        """Return the initial parameters to train: the student or new adapters."""
        student = self.roles["student"]
        config, adapters = student.model.config, self.spec.lora
        if adapters is None:
            shapes = decoder.abstract_params(config, student.dtype)
            return Start(shapes, self._take_student)

        def make(key: Any) -> Params:
            return lora.init_adapters(config, adapters, key)

        key = jax.random.key(self.config.seed)
        shapes = jax.eval_shape(make, key)
        axes = lora.logical_axes(config, adapters)
        shardings = rules.shardings(axes, shapes, self.mesh)
        return Start(shapes, lambda: jax.jit(make, out_shardings=shardings)(key))

    def _take_student(self) -> Params:
        """Return the initial student and release it, since `fit` consumes it."""
        params, self.start_parameters = self.student_at_start(), None
        return params


def open_session(config: Config, shared: Shared | None = None) -> Session:
    """Open a run and check everything that needs no weights.

    Args:
        config: validated configuration.
        shared: `Session.shared` of earlier runs in this process.

    Raises:
        ConfigError, ValueError, OSError: a key, model or file cannot be used.
    """
    check_keep_best(config)
    shared = shared or Shared()
    mesh = make_mesh(config)
    roles = _open_roles(config, mesh)
    in_step = ("student", *live_roles(config))
    check_positions(config, {name: roles[name].model.config for name in in_step})
    tokenizer = shared_tokenizer({name: role.model for name, role in roles.items()})
    tokenizer = with_template(tokenizer, config.data.chat_template)
    check_exportable(roles["student"].model.config, tokenizer)
    prepared = _prepare(config, roles["student"].model.source, tokenizer, shared)
    train, held_out = prepared.train, prepared.held_out
    if (data := config.validation.data) is not None:
        prompt = teacher_prompt(config, data)
        held_out = prepare(data, tokenizer, config.cache_dir, teacher=prompt).train
    if not reads_teacher_rows(config):
        # Packed for a teacher, so that all methods have the same rows.
        train = replace(train, teacher_rows=None)
        held_out = held_out and replace(held_out, teacher_rows=None)
    train, held_out = _with_stored_teacher(config, train, held_out, tokenizer)
    cache = train.teacher
    stored = None if cache is None else stored_teacher(cache.header, cache.folder)
    datasets = [x for x in (train, held_out) if x is not None]
    for dataset in datasets:
        _check_columns(config, dataset)
    check_weights(config, datasets)
    evaluation = config.evaluation
    template = evaluation.data.chat_template if evaluation.data else None
    held_out_problems: Sequence[Problem] = []
    problem_report = DataReport()
    if evaluation.problems:
        source = evaluation.data or config.data
        last = evaluation.skip + evaluation.problems
        held_out_problems = problems(source, "heldout", last, problem_report)
        held_out_problems = held_out_problems[evaluation.skip :]
        if not held_out_problems:
            raise ConfigError(
                f"evaluation.skip is {evaluation.skip}, and the source has no problem "
                "behind these; lower it"
            )
    architectures = {name: role.model.config for name, role in roles.items()}
    return Session(
        config=config,
        mesh=mesh,
        spec=step_spec(config, architectures, len(tokenizer), mesh, stored),
        roles=roles,
        tokenizer=tokenizer,
        evaluation_tokenizer=with_template(
            tokenizer, template, "evaluation.data.chat_template"
        ),
        dataset=train,
        problems=held_out_problems,
        problem_report=problem_report,
        validation=(
            None if held_out is None else Validation(held_out, config.validation.every)
        ),
        probe=(
            probe_examples(config.data.synthetic, evaluation.label_probe, tokenizer)
            if evaluation.label_probe
            else None
        ),
        shared=shared,
    )


def role_model(config: Config, name: str, mesh: Mesh) -> StoredModel | None:
    """Open the model of a role; a generated one is built first if it is not cached.

    Args:
        config: configuration.
        name: "student", "teacher" or "reference".
        mesh: device mesh, on which a generated model is trained.

    Returns:
        The model, or None if the configuration has none for this role.
    """
    section = role_config(config, name)
    if section.build:
        folder = start_model(name, section.build, config.cache_dir, mesh)
        return open_model(str(folder))
    return open_model(section.path) if section.path else None


def _prepare(
    config: Config, source: object, tokenizer: Any, shared: Shared
) -> Prepared:
    """Prepare the training rows; generated ones once for all runs of a process."""
    held_out, prompt = config.validation.examples, teacher_prompt(config, config.data)
    make = partial(prepare, config.data, tokenizer, held_out=held_out, teacher=prompt)
    if config.data.mixture or config.data.kind != "synthetic":
        return make(config.cache_dir)
    key = repr((config.data, str(source), held_out, prompt))
    if key not in shared.prepared:
        # One entry: the cells of a comparison change their data rarely.
        shared.prepared = {key: make()}
    return shared.prepared[key]


def _with_stored_teacher(
    config: Config, train: Dataset, held_out: Dataset | None, tokenizer: Any
) -> tuple[Dataset, Dataset | None]:
    """Attach the teacher's cache to the data sets, if the method reads a teacher."""
    cache = config.teacher.cache
    if cache is None or TEACHER not in config.method.roles:
        return train, held_out
    path = config.teacher.path
    folder = folder_to_read(cache, "teacher.cache")
    again = partial(folder_to_read, cache, "teacher.cache") if is_url(cache) else None
    # A hub id would have to be downloaded to be compared.
    is_local = path is not None and user_path(path).is_dir()
    teacher = open_model(path) if path is not None and is_local else None
    command = f"targetsft teacher_cache --teacher.cache {cache}, with your --config"
    about = (tokenizer, teacher, config.teacher.prompt, command)
    int8 = is_int8(TEACHER, config)
    train = with_teacher(train, folder / TRAIN, *about, int8=int8, copy_again=again)
    if held_out is not None:
        part = TRAIN if config.validation.data is None else VALIDATION
        held_out = with_teacher(
            held_out, folder / part, *about, int8=int8, copy_again=again
        )
        assert train.teacher is not None and held_out.teacher is not None
        kinds = [
            (cache.header.kind, cache.header.width)
            for cache in (train.teacher, held_out.teacher)
        ]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"{train.teacher.folder} has {train.teacher.header} and "
                f"{held_out.teacher.folder} {held_out.teacher.header}; make one of "
                f"them again: {command}"
            )
    return train, held_out


def _open_roles(config: Config, mesh: Mesh) -> dict[str, Role]:
    """Open the student, the frozen models of the method and an evaluated teacher."""
    evaluation = config.evaluation
    names = ["student", *live_roles(config)]
    if evaluation.problems and evaluation.include_teacher and "teacher" not in names:
        names.append("teacher")
    roles: dict[str, Role] = {}
    for name in names:
        # A reference, or a teacher with a prompt: the initial student.
        model = role_model(config, name, mesh) or roles["student"].model
        dtype = param_dtype(name, config, mesh)
        roles[name] = Role(name, model, dtype, is_int8(name, config))
    return roles


def _check_columns(config: Config, dataset: Dataset) -> None:
    """Raise ConfigError for a missing column or one with an ambiguous source."""
    method = config.method
    for name in method.method.inputs(**method.hyper):
        sources = INPUTS[name].policy_sources
        if sources and getattr(config.policy, name) is None and name in dataset.columns:
            raise ConfigError(
                f"method {method.name!r} reads {name}, which the data has, and "
                f"policy.{name} is null; set it to data to read the column, or to "
                f"{sources[0]} to compute it during training"
            )
    missing = [name for name in method.columns if name not in dataset.columns]
    if missing:
        raise ConfigError(
            f"method {method.name!r} needs {', '.join(missing)} for every example, and "
            f"the data has none; expected the field {missing[0]!r} in each row of the "
            "file"
        )
