"""Arguments of the command `evaluate`, each declared once."""

from collections.abc import Sequence

from targetsft_jax.config.help import Page
from targetsft_jax.config.load import key_values
from targetsft_jax.config.schema import DTYPES, ConfigError, MeshConfig
from targetsft_jax.config.tree import Tree, UnknownKey, build, override
from targetsft_jax.evaluation.benchmarks.benchmark import RENDERINGS, SCORINGS
from targetsft_jax.evaluation.graders.grade import MODES
from targetsft_jax.generation.sampling import SamplingSettings
from targetsft_jax.keys import at_least, key, one_of, refusals, section

_FLAGS = ("regrade", "write_scores")


@section
class EvaluateConfig(SamplingSettings):
    """Evaluation of one model on benchmarks."""

    model: str | None = key(
        None,
        "Hugging Face folder or hub id, run directory or checkpoint; with a server, "
        "its folder or id too, for the tokenizer. null: only with regrade.",
    )
    benchmarks: str = key(
        "",
        "Benchmarks, separated by commas: names, YAML files, or folders and hub ids "
        "with an eval.yaml.",
    )
    out: str | None = key(
        None, "Folder of the results; null: runs/evaluate/NAME_OF_THE_MODEL."
    )
    data: dict[str, str] = key(
        dict,
        "Benchmark -> file or folder with its published rows: --data.gsm8k test.jsonl.",
    )
    few_shot: int | None = key(
        None,
        "Worked examples before each problem, from the training split; null: those of "
        "the benchmark.",
        at_least(0, 256),
    )
    few_shot_data: dict[str, str] = key(
        dict, "Benchmark -> file or folder with the rows of its worked examples."
    )
    scoring: str | None = key(
        None,
        "generate, or log_likelihood: the most probable option is the answer. null: "
        "that of the benchmark.",
        one_of(SCORINGS),
    )
    rendering: str | None = key(
        None,
        "chat, or plain: prompts without chat template, as for base models. null: that "
        "of the benchmark.",
        one_of(RENDERINGS),
    )
    data_dir: str | None = key(
        None, "Folder of the built data sets of the catalogue; null: the default."
    )
    limit: int | None = key(
        None, "Problems of each benchmark, from the beginning; null: all.", at_least(1)
    )
    seed: int = key(0, "Seed of the completions.", at_least(0))
    mode: str = key(
        "strict",
        "Grading: strict, or reference for numbers that compare with published tables.",
        one_of(MODES),
    )
    regrade: bool = key(False, "Grade the stored completions again; needs no model.")
    baseline: str | None = key(
        None, "Results folder of another model, for paired differences."
    )
    write_scores: bool = key(
        False, "Write the scores into the export: .eval_results/ and model card."
    )
    backend: str = key(
        "sampler",
        "sampler (this package), vllm, or the URL of a server with OpenAI's API.",
    )
    batch_size: int = key(
        32, "Problems per batch; finished batches are kept.", at_least(1, 10**6)
    )
    time_limit: float = key(
        5.0, "Seconds for grading one completion.", at_least(0.1, 3600)
    )
    dtype: str | None = key(
        None, "Compute dtype; null: bfloat16 on accelerators, float32 on CPUs.", DTYPES
    )
    chat_template: str | None = key(
        None,
        "Chat template in place of the tokenizer's: a name (qwen_boxed, … in "
        "docs/data.md) or a path that ends in .jinja.",
    )
    mesh: MeshConfig = key(MeshConfig, "Device mesh and processes.")

    @property
    def names(self) -> list[str]:
        """Names of the benchmarks."""
        return [name.strip() for name in self.benchmarks.split(",") if name.strip()]


HELP = Page(
    EvaluateConfig,
    "targetsft evaluate --model PATH --benchmarks NAMES [--KEY VALUE …]",
    "Sample completions of benchmarks, grade them, print scores with intervals. "
    "Finished batches are stored, and the same command continues.",
    (
        "targetsft evaluate --model runs/quickstart --benchmarks gsm8k --limit 100",
        "targetsft evaluate --model MODEL --benchmarks math500,gsm8k --samples 4",
        "targetsft evaluate --model A --benchmarks gsm8k --baseline runs/evaluate/B",
    ),
    (
        "model",
        "benchmarks",
        "data",
        "out",
        "limit",
        "samples",
        "max_new_tokens",
        "temperature",
        "batch_size",
        "mode",
        "baseline",
        "backend",
    ),
)
"""Page of `--help`."""


def parse(arguments: Sequence[str]) -> EvaluateConfig:
    """Parse and check the arguments of the command.

    Raises:
        ConfigError: an unknown key, or a value outside its domain.
        SystemExit: after `--help`.
    """
    tree: Tree = {}
    for name, value in key_values(arguments, HELP.text, _FLAGS, bare="model"):
        try:
            tree = override(EvaluateConfig, tree, name, value)
        except UnknownKey as error:
            raise ConfigError(f"{error}\nSee --help all for all keys.") from None
    config: EvaluateConfig = build(EvaluateConfig, tree)
    messages = (m for m in refusals(config) if not m.startswith("benchmarks is ''"))
    for message in messages:
        raise ConfigError(message)
    if not config.names:
        raise ConfigError("benchmarks is empty; expected names such as math500,gsm8k")
    if len(set(config.names)) < len(config.names):
        raise ConfigError(f"benchmarks is {config.benchmarks}; expected each name once")
    if config.model is None and not (config.regrade and config.out):
        raise ConfigError(
            "model is null; expected a folder, hub id or run, or --regrade --out FOLDER"
        )
    for keys, paths in (
        ("data", config.data),
        ("few_shot_data", config.few_shot_data),
    ):
        unread = [name for name in paths if name not in config.names]
        if unread:
            raise ConfigError(
                f"{keys}.{unread[0]} is set; expected one of benchmarks, "
                f"{', '.join(config.names)}"
            )
    return config
