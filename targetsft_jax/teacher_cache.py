"""Store what a teacher predicts: `python -m targetsft_jax.teacher_cache --config F`."""

from collections.abc import Sequence

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import leave, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(
        _make,
        arguments,
        interrupted="interrupted; complete shards stay, the same command continues",
    )


def _make(arguments: list[str]) -> int:
    options, config_arguments = parser().parse_known_args(arguments)
    from targetsft_jax.config.load import load
    from targetsft_jax.parallel.launch import launch
    from targetsft_jax.teachers.make import make_cache

    config = load(config_arguments)
    return launch(
        lambda: make_cache(config, options.store, options.k),
        **config.mesh.processes_of_run(),
    )


def parser() -> CommandParser:
    """Arguments of the command; all other ones are keys of the configuration."""
    example = "targetsft teacher_cache --config quickstart --teacher.cache runs/cache"
    parser = CommandParser(
        "teacher_cache",
        "--config FILE --teacher.cache DIR [--k N] [--KEY VALUE …]",
        "Run the teacher once over the training data; store its distribution at each "
        "trained token. A run with the same --teacher.cache reads it in place of the "
        "teacher. The same command continues, and makes damaged shards again.",
        (example, f"{example} --k 256"),
        run_keys=True,
    )
    add = parser.add_argument
    add("--k", type=int, default=64, metavar="N", help="tokens per position (64)")
    text = "top_k: ids and log-probabilities (default); hidden_states: exact, larger"
    add("--store", choices=("top_k", "hidden_states"), default="top_k", help=text)
    return parser


if __name__ == "__main__":
    leave(main())
