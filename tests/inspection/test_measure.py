"""Numbers of a page against dense float64 numpy, and against the library's targets."""

import numpy as np
import pytest
from support.inspected import keys_of, measure
from support.page_target import entry_of, induced, log_alternative

import targetsft_jax as tsft
from targetsft_jax.inspection.measure import TOP
from targetsft_jax.targets.methods import METHODS

CLOSE = dict(rtol=1e-4, atol=2e-5)
REFUSED = ("custom",)
MEASURED = [name for name in METHODS if name not in REFUSED]


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - np.logaddexp.reduce(z, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def logs(measured) -> dict:
    """Role -> log-probabilities [M, V] by hand."""
    return {role: log_softmax(z) for role, z in measured.logits.items()}


@pytest.fixture(scope="module")
def ids(measured) -> np.ndarray:
    """Token ids [M, C] of the candidates; 0 at padding."""
    candidate = measured.page.arrays["candidate"]
    return np.where(candidate < 0, 0, measured.page.arrays["token_id"][candidate])


@pytest.fixture(scope="module")
def is_real(measured) -> np.ndarray:
    return measured.page.arrays["candidate"] >= 0


def test_log_probabilities_are_over_the_complete_vocabulary(
    measured, logs, ids, is_real
) -> None:
    for role, log in logs.items():
        expected = np.take_along_axis(log, ids, axis=-1)
        result = measured.page.arrays[f"logprob_{role}"]
        np.testing.assert_allclose(result[is_real], expected[is_real], **CLOSE)


def test_candidates_are_the_label_and_the_top_of_every_model(
    measured, logs, ids, is_real
) -> None:
    for row, label in enumerate(measured.labels):
        named = ids[row][is_real[row]]
        assert named[0] == label
        assert len(set(named)) == len(named)
        best = {int(k) for log in logs.values() for k in np.argsort(-log[row])[:TOP]}
        assert set(named[1:].tolist()) == best - {int(label)}
        assert (np.diff(logs["student"][row][named[1:]]) <= 1e-6).all()


def test_entropies(measured, logs) -> None:
    arrays = measured.page.arrays
    for name, role in (
        ("entropy", "student"),
        ("entropy_before", "before"),
        ("teacher_entropy", "teacher"),
    ):
        log = logs[role]
        expected = -(np.exp(log) * log).sum(-1)
        np.testing.assert_allclose(arrays[name], expected, **CLOSE)
    top = -np.sort(-np.exp(logs["student"]), axis=-1)[:, :20]
    top /= top.sum(-1, keepdims=True)
    np.testing.assert_allclose(
        arrays["top_entropy"], -(top * np.log(top)).sum(-1), **CLOSE
    )
    squares = (np.exp(logs["student"]) ** 2).sum(-1)
    np.testing.assert_allclose(arrays["sum_squares"], squares, **CLOSE)


def test_disagreement_with_the_teacher(measured, logs) -> None:
    arrays, teacher = measured.page.arrays, logs["teacher"]
    divergence = (np.exp(teacher) * (teacher - logs["student"])).sum(-1)
    np.testing.assert_allclose(arrays["kl_teacher"], divergence, **CLOSE)
    support = np.argsort(-logs["student"], axis=-1)[:, :TOP]
    mass = np.take_along_axis(np.exp(teacher), support, axis=-1).sum(-1)
    np.testing.assert_allclose(arrays["teacher_on_support"], mass, **CLOSE)


def test_normalisers_at_every_stop(measured, logs) -> None:
    stops = measured.page.header["eta_stops"]
    assert stops == sorted(stops) and {0, 0.05, 0.3, 0.5, 1} <= set(stops)
    for number, eta in enumerate(stops):
        mixed = (1 - eta) * logs["student"] + eta * logs["teacher"]
        expected = np.logaddexp.reduce(mixed, axis=-1)
        np.testing.assert_allclose(
            measured.page.arrays["logz_eta"][:, number], expected, **CLOSE
        )
    expected = np.logaddexp.reduce(logs["student"] / 0.7, axis=-1)
    np.testing.assert_allclose(measured.page.arrays["logz_gem"], expected, **CLOSE)


def library_target(measured, name, logs, **hyper):
    """The library's target on the dense logits, with the page's inputs."""
    labels, z = measured.labels, measured.logits
    rows = np.arange(len(labels))
    page = measured.page
    mask = [(n + i) % 2 for n, k in enumerate(_counts(page)) for i in range(k)]
    reference = logs["reference"][rows, labels]
    ratio = logs["student"][rows, labels] - reference
    weights = np.concatenate(
        [np.full(k, np.exp(part.mean())) for k, part in _by_row(page, ratio)]
    )
    inputs = {
        "teacher_logits": z["teacher"],
        "reference_logits": z["reference"],
        "critical_mask": np.array(mask),
        "old_logprob": logs["student"][rows, labels],
        "reference_prob": np.exp(reference),
        "trajectory_weight": np.clip(weights, 0, 16),
    }
    arrays = {k: np.asarray(x, np.float32) for k, x in inputs.items()}
    return tsft.target(name, z["student"].astype("f4"), labels, **arrays, **hyper)


def _counts(page):
    trained, ranges = page.arrays["trained"], page.header["rows"]
    return [int(trained[r["first"] :][: r["count"]].sum()) for r in ranges]


def _by_row(page, values):
    ends = np.cumsum(_counts(page))[:-1]
    return zip(_counts(page), np.split(values, ends))


def hyper_of(measured, name):
    """Hyper-parameters of a method, with η where the slider starts."""
    entry, eta = entry_of(measured.page, name), measured.page.header["default_eta"]
    guided = (entry["alternative"] or {}).get("kind") == "eta_mix"
    return entry["hyper"] | ({"eta": eta} if guided else {})


@pytest.mark.parametrize("name", MEASURED)
def test_weights_and_targets_are_the_librarys(
    measured, logs, ids, is_real, name
) -> None:
    page = measured.page
    assert entry_of(page, name)["refusal"] is None
    q = library_target(measured, name, logs, **hyper_of(measured, name))
    np.testing.assert_allclose(page.arrays[f"a_{name}"], q.label_weight, **CLOSE)
    has_alternative = q.alternative_weight is not None
    assert (f"b_{name}" in page.arrays) == has_alternative
    expected = np.take_along_axis(np.asarray(q.induced()), ids, axis=-1)
    np.testing.assert_allclose(induced(page, name)[is_real], expected[is_real], **CLOSE)
    log = log_alternative(page, name)
    assert (log is not None) == has_alternative
    if log is None:
        return
    np.testing.assert_allclose(page.arrays[f"b_{name}"], q.alternative_weight, **CLOSE)
    t = np.asarray(q.alternative.probabilities)
    expected = np.take_along_axis(t, ids, axis=-1)
    masses = np.where(is_real, np.exp(log), 0)
    np.testing.assert_allclose(masses[is_real], expected[is_real], **CLOSE)
    rest = 1 - np.where(is_real, expected, 0).sum(-1)
    np.testing.assert_allclose(1 - masses.sum(-1), rest, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.35, 1.0])
