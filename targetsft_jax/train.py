"""`python -m targetsft_jax.train --config FILE [--key value …]`: one training run."""

import dataclasses
import sys
from collections.abc import Sequence

from targetsft_jax.command import run_command
from targetsft_jax.config.load import load
from targetsft_jax.config.schema import Config, MeshConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(
        _train,
        arguments,
        interrupted="interrupted; rerun the same command to resume from the newest "
        "checkpoint",
    )


def launch_options(mesh: MeshConfig) -> dict:
    """The keys of the mesh section that `parallel.launch.launch` takes."""
    options = dataclasses.asdict(mesh)
    for axis in ("data", "fsdp", "tensor", "vocab_group"):
        del options[axis]
    return options


def _train(arguments: list[str]) -> int:
    from targetsft_jax.parallel.launch import launch

    config = load(arguments)
    return launch(lambda: _run(config), **launch_options(config.mesh))


def _run(config: Config) -> None:
    from targetsft_jax.parallel.preemption import Preempted
    from targetsft_jax.training.run import run

    try:
        run(config)
    except Preempted as stop:
        print(f"{stop}; rerun the same command to resume")


if __name__ == "__main__":
    sys.exit(main())
