"""Train one model: `python -m targetsft_jax.train --config FILE [--key value …]`."""

from collections.abc import Sequence

from targetsft_jax.command import leave, run_command
from targetsft_jax.config.load import load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(
        _train,
        arguments,
        interrupted="interrupted; the same command starts the run, or resumes it",
    )


def _train(arguments: list[str]) -> int:
    from targetsft_jax.parallel.launch import launch

    config = load(arguments)

    def action() -> None:
        from targetsft_jax.training.run import run

        run(config)
        if config.inspect.rows:
            from targetsft_jax.inspection.of_run import write_page_of_run

            write_page_of_run(config)

    return launch(action, **config.mesh.processes_of_run())


if __name__ == "__main__":
    leave(main())
