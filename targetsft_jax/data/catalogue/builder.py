"""Build and read data sets of the catalogue as ArrayRecord files.

tensorflow_datasets (TFDS) writes the files and their description, without TensorFlow.
Each field is a separate feature, so that any TFDS reader can load them. Reading uses
ArrayRecord in bulk and protobuf, several times as fast as `as_data_source`, which reads
record by record.
"""

import contextlib
import functools
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targetsft_jax.data.catalogue import CATALOGUE
from targetsft_jax.data.catalogue.entry import FIELDS, Example, FileLayout
from targetsft_jax.data.catalogue.files import Files, from_hub, in_folder
from targetsft_jax.data.json_rows import parse_row
from targetsft_jax.data.row_error import ROW_FAULTS, RowError
from targetsft_jax.data.sources import read_files
from targetsft_jax.extras import import_extra
from targetsft_jax.storage import atomic
from targetsft_jax.storage.user_path import user_path

DATA_DIR = "~/.cache/targetsft_jax/datasets"
"""Default folder of built data sets. It is not that of TFDS, where another builder may
use the same name."""
_RECORDS_AT_A_TIME = 1024
_SHOWN = 50


@dataclass(frozen=True)
class Built:
    """A built data set on disk."""

    folder: Path
    splits: dict[str, int]
    """Number of examples of each split."""
    left_out: dict[str, int]
    """Number of rows of each split left out by the entry's rule."""
    origin: str
    """The folder, or `repository@commit` on the hub, that it was built from."""
    files: dict[str, list[Path]]
    """ArrayRecord files of each split, in order."""


def build(
    name: str,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    *,
    replace: bool = True,
) -> Built:
    """Build a data set atomically from its published files.

    Args:
        name: name in the catalogue.
        data_dir: folder of the built data sets; None: DATA_DIR.
        manual_dir: folder of the published files; None: the hub.
        replace: replace an existing build; False: keep one that another process
            completed first.

    Raises:
        ValueError: no such data set; missing or incomplete files; unusable rows, each
            with its file and row; the extra `data` is not installed.
    """
    if name not in CATALOGUE:
        raise ValueError(
            f"{name!r} is not in the catalogue; expected one of {', '.join(CATALOGUE)}"
        )
    _tfds(name)  # Before anything is downloaded.
    dataset = CATALOGUE[name]
    files = (
        from_hub(name, dataset)
        if manual_dir is None
        else in_folder(name, dataset, manual_dir)
    )
    folder = _folder(name, data_dir)
    partial = atomic.begin(folder.parent)
    try:
        # TFDS also renames a complete folder, but deletes the old one first.
        _write(name, files, str(partial))
        complete = partial / folder.relative_to(folder.parents[1])
        atomic.finish(complete, folder, replace=replace)
    finally:
        atomic.abandon(partial)
    built = find_built(name, data_dir)
    assert built is not None
    return built


