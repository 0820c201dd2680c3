r"""A benchmark as one entry: data, fields, prompt, grader and published size.

The same declaration serves the registry and a user's YAML file:

    name: bedside
    grader: choice
    data: {source: jsonl, path: bedside.jsonl}
    question: question
    options: [A, B, C, D]
    answer: answer
"""

import re
from collections.abc import Iterator, Mapping

from targetsft_jax.data.config import SourceConfig
from targetsft_jax.evaluation.benchmarks.few_shot import SEPARATOR, FewShot
from targetsft_jax.evaluation.graders.registry import GRADERS
from targetsft_jax.keys import Domain, at_least, key, one_of, section

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""Instruction of the published evaluations of mathematics and of m23k."""

OPEN_PROMPT = f"{{question}}\n{INSTRUCTION}"
CHOICE_PROMPT = f"{{question}}\n{{options}}\n{INSTRUCTION}"

SCORED_PROMPT = "{question}\n{options}\nAnswer:"
"""Default prompt of `log_likelihood`, that of MMLU in lm-evaluation-harness."""

SCORINGS = ("generate", "log_likelihood")
RENDERINGS = ("chat", "plain")

_HOLE = re.compile(r"\{(question|options)\}")


@section
class Benchmark:
    """A benchmark: problems, prompt and grader."""

    name: str = key("", "Name in tables and folders.")
    title: str | None = key(None, "Title in tables; null: the name.")
    grader: str = key("math", "Grader of the completions.", one_of(GRADERS))
    data: SourceConfig = key(
        SourceConfig, "Source of the rows; its `fields` are not read."
    )
    question: str = key("question", "Field with the question, or a template of fields.")
    options: str | list[str] | None = key(
        None,
        "Field with the options (a list, or a mapping by letter), or a list of fields; "
        "null: none.",
    )
    answer: str = key(
        "answer",
        "Field with the gold answer, or a template. With options: the letter, the "
        "index from 0, or the text of one.",
    )
    id: str | None = key(
        None, "Field with the id of a problem; null: its file and row."
    )
    system: str | None = key(None, "System message of the prompt; null: none.")
    prompt: str | None = key(
        None,
        "User's turn, with {question} and {options}. null: question, options and the "
        "instruction of published evaluations.",
        Domain(
            "a text with {question}",
            lambda text: "{question}" in text and bool(text.strip()),
        ),
    )
    shuffle_options: int | None = key(
        None, "Seed of a new order of the options; null: their order.", at_least(0)
    )
    scoring: str = key(
        "generate",
        "generate: grade sampled completions. log_likelihood: the option with the "
        "highest log-probability is the answer; needs options.",
        one_of(SCORINGS),
    )
    scored: str | None = key(
        None,
        "Text whose log-probability is scored: the letter or the text of an option; "
        "null: the letter if the prompt has {options}.",
        one_of(("letter", "text")),
    )
    rendering: str = key(
        "chat",
        "chat: turns of the chat template. plain: one text without template, as for "
        "base models.",
        one_of(RENDERINGS),
    )
    stop: list[str] | None = key(
        None,
        "Texts that end a completion; null: a blank line if the rendering is plain, "
        "else none.",
        Domain("texts that are not empty", all),
    )
    few_shot: FewShot | None = key(None, "Worked examples; null: none.")
    samples: int | None = key(
        None, "Completions per problem; null: as requested.", at_least(1, 2**16)
    )
    published_size: int | None = key(
        None, "Number of problems as published; null: unknown.", at_least(1)
    )
    hub: str | None = key(
        None, "Id of its data set on the hub, for published results; null: none."
    )

    def user_turn(self, question: str, options: Mapping[str, str]) -> str:
        """Fill the prompt; braces in questions and options have no meaning.

        Args:
            question: the question.
            options: letter -> text; rendered as lines "A. …".
        """
        lines = "\n".join(f"{letter}. {text}" for letter, text in options.items())
        parts = {"question": question, "options": lines}
        template = self._template(bool(options))
        return _HOLE.sub(lambda hole: parts[hole[1]], template)

    def response(self, gold: str, options: Mapping[str, str]) -> str:
        """Response of a worked example: the gold answer in the requested form.

        Args:
            gold: gold answer; with options, a letter.
            options: letter -> text.
        """
        if self.scoring == "log_likelihood":
            return self.option_text(gold, options)
        is_boxed = "\\boxed" in self._template(bool(options))
        return f"\\boxed{{{gold}}}" if is_boxed else gold

    def option_text(self, letter: str, options: Mapping[str, str]) -> str:
        """Text of an option whose log-probability is scored."""
        has_options = "{options}" in self._template(True)
        scored = self.scored or ("letter" if has_options else "text")
        return letter if scored == "letter" else options[letter]

    @property
    def is_scored(self) -> bool:
        """True if options are scored, False if completions are sampled."""
        return self.scoring == "log_likelihood"

    @property
    def is_plain(self) -> bool:
        """True if prompts are not rendered by a chat template."""
        return self.rendering == "plain"

    @property
    def stops(self) -> list[str]:
        """Texts that end a completion."""
        if self.stop is not None:
            return self.stop
        return [SEPARATOR] if self.is_plain else []

    def _template(self, has_options: bool) -> str:
        if self.prompt:
            return self.prompt
        if not has_options:
            return OPEN_PROMPT
        return SCORED_PROMPT if self.is_scored else CHOICE_PROMPT

    def contradictions(self) -> Iterator[str]:
        """Yield errors about keys that are each valid alone."""
        if not re.fullmatch(r"[\w.+-]{1,60}", self.name):
            yield (
                f"name is {self.name!r}; expected at most 60 letters, digits or any of "
                "_ . + -"
            )
        needs = self.grader in GRADERS and GRADERS[self.grader].needs_options
        is_catalogued = self.data.source == "tfds"
        if needs and self.options is None and not is_catalogued:
            yield "options is null; expected their field, since grader is choice"
        if self.is_scored and self.grader != "choice":
            yield f"grader is {self.grader}; expected choice, since options are scored"
        if self.scored is not None and not self.is_scored:
            yield (
                f"scored is {self.scored}; expected null, or scoring: log_likelihood"
            )
        few_shot = self.few_shot
        if few_shot and few_shot.data and few_shot.data.kind == "synthetic":
            yield "few_shot.data has no path and no data set; expected one, or null"
        if self.data.kind == "synthetic":
            yield (
                "data.source is synthetic; expected a path, hf_dataset or "
                "tfds, with a gold answer in each row"
            )
