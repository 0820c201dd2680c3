"""Registry of metrics: complete, and the source of line, plot, table and docs."""

import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import loss_problems, rig

from targetsft_jax import METHODS, fused_loss
from targetsft_jax.experiments import curves, summary
from targetsft_jax.experiments.runs import Run
from targetsft_jax.loss.histogram import EDGES, PREFIX
from targetsft_jax.telemetry import metrics
from targetsft_jax.telemetry.metrics import (
    METRICS,
    Metric,
    compact,
    find_metric,
    selecting_names,
)
from targetsft_jax.telemetry.progress import Progress

NOT_OF_A_STEP = {"labels_outside"}
"""Metrics of the loss that the step removes: its labels are in the vocabulary."""


def _undeclared(names):
    scalars = {name for name in names if not name.startswith(PREFIX)}
    histograms = {name.removeprefix(PREFIX) for name in set(names) - scalars}
    return (scalars - set(METRICS)) | (histograms - set(EDGES))


def _loss_metrics(method, hyper):
    """Return the names of the metrics of the loss, by abstract evaluation."""
    hidden, head, labels, arguments = loss_problems.problem("float32")
    weights = arguments.pop("weights")
    needs = METHODS[method].inputs(**hyper) if method in METHODS else ()
    models = {"teacher_logits": "teacher", "reference_logits": "reference"}
    inputs = {models.get(key, key) for key in needs}
    _, values = jax.eval_shape(
        lambda: fused_loss(
            method,
            hidden,
            head,
            labels,
            weights=weights,
            histograms=True,
            **{key: arguments[key] for key in inputs},
            **hyper,
        )
    )
    return set(values) - NOT_OF_A_STEP


@pytest.mark.parametrize("method", METHODS)
def test_every_metric_of_every_loss_is_declared(method):
    assert _undeclared(_loss_metrics(method, METHODS[method].defaults)) == set()


def test_every_metric_of_a_users_loss_is_declared():
    def loss(logits, labels):
        log_p = jax.nn.log_softmax(logits)
        return -jax.numpy.take_along_axis(log_p, labels[:, None], -1)[:, 0]

    names = _loss_metrics(loss, {})
    assert "nll" in names and _undeclared(names) == set()


@pytest.mark.parametrize("method", ["target_sft", "asft"])
def test_every_metric_of_a_step_is_declared(method):
    spec = rig.make_spec(method, histograms=True)
    lowered = rig.lower(spec, optax.sgd(1.0), rig.one_device(), rig.ROWS, rig.LENGTH)
    _, names = lowered.out_info
    assert {"loss", "skipped", f"{PREFIX}gamma"} <= set(names)
    assert _undeclared(names) == set()
    # Control: an undeclared metric is detected.
    assert _undeclared({*names, "undeclared"}) == {"undeclared"}


def test_histograms_have_edges_and_a_title():
    assert set(EDGES) == {m.name for m in METRICS.values() if m.histogram}


def test_rows_are_consistent():
    for name, metric in METRICS.items():
        assert metric.name == name and metric.label and metric.description
        assert bool(metric.line) == bool(metric.legend), name
        assert not metric.held_out or metric.line and metric.table, name
        assert metric.plot or not metric.logarithmic, name
    labels = [m.label for m in metrics.table_metrics()]
    assert len(set(labels)) == len(labels)


def test_held_out_metrics_are_derived():
    assert find_metric("validation_nll").label == "val nll"
    assert find_metric("validation_nll").line is METRICS["nll"].line
    for name in ("absent", "validation_absent"):
        with pytest.raises(KeyError):
            find_metric(name)


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0421, "0.0421"),
        (18.74, "18.7"),
        (999.4, "999"),
        (999.6, "1k"),
        (2500, "2.5k"),
        (187_300, "187k"),
        (1_250_000, "1.25M"),
        (4.2e9, "4.2G"),
        (float("nan"), "nan"),
    ],
)
def test_compact_numbers_have_three_digits(value, text):
    assert compact(value) == text


@given(st.floats(1e-3, 1e11))
def test_compact_numbers_are_accurate_to_three_digits(value):
    text = compact(value)
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1.0)
    assert float(text.rstrip("kMG")) * scale == pytest.approx(value, rel=5.001e-3)


def test_a_new_entry_appears_everywhere(monkeypatch, tmp_path, capsys):
    """In the line, the legend, the figure, the report and the docs."""
    row = Metric(
        "surprise",
        "S",
        "surprise of the student",
        unit="bits",
        line="{:.1f}".format,
        legend="surprise of the student (bits)",
        plot="surprise, bits",
        table="{:.2f}".format,
        held_out=True,
    )
    monkeypatch.setitem(METRICS, row.name, row)
    values = {"surprise": 3.25, "validation_surprise": 4.5}
    Progress(steps=9, start=0, terminal=False).line({"step": 1} | values, remaining=1)
    assert "S 3.2  val S 4.5" in capsys.readouterr().out
    assert "S: surprise of the student (bits)" in metrics.legend()
    rows = [{"step": n, "surprise": n / 2, "validation_surprise": n} for n in (1, 2)]
    run = Run("a", rows, [], {})
    heading, line = summary.summary_table([run])
    assert heading.split() == ["run", "step", "skipped", "S", "val", "S"]
    assert line.split() == ["a", "2", "0", "1.00", "2.00"]
    titles = []
    monkeypatch.setattr(
        curves.style, "label", lambda _, title, x="": titles.append(title)
    )
    curves.draw([run], tmp_path / "curves.png")
    assert titles == ["surprise, bits"]
    assert "| `surprise` | S | bits | surprise of the student |" in (
        metrics.markdown_table()
    )


def test_every_format_accepts_numpy_scalars():
    for metric in METRICS.values():
        for template in (metric.line, metric.table):
            assert template is None or template(float(np.float32(1.5)))


def test_metrics_that_select_a_checkpoint_depend_on_the_models_of_the_loss():
    plain, taught = selecting_names([]), selecting_names(["teacher"])
    assert plain[:2] == ["loss", "nll"] and "validation_nll" in plain
    assert {*taught} - {*plain} == {"kl_teacher", "validation_kl_teacher"}
    assert not {"epoch", "spike", "seconds", "validation_grad_norm"} & {*taught}
