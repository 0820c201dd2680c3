"""A whole run: open the roles, prove the data, train, measure, export."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from targetsft_jax.checkpoints.model_folder import AdapterInfo, write_model_folder
from targetsft_jax.checkpoints.open import StoredModel, open_model, shared_tokenizer
from targetsft_jax.config.schema import (
    CONFIG_FILE,
    POLICY_SOURCES,
    Config,
    ConfigError,
    RoleConfig,
    made_in_step,
    roles_needed,
    to_yaml,
    trainings,
)
from targetsft_jax.data.chat import show, stop_tokens
from targetsft_jax.data.chat_templates import with_template
from targetsft_jax.data.config import SourceConfig, source_name, sources
from targetsft_jax.data.pipeline import Dataset, prepare
from targetsft_jax.data.records import Problem, problems
from targetsft_jax.evaluation.evaluate import evaluate_model
from targetsft_jax.evaluation.statistics import AverageAtK, table
from targetsft_jax.generation.sampling import SamplingSettings
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.model_card import training_card
from targetsft_jax.hf.peft import save_adapter
from targetsft_jax.hf.sidecar_files import check_exportable
from targetsft_jax.models import decoder, lora
from targetsft_jax.models.kernels import choose
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import processes, rules
from targetsft_jax.storage.atomic import write_text
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.targets.describe import explain
from targetsft_jax.telemetry.log import METRICS_FILE
from targetsft_jax.telemetry.progress import LEGEND
from targetsft_jax.training.fit import fit, total_steps
from targetsft_jax.training.step import BASE, StepSpec
from targetsft_jax.training.step_spec import (
    adapters,
    columns,
    compute_dtype,
    make_mesh,
    param_dtype,
    step_spec,
)
from targetsft_jax.training.tiny_models import start_model
from targetsft_jax.training.validate import Validation

EXPORT_FOLDER, ADAPTER_FOLDER = "hf", "adapter"


@dataclass(frozen=True)
class Role:
    """A model of a run.

    Attributes:
        name: "student", "teacher" or "reference".
        model: where it is stored, and its architecture.
        dtype: of its parameters on the devices.
    """

    name: str
    model: StoredModel
    dtype: Any


@dataclass
class Session:
    """What the trainings of one run share."""

    config: Config
    mesh: Mesh
    dtype: Any
    roles: dict[str, Role]
    tokenizer: Any
    asking: Any
    """The tokenizer with the chat template that problems are asked with."""
    dataset: Dataset
    problems: Sequence[Problem]
    validation: Validation | None = None
    frozen: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, AverageAtK] = field(default_factory=dict)


def run(config: Config) -> dict[str, AverageAtK]:
    """Everything that a configuration asks for.

    Returns:
        The score of each model measured, by name; empty without evaluation.

    Raises:
        ConfigError, ValueError, OSError: naming what cannot be used.
    """
    began = time.perf_counter()
    _prove_same_config(config)
    mesh = make_mesh(config)
    run_dir = _claim(config)
    session = _open(config, mesh)
    # What they have read, the first one writes.
    processes.barrier("the run directory was read")
    if processes.is_primary():
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(run_dir / CONFIG_FILE, to_yaml(config))
    _say_session(session, run_dir)
    if session.problems:
        if config.evaluation.include_teacher:
            _measure(session, "teacher", _load(session, "teacher"), run_dir, "teacher")
        _measure(session, "start", _load(session, "student"), run_dir)
    for name, hyper in trainings(config).items():
        compared = name != config.target.name
        own_dir = run_dir / "compare" / name if compared else run_dir
        _train(session, name, hyper, own_dir)
    _say_end(session, run_dir, time.perf_counter() - began)
    return session.scores


def _prove_same_config(config: Config) -> None:
    """ConfigError where another process has another configuration than the first."""
    unlike = dataclasses.replace(config.mesh, process=None)
    text = to_yaml(dataclasses.replace(config, mesh=unlike))
    found = processes.gather_text(hashlib.sha256(text.encode()).hexdigest())
    other = [str(number) for number, digest in enumerate(found) if digest != found[0]]
    if other:
        raise ConfigError(
            f"process {', '.join(other)} of {len(found)} has another configuration "
            "than process 0; expected the same command everywhere but for mesh.process"
        )


def _claim(config: Config) -> Path:
    """The run directory: without progress, or of a run that this one goes on with."""
    run_dir = Path(config.run_dir).expanduser()
    path = run_dir / CONFIG_FILE
    if not path.exists() or not any(run_dir.glob("**/checkpoints/*")):
        return run_dir
    if not config.resume:
        raise ConfigError(
            f"run_dir {run_dir} holds a run already and resume is false; choose "
            "another run_dir, or delete it"
        )
    changed = _changes(path.read_text(encoding="utf-8"), to_yaml(config))
    if changed:
        raise ConfigError(
            f"run_dir {run_dir} holds a run with another configuration, so it cannot "
            "be gone on with:\n  "
            + "\n  ".join(changed)
            + "\nRestore these values, or choose another run_dir"
        )
    return run_dir


def _changes(before: str, after: str) -> list[str]:
    """What differs in two configurations among the keys that make the model.

    A key that is younger than the run means what it does when nobody sets it.
    """
    import yaml

    usual = _flat(dataclasses.asdict(Config()))
    old, new = (usual | _flat(yaml.safe_load(text)) for text in (before, after))
    return [
        f"{key}: was {old.get(key)!r}, is {new.get(key)!r}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and not key.startswith(_FREE)
    ]


# What may change between a run and its resumption: where and how it is done.
_FREE = (
    "run_dir",
    "resume",
    "cache_dir",
    "data.cache",
    "mesh.",
    "evaluation.",
    "validation.data",
    "validation.every",
    "log.",
    "compare",
    "train.log_every",
    "train.save_every",
    "train.save_minutes",
    "train.keep_",
    "train.max_skipped_steps",
    "train.spike_",
    "train.loss_chunk",
    "train.attention",
    "train.remat",
)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix.rstrip("."): tree}
    return {
        key: value
        for name, part in tree.items()
        for key, value in _flat(part, f"{prefix}{name}.").items()
    }


def _open(config: Config, mesh: Mesh) -> Session:
    """Roles, tokenizer, data and problems: all that can be refused before weights."""
    roles = {"student": _role("student", config.student, config, mesh)}
    for name in roles_needed(config):
        given: RoleConfig = getattr(config, name)
        if name == "reference" and not (given.path or given.build):
            dtype = param_dtype(name, config, mesh)
            student = roles["student"]
            roles[name] = dataclasses.replace(student, name=name, dtype=dtype)
        else:
            roles[name] = _role(name, given, config, mesh)
    tokenizer = shared_tokenizer({name: role.model for name, role in roles.items()})
    tokenizer = with_template(tokenizer, config.data.chat_template)
    check_exportable(roles["student"].model.config, tokenizer)
    prepared = prepare(
        config.data, tokenizer, config.cache_dir, held_out=config.validation.examples
    )
    dataset, kept_out = prepared.train, prepared.held_out
    if config.validation.data is not None:
        kept_out = prepare(config.validation.data, tokenizer, config.cache_dir).train
    for name, hyper in trainings(config).items():
        _check_columns(config, name, hyper, dataset)
        if kept_out is not None:
            _check_columns(config, name, hyper, kept_out)
    measured = config.evaluation
    other = measured.data.chat_template if measured.data else None
    asking = with_template(tokenizer, other, "evaluation.data.chat_template")
    held_out = (
        problems(measured.data or config.data, "heldout", measured.problems)
        if measured.problems
        else []
    )
    validation = None
    if kept_out is not None:
        validation = Validation(kept_out, config.validation.every)
    dtype = compute_dtype(config, mesh)
    session = Session(
        config, mesh, dtype, roles, tokenizer, asking, dataset, held_out, validation
    )
    for name, hyper in trainings(config).items():
        # Made again when it is trained; what cannot be made is refused now.
        _spec(session, name, hyper)
    return session


def _spec(session: Session, method: str, hyper: dict[str, Any]) -> StepSpec:
    return step_spec(
        session.config,
        method,
        hyper,
        {name: role.model.config for name, role in session.roles.items()},
        len(session.tokenizer),
        session.mesh,
    )


def _role(name: str, given: RoleConfig, config: Config, mesh: Mesh) -> Role:
    if given.build:
        model = open_model(start_model(name, given.build, config.cache_dir, mesh))
    else:
        model = open_model(given.path or "")
    return Role(name, model, param_dtype(name, config, mesh))


def _check_columns(
    config: Config, name: str, hyper: dict[str, Any], dataset: Dataset
) -> None:
    for key in made_in_step(config, name, hyper):
        if key in dataset.columns and getattr(config.policy, key) is None:
            other = next(s for s in POLICY_SOURCES[key] if s != "data")
            raise ConfigError(
                f"method {name!r} reads {key}, which the data has, and policy.{key} is "
                f"null; set it to data to use the data's, or to {other} to make it "
                "in the run"
            )
    missing = [
        key for key in columns(config, name, hyper) if key not in dataset.columns
    ]
    if missing:
        raise ConfigError(
            f"method {name!r} needs {', '.join(missing)} for every example, and the "
            f"data has none; expected the field {missing[0]!r} in each row of the file"
        )


def _load(session: Session, name: str) -> Any:
    """A role's parameters. Frozen ones are loaded once; equal roles share arrays."""
    role = session.roles[name]
    if name == "student" and session.config.lora is None:
        return role.model.load(session.mesh, role.dtype)
    if name not in session.frozen:
        twin = next(
            (
                params
                for other, params in session.frozen.items()
                if session.roles[other].model.source == role.model.source
                and session.roles[other].dtype == role.dtype
            ),
            None,
        )
        if twin is None:
            twin = role.model.load(session.mesh, role.dtype)
        session.frozen[name] = twin
    return session.frozen[name]


