"""Inspect rows under models: `python -m targetsft_jax.inspect --config FILE`."""

from collections.abc import Sequence

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import leave, output_file, row_count, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_inspect, arguments)


def _inspect(arguments: list[str]) -> int:
    options, config_arguments = parser().parse_known_args(arguments)
    from targetsft_jax.inspection.command import PageOptions, read_request, write_page
    from targetsft_jax.parallel.launch import launch

    request = read_request(config_arguments, PageOptions(**vars(options)))

    def action() -> None:
        write_page(request)

    return launch(action, cpu_devices=request.config.mesh.cpu_devices)


def parser() -> CommandParser:
    """Arguments of the command; all other ones are keys of the configuration."""
    parser = CommandParser(
        "inspect",
        "--config FILE | --run RUN [--rows N] [--KEY VALUE …]",
        "Write one HTML page with your own rows under your own models: for every "
        "trained token, what each method would teach. It opens from disk.",
        examples=(
            "targetsft inspect --config quickstart",
            "targetsft inspect --config mine.yaml --rows-from rows.jsonl --before BASE",
            "targetsft inspect --run runs/mine",
        ),
        run_keys=True,
        epilog="Read of a run: the models, target, policy, data, mesh and train.dtype.",
    )
    add = parser.add_argument
    text = "a finished or stopped run: its newest checkpoint against its start"
    add("--run", metavar="RUN", help=text)
    text = "first rows of the training data (default: 20; all of --rows-from)"
    add("--rows", type=row_count, metavar="N", help=text)
    text = "file of rows in place of the training data"
    add("--rows-from", metavar="FILE", help=text)
    text = "earlier checkpoint, or another model, to compare the student with"
    add("--before", metavar="PATH", help=text)
    text = "page (default: inspect.html; RUN/inspect.html)"
    add("--out", type=output_file, metavar="FILE", help=text)
    return parser


if __name__ == "__main__":
    leave(main())
