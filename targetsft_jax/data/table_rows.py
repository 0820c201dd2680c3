"""Rows of Parquet and Arrow tables: used columns only, unreadable cells apart."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from targetsft_jax.data.row_error import Unreadable
from targetsft_jax.extras import import_extra

Select = Callable[[Sequence[str]], Sequence[str]]
"""Function from the column names of a file to those that are read."""
# Rows decoded at a time, since a megabyte may be stored once for many rows, and their
# bytes in the file.
_ROWS_AT_A_TIME = 128
_BYTES_AT_A_TIME = 2**28


def all_columns(names: Sequence[str]) -> Sequence[str]:
    """Every column: a `Select`."""
    return names


def read_parquet(path: str, select: Select) -> Iterator[dict[str, Any]]:
    """Stream the rows of a Parquet file, nested columns as lists and dicts.

    A cell that Python cannot hold, such as a date of the year 300,000, is `Unreadable`.

    Raises:
        ValueError: not a Parquet file, or damaged; pyarrow is not installed.
    """
    _refuse_missing_pyarrow(path)
    import pyarrow
    import pyarrow.parquet

    try:
        # Row groups are read on demand. Page checksums, if the file has them, cost
        # next to nothing to verify.
        with pyarrow.parquet.ParquetFile(
            path, pre_buffer=False, page_checksum_verification=True
        ) as file:
            names = select(file.schema_arrow.names)
            size = _batch_size(file.metadata)
            # Without columns, a batch has no rows either.
            columns = list(names) or None
            yield from _rows(file.iter_batches(size, columns=columns), names)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(path, "Parquet", error) from error


def read_arrow(path: str, select: Select) -> Iterator[dict[str, Any]]:
    """Stream the rows of a file in Arrow's stream format, memory-mapped.

    Yields, Raises: as `read_parquet`.
    """
    _refuse_missing_pyarrow(path)
    import pyarrow

    try:
        with (
            pyarrow.memory_map(path) as file,
            pyarrow.ipc.open_stream(file) as batches,
        ):
            yield from _rows(batches, select(batches.schema.names))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(path, "Arrow", error) from error


def _refuse_missing_pyarrow(path: str) -> None:
    import_extra("pyarrow", "data", path, "or convert the file to JSON lines")


def _rows(batches: Iterable[Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        columns = {name: _column(batch, name) for name in names}
        # Batches of a stream have any size.
        for start in range(0, batch.num_rows, _ROWS_AT_A_TIME):
            end = min(batch.num_rows, start + _ROWS_AT_A_TIME)
            values = [cells(start, end) for cells in columns.values()]
            for i in range(end - start):
                yield {name: value[i] for name, value in zip(names, values)}


def _column(batch: Any, name: str) -> Callable[[int, int], list[Any]]:
    """Function from a range of rows to the Python values of a column.

    Raises:
        pyarrow.ArrowInvalid: the column refers to memory outside of the file.
    """
    import pyarrow

    indices = batch.schema.get_all_field_indices(name)
    if len(indices) != 1:
        problem = f"in {len(indices)} columns of this name; expected one"
        return lambda start, end: [Unreadable(problem)] * (end - start)
    array = batch.column(indices[0])
    try:
        array.validate(full=True)
    except pyarrow.ArrowInvalid:
        # Text that is not UTF-8 spoils its rows, and offsets out of bounds the file:
        # they would crash the process.
        array.view(_as_bytes(array.type)).validate(full=True)

    def cells(start: int, end: int) -> list[Any]:
        part = array.slice(start, end - start)
        try:
            return list(part.to_pylist())
        except Exception:  # One cell fails them all, with errors of many types.
            return [_cell(scalar) for scalar in part]

    return cells


def _as_bytes(kind: Any) -> Any:
    """Arrow type with bytes in place of text."""
    import pyarrow
    from pyarrow import types

    def inner(field: Any) -> Any:
        return field.with_type(_as_bytes(field.type))

    if types.is_string(kind):
        return pyarrow.binary()
    if types.is_large_string(kind):
        return pyarrow.large_binary()
    if types.is_struct(kind):
        return pyarrow.struct([inner(field) for field in kind])
    if types.is_list(kind):
        return pyarrow.list_(inner(kind.value_field))
    if types.is_large_list(kind):
        return pyarrow.large_list(inner(kind.value_field))
    return kind


def _cell(scalar: Any) -> Any:
    """Python value of a cell; what Python cannot hold in it is `Unreadable`."""
    try:
        return scalar.as_py()
    except Exception as error:
        reason = f"a {scalar.type} that cannot be read ({error})"
    try:
        if str(scalar.type).startswith("struct"):
            return {name: _cell(scalar[name]) for name in scalar.type.names}
        if "list" in str(scalar.type) and scalar.values is not None:
            return [_cell(item) for item in scalar.values]
    except Exception as error:
        reason = f"a {scalar.type} that cannot be read ({error})"
    return Unreadable(reason)


def _batch_size(metadata: Any) -> int:
    """Rows per batch, fewer if the row groups have large rows."""
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    row = max((g.total_byte_size // max(1, g.num_rows) for g in groups), default=0)
    return max(1, min(_ROWS_AT_A_TIME, _BYTES_AT_A_TIME // max(1, row)))


def _damaged(path: str, kind: str, error: Exception) -> ValueError:
    return ValueError(
        f"{path}: not a complete {kind} file ({error}); download it again"
    )