def _train(session: Session, method: str, hyper: dict[str, Any], run_dir: Path) -> None:
    """Train the student from its start by one method; measure and export it."""
    began = time.perf_counter()
    config = session.config
    spec = _spec(session, method, hyper)
    if processes.is_primary():
        run_dir.mkdir(parents=True, exist_ok=True)
    steps = total_steps(config.train, session.dataset)
    settings = ", ".join(f"{k}={v}" for k, v in hyper.items() if v is not None)
    if spec.policy.makes is not None:
        settings = "; ".join(filter(None, (settings, str(spec.policy))))
    print(f"\n{_title(method, settings)}: {steps} steps")
    frozen = {
        name: _load(session, "student" if name == BASE else name)
        for name in spec.frozen_arguments
    }
    card = _card(session, method, hyper)
    tokenizer = session.tokenizer
    write_model_folder(
        RunDir(run_dir),
        session.roles["student"].model.folder,
        card,
        _adapted(session),
        template=config.data.chat_template and tokenizer.get_chat_template(),
        stops=stop_tokens(tokenizer),
    )
    fitted = fit(
        spec,
        _load(session, "student") if spec.lora is None else _adapters(session),
        frozen,
        session.dataset,
        session.mesh,
        config.train,
        run_dir=run_dir,
        seed=config.seed,
        resume=config.resume,
        validation=session.validation,
        log=config.log,
        began=began,
        about=dataclasses.asdict(config) | {"method": method},
    )
    trained = exported = fitted.state.params
    if spec.lora is not None:
        # Measured as they were trained: a merged copy would be a second model.
        trained = lora.attach(frozen[BASE], fitted.state.params, spec.lora)
        exported = lora.merged(frozen[BASE], fitted.state.params, spec.lora)
        save_adapter(
            run_dir / ADAPTER_FOLDER,
            spec.student,
            fitted.state.params,
            spec.lora,
            base=_name(session),
        )
    save_pretrained(
        run_dir / EXPORT_FOLDER,
        spec.student,
        exported,
        like=RunDir(run_dir).model,
        card=f"{card}\nThese weights: optimizer step {steps:,}.\n",
    )
    if session.problems:
        _measure(session, method, trained, run_dir)


