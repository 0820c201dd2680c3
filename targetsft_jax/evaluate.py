"""Evaluate a model: `python -m targetsft_jax.evaluate --model PATH …`."""

from collections.abc import Sequence

from targetsft_jax.command import leave, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(
        _evaluate,
        arguments,
        interrupted="interrupted; finished batches are stored, and the same command "
        "continues",
    )


def _evaluate(arguments: list[str]) -> int:
    from targetsft_jax.evaluation.command import evaluate
    from targetsft_jax.evaluation.settings import parse
    from targetsft_jax.parallel.launch import launch

    config = parse(arguments)

    def action() -> None:
        evaluate(config)

    return launch(action, **config.mesh.processes_of_run())


if __name__ == "__main__":
    leave(main())
