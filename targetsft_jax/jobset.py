"""Print a JobSet for Kubernetes: `python -m targetsft_jax.jobset … -- --config F`."""

from collections.abc import Sequence

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import leave, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_jobset, arguments)


def _jobset(arguments: list[str]) -> None:
    from targetsft_jax.clusters.command import manifest_text

    print(manifest_text(arguments), end="")


def parser() -> CommandParser:
    """Arguments of the command in front of `--`."""
    from targetsft_jax.clusters.command import jobset_parser

    return jobset_parser()


if __name__ == "__main__":
    leave(main())