def _adapters(session: Session) -> Any:
    """Fresh adapters of the student, on the mesh."""
    student, asked = session.roles["student"].model.config, adapters(session.config)
    assert asked is not None

    def make(key: Any) -> Any:
        return lora.init_adapters(student, asked, key)

    key = jax.random.key(session.config.seed)
    axes = lora.logical_axes(student, asked)
    places = rules.shardings(axes, jax.eval_shape(make, key), session.mesh)
    return jax.jit(make, out_shardings=places)(key)


def _adapted(session: Session) -> AdapterInfo | None:
    """What a checkpoint of adapters needs to become a model."""
    trained = adapters(session.config)
    if trained is None:
        return None
    return AdapterInfo(trained, _name(session), session.roles["student"].dtype.name)


def _name(session: Session) -> str:
    """Where others find the student: its folder or checkpoint, or its id on the hub."""
    path, source = session.config.student.path, session.roles["student"].model.source
    local = path is None or Path(path).expanduser().exists()
    return str(source.resolve()) if local else path


def _source(source: SourceConfig) -> str:
    generated = source.source == "synthetic" and source.name is None
    return "generated problems" if generated else source_name(source)


def _card(session: Session, method: str, hyper: dict[str, Any]) -> str:
    """What an export says of itself."""
    config, data = session.config, session.config.data
    models = {
        name: getattr(config, name).path or str(role.model.source)
        for name, role in session.roles.items()
        if name in ("student", *_spec(session, method, hyper).frozen)
    }
    return training_card(
        method=method,
        explanation=explain(method, hyper),
        models=models,
        data=[
            f"source               {', '.join(map(_source, sources(data)))}",
            f"fingerprint          {session.dataset.fingerprint}",
            *session.dataset.report.lines(),
        ],
        config=to_yaml(config),
    )


