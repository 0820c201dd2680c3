"""Data sets of the catalogue as TensorFlow Datasets of ArrayRecord files.

TensorFlow takes no part: tensorflow_datasets writes and describes the files without it.
Each field is a feature of its own, so that any reader of TFDS understands them; here
the records are read in bulk and taken apart by protobuf, several times as fast as
record by record through `as_data_source`.
"""

import contextlib
import functools
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targetsft_jax.data.catalogue import CATALOGUE
from targetsft_jax.data.catalogue.entry import FIELDS, Example
from targetsft_jax.data.catalogue.files import Files, from_hub, in_folder
from targetsft_jax.data.record import RowError
from targetsft_jax.data.sources import parse_row, read_files
from targetsft_jax.storage import atomic

DATA_DIR = "~/.cache/targetsft_jax/datasets"
"""Not TFDS's own default folder, where another builder may own a name."""
_RECORDS_AT_A_TIME = 1024
_SHOWN = 50


@dataclass(frozen=True)
class Built:
    """A data set on disk."""

    folder: Path
    splits: dict[str, int]
    """Examples of each split."""
    left_out: dict[str, int]
    """By split, rows that are no example by the entry's own rule."""
    origin: str
    """The folder or the commit that it was built from."""
    files: dict[str, list[Path]]
    """ArrayRecord files of each split, in order."""


def build(
    name: str,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    *,
    replace: bool = True,
) -> Built:
    """Builds a data set anew, whole or not at all.

    Args:
        name: in the catalogue.
        data_dir: where built sets lie; None: DATA_DIR.
        manual_dir: the folder of its published files; None: the hub.
        replace: one that is there; False: where another process has been quicker,
            its work stays.

    Raises:
        ValueError: no such data set; its files cannot be had or are not whole; rows
            that cannot be used, each by its file and row.
    """
    if name not in CATALOGUE:
        raise ValueError(
            f"{name!r} is not in the catalogue; expected one of {', '.join(CATALOGUE)}"
        )
    dataset = CATALOGUE[name]
    files = (
        from_hub(name, dataset)
        if manual_dir is None
        else in_folder(name, dataset, manual_dir)
    )
    folder = _folder(name, data_dir)
    partial = atomic.begin(folder.parent)
    try:
        # TFDS too completes a folder before it names it, but first deletes the old one.
        _write(name, files, str(partial))
        built_in = partial / folder.relative_to(folder.parents[1])
        atomic.finish(built_in, folder, replace=replace)
    finally:
        atomic.abandon(partial)
    built = stored(name, data_dir)
    assert built is not None
    return built


def stored(name: str, data_dir: str | None = None) -> Built | None:
    """A data set as it was built; None where it was not, or by another version.

    Raises:
        ValueError: the folder is damaged.
    """
    folder = _folder(name, data_dir)
    if not (folder / "dataset_info.json").is_file():
        return None
    try:
        info = json.loads((folder / "dataset_info.json").read_text("utf-8"))
        notes = json.loads((folder / "metadata.json").read_text("utf-8"))
        files, splits = {}, {}
        for split in info["splits"]:
            lengths = [int(n) for n in split["shardLengths"]]
            template = f"{name}-{split['name']}.array_record"
            files[split["name"]] = [
                folder / f"{template}-{i:05d}-of-{len(lengths):05d}"
                for i in range(len(lengths))
            ]
            splits[split["name"]] = sum(lengths)
        missing = [path for own in files.values() for path in own if not path.is_file()]
        if missing:
            raise ValueError(f"{missing[0].name} is missing")
        left_out, origin = dict(notes["left_out"]), str(notes["origin"])
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(
            f"{folder} is damaged ({error}); build it again: `python -m"
            f" targetsft_jax.data build {name}`"
        ) from error
    return Built(folder, splits, left_out, origin, files)


def ready(
    name: str,
    split: str | None,
    data_dir: str | None = None,
    manual_dir: str | None = None,
) -> tuple[Built, str]:
    """A data set, built where it was not, and the split that is meant.

    Args:
        split: None: `train`, or the only one of its entry.

    Raises:
        ValueError: as `build`; the data set was built without this split's files.
    """
    splits = CATALOGUE[name].splits
    split = split or ("train" if "train" in splits else splits[0])
    built = stored(name, data_dir) or build(name, data_dir, manual_dir, replace=False)
    if split not in built.splits:
        have = ", ".join(built.splits)
        raise ValueError(
            f"{built.folder} has no split {split!r}, only {have}: {built.origin} had no"
            f" files of it; build it from others: `python -m targetsft_jax.data build"
            f" {name} --manual_dir FOLDER`"
        )
    return built, split


