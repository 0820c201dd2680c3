"""The page of a run at its end, whose failure does not fail the run."""

import shlex

from targetsft_jax.config.paths import run_dir_of
from targetsft_jax.config.schema import Config
from targetsft_jax.inspection.command import Request, read_sections, write_page
from targetsft_jax.inspection.models import Selection
from targetsft_jax.parallel import processes
from targetsft_jax.storage.object_store import publish


def write_page_of_run(config: Config) -> None:
    """Write RUN/inspect.html: the trained model against the start of the run.

    Any error becomes one line with the command that writes the page later: the run
    itself is complete. In a job of several processes there is only that line, since a
    page is written by one process.

    Args:
        config: configuration of the finished run.
    """
    run_dir = run_dir_of(config)
    rows = config.inspect.rows
    command = f"targetsft inspect --run {shlex.quote(config.run_dir)} --rows {rows}"
    if processes.is_multiprocess():
        print(f"no inspection page in a job of several processes; run `{command}`")
        return
    print("\ninspection page", flush=True)
    try:
        request = Request(
            config=read_sections(config),
            selection=Selection(student=str(run_dir.path)),
            rows=rows,
            out=run_dir.inspect,
            name=f"--run {config.run_dir}",
        )
        write_page(request)
        if run_dir.url is not None:
            publish(run_dir.inspect, f"{run_dir.url}/{run_dir.inspect.name}")
    except Exception as error:  # noqa: BLE001
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(
            f"  warning: the run is complete, but not its inspection page: {reason}; "
            f"`{command}` writes it"
        )