def _title(method: str, settings: str) -> str:
    return f"{method} ({settings})" if settings else method


def _measure(
    session: Session, name: str, params: Any, run_dir: Path, role: str = "student"
) -> None:
    """Average@k of some parameters, kept in the session and in a file of answers."""
    asked = session.config.evaluation
    score, graded = evaluate_model(
        session.roles[role].model.config,
        params,
        session.problems,
        session.asking,
        SamplingSettings(
            samples=asked.samples,
            max_new_tokens=asked.max_new_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
        ),
        seed=session.config.seed,
        dtype=session.dtype,
        row_sharding=meshes.rows_over(session.mesh),
    )
    session.scores[name] = score
    print(f"  Average@{asked.samples} of {name}: {100 * score.average_at_k:.1f}")
    if not processes.is_primary():
        return
    path = run_dir / f"answers_{name}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for problem in graded:
            file.write(json.dumps(problem.row(), ensure_ascii=False) + "\n")


def _say_session(session: Session, run_dir: Path) -> None:
    mesh = dict(session.mesh.shape)
    device = session.mesh.devices.flat[0].device_kind
    print(f"\nrun      {run_dir}")
    many = f" in {jax.process_count()} processes" if processes.is_multiprocess() else ""
    print(
        f"devices  {session.mesh.size} x {device}{many}, mesh {mesh}, {session.dtype}"
    )
    print(f"attention {', '.join(_attention(session))}")
    for role in session.roles.values():
        size = decoder.num_parameters(role.model.config) / 1e6
        print(
            f"{role.name:<8} {size:,.2f}M parameters, {role.dtype}, {role.model.source}"
        )
        trained = adapters(session.config) if role.name == "student" else None
        if trained is not None:
            print(f"         {lora.trainable(role.model.config, trained)}")
        whole = rules.undivided(
            decoder.logical_axes(role.model.config),
            decoder.abstract_params(role.model.config, role.dtype),
            session.mesh,
        )
        if whole:
            print(f"         not split by the mesh: {', '.join(whole)}")
    print("data")
    for line in session.dataset.cache_log:
        print(f"  {line}")
    for line in session.dataset.report.lines():
        print(f"  {line}")
    print("one example, trained tokens marked")
    print(show(session.dataset.example, session.tokenizer))
    print(f"\n{LEGEND}")


def _attention(session: Session) -> list[str]:
    """The kernel of each role, since `auto` chooses by model and devices."""
    config, length = session.config, session.config.data.max_length
    return [
        f"{role.name} "
        + choose(
            config.train.attention,
            meshes.platform(session.mesh),
            role.model.config,
            length,
            session.dtype,
        )
        for role in session.roles.values()
    ]


def _say_end(session: Session, run_dir: Path, seconds: float) -> None:
    if session.scores:
        print(
            f"\nheld-out problems, temperature {session.config.evaluation.temperature}"
        )
        print(table(session.scores))
    print(f"\ndone in {seconds:.0f} s; written to {run_dir}")
    adapter = ((ADAPTER_FOLDER, "for PEFT: PeftModel.from_pretrained over the base"),)
    answers = (("answers_*.jsonl", "every sampled answer with its verdict"),)
    for name, what in (
        *(answers if session.scores else ()),
        (METRICS_FILE, "every step's metrics"),
        ("tensorboard", "the same for TensorBoard"),
        ("checkpoints", "Orbax: parameters, optimizer, position"),
        ("model", "what convert needs to export a checkpoint"),
        (EXPORT_FOLDER, "for transformers: AutoModelForCausalLM.from_pretrained"),
        *(adapter if session.config.lora is not None else ()),
        (CONFIG_FILE, "the resolved configuration"),
    ):
        print(f"  {name:<16} {what}")
    if session.config.compare:
        print(f"  compare/         the same for {', '.join(session.config.compare)}")
