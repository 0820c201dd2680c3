"""Upload an export to the hub: `python -m targetsft_jax.push FOLDER REPO`."""

from collections.abc import Sequence
from pathlib import Path

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import leave, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_push, arguments)


def _push(arguments: list[str]) -> None:
    options = vars(parser().parse_args(arguments))
    from targetsft_jax.hf.hub import push

    print(push(**options))


def parser() -> CommandParser:
    """Arguments of the command."""
    parser = CommandParser(
        "push",
        "FOLDER REPO [--private] [--update]",
        "Upload an exported model or adapters to the Hugging Face hub. The folder is "
        "compared with its manifest, and only files of the export are uploaded. The "
        "token is that of `hf auth login`, or HF_TOKEN.",
        examples=("targetsft push runs/mine/hf me/my-model --private",),
    )
    add = parser.add_argument
    text = "RUN/hf, RUN/adapter or an output of convert"
    add("folder", type=Path, metavar="FOLDER", help=text)
    add("repo", metavar="REPO", help="ORGANIZATION/NAME on the hub")
    add("--private", action="store_true", help="create a private repository")
    text = "commit to an existing repository; its other weights are deleted"
    add("--update", action="store_true", help=text)
    return parser


if __name__ == "__main__":
    leave(main())
