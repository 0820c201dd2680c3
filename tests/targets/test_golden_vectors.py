"""Values, gradients and negative mass against vectors from the official codes.

The vectors are float64 torch: published losses, gradients by autograd. The repository
has the smallest file, and its maker in plain numpy (`support.golden_targets`); the
larger files are tested where the shared folder exists. Logits are exact in bfloat16 and
statistics are float32, so the tolerance of a bfloat16 tile is the rounding of float32.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import golden_recent, golden_targets, method_cases

from targetsft_jax import objective, target, trajectory_weight

FILES = ("sftlike_v200_n32", "teacher_neginf_v48_n12", "uniform_v32_n6", "v257_n16")

RECENT = {
    "deft": method_cases.Case("deft"),
    "idft_1": method_cases.Case("idft"),
    "idft_0.3": method_cases.Case("idft", {"beta": 0.3}),
    "prift": method_cases.Case("prift"),
    "reverse_kl": method_cases.Case("reverse_kl"),
    "jsd_0.1": method_cases.Case("jsd", {"beta": 0.1}),
    "jsd_0.5": method_cases.Case("jsd"),
    "jsd_0.9": method_cases.Case("jsd", {"beta": 0.9}),
}
"""The names of the vectors of later methods, from `support.golden_recent`."""

Arrays = dict[str, np.ndarray]


def _load(path: Path, name: str) -> tuple[method_cases.Tile, Arrays]:
    """Tile of a file, with the trajectory weights of `name`."""
    tile, data = method_cases.golden_tile(path)
    if name in method_cases.TRAJECTORY:
        log_p = jax.nn.log_softmax(jnp.asarray(data["logits"]))
        label_logp = log_p[jnp.arange(len(data["labels"])), data["labels"]]
        logprob = label_logp if name.endswith("_self") else data["q_logp"]
        arguments = (logprob, data["ref_logp"], data["seg"])
        weight = trajectory_weight(*arguments, **method_cases.TRAJECTORY[name])
        tile["trajectory_weight"] = np.asarray(weight)
    expected = {key: data[f"{key}__{name}"] for key in ("loss", "grad", "negmass")}
    return tile, expected


def test_the_file_equals_its_maker():
    """Inputs bit for bit; values to 4 ulp of the summed terms, at least of 1.

    Numpy here and torch in the file round exponentials and sums differently.
    """
    file, arrays = dict(np.load(golden_targets.PATH)), golden_targets.golden()
    assert file.keys() == arrays.keys()
    for name, value in file.items():
        assert arrays[name].dtype == value.dtype and arrays[name].shape == value.shape
        if "__" not in name:
            np.testing.assert_array_equal(arrays[name], value, err_msg=name)
            continue
        size = np.maximum(1, np.abs(value))
        if name.startswith("grad__"):
            size = size.max(-1, keepdims=True)
        error = np.abs(arrays[name] - value) / size
        assert error.max() <= 4 * np.finfo(float).eps, name


def _compare(
    name: str, tile: method_cases.Tile, expected: Arrays, results: Arrays, dtype: str
) -> None:
    """Each quantity within the dtype's rounding of its terms."""
    bound = method_cases.rounding(method_cases.GOLDEN[name], tile, dtype)
    scale = method_cases.scale(results)
    # Where a weight underflows, it is off by the smallest normal number.
    tiny = 4 * float(jnp.finfo(results["g"].dtype).tiny)
    vocabulary = expected["grad"].shape[-1]
    for key in ("g", "autodiff"):
        error = np.abs(results[key][:, :vocabulary] - expected["grad"]).max(-1)
        np.testing.assert_array_less(error, bound * scale + tiny, err_msg=key)
        assert not results[key][:, vocabulary:].any(), "padding has a gradient"
    # A value is a sum of weights times logarithms, bounded by the row's logits.
    size = np.abs(expected["loss"]) + scale * method_cases.largest(tile["logits"])
    error = np.abs(results["value"] - expected["loss"])
    np.testing.assert_array_less(error, bound * size + tiny)
    # Q = p − g has the rounding of p as well.
    error = np.abs(results["negative_mass"] - expected["negmass"])
    np.testing.assert_array_less(error, bound * (1 + scale) + tiny)


def _run(name: str, tile: method_cases.Tile, dtype: str) -> Arrays:
    case = method_cases.GOLDEN[name]
    logits = jnp.asarray(tile["logits"], dtype)
    arrays = method_cases.inputs(case, tile, dtype)
    return jax.tree.map(
        np.asarray, method_cases.run(case, logits, tile["labels"], arrays)
    )


@pytest.mark.sweep(6)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", method_cases.GOLDEN)
def test_committed_vectors(name: str, dtype: str):
    with jax.enable_x64(dtype == "float64"):
        golden, expected = _load(method_cases.GOLDEN_FILE, name)
        count = len(golden["labels"])
        # Hard rows follow, for the shape of other tests: each operation compiles once.
        tile = {
            key: np.concatenate([golden[key], value[count:]])
            for key, value in method_cases.tile().items()
        }
        results = jax.tree.map(lambda x: x[:count], _run(name, tile, dtype))
    _compare(name, golden, expected, results, dtype)


