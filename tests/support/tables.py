"""Tables of questions in every file format, for tests of the readers."""

import json

import pyarrow
import pyarrow.parquet

from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.records import load_records

ROWS = [
    {
        "question": f"q{i}",
        "turns": [{"role": "user", "content": f"q{i}"}],
        "options": {"A": "yes", "B": None},
        "contexts": ["one", "two"],
        "n": i,
    }
    for i in range(2500)
]
QA = FieldMap(prompt="{contexts} {question}", response="options.A")


def write_parquet(path, rows=ROWS, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return str(path)


def write_arrow(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table)
    return str(path)


def save_splits(folder, splits):
    """Write the files of `DatasetDict.save_to_disk` that the reader needs."""
    for split, shards in splits.items():
        files = []
        for i, rows in enumerate(shards):
            name = f"data-{i:05d}-of-{len(shards):05d}.arrow"
            write_arrow(folder / split / name, rows)
            files.append({"filename": name})
        state = {"_data_files": files, "_split": split}
        (folder / split / "state.json").write_text(json.dumps(state))
    dictionary = {"splits": list(splits)}
    (folder / "dataset_dict.json").write_text(json.dumps(dictionary))
    return DataConfig(source="hf_dataset", path=str(folder), fields=QA)


def load_all(config):
    """Load all records of a data section, and the report."""
    records, report = load_records(config)
    return list(records), report
