"""Mine critical tokens: `python -m targetsft_jax.critical_tokens --model M --out F`."""

from collections.abc import Sequence

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import leave, output_file, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_mine, arguments)


def _mine(arguments: list[str]) -> int:
    options, config_arguments = parser().parse_known_args(arguments)
    from targetsft_jax.mining.run import mine
    from targetsft_jax.mining.settings import MiningSettings, read_config
    from targetsft_jax.parallel.launch import launch

    values = vars(options)
    model, out = values.pop("model"), values.pop("out")
    settings = MiningSettings(**values)
    config = read_config(config_arguments)
    return launch(
        lambda: mine(config, model, out, settings), **config.mesh.processes_of_run()
    )


def parser() -> CommandParser:
    """Arguments of the command; all other ones are keys of the configuration."""
    parser = CommandParser(
        "critical_tokens",
        "--model M --out FILE --config FILE [--KEY VALUE …]",
        "Replace each token of a model's own correct greedy answers by its "
        "alternatives, regenerate, and grade. Writes the answers with the column "
        "critical_mask, to train on by --target.name cft. The same command continues.",
        run_keys=True,
        epilog="Read of a run: data.*, mesh.*, student.dtype and train.dtype.",
    )
    add = parser.add_argument
    add("--model", required=True, metavar="M", help="folder, hub id, run or checkpoint")
    add("--out", required=True, type=output_file, metavar="FILE", help="JSONL file")
    text = "ranks of the replacements (default: 2,3; the answer's token has rank 1)"
    add("--alternatives", default="2,3", metavar="RANKS", help=text)
    text = "critical if all (default) or any of the replacements fail"
    add("--rule", default="all", metavar="RULE", help=text)
    text = "least probability of a replacement (0)"
    add("--min_probability", type=float, default=0.0, metavar="P", help=text)
    add("--grader", default="exact", metavar="G", help="grader (default: exact)")
    for name, default, text in (
        ("max_new_tokens", 512, "maximum tokens of an answer (512)"),
        ("batch_size", 128, "sequences decoded at a time (128)"),
        ("limit", None, "number of problems (all)"),
    ):
        add(f"--{name}", type=int, default=default, metavar="N", help=text)
    return parser


if __name__ == "__main__":
    leave(main())
