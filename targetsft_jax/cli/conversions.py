"""Arguments of the command `convert`."""

from pathlib import Path

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import file_size
from targetsft_jax.hf.exporter import STORED_DTYPES


def conversion_parser() -> CommandParser:
    """Parser of `convert`; its options are the arguments of the functions.

    The functions of `checkpoints.convert` have the names of the subcommands.
    """
    parser = CommandParser(
        "convert",
        "to-hf | to-peft | from-hf …",
        "Convert checkpoints to Hugging Face folders, and back, on the CPU. It can run "
        "during a training.",
        examples=(
            "targetsft convert to-hf runs/quickstart exported --dtype bfloat16",
            "targetsft convert to-peft runs/lora adapter",
        ),
    )
    to_hf = parser.add_subcommand(
        "to-hf",
        "RUN OUT [--dtype D] [--step N] …",
        "Export a checkpoint as a Hugging Face folder.",
    )
    to_peft = parser.add_subcommand(
        "to-peft", "RUN OUT [--step N]", "Export LoRA adapters in PEFT's format."
    )
    from_hf = parser.add_subcommand(
        "from-hf",
        "MODEL OUT [--dtype D]",
        "Import a Hugging Face model as checkpoint 0 of a new run directory.",
    )
    _add_paths(to_hf, "RUN", "a run directory (newest checkpoint) or one checkpoint")
    _add_paths(to_peft, "RUN", "a run directory (newest checkpoint) or one checkpoint")
    _add_paths(from_hf, "MODEL", "a Hugging Face folder or hub id")
    for each in (to_hf, from_hf):
        text = f"stored dtype: {', '.join(STORED_DTYPES)} (default: unchanged)"
        each.add_argument("--dtype", choices=STORED_DTYPES, metavar="D", help=text)
    for each in (to_hf, to_peft):
        text = "step of the checkpoint (default: the newest)"
        each.add_argument("--step", type=int, metavar="N", help=text)
        text = "base model of LoRA adapters, if not the path or hub id of the training"
        each.add_argument("--base", metavar="MODEL", help=text)
    add = to_hf.add_argument
    text = "config and tokenizer, if the run directory has no model/"
    add("--like", type=Path, metavar="FOLDER", help=text)
    text = "largest safetensors file, such as 500MB (default: %(default)s)"
    add("--max-shard-size", type=file_size, default="5GB", metavar="SIZE", help=text)
    return parser


def _add_paths(parser: CommandParser, name: str, help: str) -> None:
    parser.add_argument("source", metavar=name, help=help)
    parser.add_argument("out", metavar="OUT", help="the folder to write")