def test_the_file_of_later_methods_equals_its_maker():
    """To 4 ulp of 1: exponentials of another numpy may round differently."""
    file, arrays = dict(np.load(golden_recent.PATH)), golden_recent.golden()
    assert file.keys() == arrays.keys()
    assert {name.partition("__")[2] for name in file} == set(RECENT)
    for name, value in file.items():
        error = np.abs(arrays[name] - value)
        assert error.max() <= 4 * np.finfo(float).eps, name


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", RECENT)
def test_committed_vectors_of_later_methods(name: str):
    """Value, both gradients and Q, to a few roundings of terms below 10."""
    case, file = RECENT[name], np.load(golden_recent.PATH)
    weight = np.exp(golden_targets.inputs()["ref_logp"])
    # Hard rows follow, for the shape of other tests: each operation compiles once.
    tile = {**method_cases.tile()}
    tile["reference_prob"] = np.resize(weight, len(tile["labels"]))
    with jax.enable_x64(True):
        arrays = method_cases.inputs(case, tile, "float64")
        logits = jnp.asarray(tile["logits"])
        results = method_cases.run(case, logits, tile["labels"], arrays)
    for key, expected in {
        "value": file[f"loss__{name}"],
        "g": file[f"grad__{name}"],
        "autodiff": file[f"grad__{name}"],
        "q": file[f"q__{name}"],
    }.items():
        actual = np.asarray(results[key])[: len(weight)]
        atol = 32 * np.finfo(float).eps
        np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=key)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", method_cases.GOLDEN)
def test_committed_vectors_in_bfloat16(name: str):
    case = method_cases.GOLDEN[name]
    tile, expected = _load(method_cases.GOLDEN_FILE, name)
    logits = jnp.asarray(tile["logits"], jnp.bfloat16)
    arguments = {**method_cases.inputs(case, tile, jnp.bfloat16), **case.hyper}
    value, pull = jax.vjp(
        lambda z: objective(case.name, z, tile["labels"], **arguments), logits
    )
    q = target(case.name, logits, tile["labels"], **arguments)
    assert value.dtype == q.logit_gradient().dtype == jnp.float32
    # The cotangent of a bfloat16 tile is rounded to bfloat16: the closed form is not.
    (autodiff,) = pull(jnp.ones_like(value))
    g = np.asarray(q.logit_gradient())
    terms = {"a": q.gamma, "strength": q.strength, "ratio": jnp.zeros_like(value)}
    np.testing.assert_allclose(
        np.asarray(autodiff, np.float32),
        g,
        rtol=2**-8,
        atol=2**-20 * method_cases.scale(terms).max(),
    )
    results = {
        "g": g,
        "autodiff": g,
        "a": np.asarray(q.gamma),
        "strength": np.asarray(q.strength),
        "ratio": np.zeros(len(g)),
        "value": np.asarray(value),
        "negative_mass": np.asarray(q.negative_mass()),
    }
    _compare(name, tile, expected, results, "bfloat16")


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", method_cases.GOLDEN)
def test_shared_vectors(name: str, shared: Path):
    """All files as one tile: padding to the widest vocabulary has no effect."""
    with jax.enable_x64(True):
        loaded = [_load(shared / "golden" / f"{file}.npz", name) for file in FILES]
    widest = max(tile["logits"].shape[-1] for tile, _ in loaded)
    count = sum(len(tile["labels"]) for tile, _ in loaded)
    if name == "ls_0.1":
        # Smoothing depends on the number of entries: the widest file only.
        loaded = [x for x in loaded if x[0]["logits"].shape[-1] == widest]
    padded = [_pad(tile, widest) for tile, _ in loaded]
    tile = {key: np.concatenate([x[key] for x in padded]) for key in padded[0]}
    # Rows repeat until the shape is equal for all names: operations compile once.
    tile = {key: np.take(x, range(count), 0, mode="wrap") for key, x in tile.items()}
    with jax.enable_x64(True):
        results = _run(name, tile, "float64")
    start = 0
    for part, expected in loaded:
        rows = slice(start, start + len(part["labels"]))
        start = rows.stop
        part_results = {key: value[rows] for key, value in results.items()}
        _compare(name, part, expected, part_results, "float64")


def test_not_detaching_the_target_is_another_method():
    """The vectors of Target-SFT without stop-gradient must fail."""
    tile, expected = _load(method_cases.GOLDEN_FILE, "target_eta0.5_nodetach")
    _, detached = _load(method_cases.GOLDEN_FILE, "target_eta0.5")
    with jax.enable_x64(True):
        results = _run("target_eta0.5", tile, "float64")
    _compare("target_eta0.5", tile, detached, results, "float64")
    with pytest.raises(AssertionError):
        _compare("target_eta0.5", tile, expected, results, "float64")


def _pad(source: method_cases.Tile, vocabulary: int) -> method_cases.Tile:
    wide = ((0, 0), (0, vocabulary - source["logits"].shape[-1]))
    return {
        key: np.pad(value, wide, constant_values=-np.inf)
        if key.endswith("logits")
        else value
        for key, value in source.items()
    }
