"""Read published files of a data set directly, without building it."""

from collections.abc import Iterator

from targetsft_jax.data.catalogue import CATALOGUE
from targetsft_jax.data.catalogue.builder import from_row
from targetsft_jax.data.catalogue.entry import Example, FileLayout
from targetsft_jax.data.catalogue.files import in_folder
from targetsft_jax.data.json_rows import parse_row
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.sources import Row, read_files
from targetsft_jax.storage.user_path import user_path


def read_published(
    name: str, path: str, split: str
) -> Iterator[tuple[str, Example | RowError | None]]:
    """Stream the examples of published files.

    Args:
        name: name in the catalogue.
        path: one file with rows of any layout of the entry, or a folder as in
            `files.in_folder`.
        split: split of a folder.

    Yields:
        (`file:row`, the example), with a RowError for an unusable row, and None for one
        that the entry leaves out.

    Raises:
        ValueError: no such file, or a folder without files of the split.
    """
    dataset = CATALOGUE[name]
    if user_path(path).is_dir():
        files = in_folder(name, dataset, path)
        if split not in files.splits:
            raise ValueError(
                f"{path} has no file of the split {split!r} of {name}; it has "
                f"{', '.join(files.splits)}"
            )
        examples = _examples(read_files(files.splits[split]), [files.layout])
    else:
        rows = read_files([str(user_path(path))])
        examples = _examples(rows, list(dataset.layouts))
    number = 0
    for origin, example in examples:
        if isinstance(example, dict):
            # As `builder` numbers them, so that both have the same ids.
            example["id"] = example["id"] or f"{split}/{number}"
            number += 1
        yield origin, example


def _examples(
    rows: Iterator[tuple[str, Row]], layouts: list[FileLayout]
) -> Iterator[tuple[str, Example | RowError | None]]:
    """Convert rows by the first layout that fits the first row."""
    for origin, raw in rows:
        results = [_convert(layout, raw, origin) for layout in layouts]
        fits = [n for n, x in enumerate(results) if not isinstance(x, RowError)]
        choice = fits[0] if fits else 0
        layouts = [layouts[choice]] if fits else layouts
        yield origin, results[choice]


def _convert(layout: FileLayout, raw: Row, origin: str) -> Example | RowError | None:
    try:
        return from_row(layout, parse_row(raw, origin), origin)
    except RowError as error:
        return error
