"""Registry of benchmarks: one entry each."""

from collections.abc import Mapping
from types import MappingProxyType

from targetsft_jax.data.catalogue import CATALOGUE
from targetsft_jax.data.config import SourceConfig
from targetsft_jax.evaluation.benchmarks.benchmark import Benchmark


def _entry(
    name: str,
    title: str,
    grader: str,
    size: int,
    *,
    dataset: str | None = None,
    split: str = "test",
) -> Benchmark:
    """Benchmark on a split of the catalogue.

    Args:
        name: name of the benchmark.
        title: title in tables.
        grader: name of its grader.
        size: number of problems as published.
        dataset: name in the catalogue; None: that of the benchmark.
        split: split of the data set.
    """
    dataset = dataset or name
    return Benchmark(
        name=name,
        title=title,
        grader=grader,
        data=SourceConfig(source="tfds", dataset=dataset, split=split),
        published_size=size,
        hub=CATALOGUE[dataset].hub,
    )


_ENTRIES = (
    _entry("math500", "MATH-500", "math", 500),
    _entry("minerva_math", "Minerva", "math", 272),
    _entry("olympiadbench", "OlympiadBench", "math", 675),
    _entry("aime24", "AIME 2024", "math", 30),
    _entry("amc23", "AMC 2023", "math", 40),
    _entry("gsm8k", "GSM8K", "math", 1319),
    _entry("svamp", "SVAMP", "math", 1000),
    _entry("aqua_rat", "AQuA", "choice", 254),
    _entry("medqa", "MedQA", "choice", 1273),
    _entry("medqa_5opt", "MedQA, 5 options", "choice", 1273),
    _entry("medmcqa", "MedMCQA", "choice", 4183, split="validation"),
    _entry("pubmedqa", "PubMedQA", "choice", 1000),
    _entry("mmlu_medical", "MMLU, medical", "choice", 1089),
    _entry("mmlu_pro_medical", "MMLU-Pro, medical", "choice", 1535),
    _entry("medxpertqa", "MedXpertQA", "choice", 2450),
)

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {benchmark.name: benchmark for benchmark in _ENTRIES}
)
"""Name -> benchmark."""
