"""LoRA runs end to end: one base, checkpoints of adapters, two exports."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from support import rig

from targetsft_jax.checkpoints import open as roles
from targetsft_jax.config.load import load
from targetsft_jax.convert import main as convert
from targetsft_jax.hf.importer import load_params
from targetsft_jax.models.lora import Lora, num_adapter_parameters
from targetsft_jax.train import main
from targetsft_jax.training import run as run_module
from targetsft_jax.training import step_spec as spec_module
from targetsft_jax.training.measure import Measurements
from targetsft_jax.training.micro_batch import BASE
from targetsft_jax.training.session import Shared

LORA = Lora(4, 6.0, ("q", "o", "up"), dropout=0.2)
LORA_KEYS = {
    "lora.rank": 4,
    "lora.alpha": 6,
    "lora.targets": "[q, o, up]",
    "lora.dropout": 0.2,
}
HF = {"q": "self_attn.q_proj", "o": "self_attn.o_proj", "up": "mlp.up_proj"}


def _arguments(folders, run_dir, **more) -> list[str]:
    """ASFT, which reads a reference, on all three axes."""
    settings = {
        "target__name": "asft",
        "mesh__fsdp": 2,
        "mesh__tensor": 2,
        "train__save_every": 2,
    }
    arguments = rig.small_run(folders, run_dir, **settings | more)
    return [*arguments, *rig.command(LORA_KEYS)]


class Done(NamedTuple):
    """Finished SFT and ASFT runs of one process.

    Attributes:
        run_dir: run directory of ASFT.
        loaded: folders whose weights were read.
        fits: (spec, frozen, result) of each training.
        measured: name -> parameters evaluated by ASFT.
        printed: output of the ASFT run.
    """

    run_dir: Path
    loaded: list
    fits: list
    measured: dict
    printed: str


@pytest.fixture(scope="module")
def done(folders, tmp_path_factory) -> Done:
    folder = tmp_path_factory.mktemp("lora")
    loaded, fits, measured = [], [], {}
    shared = Shared()
    with pytest.MonkeyPatch.context() as patch:
        read, fit = roles.load_params, run_module.fit

        def load_params(folder, *a, **k):
            loaded.append(folder)
            return read(folder, *a, **k)

        def fitted(spec, start, frozen, *a, **k):
            fits.append((spec, frozen, fit(spec, start, frozen, *a, **k)))
            return fits[-1][-1]

        def measure(self, name, model, load, role="student"):
            measured[name] = load()

        patch.setattr(roles, "load_params", load_params)
        patch.setattr(run_module, "fit", fitted)
        patch.setattr(Measurements, "measure", measure)
        for method in ("sft", "asft"):
            settings = {"target__name": method, "evaluation__problems": 1}
            arguments = _arguments(folders, folder / method, **settings)
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                run_module.run(load(arguments), shared)
    return Done(folder / "asft", loaded, fits, measured, printed.getvalue())


def test_the_base_is_read_once_and_shared(done, folders):
    """By both runs and the reference; its values are those of the file."""
    fits = done.fits
    assert done.loaded == [folders["student"]]
    assert [set(frozen) for _, frozen, _ in fits] == [{BASE}, {BASE}]
    assert fits[1][0].on_base == ("reference",)
    assert fits[0][1][BASE] is fits[1][1][BASE]
    start = load_params(folders["student"], rig.STUDENT)
    rig.assert_equal_trees(rig.host(fits[1][1][BASE]), rig.host(start))


def test_the_reference_equals_the_initial_student(done):
    """B is zero at the start, so the KL is zero at the first step."""
    rows = rig.metrics_of(done.run_dir)
    assert abs(rows[0]["kl_reference"]) < 1e-6 < rows[1]["kl_reference"]
    assert rows[3]["nll"] < rows[0]["nll"]


def test_the_evaluated_model_is_the_base_with_adapters(done):
    """Evaluation uses the arrays of the base and the adapters, no merged copy."""
    _, frozen, fitted = done.fits[1]
    base, last = frozen[BASE], fitted.state.params
    assert done.measured["start"] is base
    measured = done.measured["asft"]["layers"]["mlp"]["up"]
    assert measured["kernel"] is base["layers"]["mlp"]["up"]["kernel"]
    trained = last["layers"]["mlp"]["up"]
    assert measured["lora_a"] is trained["lora_a"]
    np.testing.assert_allclose(measured["lora_b"], 1.5 * trained["lora_b"], rtol=1e-6)


def test_adapters_are_sharded_like_their_kernels(done):
    state = done.fits[0][2].state
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(x.sharding.spec)
        for path, x in jax.tree_util.tree_leaves_with_path(state.params)
    }
    assert specs == {
        "layers.attention.q.lora_a": (None, ("fsdp", "context"), None),
        "layers.attention.q.lora_b": (None, None, "tensor"),
        "layers.attention.o.lora_a": (None, "tensor", None),
        "layers.attention.o.lora_b": (None, None, ("fsdp", "context")),
        "layers.mlp.up.lora_a": (None, ("fsdp", "context"), None),
        "layers.mlp.up.lora_b": (None, None, "tensor"),
    }


def test_checkpoints_have_only_adapters(done):
    """Three float32 per parameter, with its moments; the model is ten times larger."""
    folder = done.run_dir / "checkpoints/4"
    # Only array files: the number of Orbax's other files depends on its threads.
    size = sum(path.stat().st_size for path in folder.glob("*/d/*"))
    numbers = num_adapter_parameters(rig.STUDENT, LORA)
    assert numbers == 2 * 4 * ((32 + 32) + (32 + 32) + (32 + 48))
    state = done.fits[1][2].state
    assert sum(x.size for x in jax.tree.leaves(state.params)) == numbers
    moments = sum(x.size for x in jax.tree.leaves(state.optimizer) if x.ndim)
    assert moments == 2 * numbers
    listed = json.loads((folder / "params/_METADATA").read_text())["tree_metadata"]
    names = {key.split("'")[-2] for key in listed}
    assert len(listed) == 6 and names == {"lora_a", "lora_b"}
    assert 3 * 4 * numbers * 0.8 < size < 2 * 3 * 4 * numbers
    assert size < 4 * sum(x.size for x in jax.tree.leaves(done.fits[0][1][BASE]))


def test_the_export_is_the_merged_model(done, folders):
    """W + s · (B A) in float64, computed from the exported files."""
    base = load_file(folders["student"] / "model.safetensors")
    merged = load_file(done.run_dir / "hf/model.safetensors")
    adapter = load_file(done.run_dir / "adapter/adapter_model.safetensors")
    assert merged.keys() == base.keys()
    changed = {}
    for layer in range(2):
        for module in HF.values():
            name = f"model.layers.{layer}.{module}"
            a, b = (
                adapter.pop(f"base_model.model.{name}.lora_{x}.weight") for x in "AB"
            )
            assert a.shape[0] == b.shape[1] == 4 and a.dtype == b.dtype == "float32"
            changed[f"{name}.weight"] = 1.5 * b.astype("float64") @ a.astype("float64")
    assert not adapter
    for name, before in base.items():
        if name in changed:
            assert np.abs(changed[name]).max() > 1e-4
            expected = before.astype("float64") + changed[name]
            np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-8)
        else:
            np.testing.assert_array_equal(merged[name], before)


def test_convert_exports_a_checkpoint_of_adapters(done, folders, tmp_path):
    """From the checkpoint and the files of the base."""
    assert convert(["to-hf", str(done.run_dir), str(tmp_path / "out")]) == 0
    for name in ("config.json", "README.md", "tokenizer.json"):
        written = (done.run_dir / "hf" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == written
    one, other = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "out", done.run_dir / "hf")
    )
    rig.assert_equal_trees(one, other)
    # An earlier step, with the base in another folder, in another dtype.
    moved = shutil.copytree(folders["student"], tmp_path / "moved")
    step = str(done.run_dir / "checkpoints" / "2")
    options = ["--base", str(moved), "--dtype", "bfloat16"]
    assert convert(["to-hf", step, str(tmp_path / "earlier"), *options]) == 0
    earlier = load_file(tmp_path / "earlier/model.safetensors")
    key = f"model.layers.0.{HF['q']}.weight"
    assert earlier[key].dtype == "bfloat16"
    assert not np.array_equal(earlier[key], one[key].astype("bfloat16"))
    same = "model.layers.0.self_attn.k_proj.weight"
    np.testing.assert_array_equal(earlier[same], one[same].astype("bfloat16"))


def test_convert_exports_the_adapters_of_a_checkpoint(done, folders, tmp_path, capsys):
    """Equal to the run's export, file by file; of an earlier step, other adapters."""
    assert convert(["to-peft", str(done.run_dir), str(tmp_path / "out")]) == 0
    names = {path.name for path in (done.run_dir / "adapter").iterdir()}
    assert names >= {"adapter_model.safetensors", "tokenizer.json", "README.md"}
    assert names == {path.name for path in (tmp_path / "out").iterdir()}
    for name in names:
        written = (done.run_dir / "adapter" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == written, name
    earlier = ["to-peft", str(done.run_dir), str(tmp_path / "earlier"), "--step", "2"]
    assert convert([*earlier, "--base", "org/base"]) == 0
    one, other = (
        load_file(tmp_path / name / "adapter_model.safetensors")
        for name in ("out", "earlier")
    )
    assert one.keys() == other.keys()
    assert any(not np.array_equal(one[key], other[key]) for key in one)
    config = json.loads((tmp_path / "earlier/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base"
    run = tmp_path / "imported"
    assert convert(["from-hf", str(folders["student"]), str(run)]) == 0
    capsys.readouterr()
    assert convert(["to-peft", str(run), str(tmp_path / "none")]) == 1
    assert "trained all parameters" in capsys.readouterr().err


def test_the_cards_have_no_path_of_this_machine(done, folders):
    """Also not of the base, which adapter_config.json has to name."""
    for name in ("hf", "adapter", "model"):
        text = (done.run_dir / name / "README.md").read_text()
        assert "- student: `student`" in text
        for path in (folders["student"].parent, done.run_dir.parent):
            assert str(path) not in text
        assert "rank: 4" in text and "refresh_every" not in text
    peft = (done.run_dir / "adapter/README.md").read_text()
    assert "library_name: peft" in peft and "optimizer step 4" in peft


@pytest.mark.parametrize("source", ["adapter", "", "checkpoints/4"])
def test_adapters_open_as_the_merged_model(source, done):
    """As `student.path`, `teacher.path`, `--model`: the same weights as the export."""
    model = roles.open_model(done.run_dir / source)
    assert model.source == done.run_dir / (source or "checkpoints/4")
    loaded = model.load(rig.one_device(), "float32")
    merged = load_params(done.run_dir / "hf", rig.STUDENT)
    rig.assert_equal_trees(rig.host(loaded), rig.host(merged))


def test_convert_merges_an_adapter_folder(done, tmp_path, capsys):
    adapter, out = done.run_dir / "adapter", tmp_path / "merged"
    assert convert(["to-hf", str(adapter), str(out)]) == 0
    assert f"{adapter}, merged into" in capsys.readouterr().out
    one, other = (
        load_file(folder / "model.safetensors") for folder in (out, done.run_dir / "hf")
    )
    rig.assert_equal_trees(one, other)
    assert roles.open_model(out).tokenizer().chat_template
    for arguments in (["from-hf"], ["to-hf", "--step", "4"]):
        command = [arguments[0], str(adapter), str(tmp_path / "no"), *arguments[1:]]
        assert convert(command) == 1
        assert "is a folder of adapters" in capsys.readouterr().err


def test_an_adapter_is_trained_further(done, folders, tmp_path):
    """All parameters of the merged model, from an adapter as `student.path`."""
    adapter = {"student": done.run_dir / "adapter"}
    arguments = rig.small_run(
        folders | adapter,
        tmp_path / "run",
        cache_dir=tmp_path / "cache",
        target__name="sft",
        train__steps=1,
    )
    assert main(arguments) == 0
    exported = load_file(tmp_path / "run/hf/model.safetensors")
    start = load_file(done.run_dir / "hf/model.safetensors")
    assert exported.keys() == start.keys()
    for name, before in start.items():
        assert 0 < np.abs(exported[name] - before).max() < 0.02, name


def test_the_adapter_names_its_base_and_targets(done, folders):
    config = json.loads((done.run_dir / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folders["student"])
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 6, 0.2)
    assert set(config["target_modules"]) == {"q_proj", "o_proj", "up_proj"}
    assert config["task_type"] == "CAUSAL_LM"


def test_an_interrupted_run_resumes_bit_for_bit(done, folders, tmp_path):
    """The last checkpoint and everything after the one before are deleted.

    The masks of the dropout are those of the uninterrupted run.
    """
    run_dir = tmp_path / "run"
    shutil.copytree(done.run_dir, run_dir)
    shutil.rmtree(run_dir / "checkpoints/4")
    shutil.rmtree(run_dir / "hf")
    shutil.rmtree(run_dir / "adapter")
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_text("".join(lines[:3]))
    assert main(_arguments(folders, run_dir)) == 0
    rows = rig.untimed(rig.metrics_of(run_dir))
    assert rows == rig.untimed(rig.metrics_of(done.run_dir))
    for name in ("hf/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (run_dir / name).read_bytes() == (done.run_dir / name).read_bytes()


def test_another_rank_is_refused_on_resume(done, folders, capsys):
    arguments = [*_arguments(folders, done.run_dir), "--lora.rank", "8"]
    assert main(arguments) == 2
    assert "lora.rank: was 4, is 8" in capsys.readouterr().err


def test_the_adapters_are_printed_and_in_the_configuration(
    done, folders, tmp_path, capsys
):
    line = "lora rank 4, alpha 6, dropout 0.2 on q, o, up: 1,664 of 25,888 parameters"
    assert line in done.printed
    assert "adapter" in done.printed.split("written to")[1]
    arguments = _arguments(folders, tmp_path / "run")
    with pytest.raises(SystemExit):
        main([*arguments, "--print-config"])
    (tmp_path / "again.yaml").write_text(capsys.readouterr().out)
    again = load(["--config", str(tmp_path / "again.yaml")])
    assert again == load(arguments)
    assert (again.lora.rank, again.lora.targets) == (4, ["q", "o", "up"])


def test_dtypes_of_a_base_and_of_its_reference(folders, tmp_path, monkeypatch):
    """Frozen parameters are bfloat16 on accelerators; a reference is like its base."""
    mesh = rig.one_device()

    def dtypes(platform, *more):
        arguments = [*_arguments(folders, tmp_path), *more]
        config = load(arguments)
        monkeypatch.setattr(spec_module.meshes, "platform", lambda _: platform)
        names = ("student", "reference")
        dtypes = [spec_module.param_dtype(name, config, mesh).name for name in names]
        models = dict.fromkeys(names, rig.STUDENT)
        step = spec_module.step_spec(config, models, rig.VOCABULARY, mesh)
        return dtypes, step.on_base

    same = ("reference",)
    assert dtypes("cpu") == (["float32"] * 2, same)
    xla = ("--train.attention", "xla")
    assert dtypes("tpu", *xla) == (["bfloat16"] * 2, same)
    wide = ("--student.dtype", "float32")
    assert dtypes("tpu", *xla, *wide) == (["float32"] * 2, same)
    narrow = ("--reference.dtype", "bfloat16")
    assert dtypes("cpu", *narrow) == (["float32", "bfloat16"], ())
    # Without adapters a reference has the dtype of frozen roles.
    without = dtypes("tpu", *xla, "--lora", "null")
    assert without == (["float32", "bfloat16"], ())