def test_the_slider_is_exact_on_its_stops(measured, logs, ids, is_real, eta) -> None:
    q = library_target(measured, "target_sft", logs, eta=eta)
    expected = np.take_along_axis(np.asarray(q.induced()), ids, axis=-1)
    result = induced(measured.page, "target_sft", eta)
    np.testing.assert_allclose(result[is_real], expected[is_real], **CLOSE)


@pytest.mark.slow
def test_logsigmoid_gem_has_scores(models, rows_file) -> None:
    arguments = keys_of(models, rows_file, target__name="gem")
    arguments += ["--target.variant", "logsigmoid", "--teacher.path", "null"]
    result = measure(arguments)
    page = result.page
    assert page.header["roles"] == ["student", "reference"]
    assert entry_of(page, "gem")["alternative"]["kind"] == "scores"
    q = tsft.target(
        "gem",
        result.logits["student"].astype("f4"),
        result.labels,
        variant="logsigmoid",
    )
    candidate = page.arrays["candidate"]
    ids = page.arrays["token_id"][np.maximum(candidate, 0)]
    expected = np.take_along_axis(np.asarray(q.induced()), ids, axis=-1)
    real = candidate >= 0
    np.testing.assert_allclose(induced(page, "gem")[real], expected[real], **CLOSE)
    refusals = {m["name"] for m in page.header["methods"] if m["refusal"]}
    assert {"kd", "kd_h", "target_sft", "taid", "jsd", "reverse_kl"} <= refusals
    assert page.header["eta_stops"] == [] and "logz_eta" not in page.arrays
