"""Export the trained model, and write the model folder of the run."""

from collections.abc import Mapping
from pathlib import Path

from targetsft_jax.checkpoints.model_folder import AdapterInfo, write_model_folder
from targetsft_jax.data.chat import stop_tokens
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.model_card import adapter_card, with_step
from targetsft_jax.hf.peft import save_adapter
from targetsft_jax.models import lora
from targetsft_jax.storage import manifest
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path
from targetsft_jax.training.card import model_card
from targetsft_jax.training.micro_batch import BASE
from targetsft_jax.training.session import Session
from targetsft_jax.training.state import Params


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
    sources: dict[str, Path] = {}
    for name, role in session.roles.items():
        sources[f"{name} of the run"] = role.model.source
        sources[f"config of the {name}"] = role.model.folder
    manifest.check_apart(run_dir.checkpoints, sources)
    exports = [] if exported else [run_dir.export, run_dir.adapter_export]
    for folder in (run_dir.model, *exports):
        manifest.check_replaceable(folder, sources)


def _base_name(session: Session) -> str:
    """Return the student's hub id, or the absolute path of its folder."""
    path = session.config.student.path
    source = session.roles["student"].model.source
    local = path is None or user_path(path).exists()
    return str(source.resolve()) if local or path is None else path
