"""Time from records to batches on a CPU, with and without the cache.

    python perf/data_cpu.py --gsm8k FILE --math FILE [--rounds 5]

The published training files of GSM8K and MATH (JSON lines) in rows of 2,048 tokens,
with a BPE of 8,192 tokens trained on their text. Each round measures: no cache; tokens
cached, rows packed; tokens and rows cached; the same with the files evicted from the
page cache (cold). An epoch of `iterate` follows each.
"""

import argparse
import dataclasses
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from targetsft_jax.data.config import DataConfig, FieldMap, SourceConfig
from targetsft_jax.data.pipeline import Dataset, iterate, prepare
from targetsft_jax.data.records import load_records
from targetsft_jax.data.tokenizer import byte_tokenizer

LENGTH, VOCABULARY, BATCH = 2048, 8192, 8


def bpe_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Any:
    """Train a byte-level BPE on texts, with the built-in special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    like = byte_tokenizer()
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(like.all_special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=like.pad_token,
        eos_token=like.eos_token,
        extra_special_tokens=[
            token
            for token in like.all_special_tokens
            if token not in (like.pad_token, like.eos_token)
        ],
        chat_template=like.chat_template,
    )


def sources(gsm8k: str | Path, math: str | Path) -> DataConfig:
    """Mix both files into one data set, with every row once per epoch."""
    files = (
        ("gsm8k", gsm8k, FieldMap(prompt="question", response="answer")),
        ("math", math, FieldMap(prompt="problem", response="solution")),
    )
    return DataConfig(
        mixture=[
            SourceConfig(source="jsonl", name=name, path=str(path), fields=fields)
            for name, path, fields in files
        ],
        max_length=LENGTH,
    )


def texts(config: DataConfig) -> Iterator[str]:
    """Yield the contents of all turns."""
    for record in load_records(config)[0]:
        for message in record.messages:
            yield message["content"]


def evict(folder: Path) -> None:
    """Evict the files of a folder from the page cache."""
    for path in folder.rglob("*.npy"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def epoch(dataset: Dataset) -> float:
    """Return the seconds per epoch of batches."""
    began = time.perf_counter()
    batches = iterate(dataset, batch_size=BATCH)
    for _ in range(dataset.rows // BATCH):
        next(batches)
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gsm8k", required=True)
    parser.add_argument("--math", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    config = sources(options.gsm8k, options.math)
    tokenizer = bpe_tokenizer(texts(config))
    folder = Path(tempfile.mkdtemp())
    plain = dataclasses.replace(config, cache=False)
    dataset = prepare(config, tokenizer, folder).train

    def tokens_cached() -> Dataset:
        for rows in (folder / "data").glob("rows-*"):
            shutil.rmtree(rows)
        return prepare(config, tokenizer, folder).train

    def cold() -> Dataset:
        evict(folder)
        return prepare(config, tokenizer, folder).train

    ways = {
        "no cache": lambda: prepare(plain, tokenizer).train,
        "tokens cached": tokens_cached,
        "tokens and rows cached, warm": lambda: (
            prepare(config, tokenizer, folder).train
        ),
        "tokens and rows cached, cold": cold,
    }
    preparing: dict[str, list[float]] = {name: [] for name in ways}
    epochs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            again = way()
            preparing[name].append(time.perf_counter() - began)
            assert again.fingerprint == dataset.fingerprint
            epochs[name].append(epoch(again))
    shutil.rmtree(folder)

    print(dataset.report)
    print(f"\n{'':<28}{'prepare s':>10}{'k tokens/s':>12}{'+ epoch':>10}")
    for name in ways:
        both = [a + b for a, b in zip(preparing[name], epochs[name])]
        first, total = statistics.median(preparing[name]), statistics.median(both)
        tokens = dataset.report.tokens / 1000
        print(
            f"{name:<28}{first:>10.2f}{tokens / first:>12,.0f}{tokens / total:>10,.0f}"
        )
    seconds = statistics.median(sum(epochs.values(), []))
    batches = dataset.rows // BATCH
    print(
        f"\niterate: {batches / seconds:,.0f} batches/s of {BATCH} x {LENGTH},"
        f" {dataset.report.tokens / 1000 / seconds:,.0f} k tokens/s"
    )


if __name__ == "__main__":
    main()
