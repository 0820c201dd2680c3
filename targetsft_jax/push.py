"""Upload an export to the hub: `python -m targetsft_jax.push FOLDER REPO`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from targetsft_jax.command import leave, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_push, arguments)


def _push(arguments: list[str]) -> None:
    options = vars(_parser().parse_args(arguments))
    from targetsft_jax.hf.hub import push

    print(push(**options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.push",
        description="Upload an exported model or adapters to the Hugging Face hub. "
        "The folder is compared with its manifest, and only files of the export are "
        "uploaded. The token is that of `hf auth login`, or HF_TOKEN.",
    )
    add = parser.add_argument
    add("folder", type=Path, help="RUN/hf, RUN/adapter or an output of convert")
    add("repo", help="ORGANIZATION/NAME on the hub")
    add("--private", action="store_true", help="create a private repository")
    text = "commit to an existing repository; its other weights are deleted"
    add("--update", action="store_true", help=text)
    return parser


if __name__ == "__main__":
    leave(main())
