"""Teacher caches: against single examples, across meshes, interrupted, damaged."""

import dataclasses
import errno
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rig

from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.config.load import load
from targetsft_jax.config.schema import ConfigError
from targetsft_jax.data import packing
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.teacher_cache import (
    STATES,
    TOP_K,
    CacheHeader,
    TeacherCache,
    open_cache,
)
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.models import decoder
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.planning.abstract_step import untraced_step
from targetsft_jax.planning.planned_teacher import DEFAULT, Store, planned_teacher
from targetsft_jax.storage import object_store
from targetsft_jax.teachers import make
from targetsft_jax.training.session import open_session

TOKENIZER = byte_tokenizer()
K = 8


def _config(folders, tmp_path, **more):
    keys = {"teacher__cache": tmp_path / "cache", **more}
    return load(rig.small_run(folders, tmp_path / "run", **keys))


def _open(config, folder="data") -> tuple[TeacherCache, object]:
    """The cache and the examples of a configuration, without a check of identity."""
    examples = prepare(config.data, TOKENIZER).train.examples
    path = rig.Path(config.teacher.cache) / folder
    return open_cache(path, examples, {}, "the command"), examples


@pytest.fixture(scope="module")
def made(folders, tmp_path_factory):
    """Configuration of a complete cache of two shards; copy before changing it."""
    tmp_path = tmp_path_factory.mktemp("made")
    config = _config(folders, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("targetsft_jax.teachers.plan._SHARD_BYTES", 1)
        make.make_cache(config, TOP_K, K)
    return config


def test_entries_are_the_top_of_each_example_alone(made, folders):
    """Packed rows, chunks and shards leave no trace in the entries."""
    cache, examples = _open(made)
    assert cache.header.shards > 1
    teacher = open_model(folders["teacher"])
    params = teacher.load(make_mesh(devices=jax.devices()[:1]), jnp.float32)
    for number in (0, 17, len(examples) - 1):
        example = examples.take(number)
        hidden = decoder.apply(teacher.config, params, example.tokens[None])
        logits = np.asarray(hidden[0] @ decoder.head(params).T, np.float64)
        logits = logits[:-1][example.loss_mask[1:], : len(TOKENIZER)]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        ids = np.argsort(-log_p, axis=-1)[:, :K]
        first, count = int(cache.starts[number]), int(cache.counts[number])
        assert count == len(log_p)
        entries = cache.shards[cache.shard_of[number]]
        part = slice(first, first + count)
        np.testing.assert_array_equal(entries["ids"][part], ids)
        chosen = np.take_along_axis(log_p, ids, -1)
        np.testing.assert_allclose(entries["log_probs"][part], chosen, rtol=1e-3)
        rest = np.exp(log_p).sum(-1) - np.exp(chosen).sum(-1)
        np.testing.assert_allclose(np.exp(entries["log_rest"][part]), rest, rtol=1e-4)


def test_batches_have_each_entry_at_its_label(made):
    """In any packing: a token's row says what its example's entries say."""
    cache, examples = _open(made)
    numbers, lengths = packing.fit_to_rows(examples, 64, "drop", packing.DataReport())
    order = np.random.default_rng(3).permutation(len(numbers))
    layout = packing.pack(numbers[order], lengths[order], 64)
    rows = np.array([3, 0, 5])
    arrays = cache.take(examples, layout, rows)
    plain = packing.build_rows(examples, layout, rows)
    assert arrays["teacher_ids"].shape == (3, 64, K)
    assert not np.any(arrays["teacher_log_rest"][~plain["loss_mask"]])
    for i, row in enumerate(rows):
        part = layout.segments(row)
        expected = [
            cache.shards[cache.shard_of[n]]["log_rest"][
                cache.starts[n] : cache.starts[n] + cache.counts[n]
            ]
            for n in layout.examples[part]
        ]
        found = arrays["teacher_log_rest"][i][plain["loss_mask"][i]]
        np.testing.assert_array_equal(found, np.concatenate(expected))


@pytest.fixture(scope="module")
def live(folders, tmp_path_factory):
    """Metrics of a run with the live teacher, and its keys."""
    keys = {"validation__examples": 4, "validation__every": 4}
    run_dir = tmp_path_factory.mktemp("live") / "run"
    return rig.run_metrics(rig.small_run(folders, run_dir, **keys)), keys


@pytest.mark.parametrize("kind", [TOP_K, STATES])
def test_training_on_all_tokens_or_states_equals_the_live_teacher(
    kind, folders, live, tmp_path
):
    """All tokens in float16, or hidden states in bfloat16, change roundings alone."""
    metrics, more = live
    config = _config(folders, tmp_path, **more)
    planned = _planned(config, Store(kind, len(TOKENIZER)))
    make.make_cache(config, kind, len(TOKENIZER))
    assert planned == _planned(config)
    stored = rig.run_metrics(
        rig.small_run(
            folders,
            tmp_path / "stored",
            teacher__cache=config.teacher.cache,
            teacher__path="null",
            **more,
        )
    )
    for before, after in zip(metrics, stored, strict=True):
        for name in ("loss", "kl_teacher", "gamma", "validation_kl_teacher"):
            if name in before:
                assert after[name] == pytest.approx(before[name], rel=0.02), name


def _planned(config, store=DEFAULT):
    """Stored teacher and arguments of the step that `plan` compiles."""
    step = untraced_step(config, make_mesh(devices=jax.devices()[:1]), store)
    return step.spec.stored, step.frozen, step.batch


def test_a_mesh_gives_the_entries_of_one_device(made, folders, tmp_path):
    """The order in which devices share the tokens of a row does not show."""
    config = _config(folders, tmp_path, mesh__fsdp=2, mesh__context=2, mesh__tensor=2)
    make.make_cache(config, TOP_K, K)
    (ours, examples), (reference, _) = _open(config), _open(made)
    for number in range(0, len(examples), 7):
        for name in ("log_probs", "log_rest"):
            left, right = (
                cache.shards[cache.shard_of[number]][name][
                    cache.starts[number] : cache.starts[number] + cache.counts[number]
                ]
                for cache in (ours, reference)
            )
            np.testing.assert_allclose(left, right, rtol=2e-3, atol=1e-5)


def test_continues_after_a_stop_and_makes_damaged_shards_again(made, tmp_path, capsys):
    """The result is byte for byte that of an uninterrupted command."""
    folder = tmp_path / "cache"
    shutil.copytree(made.teacher.cache, folder)
    config = dataclasses.replace(
        made, teacher=dataclasses.replace(made.teacher, cache=str(folder))
    )
    shards = folder / "data" / "shards"
    shutil.rmtree(shards / "00001")
    content = bytearray((shards / "00000" / "ids.npy").read_bytes())
    content[-1] ^= 1
    (shards / "00000" / "ids.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged: .*ids.npy fails its checksum"):
        open_session(config)
    make.make_cache(config, TOP_K, K)
    printed = capsys.readouterr().out
    assert "damaged, made again" in printed and "shard 2 of" in printed
    original = rig.Path(made.teacher.cache)
    for path in original.rglob("*.npy"):
        assert path.read_bytes() == (folder / path.relative_to(original)).read_bytes()
    make.make_cache(config, TOP_K, K)
    assert "nothing to do" in capsys.readouterr().out


def test_a_folder_with_other_contents_is_refused(folders, tmp_path):
    def refusal(place, error):
        with pytest.raises(error) as refused:
            make.make_cache(_config(folders, tmp_path, teacher__cache=place), TOP_K, K)
        return str(refused.value)

    found = refusal(folders["student"], ConfigError)
    assert "a folder with chat_template.jinja, which is not of a teacher cache" in found
    file = folders["student"] / "config.json"
    assert "config.json', a file; expected a folder" in refusal(file, ConfigError)
    assert "Not a directory" in refusal(file / "below", PermissionError)


def test_a_full_disk_leaves_complete_shards(made, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    shutil.copytree(made.teacher.cache, folder)
    shutil.rmtree(folder / "data" / "shards" / "00001")
    config = dataclasses.replace(
        made, teacher=dataclasses.replace(made.teacher, cache=str(folder))
    )

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(make, "write_shard", full)
    with pytest.raises(OSError, match=r"no space left for .*cache: .*free some space"):
        make.make_cache(config, TOP_K, K)


def test_a_damaged_head_is_made_again(folders, tmp_path):
    config = _config(folders, tmp_path)
    make.make_cache(config, STATES)
    head = tmp_path / "cache" / "data" / "head" / "head.npy"
    intact = head.read_bytes()
    head.write_bytes(intact[:-1])
    with pytest.raises(ValueError, match=r"damaged: .*head.npy has .* bytes; .*again"):
        open_session(config).frozen_arguments()
    make.make_cache(config, STATES)
    assert head.read_bytes() == intact


def test_devices_that_share_rows_read_their_part_of_the_entries(
    made, folders, tmp_path
):
    """Entries are in the order of the tokens, which differs by device."""
    runs = [
        rig.run_metrics(
            rig.small_run(
                folders,
                tmp_path / f"context{context}",
                teacher__cache=made.teacher.cache,
                train__steps=1,
                mesh__context=context,
            )
        )[0]
        for context in (1, 2)
    ]
    for name in ("loss", "kl_teacher", "grad_norm"):
        assert runs[0][name] == pytest.approx(runs[1][name], rel=1e-4), name


def _run(made, **sections):
    """The configuration with other keys, as `section__key`."""
    config = made
    for name, value in sections.items():
        section, key = name.split("__")
        part = dataclasses.replace(getattr(config, section), **{key: value})
        config = dataclasses.replace(config, **{section: part})
    return config


def test_a_cache_of_something_else_is_refused(made, folders, tmp_path):
    with pytest.raises(ValueError, match="examples was .* and is"):
        open_session(
            _run(
                made,
                data__synthetic=dataclasses.replace(made.data.synthetic, seed=9),
            )
        )
    with pytest.raises(ValueError, match="teacher was .* and is"):
        open_session(_run(made, teacher__path=str(folders["student"])))
    with pytest.raises(ValueError, match="has no teacher_cache.yaml; make the cache"):
        open_session(_run(made, teacher__cache=str(tmp_path)))
    with pytest.raises(ValueError, match="width 8, and this command asks for 9"):
        make.make_cache(made, TOP_K, 9)
    with pytest.raises(ValueError, match="was made for another run: teacher was"):
        make.make_cache(_run(made, teacher__path=str(folders["student"])), TOP_K, K)


def test_a_cache_of_shorter_rows_is_refused(folders, tmp_path):
    keys = {"data__overlong": "truncate", "data__max_dropped": 1}
    config = _config(folders, tmp_path, data__max_length=40, **keys)
    make.make_cache(config, TOP_K, 2)
    open_session(config)
    longer = _run(config, data__max_length=64)
    with pytest.raises(ValueError, match="made with a smaller data.max_length"):
        open_session(longer)
    # Not "nothing to do", and no shards of two packings in one cache.
    with pytest.raises(ValueError, match="other rows than data.max_length|with shards"):
        make.make_cache(longer, TOP_K, 2)


def test_an_incomplete_or_edited_cache_is_refused(made, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(made.teacher.cache, folder)
    config = _run(made, teacher__cache=str(folder))
    shutil.rmtree(folder / "data" / "shards" / "00001")
    with pytest.raises(ValueError, match="is incomplete: .*00001, one of"):
        open_session(config)
    header = folder / "data" / "teacher_cache.yaml"
    header.write_text(header.read_text().replace('"width": 8', '"width": 4'))
    with pytest.raises(ValueError, match="was changed"):
        open_session(config)


def test_refuses_what_cannot_be_made(folders, tmp_path):
    config = _config(folders, tmp_path)
    with pytest.raises(ConfigError, match="teacher.cache is null"):
        make.make_cache(_run(config, teacher__cache=None), TOP_K, K)
    with pytest.raises(Exception, match="--k is 1000; expected 1 to"):
        make.make_cache(config, TOP_K, 1000)
    with pytest.raises(ConfigError, match="teacher.path is null"):
        make.make_cache(_run(config, teacher__path=None), TOP_K, K)
    assert CacheHeader.read(tmp_path / "cache" / "data") is None


def test_resume_with_another_cache_is_refused(made, folders, tmp_path):
    """Its distributions would not be those of the first steps."""
    other = _config(folders, tmp_path)
    make.make_cache(other, TOP_K, 2)
    keys = {"teacher__path": "null"}
    first = rig.small_run(
        folders, tmp_path / "run", teacher__cache=made.teacher.cache, **keys
    )
    rig.run_metrics(first)
    second = rig.small_run(
        folders,
        tmp_path / "run",
        teacher__cache=other.teacher.cache,
        train__steps=6,
        **keys,
    )
    with pytest.raises(ValueError, match="the frozen teacher has other weights"):
        rig.run_metrics(second)


def test_a_cache_in_a_store_is_made_continued_and_read(
    made, folders, store, tmp_path, monkeypatch, capsys
):
    """On machines without local copies; its objects are those of a local cache."""
    place = f"{store}/teacher"
    config = _config(folders, tmp_path, teacher__cache=place)
    monkeypatch.setattr("targetsft_jax.teachers.plan._SHARD_BYTES", 1)
    with pytest.raises(ValueError, match=f"no .*yaml; make .* {place}, with"):
        open_session(config)

    def machine(name):
        monkeypatch.setenv("TARGETSFT_LOCAL_DIR", str(tmp_path / name))

    make.make_cache(config, TOP_K, K)
    original = rig.Path(made.teacher.cache)
    names = {p.relative_to(original).as_posix() for p in original.rglob("*.npy")}
    stored = object_store.list_objects(place)
    assert names < {*stored} and not any("partial" in name for name in stored)
    # As after a kill: a shard without its manifest.
    object_store.remove(place, ["data/shards/00001/manifest.json"])
    machine("second")
    with pytest.raises(ValueError, match="teacher.cache is damaged: .*00001.*again"):
        open_session(config)
    make.make_cache(config, TOP_K, K)
    assert "of them complete" in capsys.readouterr().out
    machine("third")
    expected = open_session(made).dataset.teacher
    cache = open_session(config).dataset.teacher
    # A damaged copy is downloaded again.
    path = cache.folder / "shards" / "00000" / "ids.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    cache = open_session(config).dataset.teacher
    assert path.read_bytes() == content
    for ours, theirs in zip(cache.shards, expected.shards):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    planned, _ = planned_teacher(config)
    assert planned == cache.header
