"""Print the setup of a run at its start and a summary at its end."""

from collections.abc import Mapping

import jax

from targetsft_jax.data.chat import show
from targetsft_jax.data.epochs import describe_use
from targetsft_jax.evaluation.statistics import AverageAtK, table
from targetsft_jax.models import decoder, lora
from targetsft_jax.models.kernels import choose
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import rules
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.targets.inputs import column_names
from targetsft_jax.telemetry.progress import LEGEND
from targetsft_jax.training.fit import total_steps
from targetsft_jax.training.session import Role, Session
from targetsft_jax.training.step_spec import row_length


def print_session(session: Session, run_dir: RunDir) -> None:
    """Print devices, models, data and one example with its target tokens marked."""
    mesh, numerics = session.mesh, session.spec.numerics
    device = mesh.devices.flat[0].device_kind
    count = jax.process_count()
    processes_text = f" in {count} processes" if count > 1 else ""
    print(f"\nrun      {run_dir.path}")
    print(
        f"devices  {mesh.size} x {device}{processes_text}, mesh {dict(mesh.shape)}, "
        f"{numerics.dtype}"
    )
    kernels = [f"{name} {_kernel(session, role)}" for name, role in _items(session)]
    print(f"attention {', '.join(kernels)}")
    for role in session.roles.values():
        _print_role(session, role)
    if session.dataset.teacher is not None:
        print(f"teacher  stored: {session.dataset.teacher}")
    _print_data(session)
    print("one example, target tokens marked")
    print(show(session.dataset.example, session.tokenizer))
    if session.dataset.teacher_rows is not None:
        print("the same example as the teacher reads it")
        print(show(session.dataset.teacher_example, session.tokenizer))
    print(f"\n{LEGEND}")


def print_end(
    session: Session,
    run_dir: RunDir,
    scores: Mapping[str, AverageAtK],
    seconds: float,
) -> None:
    """Print scores, duration and the contents of the run directory."""
    if scores:
        temperature = session.config.evaluation.temperature
        print(f"\nheld-out problems, temperature {temperature}")
        print(table(scores))
    print(f"\ndone in {seconds:.0f} s; written to {run_dir}")
    contents = [
        (run_dir.metrics.name, "metrics of every step"),
        (run_dir.tensorboard.name, "the same metrics for TensorBoard"),
        (_checkpoints(run_dir), "Orbax: parameters, optimizer, data position"),
        (run_dir.model.name, "config and tokenizer for exports of checkpoints"),
        (
            run_dir.export.name,
            "for transformers: AutoModelForCausalLM.from_pretrained",
        ),
        (run_dir.config.name, "the resolved configuration"),
    ]
    if session.spec.lora is not None:
        text = "for PEFT: PeftModel.from_pretrained over the base"
        contents.insert(-1, (run_dir.adapter_export.name, text))
    if scores:
        text = "every sampled completion with its verdict"
        contents.insert(0, (run_dir.completions("*").name, text))
        contents.insert(1, (run_dir.results.name, "the scores"))
    for name, text in contents:
        print(f"  {name:<19} {text}")


def _checkpoints(run_dir: RunDir) -> str:
    """Folder of the checkpoints: its name in the run directory, else its path."""
    folder = run_dir.checkpoints
    inside = folder in run_dir.paths() or str(folder).startswith(f"{run_dir}/")
    return folder.name if inside else str(folder)


def _print_data(session: Session) -> None:
    dataset, config = session.dataset, session.config
    steps = total_steps(config.train, dataset)
    use = describe_use(dataset, steps, config.train.batch_size)
    unread = [n for n in column_names() if n in dataset.columns]
    unread = [n for n in unread if n not in config.method.columns]
    sections = {"data": [*dataset.cache_log, *dataset.report.lines()]}
    sections["data"].append(f"rows used            {use}")
    if unread:
        names = ", ".join(unread)
        sections["data"].append(f"columns not read     {names} (by this method)")
    if session.validation is not None and config.validation.data is not None:
        sections["validation data"] = session.validation.dataset.report.lines()
    if session.problem_report.rows:
        sections["problems"] = session.problem_report.lines()
    for title, lines in sections.items():
        print(title)
        for line in lines:
            print(f"  {line}")


def _print_role(session: Session, role: Role) -> None:
    config = role.model.config
    size = decoder.num_parameters(config) / 1e6
    print(
        f"{role.name:<8} {size:,.2f}M parameters, {role.precision}, {role.model.source}"
    )
    if role.name == "student" and session.spec.lora is not None:
        print(f"         {lora.trainable(config, session.spec.lora)}")
    unsharded = rules.undivided(
        decoder.logical_axes(config),
        decoder.abstract_params(config, role.dtype),
        session.mesh,
    )
    if unsharded:
        print(f"         not split by the mesh: {', '.join(unsharded)}")


def _kernel(session: Session, role: Role) -> str:
    """Return the attention kernel of a role, with `auto` resolved."""
    numerics = session.spec.numerics
    return choose(
        numerics.attention,
        meshes.platform(session.mesh),
        role.model.config,
        row_length(role.name, session.config),
        numerics.dtype,
        session.mesh.shape["context"],
    )


def _items(session: Session) -> list[tuple[str, Role]]:
    return list(session.roles.items())
