"""The command `generate`: complete a prompt or a file of prompts, or chat."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from targetsft_jax.command import UsageError
from targetsft_jax.config.schema import Config
from targetsft_jax.generation.sampling import SamplingSettings
from targetsft_jax.interactive.chat import Chat
from targetsft_jax.interactive.model import Model, load
from targetsft_jax.interactive.prompts import Prompt, as_prompt, read_prompts
from targetsft_jax.interactive.text_input import check_template
from targetsft_jax.storage import jsonl
from targetsft_jax.telemetry.compilation_cache import use_compilation_cache


@dataclass(frozen=True)
class Request:
    """Arguments of the command.

    Attributes:
        model: path, as `load` takes it.
        sampling: sampling settings.
        prompt, file, chat: one of them is set.
        out: new file for the completions in JSON lines; None: standard output.
        system: content of the system message.
        raw: continue texts, in place of answering them as a user's message.
        seed: seed of the completions.
        batch_size: prompts at a time; each batch is written when it is complete.
        dtype, chat_template: as in `load`.
    """

    model: str
    sampling: SamplingSettings
    prompt: str | None = None
    file: str | None = None
    chat: bool = False
    out: Path | None = None
    system: str | None = None
    raw: bool = False
    seed: int = 0
    batch_size: int = 32
    dtype: str | None = None
    chat_template: str | None = None

    def check(self) -> None:
        """Check the arguments before the model is opened.

        Raises:
            UsageError: none or several of prompt, file and chat; arguments that do not
                go together; a setting out of its domain.
        """
        sources = {"--prompt": self.prompt, "--file": self.file, "--chat": self.chat}
        used = [name for name, value in sources.items() if value]
        if len(used) != 1:
            found = " and ".join(used) or "none of them"
            raise UsageError(
                f"expected one of --prompt TEXT, --file FILE and --chat; got {found}"
            )
        if self.chat and (self.raw or self.out or self.sampling.samples > 1):
            raise UsageError("--chat answers one by one; omit --raw, --out, --samples")
        if self.out is not None and self.out.exists():
            raise UsageError(f"--out {self.out} exists; expected a new file")
        if self.batch_size < 1:
            raise UsageError(f"--batch_size is {self.batch_size}; expected 1 or more")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed is {self.seed}; expected 0 to 4,294,967,295")
        try:
            self.sampling.check()
        except ValueError as error:
            raise UsageError(str(error)) from None


def run(request: Request) -> None:
    """Run the command.

    Raises:
        UsageError, ValueError, OSError: an argument, model or file cannot be used.
    """
    request.check()
    use_compilation_cache(Config().cache_dir)
    model = load(
        request.model, dtype=request.dtype, chat_template=request.chat_template
    )
    settings = asdict(request.sampling) | {"seed": request.seed}
    if request.chat:
        check_template(model.tokenizer, request.model)
        del settings["samples"]
        Chat(model, settings, request.system).run()
    elif request.file is not None:
        _complete_file(model, request, settings)
    else:
        _complete_prompt(model, request, settings)


def _complete_prompt(model: Model, request: Request, settings: dict[str, Any]) -> None:
    """Stream the completion of one prompt; several samples come one after the other."""
    assert request.prompt is not None
    prompt = as_prompt(
        request.prompt, model.tokenizer, raw=request.raw, system=request.system
    )
    if request.out is not None or settings["samples"] > 1:
        _write(_completed(model, [Prompt(prompt, "--prompt")], settings), request)
        return
    del settings["samples"]
    stream = model.stream(prompt, **settings)
    for piece in stream:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    if not stream.finished:
        sys.stderr.write(f"{stream.limit_reached}\n")


def _complete_file(model: Model, request: Request, settings: dict[str, Any]) -> None:
    assert request.file is not None
    prompts = read_prompts(
        request.file, model.tokenizer, raw=request.raw, system=request.system
    )

    def batches() -> Iterator[dict[str, Any]]:
        for first in range(0, len(prompts), request.batch_size):
            batch = prompts[first : first + request.batch_size]
            yield from _completed(model, batch, settings, first)

    _write(batches(), request)


def _completed(
    model: Model, prompts: list[Prompt], settings: dict[str, Any], first: int = 0
) -> Iterator[dict[str, Any]]:
    """Rows of the completions of a batch, whose first prompt has a number."""
    numbers = list(range(first, first + len(prompts)))
    texts = [prompt.text for prompt in prompts]
    completions = model.complete(texts, numbers=numbers, **settings)
    for prompt, row in zip(prompts, completions):
        for sample, completion in enumerate(row):
            yield prompt.field | {
                "sample": sample,
                "completion": model.text(completion.tokens),
                "finished": completion.finished,
            }


def _write(rows: Iterator[dict[str, Any]], request: Request) -> None:
    """Write rows as they come, and report those that the limit cut."""
    count = cut = 0
    writer = None if request.out is None else jsonl.Writer(request.out)
    try:
        for row in rows:
            count, cut = count + 1, cut + (not row["finished"])
            if writer is None:
                sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                writer.append(row)
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        print(f"{count:,} completions written to {request.out}")
    if cut:
        limit = request.sampling.max_new_tokens
        sys.stderr.write(
            f"{cut:,} of {count:,} completions reached --max_new_tokens {limit:,}\n"
        )
