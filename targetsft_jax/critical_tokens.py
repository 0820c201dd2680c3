"""Mine critical tokens: `python -m targetsft_jax.critical_tokens --model M --out F`."""

import argparse
import sys
from collections.abc import Sequence

from targetsft_jax.command import output_file, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_mine, arguments)


def _mine(arguments: list[str]) -> int:
    options, config_arguments = _parser().parse_known_args(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.critical_tokens",
        description="Replace each token of a model's own correct greedy answers by its "
        "alternatives, regenerate, and grade. Writes the answers with the column "
        "critical_mask, to train on by --target.name cft. The same command continues.",
        epilog="--config FILE and the keys data.*, mesh.*, student.dtype, train.dtype "
        "are those of python -m targetsft_jax.train; the data need gold answers.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, help="folder, hub id, run directory or checkpoint")
    text = "JSONL file to write or to continue"
    add("--out", required=True, type=output_file, metavar="FILE", help=text)
    text = (
        "ranks of the replacements, 1 being the answer's token (default: %(default)s)"
    )
    add("--alternatives", default="2,3", metavar="RANKS", help=text)
    text = "critical if `all` replacements fail, as published, or if `any` does"
    add("--rule", default="all", help=text + " (default: all)")
    text = "grader of the answers (default: %(default)s)"
    add("--grader", default="exact", help=text)
    text = "maximum tokens of an answer (default: %(default)s)"
    add("--max_new_tokens", type=int, default=512, metavar="N", help=text)
    text = "sequences decoded at a time (default: %(default)s)"
    add("--batch_size", type=int, default=128, metavar="N", help=text)
    add("--limit", type=int, metavar="N", help="problems (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
