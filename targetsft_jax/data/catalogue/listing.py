"""Output of the commands `datasets list` and `datasets build`."""

from collections.abc import Iterator

from targetsft_jax.data.catalogue import CATALOGUE
from targetsft_jax.data.catalogue.builder import build, find_built


def list_catalogue(data_dir: str | None = None) -> Iterator[str]:
    """Describe every data set: contents, licence, splits and build, as lines.

    Raises:
        ValueError: a built data set is damaged.
    """
    indent = " " * 17
    for name, dataset in CATALOGUE.items():
        built = find_built(name, data_dir)
        yield f"{name:<17} {dataset.about}"
        yield f"{indent} licence {dataset.licence}; {dataset.homepage}"
        if built is None:
            yield f"{indent} splits {', '.join(dataset.splits)}; not built"
        else:
            sizes = ", ".join(f"{split} {n:,}" for split, n in built.splits.items())
            yield f"{indent} built: {sizes}; in {built.folder}"


def build_dataset(
    name: str, data_dir: str | None = None, manual_dir: str | None = None
) -> Iterator[str]:
    """Build a data set and report the examples of each split, origin and folder.

    Args:
        name, data_dir, manual_dir: as in `builder.build`.

    Raises:
        ValueError: as `builder.build`.
    """
    built = build(name, data_dir, manual_dir)
    for split, examples in built.splits.items():
        count = built.left_out.get(split)
        left_out = f", {count:,} rows left out by the entry's rule" if count else ""
        yield f"{name}/{split}: {examples:,} examples{left_out}"
    yield f"from {built.origin}"
    yield f"in {built.folder}"