def read(built: Built, split: str) -> Iterator[tuple[str, Example]]:
    """Streams the examples of a split.

    Yields:
        (`name/split:row`, the example).

    Raises:
        ValueError: a file is damaged or has lost records.
    """
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorflow_datasets.proto import tf_example_pb2

    parse = tf_example_pb2.Example.FromString
    name = built.folder.parent.name
    row = 0
    for path in built.files[split]:
        try:
            reader = ArrayRecordReader(str(path))
            records = reader.num_records()
            for start in range(0, records, _RECORDS_AT_A_TIME):
                end = min(records, start + _RECORDS_AT_A_TIME)
                for raw in reader.read(start, end):
                    row += 1
                    yield f"{name}/{split}:{row}", _example(parse(raw))
        except (RuntimeError, ValueError, IndexError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is damaged ({str(error).strip()}); build it again: `python -m"
                f" targetsft_jax.data build {name}`"
            ) from error
    if row != built.splits[split]:
        raise ValueError(
            f"{built.folder} has {row:,} examples of {split}, not"
            f" {built.splits[split]:,}; build it again"
        )


def _example(message: Any) -> Example:
    features = message.features.feature
    example: Example = {
        name: features[name].bytes_list.value[0].decode()
        for name in FIELDS
        if name != "options"
    }
    example["options"] = [o.decode() for o in features["options"].bytes_list.value]
    return example


def _write(name: str, files: Files, data_dir: str) -> None:
    import tensorflow_datasets as tfds

    builder, bad = _builder(name, files, data_dir)
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    tfds.disable_progress_bar()
    try:
        # Its notes go to stdout, and name the folder that is only for now.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=settings)
    except Exception as error:
        if not bad:
            raise
        raise ValueError(_refusal(name, bad)) from error


def _builder(name: str, files: Files, data_dir: str):
    """TFDS's builder of a data set, and the list that its bad rows go to."""
    import tensorflow_datasets as tfds

    dataset = CATALOGUE[name]
    bad: list[str] = []
    notes = tfds.core.MetadataDict(origin=files.origin, left_out={})

    def info(self):
        text = tfds.features.Text()
        features = {field: text for field in FIELDS}
        features["options"] = tfds.features.Sequence(text)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{dataset.about}\nLicence: {dataset.licence}",
            features=tfds.features.FeaturesDict(features),
            homepage=dataset.homepage,
            license=dataset.licence,
            metadata=notes,
            disable_shuffling=True,  # Rows keep the order of their files.
        )

    def split_generators(self, dl_manager):
        return {
            split: self._generate_examples(split, paths)
            for split, paths in files.splits.items()
        }

    def generate(self, split, paths):
        left_out = 0
        number = 0
        for origin, raw in read_files(paths):
            try:
                example = _from_row(files, parse_row(raw, origin), origin)
            except RowError as error:
                bad.append(str(error))
                continue
            if example is None:
                left_out += 1
                continue
            example["id"] = example["id"] or f"{split}/{number}"
            yield number, example
            number += 1
        notes["left_out"][split] = left_out
        if not number and not bad:
            bad.append(f"{paths[0]}: no row is an example of {split}")
        if bad and split == list(files.splits)[-1]:  # All splits have been read.
            raise ValueError(bad[0])

    body = {
        "name": name,
        "VERSION": tfds.core.Version(dataset.version),
        "_info": info,
        "_split_generators": split_generators,
        "_generate_examples": generate,
    }
    kind = type(name, (_base(),), body, skip_registration=True)
    return kind(data_dir=data_dir, file_format="array_record"), bad


@functools.cache
def _base():
    import tensorflow_datasets as tfds

    return tfds.core.GeneratorBasedBuilder


def _from_row(files: Files, row, origin: str) -> Example | None:
    try:
        return files.layout.example(row)
    except KeyError as error:
        have = ", ".join(sorted(map(str, row)))
        raise RowError(origin, f"field {error} is missing; it has {have}") from error
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise RowError(origin, str(error)) from error


def _refusal(name: str, bad: list[str]) -> str:
    more = len(bad) - _SHOWN
    lines = [f"{name} was not built: {len(bad):,} rows cannot be used", *bad[:_SHOWN]]
    return "\n  ".join(lines + ([f"… and {more:,} more"] if more > 0 else []))


def _folder(name: str, data_dir: str | None) -> Path:
    root = Path(data_dir or DATA_DIR).expanduser()
    return root / name / CATALOGUE[name].version
