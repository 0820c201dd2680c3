"""Cached tokens and rows equal those made in memory, or are rebuilt."""

import dataclasses
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from targetsft_jax.data import encoding, examples, packing, token_cache
from targetsft_jax.data.config import DataConfig, SourceConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.pipeline import batch_at, prepare
from targetsft_jax.data.token_cache import CacheFolders
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.storage.array_folder import read, writing

TOKENIZER = byte_tokenizer()


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Forty examples of 6 to 45 tokens in three parts, and one bad row."""
    monkeypatch.setattr(examples, "_PART", 16)
    path = tmp_path / "rows.jsonl"
    rows = [{"q": "é", "a": "x" * n, "trajectory_weight": n + 1} for n in range(1, 41)]
    path.write_text("\n".join(map(json.dumps, [*rows, {"q": "no answer"}])))
    return DataConfig(
        source="jsonl",
        path=str(path),
        fields=FieldMap(prompt="q", response="a"),
        on_bad_row="skip",
        max_length=32,
    )


@pytest.fixture
def work(monkeypatch):
    """List with an entry `tokens` or `rows` for each time they are made."""
    done = []

    def counted(module, name, what):
        real = getattr(module, name)

        def run(*a, **k):
            done.append(what)
            return real(*a, **k)

        monkeypatch.setattr(module, name, run)

    counted(encoding, "read_records", "tokens")
    counted(packing, "pack", "rows")
    return done


def assert_same(a, b):
    assert a.fingerprint == b.fingerprint and a.report == b.report
    assert a.columns == b.columns and "trajectory_weight" in a.columns
    for step in (0, 5):
        one, two = (batch_at(x, step, batch_size=3) for x in (a, b))
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert [a.origins(row) for row in range(a.rows)] == [
        b.origins(row) for row in range(b.rows)
    ]


def test_a_second_preparation_makes_nothing(config, tmp_path, work):
    plain = prepare(config, TOKENIZER).train
    first = prepare(config, TOKENIZER, tmp_path / "cache").train
    assert work == ["tokens", "rows"] * 2
    second = prepare(config, TOKENIZER, tmp_path / "cache").train
    assert work == ["tokens", "rows"] * 2
    for other in (first, second):
        assert_same(plain, other)
        assert "rows.jsonl:41" in str(other.report)
    assert plain.cache_log == []
    assert not any("from the cache" in line for line in first.cache_log)
    folders = sorted((tmp_path / "cache/data").iterdir())
    lines = sorted(second.cache_log, reverse=True)
    assert lines == [
        f"{f.name.split('-')[0]} from the cache: {f}" for f in folders[::-1]
    ]
    # Memory-mapped: rows outside the batch stay on disk.
    assert isinstance(second.examples.columns["tokens"], np.memmap)


def test_without_the_cache_nothing_is_written(config, tmp_path):
    prepare(dataclasses.replace(config, cache=False), TOKENIZER, tmp_path / "cache")
    prepare(DataConfig(max_length=64, limit=20), TOKENIZER, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_packing_again_uses_the_cached_tokens(config, tmp_path, work):
    prepare(config, TOKENIZER, tmp_path)
    for change in (
        {"max_length": 40},
        {"packing": False},
        {"shuffle_seed": 1},
        {"overlong": "drop"},
    ):
        work.clear()
        changed = dataclasses.replace(config, **change)
        again = prepare(changed, TOKENIZER, tmp_path).train
        assert work == ["rows"], change
        assert_same(again, prepare(changed, TOKENIZER).train)


def test_a_mixture_is_cached_and_weighted_again(config, tmp_path, work):
    keys = {f.name: getattr(config, f.name) for f in dataclasses.fields(SourceConfig)}

    def mixed(*weights):
        parts = [
            SourceConfig(**keys | {"name": name, "where": where, "weight": weight})
            for name, where, weight in zip(
                ("short", "long"),
                (
                    {"trajectory_weight": {"max": 20}},
                    {"trajectory_weight": {"min": 21}},
                ),
                weights,
            )
        ]
        return DataConfig(mixture=parts, max_length=48, on_bad_row="skip")

    for weights, expected in (((1, 3), ["tokens", "rows"]), ((1, 1), ["rows"])):
        work.clear()
        for again in (expected, []):
            mixture = prepare(mixed(*weights), TOKENIZER, tmp_path / "cache").train
            assert list(dict.fromkeys(work)) == again
            work.clear()
            assert_same(mixture, prepare(mixed(*weights), TOKENIZER).train)
            assert mixture.report.weights == dict(zip(("short", "long"), weights))
            work.clear()


def test_a_change_of_the_tokens_makes_them_again(config, tmp_path, work):
    prepare(config, TOKENIZER, tmp_path / "cache")
    path = Path(config.path)

    def remakes(config=config, tokenizer=TOKENIZER):
        work.clear()
        prepare(config, tokenizer, tmp_path / "cache")
        return "tokens" in work

    assert not remakes()
    assert remakes(dataclasses.replace(config, thinking="drop"))
    assert remakes(dataclasses.replace(config, where={"trajectory_weight": "7"}))
    assert remakes(
        dataclasses.replace(config, fields=FieldMap(prompt="{q}!", response="a"))
    )
    other = byte_tokenizer()
    other.chat_template += " "
    assert remakes(tokenizer=other)
    other = byte_tokenizer()
    other.add_tokens(["xx"])
    assert remakes(tokenizer=other)
    template = tmp_path / "mine.jinja"
    template.write_text(TOKENIZER.chat_template + "\n")
    from_file = dataclasses.replace(config, chat_template=str(template))
    assert remakes(from_file) and not remakes(from_file)
    template.write_text(TOKENIZER.chat_template + "\n\n")
    assert remakes(from_file)
    # Other bytes under the same name, of the same size and time.
    before = path.stat()
    path.write_text(path.read_text().replace("xx", "xy", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert remakes()


def test_a_template_that_reads_the_clock_is_cached_for_a_day(config, monkeypatch):
    today = datetime.date.today()

    class Tomorrow(datetime.date):
        @classmethod
        def today(cls):
            return today + datetime.timedelta(1)

    def folders(tokenizer):
        return CacheFolders.of(config, tokenizer, "identity", "cache")

    dated = byte_tokenizer()
    dated.chat_template = "{{- strftime_now('%d') -}}" + dated.chat_template
    before = {name: folders(t) for name, t in (("plain", TOKENIZER), ("dated", dated))}
    monkeypatch.setattr(token_cache.datetime, "date", Tomorrow)
    assert folders(TOKENIZER) == before["plain"]
    assert folders(dated).tokens != before["dated"].tokens


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(content[:-1])
    elif how == "flipped":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut", "flipped", "missing"])
@pytest.mark.parametrize(
    "kind, file",
    [
        ("tokens", "tokens.npy"),
        ("tokens", "origins.npy"),
        ("tokens", "manifest.json"),
        ("rows", "examples.npy"),
    ],
)
def test_damage_is_detected_reported_and_repaired(config, tmp_path, how, kind, file):
    prepare(config, TOKENIZER, tmp_path)
    (folder,) = (tmp_path / "data").glob(f"{kind}-*")
    damage(folder / file, how)
    again = prepare(config, TOKENIZER, tmp_path).train
    (line,) = (line for line in again.cache_log if "damaged" in line)
    assert line.startswith(f"{kind} damaged, rebuilt: {folder}")
    assert_same(prepare(config, TOKENIZER).train, again)
    repaired = prepare(config, TOKENIZER, tmp_path).train
    assert not any("damaged" in line for line in repaired.cache_log)
    assert len(list((tmp_path / "data").iterdir())) == 2


def test_a_failure_caches_nothing(config, tmp_path):
    strict = dataclasses.replace(config, on_bad_row="error")
    with pytest.raises(ValueError, match="rows.jsonl:41"):
        prepare(strict, TOKENIZER, tmp_path / "cache")
    assert list((tmp_path / "cache/data").glob("*")) == []


def test_readers_see_a_complete_folder_or_none(tmp_path):
    """Two writers at once, a third that fails, and a reader after each operation."""
    folder, numbers = tmp_path / "cached", np.arange(5)

    def write(writer):
        for part in (numbers[:2], numbers[2:]):
            writer.append({"numbers": part})
            assert read(folder) is None
        writer.close({"about": "é"})

    with pytest.raises(OSError, match="full"), writing(folder) as failing:
        failing.append({"numbers": numbers})
        raise OSError("the disk is full")
    assert list(tmp_path.iterdir()) == []
    with writing(folder) as late:
        with writing(folder) as early:
            write(early)
            assert read(folder) is None
        arrays, about = read(folder)
        late.append({"numbers": numbers})
        late.close({})
    np.testing.assert_array_equal(read(folder)[0]["numbers"], numbers)
    np.testing.assert_array_equal(arrays["numbers"], numbers)
    assert about == {"about": "é"} and list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_be_written_is_named(config, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ValueError, match="cannot be written .*data.cache to false"):
        prepare(config, TOKENIZER, tmp_path / "cache")


def test_processes_may_make_and_read_it_at_once(config, tmp_path):
    script = (
        "import sys\n"
        "from targetsft_jax.data.config import *\n"
        "from targetsft_jax.data.pipeline import prepare\n"
        "from targetsft_jax.data.tokenizer import byte_tokenizer\n"
        f"config = DataConfig(**{dataclasses.asdict(config)!r})\n"
        "for name, kind in (('fields', FieldMap), ('synthetic', SyntheticConfig)):\n"
        "    object.__setattr__(config, name, kind(**getattr(config, name)))\n"
        "tokenizer = byte_tokenizer()\n"
        "sys.stdin.readline()\n"
        f"print(prepare(config, tokenizer, {str(tmp_path)!r}).train.fingerprint)\n"
    )
    command = [sys.executable, "-c", script]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    running = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = {process.communicate(timeout=120)[0].strip() for process in running}
    assert outputs == {prepare(config, TOKENIZER).train.fingerprint}
    assert len(list((tmp_path / "data").iterdir())) == 2
