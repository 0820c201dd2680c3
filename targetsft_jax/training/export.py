"""Export the trained model, its model folder and its model card."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from targetsft_jax.checkpoints.model_folder import AdapterInfo, write_model_folder
from targetsft_jax.config.load import changed_keys
from targetsft_jax.config.schema import Config, role_config
from targetsft_jax.data.catalogue import CATALOGUE
from targetsft_jax.data.chat import stop_tokens
from targetsft_jax.data.config import SourceConfig, paths, source_name, sources
from targetsft_jax.evaluation.estimates import average_interval
from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.model_card import (
    CardScore,
    adapter_card,
    training_card,
    with_results,
    with_step,
)
from targetsft_jax.hf.origin import Origin, origin
from targetsft_jax.hf.peft import save_adapter
from targetsft_jax.hf.sidecar_files import CARD_FILE
from targetsft_jax.models import lora
from targetsft_jax.parallel import processes
from targetsft_jax.storage import manifest, yaml_file
from targetsft_jax.storage.location import Location, is_url
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path
from targetsft_jax.targets.describe import explain
from targetsft_jax.training.micro_batch import BASE
from targetsft_jax.training.session import Session
from targetsft_jax.training.state import Params

_OF_THE_MACHINE = ("run_dir", "checkpoint_dir", "cache_dir", "resume", "log")
"""Sections and keys that say nothing about the model."""


def write_run_model(session: Session, run_dir: RunDir) -> None:
    """Write RUN/model: config, tokenizer and card, needed to export a checkpoint."""
    adapters, student = session.spec.lora, session.roles["student"]
    info = None
    if adapters is not None:
        info = AdapterInfo(adapters, _base_name(session), student.dtype.name)
    template = session.config.data.chat_template
    write_model_folder(
        run_dir,
        student.model.folder,
        model_card(session),
        info,
        tokenizer=student.model.tokenizer_folder,
        template=template and session.tokenizer.get_chat_template(),
        stops=stop_tokens(session.tokenizer),
    )


def export(
    session: Session,
    run_dir: RunDir,
    params: Params,
    frozen: Mapping[str, Params],
    step: int,
) -> None:
    """Write RUN/hf, and RUN/adapter if adapters were trained.

    Args:
        session: opened run.
        run_dir: run directory, with the model folder.
        params: trained parameters, the student's or the adapters'.
        frozen: frozen arguments of the step.
        step: optimizer step of `params`.
    """
    spec = session.spec
    card = with_step(model_card(session), step)
    if spec.lora is not None:
        save_adapter(
            run_dir.adapter_export,
            spec.student,
            params,
            spec.lora,
            base=_base_name(session),
            like=run_dir.model,
            card=adapter_card(card),
        )
        params = lora.merged(frozen[BASE], params, spec.lora)
    save_pretrained(
        run_dir.export,
        spec.student,
        params,
        like=run_dir.model,
        card=card,
    )


def check_exports(session: Session, run_dir: RunDir, *, exported: bool) -> None:
    """Check that the exports of a run may be written, before it is trained.

    Args:
        session: opened run, with the folders that it reads.
        run_dir: run directory.
        exported: the exports are those of this training, and stay.

    Raises:
        FileExistsError: a folder that the run would replace has other files, or is that
            of a model of the run.
    """
    sources: dict[str, Location] = {}
    for name, role in session.roles.items():
        sources[f"{name} of the run"] = role.model.source
        sources[f"config of the {name}"] = role.model.folder
        for base in role.model.bases:
            sources[f"base of the {name}"] = base.source
    manifest.check_apart(run_dir.checkpoints, sources)
    exports = [] if exported else [run_dir.export, run_dir.adapter_export]
    for folder in (run_dir.model, *exports):
        manifest.check_replaceable(folder, sources)


def model_card(session: Session) -> str:
    """Render the model card of the run's exports; no path of this machine is in it."""
    config, method = session.config, session.spec.method
    roles = ("student", *session.spec.frozen)
    parts = sources(config.data)
    lines = [
        f"source               {', '.join(map(_source, parts))}",
        f"fingerprint          {session.dataset.fingerprint}",
        *session.dataset.report.lines(),
    ]
    for path in (path for part in parts for path in paths(part)):
        lines = [line.replace(path, Path(path).name) for line in lines]
    return training_card(
        method=method.name,
        explanation=explain(method.method, method.hyper, method.schedules),
        models={name: _origin(session, name) for name in roles},
        data=lines,
        config=_config(config),
        datasets=list(dict.fromkeys(_hub_ids(parts))),
    )


def add_results(
    session: Session, run_dir: RunDir, scores: Mapping[str, AverageAtK], steps: int
) -> None:
    """Add the scores of a finished run to the cards of its exports; idempotent.

    Args:
        session: opened run.
        run_dir: run directory, with the exports.
        scores: model name -> score.
        steps: optimizer steps of the run.
    """
    if not processes.is_primary() or not scores:
        return
    evaluation = session.config.evaluation
    trained = session.spec.method.name
    rows = [
        _card_score(f"step {steps:,}" if name == trained else name, score)
        for name, score in scores.items()
    ]
    about = (
        f"Held-out problems of {_problem_source(session.config)}, temperature "
        f"{evaluation.temperature:g}, seed {session.config.seed}; start: before "
        "training."
    )
    for folder in (run_dir.model, run_dir.export, run_dir.adapter_export):
        path = folder / CARD_FILE
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        if (new := with_results(text, rows, about)) != text:
            manifest.replace_texts(folder, {CARD_FILE: new})


def _base_name(session: Session) -> str:
    """Return the student's hub id, or the absolute path of its folder."""
    path = session.config.student.path
    source = session.roles["student"].model.source
    if path is not None and (is_url(path) or not user_path(path).exists()):
        return path
    return str(Path(source).resolve())


def _card_score(name: str, score: AverageAtK) -> CardScore:
    low, high = average_interval(
        score.average_at_k, score.standard_error, score.problems
    )
    return CardScore(
        name,
        100 * score.average_at_k,
        100 * low,
        100 * high,
        score.k,
        score.problems,
    )


def _origin(session: Session, role: str) -> Origin:
    return origin(
        role_config(session.config, role).path, session.roles[role].model.folder
    )


def _config(config: Config) -> str:
    tree = changed_keys(config)
    tree = {k: v for k, v in tree.items() if k not in _OF_THE_MACHINE}
    return yaml_file.dump(_portable(tree)) if tree else "# none\n"


def _portable(value: Any) -> Any:
    """Plain data with the last part of every local path in its place."""
    if isinstance(value, dict):
        return {key: _portable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_portable(part) for part in value]
    if isinstance(value, str) and "/" in value and "\n" not in value:
        if is_url(value):
            return value.rstrip("/").rpartition("/")[2]
        if value[0] in "/~." or user_path(value).exists():
            return Path(value).name
    return value


def _source(source: SourceConfig) -> str:
    synthetic = source.kind == "synthetic" and source.name is None
    return "synthetic problems" if synthetic else source_name(source)


def _hub_ids(parts: list[SourceConfig]) -> Iterator[str]:
    for part in parts:
        if part.source == "tfds" and part.dataset in CATALOGUE:
            yield CATALOGUE[part.dataset].hub


def _problem_source(config: Config) -> str:
    data = config.evaluation.data
    if data is None:
        return "the synthetic problems"
    return ", ".join(map(_source, sources(data)))
