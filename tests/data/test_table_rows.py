"""Tables: the selected columns, with cells that Python cannot hold kept apart."""

import datetime
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest

from targetsft_jax.data.row_error import Unreadable
from targetsft_jax.data.table_rows import all_columns, read_arrow, read_parquet


def _write(path, table):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=2)
        return read_parquet
    with pyarrow.ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table)
    return read_arrow


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_values_of_every_type(tmp_path, kind):
    """An unreadable cell leaves the others of its row and column."""
    text = pyarrow.array(["x", "y", "z"])
    days = pyarrow.array([0, 2**31 - 1, 1], pyarrow.date32())
    columns = {
        "text": text,
        "large": text.cast(pyarrow.large_string()),
        "view": text.cast(pyarrow.string_view()),
        "coded": text.dictionary_encode(),
        "price": pyarrow.array(["1.50", "2.00", "3.25"]).cast(pyarrow.decimal128(5, 2)),
        "day": days,
        "inner": pyarrow.StructArray.from_arrays([text, days], ["A", "day"]),
        "list": pyarrow.ListArray.from_arrays([0, 1, 2, 3], days),
    }
    path = tmp_path / f"a.{kind}"
    rows = list(_write(path, pyarrow.table(columns))(str(path), all_columns))
    for i, letter in enumerate("xyz"):
        for name in ("text", "large", "view", "coded"):
            assert rows[i][name] == letter
        assert rows[i]["inner"]["A"] == letter
    assert rows[0]["price"] == Decimal("1.50")
    first, last = datetime.date(1970, 1, 1), datetime.date(1970, 1, 2)
    assert [row["day"] for row in (rows[0], rows[2])] == [first, last]
    for cell in (rows[1]["day"], rows[1]["inner"]["day"], *rows[1]["list"]):
        assert isinstance(cell, Unreadable) and "date32" in cell.problem


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_that_are_not_selected_are_not_read(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    table = pyarrow.table({"a": ["x"], "b": ["y"], "c": [{"d": 1}]})
    read = _write(path, table)
    rows = list(read(str(path), lambda names: [n for n in names if n != "b"]))
    assert rows == [{"a": "x", "c": {"d": 1}}]


def test_two_columns_of_one_name_are_not_chosen_from(tmp_path):
    path = tmp_path / "a.arrow"
    table = pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 2, ["q", "q"])
    (row,) = _write(path, table)(str(path), lambda names: ["q"])
    assert row == {"q": Unreadable("in 2 columns of this name; expected one")}


def test_large_rows_are_read_in_small_batches(tmp_path, monkeypatch):
    """The size in the footer bounds a batch."""
    from targetsft_jax.data import table_rows

    path = tmp_path / "a.parquet"
    rows = [{"text": str(i) * 2**20} for i in range(4)]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), path, compression="none", use_dictionary=False
    )
    metadata = pyarrow.parquet.ParquetFile(path).metadata
    assert table_rows._batch_size(metadata) == 128
    monkeypatch.setattr(table_rows, "_BYTES_AT_A_TIME", 2**23)
    assert 4 <= table_rows._batch_size(metadata) <= 8
    assert list(read_parquet(str(path), all_columns)) == rows
