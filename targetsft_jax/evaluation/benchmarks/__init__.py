"""Benchmarks: data, prompt and grader of published evaluations and of users' own."""

from targetsft_jax.evaluation.benchmarks.benchmark import Benchmark
from targetsft_jax.evaluation.benchmarks.find import find
from targetsft_jax.evaluation.benchmarks.load import LoadedBenchmark, load
from targetsft_jax.evaluation.benchmarks.registry import BENCHMARKS

__all__ = ["BENCHMARKS", "Benchmark", "LoadedBenchmark", "find", "load"]
