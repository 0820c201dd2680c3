"""Evaluate a model on benchmarks: open, check, sample, grade, summarise."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targetsft_jax.checkpoints.open import StoredModel, open_model
from targetsft_jax.checkpoints.remote import local_model
from targetsft_jax.command import UsageError
from targetsft_jax.config.load import parse as parse_config
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.data.overlap import Overlap, training_overlaps
from targetsft_jax.evaluation import benchmarks, scores
from targetsft_jax.evaluation.backends import Backend
from targetsft_jax.evaluation.backends.sampler import (
    chat_tokenizer,
    compute_dtype,
    load_sampler,
    stop_ids,
)
from targetsft_jax.evaluation.backends.server import Server
from targetsft_jax.evaluation.backends.vllm import Vllm
from targetsft_jax.evaluation.benchmark_run import BenchmarkRun, Prompts
from targetsft_jax.evaluation.benchmarks import Benchmark, LoadedBenchmark
from targetsft_jax.evaluation.benchmarks.few_shot import FewShot
from targetsft_jax.evaluation.choice_run import ChoiceRun, choice_prompts
from targetsft_jax.evaluation.eval_results import PublishedScore, write_scores
from targetsft_jax.evaluation.model_identity import model_identity
from targetsft_jax.evaluation.scores import BenchmarkScore
from targetsft_jax.evaluation.settings import EvaluateConfig
from targetsft_jax.evaluation.store import Row, Store
from targetsft_jax.parallel.preemption import RaisedSignals
from targetsft_jax.parallel.processes import is_primary
from targetsft_jax.storage import atomic
from targetsft_jax.storage.digest import json_digest
from targetsft_jax.storage.location import is_url
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path
from targetsft_jax.telemetry.compilation_cache import use_compilation_cache
from targetsft_jax.versions import MODEL, installed_versions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_MIXED = "mixed"
"""Mode of a folder while its rows are graded in another one: verdicts are of both."""


def evaluate(config: EvaluateConfig) -> dict[str, BenchmarkScore]:
    """Evaluate a model on benchmarks.

    All benchmarks are loaded and all gold answers are checked before the first
    completion.

    Returns:
        Name of the benchmark -> scores.

    Raises:
        UsageError, ValueError, OSError: a model, benchmark, file or results folder
            cannot be used.
        Stopped: SIGTERM or Ctrl-C; finished batches are stored.
    """
    with RaisedSignals():
        return _Evaluation(config).run()


class _Evaluation:
    """One evaluation, with the opened model and benchmarks."""

    def __init__(self, config: EvaluateConfig):
        self.config = config
        found = {n: _requested(benchmarks.find(n), config) for n in config.names}
        self.model = None if config.model is None else open_model(config.model)
        self.folder = _folder(config)
        self.loaded = [
            benchmarks.load(
                benchmark,
                path=config.data.get(name),
                data_dir=config.data_dir,
                limit=config.limit,
                shots_path=config.few_shot_data.get(name),
            )
            for name, benchmark in found.items()
        ]
        self._backend: Backend | None = None

    def run(self) -> dict[str, BenchmarkScore]:
        """Run the benchmarks, print and store the scores."""
        results: dict[str, BenchmarkScore] = {}
        rows: dict[str, list[Row]] = {}
        for loaded in self.loaded:
            name = loaded.benchmark.name
            rows[name] = self._rows(loaded)
            results[name] = scores.score(rows[name])
        titles = {
            loaded.benchmark.title or loaded.benchmark.name: results[
                loaded.benchmark.name
            ]
            for loaded in self.loaded
        }
        for line in (
            *self._tables(titles),
            *scores.visible(titles),
            *self._differences(rows),
        ):
            print(line)
        if is_primary():
            self._write(results)
        return results

    def _tables(self, titles: dict[str, BenchmarkScore]) -> Iterator[str]:
        """Tables of the sampled and of the scored benchmarks."""
        sampled = {k: x for k, x in titles.items() if not x.scored}
        if sampled:
            yield (
                f"\n{self.config.mode} grading, temperature {self.config.temperature:g}"
            )
            yield scores.table(sampled)
        scored = {k: x.scored for k, x in titles.items() if x.scored}
        if scored:
            yield "\nlog-probabilities of the options"
            yield scores.scored_table(scored)

    def _rows(self, loaded: LoadedBenchmark) -> list[Row]:
        """Sample, or grade again, one benchmark."""
        config, benchmark = self.config, loaded.benchmark
        store = Store(self.folder / benchmark.name)
        samples = 1 if benchmark.is_scored else benchmark.samples or config.samples
        print(f"\n{benchmark.title or benchmark.name}: {loaded.size()}", flush=True)
        if store.damaged:
            print(f"  {store.damaged} damaged rows are sampled again")
        run = (ChoiceRun if benchmark.is_scored else BenchmarkRun)(
            loaded,
            Prompts({}, {}),
            store,
            replace(config, samples=samples),
            config.seed,
            config.mode,
            config.batch_size,
            config.time_limit,
        )
        if self.model is not None:
            run = self._sampled(run, self.model)
        elif not store.rows:
            raise UsageError(f"{store.completions} has no completions to grade again")
        stored_mode = store.read_settings().get("mode")
        if stored_mode != config.mode:
            # Whoever is killed before the end leaves verdicts to be graded again.
            store.check_settings(store.read_settings() | {"mode": _MIXED})
        is_stale = stored_mode != config.mode or run.has_other_golds()
        if config.regrade or is_stale:
            print(f"  {run.regrade()} verdicts changed in {len(store.rows):,} rows")
        settings = store.read_settings() | {"mode": config.mode, "samples": samples}
        store.check_settings(settings)
        return run.rows()

    def _sampled(self, run: BenchmarkRun, model: StoredModel) -> BenchmarkRun:
        config, benchmark = self.config, run.loaded.benchmark
        tokenizer = self._tokenizer
        limit = model.config.context_length - 1
        if benchmark.is_scored:
            prompts = choice_prompts(run, tokenizer, limit)
        else:
            problems, plain = run.loaded.problems, benchmark.is_plain
            prompts = Prompts.of(problems, tokenizer, limit, plain=plain)
        run = replace(run, prompts=prompts)
        first = prompts.first(tokenizer)
        print(*(f"  {line}" for line in "\n".join(first).splitlines()), sep="\n")
        self._warn_of_overlap(benchmark.name)
        stored = run.store.read_settings() if run.store.rows else {}
        settings = {
            "model": self._identity,
            "benchmark": benchmark.name,
            "prompt": _prompt_digest(benchmark),
            "chat_template": json_digest([tokenizer.chat_template]),
            "backend": self._backend_name(),
            **({} if benchmark.is_scored else self._sampling()),
            "samples": run.settings.samples,
            "limit": config.limit,
            "mode": (
                config.mode
                if stored.get("mode", config.mode) == config.mode
                else _MIXED
            ),
            "batch_size": config.batch_size,
            "first_prompt": first,
            "versions": installed_versions((*MODEL, "math-verify")),
        }
        run.store.check_settings(settings)
        run.sample(lambda: self.backend(model), tokenizer)
        return run

    def _sampling(self) -> dict[str, Any]:
        names = ("seed", "max_new_tokens", "temperature", "top_p", "top_k")
        return {name: getattr(self.config, name) for name in names}

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        assert self.model is not None
        if all(loaded.benchmark.is_plain for loaded in self.loaded):
            return self.model.tokenizer()
        return chat_tokenizer(self.model, self.config.chat_template)

    @cached_property
    def _identity(self) -> str:
        assert self.model is not None
        return model_identity(self.model)

    def backend(self, model: StoredModel) -> Backend:
        """Open the backend once; the sampler loads the parameters."""
        if self._backend is None:
            self._backend = self._open_backend(model)
        return self._backend

    def _open_backend(self, model: StoredModel) -> Backend:
        config = self.config
        ends = stop_ids(self._tokenizer)
        if config.backend == "vllm":
            if model.checkpoint is not None or model.adapters is not None:
                kind = "a checkpoint" if model.checkpoint is not None else "adapters"
                raise UsageError(
                    f"{model.path} is {kind}, which vllm cannot read here; expected a "
                    "complete model: the export RUN/hf, or the output of `convert "
                    "to-hf`"
                )
            return Vllm(str(model.folder), ends, config.dtype or "auto")
        if config.backend != "sampler":
            return Server(config.backend, str(config.model), ends)
        print("  loading the model", flush=True)
        use_compilation_cache(Config().cache_dir)
        return load_sampler(model, self._tokenizer, config.mesh, config.dtype)

    def _backend_name(self) -> str:
        backend = self.config.backend
        if backend == "sampler":
            return f"sampler, {compute_dtype(self.config.dtype).name}"
        if backend == "vllm":
            return Vllm("", (), self.config.dtype or "auto").name
        if not backend.startswith(("http://", "https://")):
            raise ConfigError(
                f"backend is {backend!r}; expected sampler, vllm, or an address that "
                "begins with http:// or https://"
            )
        return Server(backend, str(self.config.model), ()).name

    @cached_property
    def _overlaps(self) -> dict[str, Overlap]:
        """Overlap of each benchmark with the training data of a run, read once."""
        run_dir = _run_of(self.config.model)
        if run_dir is None:
            return {}
        try:
            data = parse_config(["--config", str(run_dir.config)]).data
            overlaps = training_overlaps(data, [x.problems for x in self.loaded])
        except (ValueError, OSError) as error:
            line = str(error).splitlines()[0]
            print(f"  overlap with the training data is unknown: {line}")
            return {}
        return {x.benchmark.name: o for x, o in zip(self.loaded, overlaps)}

    def _warn_of_overlap(self, name: str) -> None:
        """Warn of problems of a benchmark that are in the training data of a run."""
        overlap = self._overlaps.get(name)
        if overlap is None:
            return
        for cases, what in (
            (overlap.exact, "have the question of"),
            (overlap.shared, "share 30 words with the question of"),
        ):
            if cases.count:
                id, problem = cases.first[0]
                print(
                    f"  warning: {cases.count:,} training examples {what} a problem, "
                    f"such as {id} and {problem}"
                )

    def _differences(self, rows: dict[str, list[Row]]) -> list[str]:
        """Paired differences to the baseline."""
        if self.config.baseline is None:
            return []
        lines = []
        for name, own in rows.items():
            other = Store(user_path(self.config.baseline) / name)
            keys = {(row.problem, row.sample) for row in own}
            baseline = [row for key, row in other.rows.items() if key in keys]
            if not baseline:
                raise UsageError(
                    f"baseline: {other.completions} has no completion of the problems; "
                    "expected a results folder of another model"
                )
            mode = other.read_settings().get("mode")
            if mode != self.config.mode:
                raise UsageError(
                    f"baseline: {other.completions} has {mode} verdicts, not "
                    f"{self.config.mode} ones; grade it again with --regrade --out "
                    f"{self.config.baseline} --mode {self.config.mode}"
                )
            lines.append(scores.difference_line(name, scores.difference(own, baseline)))
        return lines

    def _write(self, results: dict[str, BenchmarkScore]) -> None:
        path = self.folder / "summary.json"
        tree = {
            "model": self.config.model,
            "mode": self.config.mode,
            "scores": {name: score.to_json() for name, score in results.items()},
        }
        atomic.write_text(path, json.dumps(tree, indent=2) + "\n")
        print(f"\nwritten to {self.folder}")
        if self.config.write_scores:
            folder = _export_of(self.config.model)
            for file in write_scores(folder, self._published(results)):
                print(f"  {file}")

    def _published(self, results: dict[str, BenchmarkScore]) -> list[PublishedScore]:
        config = self.config
        notes = (
            f"{config.mode} grading, temperature {config.temperature:g}, top_p "
            f"{config.top_p:g}, at most {config.max_new_tokens} tokens, "
            f"{self._backend_name()}"
        )
        published = []
        for loaded in self.loaded:
            entry, score = loaded.benchmark, results[loaded.benchmark.name]
            estimate = score.average
            published.append(
                PublishedScore(
                    benchmark=entry.name,
                    title=entry.title or entry.name,
                    hub=entry.hub,
                    value=100 * estimate.value,
                    low=100 * estimate.low,
                    high=100 * estimate.high,
                    samples=score.samples,
                    problems=estimate.problems,
                    notes=notes,
                )
            )
        return published


def _requested(benchmark: Benchmark, config: EvaluateConfig) -> Benchmark:
    """Benchmark with the keys of the command line over its own.

    Raises:
        UsageError: they contradict the benchmark.
    """
    changes: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("scoring", "rendering")
        if getattr(config, name) is not None
    }
    if config.few_shot is not None:
        shots = benchmark.few_shot or FewShot()
        changes["few_shot"] = replace(shots, examples=config.few_shot)
    requested = replace(benchmark, **changes)
    for message in requested.contradictions():
        raise UsageError(f"{benchmark.name}: {message}")
    return requested


def _prompt_digest(benchmark: Benchmark) -> str:
    """Digest of the keys that determine the prompts."""
    parts: list[Any] = [benchmark.system, benchmark.prompt, benchmark.options]
    names = ("scoring", "scored", "rendering", "stop", "few_shot")
    tree = asdict(benchmark)
    default = asdict(Benchmark())
    changed = {name: tree[name] for name in names if tree[name] != default[name]}
    return json_digest([*parts, changed] if changed else parts)


def _folder(config: EvaluateConfig) -> Path:
    if config.out is not None:
        return user_path(config.out)
    name = re.sub(":?/+", "_", str(config.model).rstrip("/")).lstrip("._")
    return Path("runs/evaluate") / name[-80:]


def _run_of(path: str | None) -> RunDir | None:
    """Run directory that a model belongs to; None for other models."""
    if path is None:
        return None
    folder = local_model(path, weights=False) if is_url(path) else user_path(path)
    candidates = (folder, folder.parent, folder.parent.parent)
    runs = (RunDir(candidate) for candidate in candidates)
    return next((r for r in runs if r.config.is_file() and r.metrics.is_file()), None)


def _export_of(path: str | None) -> Path:
    """Exported folder of a model: the folder itself, or that of a run."""
    folder = user_path(str(path))
    run_dir = _run_of(path)
    return folder if run_dir is None else run_dir.export
