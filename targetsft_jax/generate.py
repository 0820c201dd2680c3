"""Generate text with a model: `python -m targetsft_jax.generate --model PATH …`."""

import dataclasses
from collections.abc import Sequence

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import leave, output_file, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_generate, arguments, interrupted="interrupted")


def _generate(arguments: list[str]) -> None:
    options = vars(parser().parse_args(arguments))
    from targetsft_jax.generation.sampling import SamplingSettings
    from targetsft_jax.interactive.command import Request, run

    fields = dataclasses.fields(SamplingSettings)
    sampling = SamplingSettings(**{x.name: options.pop(x.name) for x in fields})
    run(Request(sampling=sampling, **options))


def parser() -> CommandParser:
    """Arguments of the command."""
    from targetsft_jax.generation.sampling import SamplingSettings

    parser = CommandParser(
        "generate",
        "--model PATH (--prompt TEXT | --file FILE | --chat)",
        "Complete a prompt or a file of prompts, or chat with a model.",
        (
            "targetsft generate --model runs/quickstart --prompt '12 + 34'",
            "targetsft generate --model PATH --file prompts.jsonl --out answers.jsonl",
            "targetsft generate --model PATH --chat",
        ),
    )
    add = parser.add_argument
    text = "folder, hub id, run directory, checkpoint or PEFT adapter"
    add("--model", required=True, metavar="PATH", help=text)
    add("--prompt", metavar="TEXT", help="message to answer; streamed")
    add("--file", metavar="FILE", help="JSON lines, or a prompt per line; - is stdin")
    add("--chat", action="store_true", help="converse; each input line is a message")
    add("--out", type=output_file, metavar="FILE", help="new JSON lines file")
    add("--system", metavar="TEXT", help="content of the system message")
    add("--raw", action="store_true", help="continue text, without a chat template")
    for field in dataclasses.fields(SamplingSettings):
        default = 1 if field.name == "samples" else field.default
        text, kind = f"{field.metadata['help']} [{default}]", type(field.default)
        add(f"--{field.name}", type=kind, default=default, metavar="N", help=text)
    add("--seed", type=int, default=0, metavar="N", help="equal seed, equal text [0]")
    add("--batch_size", type=int, default=32, metavar="N", help="prompts at once [32]")
    add("--chat_template", metavar="NAME", help="in place of the tokenizer's")
    add("--dtype", help="compute dtype [bfloat16; on CPUs float32]")
    return parser


if __name__ == "__main__":
    leave(main())