def find_built(name: str, data_dir: str | None = None) -> Built | None:
    """Find the build of the entry's version; None if there is none.

    Raises:
        ValueError: the folder is damaged.
    """
    folder = _folder(name, data_dir)
    if not (folder / "dataset_info.json").is_file():
        return None
    try:
        info = json.loads((folder / "dataset_info.json").read_text("utf-8"))
        metadata = json.loads((folder / "metadata.json").read_text("utf-8"))
        files, splits = {}, {}
        for split in info["splits"]:
            lengths = [int(n) for n in split["shardLengths"]]
            template = f"{name}-{split['name']}.array_record"
            files[split["name"]] = [
                folder / f"{template}-{i:05d}-of-{len(lengths):05d}"
                for i in range(len(lengths))
            ]
            splits[split["name"]] = sum(lengths)
        missing = [p for paths in files.values() for p in paths if not p.is_file()]
        if missing:
            raise ValueError(f"{missing[0].name} is missing")
        left_out, origin = dict(metadata["left_out"]), str(metadata["origin"])
    except (*ROW_FAULTS, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(
            f"{folder} is damaged ({error}); build it again: `python -m"
            f" targetsft_jax.datasets build {name}`"
        ) from error
    return Built(folder, splits, left_out, origin, files)


def build_if_missing(
    name: str,
    split: str | None,
    data_dir: str | None = None,
    manual_dir: str | None = None,
) -> tuple[Built, str]:
    """Find a data set, build it if it is missing, and resolve the split.

    Args:
        name, data_dir, manual_dir: as in `build`.
        split: name of the split; None: `train`, or the only one of the entry.

    Returns:
        (the build, name of the split).

    Raises:
        ValueError: as `build`; the data set was built without the files of the split.
    """
    splits = CATALOGUE[name].splits
    split = split or ("train" if "train" in splits else splits[0])
    built = find_built(name, data_dir)
    built = built or build(name, data_dir, manual_dir, replace=False)
    if split not in built.splits:
        existing = ", ".join(built.splits)
        raise ValueError(
            f"{built.folder} has no split {split!r}, only {existing}: {built.origin}"
            " had no files of it; build it from other files: `python -m"
            f" targetsft_jax.datasets build {name} --manual-dir FOLDER`"
        )
    return built, split


def read(built: Built, split: str) -> Iterator[tuple[str, Example]]:
    """Stream the examples of a split.

    Yields:
        (`name/split:row`, the example).

    Raises:
        ValueError: a file is damaged or lacks records; the extra `data` is not
            installed.
    """
    name = built.folder.parent.name
    _tfds(name)
    from array_record.python.array_record_module import ArrayRecordReader
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    parse = tf_example_pb2.Example.FromString
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
        except (RuntimeError, ValueError, IndexError, DecodeError) as error:
            raise ValueError(
                f"{path} is damaged ({str(error).strip()}); build it again: `python -m"
                f" targetsft_jax.datasets build {name}`"
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
    tfds = _tfds(name)
    builder, bad = _builder(name, files, data_dir)
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    tfds.disable_progress_bar()
    try:
        # TFDS prints the name of the temporary folder.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=settings)
    except Exception as error:
        if not bad:
            raise
        raise ValueError(_refusal(name, bad)) from error


def _builder(name: str, files: Files, data_dir: str) -> tuple[Any, list[str]]:
    """TFDS builder of a data set, and the list to which it appends bad rows."""
    tfds = _tfds(name)
    dataset = CATALOGUE[name]
    bad: list[str] = []
    metadata = tfds.core.MetadataDict(origin=files.origin, left_out={})

    def info(self: Any) -> Any:
        text = tfds.features.Text()
        features = {field: text for field in FIELDS}
        features["options"] = tfds.features.Sequence(text)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{dataset.about}\nLicence: {dataset.licence}",
            features=tfds.features.FeaturesDict(features),
            homepage=dataset.homepage,
            license=dataset.licence,
            metadata=metadata,
            disable_shuffling=True,  # Rows keep the order of their files.
        )

    def split_generators(self: Any, dl_manager: Any) -> dict[str, Any]:
        return {
            split: self._generate_examples(split, paths)
            for split, paths in files.splits.items()
        }

    def generate(
        self: Any, split: str, paths: list[str]
    ) -> Iterator[tuple[int, Example]]:
        left_out = 0
        number = 0
        for origin, raw in read_files(paths):
            try:
                example = from_row(files.layout, parse_row(raw, origin), origin)
            except RowError as error:
                # All are counted, and few are shown.
                bad.append(str(error) if len(bad) < _SHOWN else "")
                continue
            if example is None:
                left_out += 1
                continue
            example["id"] = example["id"] or f"{split}/{number}"
            yield number, example
            number += 1
        metadata["left_out"][split] = left_out
        if not number and not bad:
            bad.append(f"{paths[0]}: no row yields an example of {split}")
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
def _base() -> Any:
    import tensorflow_datasets as tfds

    return tfds.core.GeneratorBasedBuilder


def _tfds(name: str) -> Any:
    return import_extra("tensorflow_datasets", "data", f"data set {name!r}")


def from_row(layout: FileLayout, row: Mapping[str, Any], origin: str) -> Example | None:
    """Convert a published row; None: the entry leaves it out.

    Raises:
        RowError: the row has other fields than the layout's.
    """
    try:
        return layout.example(row)
    except KeyError as error:
        names = ", ".join(sorted(map(str, row)))
        raise RowError(origin, f"field {error} is missing; it has {names}") from error
    except ValueError as error:
        raise RowError(origin, str(error)) from error
    except (TypeError, AttributeError, IndexError) as error:
        types = ", ".join(f"{name} {type(row[name]).__name__}" for name in sorted(row))
        raise RowError(
            origin, f"a field has another type than published ({error}); it has {types}"
        ) from error
    except ROW_FAULTS as error:
        raise RowError.of(origin, error) from error


def _refusal(name: str, bad: list[str]) -> str:
    more = len(bad) - _SHOWN
    lines = [f"{name} was not built: {len(bad):,} rows cannot be used", *bad[:_SHOWN]]
    return "\n  ".join(lines + ([f"… and {more:,} more"] if more > 0 else []))


def _folder(name: str, data_dir: str | None) -> Path:
    root = user_path(data_dir or DATA_DIR)
    return root / name / CATALOGUE[name].version
